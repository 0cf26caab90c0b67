"""What `make soak` runs: long runs against real server processes, against what is promised.

Each part starts its own server on the model that ships, with a data folder of its own, prints a
table and says of every promise it looks at whether it was kept. See :mod:`bench.soak.__main__`.
"""
