"""Many random instances on several processes, counted: the frame of `make soundness` and `make proofs`."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

Block = Callable[[int, int, int], tuple[Counter, list[str]]]
"""Takes a seed, the number of the first instance and how many there are; returns counts, and violations in words."""


def run(block: Block, size: int, instances: int, seed: int, workers: int) -> tuple[Counter, list[str]]:
    """Return counts and violations of all instances, in blocks of `size`. Violations are printed as they come."""
    firsts = range(0, instances, size)
    counts = [min(size, instances - first) for first in firsts]
    total, violations, began = Counter(), [], time.monotonic()
    with ProcessPoolExecutor(workers) as pool:
        for done, (seen, bad) in enumerate(pool.map(block, [seed] * len(counts), firsts, counts), 1):
            total += seen
            violations += bad
            for text in bad:
                print(f"\n{text}", file=sys.stderr, flush=True)
            if sys.stderr.isatty():
                left = (time.monotonic() - began) * (len(counts) / done - 1) / 60
                line = f"\r{done / len(counts):6.1%}  {left:5.1f} min left  {len(violations)} violations "
                print(line, end="", file=sys.stderr, flush=True)
    return total, violations


def main(description: str, block: Block, size: int, instances: int) -> int:
    """Run the command line of a campaign. Return 1 if anything was violated."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--instances", type=int, default=instances)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    began = time.monotonic()
    total, violations = run(block, size, arguments.instances, arguments.seed, arguments.workers)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    width = max(map(len, total), default=0)
    for name, count in sorted(total.items()):
        print(f"{name:<{width}}  {count:>10,}")
    print(f"{'violations':<{width}}  {len(violations):>10,}")
    print(f"{time.monotonic() - began:.0f} s, seed {arguments.seed}")
    for text in violations[:20]:
        print(text)
    return 1 if violations else 0
