"""Every figure of the talk has its preset, whose numbers are those of the figure at that size, or of the library."""

import importlib
import math

import numpy as np
import pytest

import linflow as lf
from linflow import relu
from linflow.experiments.figures import (
    box_plot,
    convergence,
    depth,
    exploding,
    init_map,
    one_and_two_layers,
    phase_plane,
    spectrum,
    symmetry,
    three_layers,
)
from linflow.pages.presets import ALONE, FIGURES
from tests.browser import settled, shown

pytestmark = pytest.mark.slow  # figures are computed

STATE = {preset.figure: preset.state for preset in FIGURES}
CHOSEN = {preset.figure: preset for preset in FIGURES}


def quiet(fraction: float, note: str = ""):
    """Report no progress."""


@pytest.fixture
def preset(shared):
    """Opens the preset of a figure, and returns what reads a number beside a term."""

    def opened(name):
        shared.locator(f"[data-figure={name}]").click()
        settled(shared)
        view = CHOSEN[name].view
        assert shared.evaluate("document.activeElement.id") == f"{view}-title"
        return lambda term, of=view: shown(shared, of, term)

    return opened


@pytest.mark.parametrize("name", STATE)
def test_titles_are_those_of_the_figures(name):
    module = importlib.import_module(f"linflow.experiments.figures.{'relu_rates' if name == 'relu' else name}")
    assert CHOSEN[name].title == module.experiment.title and module.experiment.id == name


def test_the_figures_of_the_talk_are_there():
    talk = {"phase_plane", "one_and_two_layers", "spectrum", "convergence", "init_map", "depth", "exploding"}
    talk |= {"box_plot", "three_layers", "symmetry", "verified_runs", "implicit_bias", "step_sizes"}
    assert talk | {"two_layer_descent", "small_start", "relu"} == set(STATE)
    assert all(preset.view in (*ALONE, "two_layers", "descent", "neurons", "least_norm") for preset in FIGURES)


def test_phase_plane(preset):
    read, state = preset("phase_plane"), STATE["phase_plane"]
    start = (state["u"], state["v"])
    assert start in phase_plane.DRAWN and state["s"] == phase_plane.TARGET
    data = phase_plane.compute(phase_plane.PhasePlaneSettings(start=(start,), seeds=1), 0, quiet)
    assert read("conserved d = u² − v²", "two") == 3
    assert read("rate in the end", "two") == pytest.approx(float(data.drawn[0].rate[-1]), rel=1e-3)
    assert read("10⁻⁶ of the loss, exactly", "two") == pytest.approx(data.drawn[0].time_to(1e-6), rel=1e-3)


def test_symmetry(preset):
    read, state = preset("symmetry"), STATE["symmetry"]
    assert (state["u"], state["v"]) in symmetry.STARTS and state["s"] == 1.0
    run = lf.gradient_flow(symmetry.SCALAR, [[[state["u"]]], [[state["v"]]]], until=1e-8)
    (u, v) = (float(np.asarray(W)[0, 0]) for W in run.final.weights)
    assert read("conserved d = u² − v²", "two") == pytest.approx(u * u - v * v, rel=1e-3)


def test_verified_runs(preset, shared):
    preset("verified_runs")
    s = STATE["verified_runs"]
    low, high = lf.enclose(lf.MatrixFactorization([[s["s"]]]), [[[s["u"]]], [[s["v"]]]], until=1e-6).time_bounds(1e-6)
    assert f"at t = {high:.6g}" in shared.locator("#two_weights-words").inner_text() and low < high


def test_one_and_two_layers(preset):
    settings = one_and_two_layers.OneAndTwoLayersSettings(values=(1.0,) * 3, imbalance=(2.0,), seeds=1, size=(0.2,))
    data = one_and_two_layers.compute(settings, 0, quiet)
    read = preset("one_and_two_layers")
    assert read("10⁻⁶ seen at") == pytest.approx(data.two[2.0].time_to(1e-6), rel=1e-3)


def test_spectrum(preset):
    settings = spectrum.SpectrumSettings(n=4, m=2, h=(12,), seeds=1)
    drawn = np.asarray(spectrum.compute(settings, 0, quiet).widths[0].draws[0].eigenvalues)
    state = STATE["spectrum"]
    np.testing.assert_allclose(state["eigenvalues"], drawn, atol=6e-5)  # four digits are kept
    rate = 2 * float(lf.bounds.two_layer(np.array(state["eigenvalues"]), 4, 2, 0.0, 0.0))
    assert preset("spectrum")("guaranteed rate") == pytest.approx(rate, rel=1e-3)


def test_convergence(preset):
    settings = convergence.ConvergenceSettings(n=4, m=2, h=(12,), eta=1e-2)
    (runs,) = convergence.compute(settings, 0, quiet).runs.values()
    assert preset("convergence")("guaranteed rate") == pytest.approx(runs[0].certificate.rate, rel=1e-3)


def test_init_map(preset):
    data = init_map.compute(init_map.InitMapSettings(grid=10, seeds=4, start=((1.4, 0.3),)), 0, quiet)
    read = preset("init_map")
    assert read("guaranteed rate") == pytest.approx(data.examples[0].certificate.rate, rel=1e-3)
    assert read("10⁻⁶ seen at") == pytest.approx(data.examples[0].run.time_to(1e-6), rel=1e-3)


def test_small_start(preset):
    state, target = STATE["small_start"], np.diag(STATE["small_start"]["targets"])
    size = math.sqrt(state["part"])  # each mode is balanced, and the product is a part of the target
    start = [size * np.sqrt(target), size * np.sqrt(target)]
    run = lf.gradient_flow(lf.MatrixFactorization(target), start, until=1e-7)
    assert preset("small_start")("10⁻⁶ seen at") == pytest.approx(run.time_to(1e-6), rel=1e-3)


def test_depth(preset):
    curves = depth.compute(depth.DepthSettings(depth=(3,), seeds=1, run=(2,)), 0, quiet).curves
    read = preset("depth")
    assert read("exact rate at the margin, α*", "deep") == pytest.approx(curves["exact"][0], rel=1e-3)
    assert read("in closed form (Prop. 3)", "deep") == pytest.approx(curves["closed"][0], rel=1e-3)
    assert read("imbalance alone", "deep") == pytest.approx(curves["prior"][0], rel=1e-3)


def test_exploding(preset):
    data = exploding.compute(exploding.ExplodingSettings(depth=(4,), values=(1.0,)), 0, quiet)
    read = preset("exploding")
    assert read("10⁻⁶ of the loss, exactly", "deep") == pytest.approx(data.times("steps")[0], rel=1e-3)


def scalars(network):
    """The weights of a network of scalars."""
    return [float(np.asarray(W)[0, 0]) for W in network.weights]


def test_box_plot(preset):
    data = box_plot.compute(box_plot.BoxPlotSettings(n=1, m=1, h=1, seeds=5, start=("ntk",)), 0, quiet)
    (row,) = (row for row in data.good if row["seed"] == 4)
    s = STATE["box_plot"]
    assert s["layers"] == scalars(data.network(row)) and s["s"] == float(data.objective.minimizer[0, 0])
    assert preset("box_plot")("imbalance alone", "deep") == pytest.approx(data.delta["ntk"][4], rel=1e-3)


def test_three_layers(preset):
    data = three_layers.compute(three_layers.ThreeLayersSettings(h=((1, 1),), seeds=1, eta=1e-3), 5, quiet)
    (draw,) = (draw for draw in data.draws if draw.kind == "n = m = 1")
    s = STATE["three_layers"]
    assert s["layers"] == scalars(draw.start) and s["s"] == float(three_layers.TARGETS[draw.kind][0, 0])
    assert preset("three_layers")("imbalance alone", "deep") == pytest.approx(draw.delta, rel=1e-3)


@pytest.mark.parametrize("name", ["step_sizes", "two_layer_descent"])
def test_descents(preset, name):
    s = STATE[name]
    f, start = lf.MatrixFactorization([[s["s"]]]), [[[s["u"]]], [[s["v"]]]]
    run = lf.gradient_descent(f, start, step_size=s["step"], steps=300, until=1e-6)
    read = preset(name)
    assert read("steps to 10⁻⁶") == len(run.t) - 1
    assert read("certified before the run") == pytest.approx(float(lf.safe_step_size(f, start)), rel=1e-3)
    assert s["step"] <= float(lf.safe_step_size(f, start))
    proof = lf.enclose(f, start, algorithm="descent", step_size=s["step"], until=1e-6, steps=60)
    if math.isfinite(proof.steps_bounds(1e-6)[1]):
        assert read("steps to 10⁻⁶, proved") == proof.steps_bounds(1e-6)[1]


def test_relu(preset, shared):
    s = STATE["relu"]
    U = np.array([s["a"], s["b"]])
    V = (np.array(s["signs"]) * np.linalg.norm(U, axis=0))[:, None]
    X = np.column_stack([s["x"], s["y"]])
    cert = relu.certify(X, s["labels"], relu.Network(U, V))
    np.testing.assert_allclose(relu.Network(U, V).outputs(X), 0.0, atol=1e-12)  # paired, as in the figure
    read = preset("relu")
    assert read("rate guaranteed there") == pytest.approx(cert.rate_at(cert.gap), rel=1e-3)
    assert cert.rate > 0 and f"the rate is {cert.rate:.4g} at least" in shared.locator("#neurons-words").inner_text()


def test_implicit_bias(preset):
    s = STATE["implicit_bias"]
    f = lf.LinearRegression([[s["x1"], s["x2"]]], [[s["target"]]])
    start = lf.init.gaussian((2, s["width"], 1), s["width"] ** -s["exponent"], rng=s["seed"])
    found = lf.least_norm_distance(f, lf.gradient_flow(f, start, until=1e-9))
    read = preset("implicit_bias")
    assert read("distance to the least norm") == pytest.approx(found.distance, rel=1e-3)
    assert read("at most, before the run") == pytest.approx(found.bound, rel=1e-3)
    assert found.distance <= found.bound
