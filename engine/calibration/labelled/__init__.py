"""A table of labelled text becomes a task for one model."""
