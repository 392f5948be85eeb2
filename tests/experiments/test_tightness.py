"""Tightness: every claim holds, a wrong bound or search is caught, and the figure shows the numbers measured."""

from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest

import linflow as lf
from linflow import bounds, plots
from linflow.experiments.figures import tightness
from linflow.experiments.figures.tightness import (
    FAMILIES,
    FLOOR,
    FOUR,
    LEAST,
    SCALARS,
    SHAPES,
    THREE_SQUARE,
    TWO_UNEQUAL,
    MeasuredStart,
    TightnessData,
    TightnessSettings,
)
from tests.reference import algebra


def silent(fraction, note=""):
    assert 0 <= fraction <= 1


def run(seed=0, searches=1):
    """The experiment with one start of every kind and family, and a short search."""
    return tightness.experiment.run(seed, silent, TightnessSettings(seeds=1, exact=1, searches=searches))


def starts_of(outcome):
    names = [field.name for field in fields(MeasuredStart)]
    return [MeasuredStart(**dict(zip(names, row, strict=True))) for row in zip(*outcome.data.values(), strict=True)]


def failed(claims):
    return [claim.text for claim in claims if not claim.passed]


@pytest.fixture(scope="module")
def small():
    return run(searches=2)


def test_every_claim_holds(small):
    assert failed(small.claims) == []
    # The medians are stated for more starts.
    assert (len(small.claims), len(small.left_out)) == (13 - len(LEAST), len(LEAST))
    assert {start.kind for start in starts_of(small)} == set(SHAPES)
    assert {start.family for start in starts_of(small)} == set(FAMILIES)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_every_claim_holds_on_all_starts(seed):
    outcome = tightness.experiment.run(seed, silent)
    assert failed(outcome.claims) == []
    assert len(starts_of(outcome)) == 64


# ---------------------------------------------------------------- what is measured


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("widths", [(1, 1, 1, 1), (3, 4, 2), (3, 3, 3), (2, 3, 3, 1), (2, 2, 3, 2, 2)], ids=str)
def test_a_start_is_measured_as_it_stands(widths, family):
    start = tightness._measure("kind", family, widths, np.random.default_rng(3))
    net = tightness._draw(family, widths, np.random.default_rng(3))
    assert net.widths == widths
    values = np.linalg.eigvalsh(algebra.tangent_dense([np.asarray(W) for W in net.weights]))
    # Rounding of two eigensolvers.
    assert start.actual == pytest.approx(values[0], abs=1e-13 * values[-1])
    assert start.size == pytest.approx(values[-1], rel=1e-13)
    best = bounds.best(net)
    assert (start.bound, start.theorem) == (float(best.value), best.name)
    assert 0 <= start.published <= start.before <= start.bound


def test_what_counts_as_published():
    rng = np.random.default_rng(1)
    square = tightness._measure("kind", "Gaussian", (3, 3, 3), np.random.default_rng(1))
    net = lf.init.gaussian((3, 3, 3), rng=rng)
    sigma = algebra.sigma(algebra.product(net.weights), 3)
    # The allowances for rounding that `table` makes and the function does not.
    assert square.published == pytest.approx(
        float(bounds.two_layer(lf.imbalance_matrices(net)[0], 3, 3, sigma, sigma)), rel=1e-9
    )
    assert square.published < square.bound
    # At four layers the published theorems ask for a special imbalance.
    assert tightness._measure("kind", "Gaussian", (2,) * 5, rng).published == 0


def test_the_families_are_what_they_say():
    for widths in (w for shapes in SHAPES.values() for w in shapes):
        n, m = widths[0], widths[-1]
        for seed in range(5):
            net = tightness._draw("unimodal", widths, np.random.default_rng(seed))
            assert float(bounds.unimodal(lf.imbalance_matrices(net), n, m)) >= 0  # raises if it is not unimodal
            near = tightness._draw("near balanced", widths, np.random.default_rng(seed))
            D = lf.imbalance_matrices(near)
            most = max(np.linalg.norm(W) for W in near.weights)
            # Noise of at most 0.1 an entry, which enters D twice times the weights; 4 standard deviations.
            assert all(0 < np.linalg.norm(d) < 2 * 0.4 * max(widths) * (most + 0.4 * max(widths)) for d in D)


# ---------------------------------------------------------------- what is caught


@pytest.mark.parametrize(
    ("kind", "change", "caught"),
    [
        (None, lambda s: {"bound": 1.01 * s.bound}, ["No bound exceeds", "Scalars: the bound is the optimum"]),
        (SCALARS, lambda s: {"bound": 0.99999 * s.bound}, ["Scalars: the bound is the optimum"]),
        (TWO_UNEQUAL, lambda s: {"published": 0.99999 * s.published}, ["Two layers, n ≠ m: the published"]),
        (TWO_UNEQUAL, lambda s: {"optimum": 0.99 * s.optimum}, ["No bound exceeds", "the published", "attain the"]),
        (FOUR, lambda s: {"optimum": 1.01 * s.actual}, ["never exceeds the actual", "attain the optimum"]),
        (FOUR, lambda s: {"actual": 2 * s.actual}, ["Drawn as actual value"]),
        (FOUR, lambda s: {"bound": 0.5 * s.bound}, ["Drawn as best bound"]),
        (FOUR, lambda s: {"residual": 2e-8}, ["the imbalances and the product"]),
        (FOUR, lambda s: {"attained": s.optimum + 1e-9 * s.size}, ["attain the optimum"]),
        (THREE_SQUARE, lambda s: {"bound": 0.0}, ["Three layers, n = m", "positive at every start"]),
        (THREE_SQUARE, lambda s: {"published": s.bound}, ["Three layers, n = m"]),
        (FOUR, lambda s: {"optimum": np.nan}, ["No bound exceeds", "never exceeds", "attain the", "Four layers"]),
        *((kind, lambda s: {"bound": 0.04 * s.optimum}, [f"{kind[1:]}: the median"]) for kind in LEAST),
    ],
)
def test_a_wrong_number_is_caught(small, kind, change, caught):
    wrong = [replace(s, **change(s)) if kind in (None, s.kind) else s for s in starts_of(small)]
    texts = failed(tightness.claims(TightnessData(TightnessSettings(), wrong)))
    assert [part for part in caught if not any(part in text for text in texts)] == []


def test_a_theorem_that_is_too_large_is_caught(monkeypatch):
    table = bounds.table

    def raised(network, *args):
        return [replace(bound, value=1.001 * bound.value) for bound in table(network, *args)]

    monkeypatch.setattr(bounds, "table", raised)
    texts = failed(run().claims)
    for part in ("No bound exceeds", "Scalars", "Two layers, n ≠ m"):
        assert any(part in text for text in texts), part


# ---------------------------------------------------------------- what is shown


def test_the_figure_shows_every_number(small, monkeypatch):
    monkeypatch.setattr(tightness, "bounds", None)  # drawing never simulates
    with plots.style():
        fig = small.draw()
        fig.canvas.draw()
    assert 6.5 <= fig.get_figwidth() <= 7.2
    left, right = fig.axes
    starts = starts_of(small)
    for name, marker in (("published", "s"), ("before", "^"), ("bound", "o")):
        ratio = np.array([getattr(s, name) / s.optimum for s in starts])
        drawn = np.concatenate([line.get_xdata() for line in left.lines if line.get_marker() == marker])
        assert np.array_equal(np.sort(drawn), np.sort(ratio[ratio >= FLOOR]))
    below = sum(int(text.get_text().split(" of ")[0]) for text in left.texts)
    assert below == sum(
        getattr(s, name) / s.optimum < FLOOR for s in starts for name in ("published", "before", "bound")
    )
    for name, marker in (("optimum", "D"), ("bound", "o")):
        (line,) = (line for line in right.lines if line.get_marker() == marker)
        assert list(zip(*line.get_data(), strict=True)) == [(s.actual, getattr(s, name)) for s in starts]
    boxes = [label.get_window_extent() for label in left.get_xticklabels() if label.get_text()]
    assert all(a.x1 < b.x0 for a, b in pairwise(sorted(boxes, key=lambda box: box.x0)))


def test_the_tables_are_the_medians(small):
    by_kind, by_family = small.tables
    starts = starts_of(small)
    for row in by_kind.rows:
        chosen = [s for s in starts if s.kind == row[0]]
        assert row[1] == len(chosen)
        assert [row[2], row[3], row[4]] == [
            np.median([getattr(s, name) / s.optimum for s in chosen]) for name in ("published", "before", "bound")
        ]
        assert row[5] == min(s.bound / s.optimum for s in chosen)
        assert row[6] == np.median([s.bound / s.actual for s in chosen])
    assert [row[0] for row in by_family.rows] == list(FAMILIES)
    assert sum(row[1] for row in by_family.rows) == sum(s.kind in LEAST for s in starts)
