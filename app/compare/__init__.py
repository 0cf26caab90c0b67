"""Two prompts read beside each other: the page Compare and its API."""
