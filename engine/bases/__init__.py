"""One token's vector, what a frame is in figures, and whether what is shown holds."""
