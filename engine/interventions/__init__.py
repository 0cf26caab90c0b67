"""Changes made inside a model while it reads, and what they do to its answer."""
