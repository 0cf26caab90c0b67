"""A text that goes on, read at every layer as it is written: sampling, columns, settling."""
