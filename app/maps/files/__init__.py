"""A map as a file that stands alone, and its numbers read back."""
