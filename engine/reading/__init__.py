"""A state read against a frame: scores, nearest tokens, ranks, regions, shares."""
