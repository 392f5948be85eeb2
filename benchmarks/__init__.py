"""The flow timed against other solvers at equal measured error: `python -m benchmarks`, or `make bench`."""
