"""Changes made inside the model, and what they do to its answer: page, API, causal maps."""
