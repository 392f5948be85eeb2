"""`python -m benchmarks`: see `bench`."""

import sys

from benchmarks.environment import one_thread

if __name__ == "__main__":  # a worker imports this module too
    one_thread()
    from benchmarks.bench import main

    sys.exit(main())
