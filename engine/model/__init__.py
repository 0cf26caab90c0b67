"""A Hugging Face model opened, and the hidden states that it has."""
