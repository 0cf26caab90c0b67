"""A prompt that goes on, read at every layer as it is written."""
