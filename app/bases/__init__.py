"""One token's reference point and its neighbours: the page Bases and its API."""
