"""A prompt through the layers: grid, cell, curves, agreement."""
