"""How sharp certificates and verified runs of ReLU networks are: "How sharp" in docs/relu.md and relu_verified.md.

    python -m tests.relu_sharp --outputs 1 --count 100 --seed 11
    python -m tests.relu_sharp --enclosed --count 100 --seed 0

Draws 4 to 12 samples with 8 to 20 inputs, entries N(0, 1/d); 50 to 600 neurons, N(0, 1), a second layer of norm 0.3
to 8, four in five in pairs, one in four with a bias, slope 0; targets N(0, 1). Prints how many starts are certified,
and the median of the certified over the least observed rate of a flow to a ten-thousandth of its loss; for one
output, the same for the plain theorem of section 4. A start depends on the seed, its number and the outputs alone.

With `--enclosed`, draws 3 to 8 samples, 2 to 8 inputs, 4 to 24 neurons, one or two outputs, slope 0 or 0.1, half with
a bias, all entries N(0, 1), from the seeds that begin with the one given. Prints why a proof ended before 10⁻⁶ of the
first loss, and how far the proved times are from one another and from that of a run.
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


LOOSE = 0.01
"""A proof is loose if its latest time is above that of a run by more than this fraction."""


def measured(seed: int, index: int, outputs: int) -> tuple[float, float, float]:
    """Return the certified rate, that of the plain theorem (for one output), and the least observed one if needed."""
    X, Y, net = start(seed, index, outputs)
    rate = relu.certify(X, Y, net).rate
    plain = reference.plain_theorem(net.inputs(X), net.extended, net.V, Y) if outputs == 1 else 0.0
    run = relu.gradient_flow(X, Y, net, until=1e-4, max_steps=1500) if max(rate, plain) > 0 else None
    return rate, plain, np.nan if run is None else float(run.rate.min())


def enclosed(seed: int) -> list[float]:
    """Return what one proof gave: the latest over the earliest time and over that of a run, both less 1, the flips,
    how many slide, the exponent, the steps, and whether it has a rate for ever; nothing if it ended early.
    """
    rng = np.random.default_rng(seed)
    N, d, h, m = (int(rng.integers(*limits)) for limits in ((3, 9), (2, 9), (4, 25), (1, 3)))
    slope = float(rng.choice([0.0, 0.1]))
    bias = rng.standard_normal(h) if rng.random() < 0.5 else None
    X, Y = rng.standard_normal((N, d)), rng.standard_normal((N, m))
    net = relu.Network(rng.standard_normal((d, h)), rng.standard_normal((h, m)), bias, slope)
    proof = relu.enclose(X, Y, net, until=1e-6)
    if proof.result != "target proved":
        print(f"seed {seed}: {proof.result}, {proof.reason}", flush=True)
        return []
    low, high = proof.time_bounds(1e-6)
    run = relu.gradient_flow(X, Y, net, until=1e-6, rtol=1e-11)
    late, flips = high / run.time_to(1e-6) - 1, proof.flips
    if late > LOOSE:
        exponent = f"exponent {proof.exponent:.3g}"
        print(f"seed {seed}: proved {late:.2g} late, radius {proof.radius.max():.2g}, {exponent}", flush=True)
    slides = sum(flip.slid for flip in flips)
    forever = proof.certificate is not None
    return [high / low - 1, late, len(flips), slides, proof.exponent, len(proof.steps), forever]


def proofs(seeds: range) -> None:
    """Print how sharp verified runs are."""
    found = [enclosed(seed) for seed in seeds]
    width, late, flips, slides, exponent, steps, forever = np.array([row for row in found if row]).T
    print(
        f"{len(width)} of {len(seeds)} proved, {int(flips.sum())} flips, {int(slides.sum())} slide, at most "
        f"{int(flips.max())} in one; latest over earliest time − 1: median {np.median(width):.1e}, nine in ten below "
        f"{np.quantile(width, 0.9):.1e}, at most {width.max():.1e}; over that of a run − 1 at most {late.max():.1e}, "
        f"in {int((late > LOOSE).sum())} above {LOOSE:g}; exponent {np.median(exponent):.2g} in the median, at most "
        f"{exponent.max():.3g}; {np.median(steps):.0f} steps in the median; {int(forever.sum())} with a rate for ever"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outputs", type=int, default=1)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--enclosed", action="store_true")
    given = parser.parse_args()
    if given.enclosed:
        proofs(range(given.seed, given.seed + given.count))
        return
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
