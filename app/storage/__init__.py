"""The data folder and its disk."""
