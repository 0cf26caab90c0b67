"""What `make bench` runs: speed and memory as ratios within one run on one model.

Every line names what it is compared with, and both sides are timed in turn (A B A B …) in the same
run, so that a busy machine slows both. See :mod:`bench.__main__` for the options.
"""
