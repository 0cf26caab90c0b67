"""A reference vector for each token of the vocabulary, and the head taken apart for them."""
