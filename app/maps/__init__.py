"""The vocabulary and the states of texts drawn at every layer: the page Map and its API."""
