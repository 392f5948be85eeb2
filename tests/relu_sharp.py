"""How sharp the certificates of ReLU networks are, in numbers: docs/relu.md, "How sharp".

    python -m tests.relu_sharp --outputs 1 --count 100 --seed 11

Draws 4 to 12 samples with 8 to 20 inputs, entries N(0, 1/d); 50 to 600 neurons, N(0, 1), a second layer of norm 0.3
to 8, four in five in pairs, one in four with a bias, slope 0; targets N(0, 1). Prints how many starts are certified,
and the median of the certified over the least observed rate of a flow to a ten-thousandth of its loss; for one
output, the same for the plain theorem of section 4. A start depends on the seed, its number and the outputs alone.
"""

from __future__ import annotations

import argparse

import numpy as np

from linflow import relu
from tests.reference import relu as reference
from tests.relu_soundness import pairs_or_not


def start(seed: int, index: int, outputs: int) -> tuple[np.ndarray, np.ndarray, relu.Network]:
    """Return data, targets and a network."""
    rng = np.random.default_rng((seed, index, outputs))
    N, d = int(rng.integers(4, 13)), int(rng.integers(8, 21))
    h, size = 2 * int(np.exp(rng.uniform(*np.log([25, 300])))), float(np.exp(rng.uniform(*np.log([0.3, 8]))))
    X, Y = rng.standard_normal((N, d)) / np.sqrt(d), rng.standard_normal((N, outputs))
    return X, Y, pairs_or_not(rng, d, h, outputs, size, bias=bool(rng.random() < 0.25), slope=0.0)


def measured(seed: int, index: int, outputs: int) -> tuple[float, float, float]:
    """Return the certified rate, that of the plain theorem (for one output), and the least observed one if needed."""
    X, Y, net = start(seed, index, outputs)
    rate = relu.certify(X, Y, net).rate
    plain = reference.plain_theorem(net.inputs(X), net.extended, net.V, Y) if outputs == 1 else 0.0
    run = relu.gradient_flow(X, Y, net, until=1e-4, max_steps=1500) if max(rate, plain) > 0 else None
    return rate, plain, np.nan if run is None else float(run.rate.min())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outputs", type=int, default=1)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=11)
    given = parser.parse_args()
    rate, plain, least = np.array([measured(given.seed, i, given.outputs) for i in range(given.count)]).T
    for name, found in (("R⁺", rate), ("plain", plain))[: 2 if given.outputs == 1 else 1]:
        on = found > 0
        ratio = np.median(found[on] / least[on]) if on.any() else np.nan
        print(f"{name}: {on.mean():.3f} certified, over the least observed rate {ratio:.3f} in the median")
    both = plain > 0
    if both.any():
        print(
            f"where the plain theorem applies: R⁺ {np.median(rate[both] / least[both]):.3f} of the least observed "
            f"rate, and at least {np.min(rate[both] / plain[both]):.3f} of the plain one"
        )


if __name__ == "__main__":
    main()
