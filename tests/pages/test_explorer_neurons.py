"""The view of turning neurons: what it says is what `lf.relu` says, and the page draws the flow of the library."""

import json
import math

import numpy as np
import pytest

from linflow import relu
from linflow.pages.explorer.neurons import PlaneStart, aligned_from, neurons, run_from
from linflow.pages.explorer.neurons_figure import FAR, tips
from linflow.pages.explorer.state import Given
from linflow.pages.play import NEURONS
from tests.browser import dragged, said, settled, shown
from tests.pages.conftest import STATES

STATE = STATES["neurons"]


def literal(state):
    """Return the data and the start, written out."""
    X, y = np.column_stack([state["x"], state["y"]]), np.array(state["labels"], float)
    U = state["size"] * np.array([state["a"], state["b"]])
    return X, y, relu.Network(U, np.array(state["signs"])[:, None] * np.linalg.norm(U, axis=0)[:, None])


def run_of(state):
    return relu.gradient_flow(*literal(state), loss=state["loss"], until=0.02, t_max=40.0, rtol=1e-5, max_steps=400)


@pytest.mark.parametrize("at", [0.0, 0.4, 1.0])
def test_its_numbers_are_those_of_the_library(at):
    view, run = neurons(Given({**STATE, "at": at})), run_of(STATE)
    X, y, start = literal(STATE)
    t = at * run.t[-1]
    cert = relu.certify(X, y, run.network_at(t), loss="exponential")
    n = view.numbers
    # The size multiplies before or after the root is taken here: the weights differ by rounding, and so does the run.
    assert n["time"] == pytest.approx(t, rel=1e-12) and n["flips"] == len(run.flips) > 0
    assert n["flips so far"] == sum(flip.t <= t for flip in run.flips)
    assert n["loss now"] == pytest.approx(run.gap_at(t) / run.gap[0], rel=1e-9)
    assert n["seen at"] == pytest.approx(run.time_to(0.02), rel=1e-9)
    assert n["least correlation"] == pytest.approx(min(y[i] * y[k] * X[i] @ X[k] for i in range(4) for k in range(4)))
    assert n["guaranteed rate"] == pytest.approx(cert.rate_at(cert.gap) if cert.best else 0.0, rel=1e-9)
    assert n["guaranteed rate"] <= n["rate now"]
    assert bool(cert.best) == ("guarantee" in view.curves) == (t > n["aligned from"])
    assert ("Certified from this time on" in view.words) == bool(cert.best)
    np.testing.assert_allclose(start.U, run.start.U)


def test_the_guarantee_from_a_time_on_is_kept_by_the_rest_of_the_run():
    view, run = neurons(Given(STATE)), run_of(STATE)
    curve = np.array(view.curves["guarantee"])
    assert curve[0, 1] == pytest.approx(run.gap_at(view.numbers["time"]) / run.gap[0], rel=1e-9)
    later = run.gap_at(np.minimum(curve[:, 0], run.t[-1])) / run.gap[0]
    assert (later <= curve[:, 1] * (1 + 1e-9)).all()
    # Where the bound itself says that the loss is down, it is.
    by = view.numbers["guaranteed by"]
    cert = relu.certify(*literal(STATE)[:2], run.network_at(view.numbers["time"]), loss="exponential")
    assert cert.gap_at(by - view.numbers["time"]) == pytest.approx(0.02 * run.gap[0], rel=1e-9)
    assert by > view.numbers["seen at"]


def test_it_is_aligned_from_the_last_flip_on_and_not_before():
    run, t = run_of(STATE), aligned_from(PlaneStart.of(Given(STATE)))
    assert t == pytest.approx(run.flips[-1].t, rel=1e-9)

    def holds(s):
        return bool(relu.certify(*literal(STATE)[:2], run.network_at(s), loss="exponential").best)

    assert holds(t * (1 + 1e-6)) and not holds(t * (1 - 1e-6))
    assert aligned_from(PlaneStart.of(Given({**STATE, **dict(NEURONS)["no correlation"]}))) == math.inf
    # One neuron for each class, each on its own samples alone: at the start already.
    ready = {**STATE, "a": [1.0, -1.0], "b": [1.0, -1.0], "signs": [1, -1]}
    assert aligned_from(PlaneStart.of(Given(ready))) == 0.0
    assert "no neuron flips any more" in neurons(Given({**ready, "at": 0.0})).words


def test_a_regression_has_a_rate_and_says_how_many_pairs_may_flip():
    state = dict(NEURONS)["regression, large start"]
    view = neurons(Given(state))
    cert = relu.certify(*literal(state)[:2], literal(state)[2])
    assert cert.rate > 0 and f"{cert.rate:.4g} at least, and {cert.may_flip.sum()} pairs may flip" in view.words
    assert view.numbers["guaranteed rate"] <= view.numbers["rate now"]
    assert view.numbers["aligned from"] == math.inf  # Theorem A is on classification


def test_a_start_that_fits_is_optimal():
    fits = {**STATE, "x": [1.0], "y": [0.0], "labels": [1], "a": [1.0], "b": [0.0], "signs": [1]}
    assert neurons(Given({**fits, "size": 1.0, "loss": "squared"})).words == "The start is optimal."


def test_arrows_keep_their_directions_and_the_longest_ends_at_the_rim():
    run = run_from(PlaneStart.of(Given(STATE)))
    U = np.array([run.network_at(float(t)).U for t in np.linspace(0, run.t[-1], 9)])
    first = np.array([STATE["a"], STATE["b"]])
    ends = tips(U, first)
    np.testing.assert_allclose(ends[0], first, rtol=1e-12)
    np.testing.assert_allclose(np.arctan2(*ends.swapaxes(0, 1)), np.arctan2(*U.swapaxes(0, 1)), rtol=1e-9)
    growth = np.linalg.norm(U, axis=1) / np.linalg.norm(U[0], axis=0)
    largest = np.unravel_index(growth.argmax(), growth.shape)
    assert np.linalg.norm(ends, axis=1)[largest] == pytest.approx(
        np.linalg.norm(first[:, largest[1]]) * FAR / np.linalg.norm(first, axis=0).max(), rel=1e-9
    )
    still = tips(np.ones((2, 2, 1)), np.ones((2, 1)))
    np.testing.assert_allclose(still, np.ones((2, 2, 1)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": [1, 1, -1]}, "labels must be a list of 4 to 4"),
        ({"labels": [1, 1, -1, 0.5]}, "labels must be 1 or −1"),
        ({"signs": [1]}, "signs must be a list of 8 to 8"),
        ({"x": [1.0], "labels": [1]}, "must have the same length"),
        ({"loss": "hinge"}, "loss must be one of exponential"),
        ({"loss": 3}, "loss must be one of"),
        ({"size": 0.0}, "size is 0"),
        ({"at": 1.5}, "at is 1.5"),
        ({"a": [0.0] * 11}, "a must be a list of 1 to 10"),
    ],
)
def test_what_does_not_fit_is_named(change, words):
    with pytest.raises(ValueError, match=words):
        neurons(Given({**STATE, **change}))


def test_it_answers_anywhere_within_its_limits():
    rng = np.random.default_rng(0)
    for _ in range(6):
        N, h = int(rng.integers(1, 5)), int(rng.integers(1, 6))
        state = {
            "x": rng.choice([0.0, 1.0, -1.0, 2.4], N).tolist(),
            "y": rng.choice([0.0, 0.5, -2.4], N).tolist(),
            "labels": rng.choice([-1, 1], N).tolist(),
            "a": rng.choice([0.0, 1.0, -2.4], h).tolist(),
            "b": rng.choice([0.0, 0.3, -1.0], h).tolist(),
            "signs": rng.choice([-1, 1], h).tolist(),
            "size": float(rng.choice([1e-6, 1e-2, 1.0])),
            "loss": str(rng.choice(["exponential", "logistic", "squared"])),
            "at": float(rng.choice([0.0, 0.5, 1.0])),
        }
        json.dumps(neurons(Given(state)).document(), allow_nan=False)


# --- in the browser --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["small start", "large start", "regression, large start"])
@pytest.mark.parametrize("loss", ["exponential", "logistic", "squared"])
def test_the_page_integrates_the_flow_of_the_library(shared, name, loss):
    state = {**dict(NEURONS)[name], "loss": loss}
    run = run_of(state)
    found = shared.evaluate(
        """([state, parts]) => { const found = turning.run(state);
        return { end: found.end, weights: parts.map(k => Array.from(turning.at(found, k * found.end))),
                 losses: parts.map(k => turning.lossAt(found, k * found.end)) }; }""",
        [state, [0.0, 0.1, 0.3, 0.6, 1.0]],
    )
    # Steps of the page end near flips, not at them: 10⁻⁶ a step, and 10⁻³ over a run.
    assert found["end"] == pytest.approx(run.t[-1], rel=1e-3)
    for part, weights, loss_there in zip([0.0, 0.1, 0.3, 0.6, 1.0], found["weights"], found["losses"], strict=True):
        net = run.network_at(min(part * found["end"], run.t[-1]))
        there = np.array(weights).reshape(-1, 3)
        expected = np.column_stack([net.U.T, net.V])
        np.testing.assert_allclose(there, expected, atol=1e-3 * np.abs(expected).max(), rtol=0)
        assert loss_there == pytest.approx(run.problem.loss(net), rel=3e-3)


def test_where_neurons_slide_the_page_shows_the_run_of_the_library(shared):
    state = dict(NEURONS)["no correlation"]
    run = run_of(state)
    assert any(flip.after == "sliding" for flip in run.flips)
    shared.get_by_role("button", name="no correlation").click()
    settled(shared)
    assert shown(shared, "neurons", "chosen time") == pytest.approx(0.4 * run.t[-1], rel=1e-3)
    assert shared.locator("#out-at").inner_text() == f"t = {0.4 * run.t[-1]:.3g}"
    rows = neurons(Given(state)).curves["weights"]
    middle = len(run.t) // 2
    net = run.network_at(run.t[middle])
    expected = [run.t[middle], run.gap[middle], *np.column_stack([net.U.T, net.V]).ravel()]
    # The weights of the start differ by rounding.
    assert rows[middle] == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_a_sample_is_dragged_and_the_numbers_are_those_of_the_library(page):
    dragged(page, "sample-0", (10, -40))
    settled(page)
    state = page.evaluate("neurons.state")
    assert state["y"][0] > STATE["y"][0] and state["x"][0] > STATE["x"][0]
    view, run = neurons(Given(state)), run_of(state)
    assert shown(page, "neurons", "aligned from") == pytest.approx(run.flips[-1].t, rel=1e-3)
    assert shown(page, "neurons", "0.02 of the loss seen at") == pytest.approx(run.time_to(0.02), rel=1e-3)
    assert shown(page, "neurons", "rate guaranteed there") == pytest.approx(view.numbers["guaranteed rate"], rel=1e-3)
    assert said(page, "neurons-words") == view.words and said(page, "neurons-code") == view.code


def test_the_time_is_chosen_and_a_start_is_turned_by_keys(page):
    page.locator("#in-at").fill("0")
    settled(page)
    assert "Not certified at this time" in said(page, "neurons-words")
    page.locator("#in-at").fill("0.9")
    settled(page)
    assert "Certified from this time on" in said(page, "neurons-words")
    page.locator("#neuron-2").focus()
    for key in ("ArrowRight", "Shift+ArrowUp", "Enter"):
        page.keyboard.press(key)
    settled(page)
    state = page.evaluate("neurons.state")
    assert [state["a"][2], state["b"][2], state["signs"][2]] == pytest.approx(
        [STATE["a"][2] + 0.05, STATE["b"][2] + 0.25, -STATE["signs"][2]]
    )
    grip = page.locator("#neuron-2")
    assert grip.get_attribute("aria-label") == "neuron 3"
    assert grip.get_attribute("aria-valuetext").startswith("negative, at −0.292, 1.19")
    assert page.evaluate("document.activeElement.id") == "neuron-2"
    page.locator("#sample-0").dblclick()
    settled(page)
    assert page.evaluate("neurons.state.labels[0]") == -1
    assert "which is not certain to be ≥ 0" in said(page, "neurons-words")


def test_samples_and_neurons_are_added_and_removed(page):
    page.locator("#in-samples").fill("6")
    page.locator("#in-neurons").fill("3")
    settled(page)
    assert page.locator("#neurons-plane .sample").count() == 6
    assert page.locator("#neurons-plane .neuron").count() == 3
    page.locator("#in-loss").select_option("logistic")
    settled(page)
    assert 'loss="logistic"' in said(page, "neurons-code")
    assert "NaN" not in page.content()
