"""A prompt through the layers, cell by cell: the page Trace and its API."""
