"""Labelled text in, a saved calibration out: the page Calibrate, its results and its API."""
