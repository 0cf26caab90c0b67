"""Pure functions from a result of the engine to a Plotly figure; a module per page."""
