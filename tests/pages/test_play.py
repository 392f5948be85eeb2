"""The page to play with, in a real browser: its numbers are those of the library, and the pointer moves them."""

import itertools
import math
import re

import numpy as np
import pytest

import linflow as lf
from linflow.exact import scalar_balanced_time, two_layer_scalar
from linflow.pages import play
from tests.browser import shown

STARTS = [
    *itertools.product((2.0, 0.05, -1.3), (0.4, -0.7, 1.3), (1.0, -0.5, 0.0)),
    (1e-3, 2e-3, 1.0),
    (0.0, 0.0, 1.0),
    (0.0, 1.0, 1.0),
]
CHAINS = [
    ([0.9, 0.9, 0.9], 1.0),
    ([1.8, 0.7, 0.5], 1.0),
    ([1.7, -1.2, 0.8, 0.3], 0.7),
    ([-0.2, 1.3, 0.9], 1.5),
    ([1.1, 1.0, 0.9, 0.8, 0.7, 0.6], 1.2),
]


@pytest.fixture(scope="module")
def context(browser):
    return browser.new_context(viewport={"width": 1100, "height": 900})


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("play") / "play.html"
    play.write(path)
    return path.as_uri()


@pytest.fixture(scope="module")
def tab(context):
    """A tab for all tests, as each of its own takes half a second to start, and what it has said of errors."""
    found, wrong = context.new_page(), []
    found.on("pageerror", lambda error: wrong.append(str(error)))
    found.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    yield found, wrong
    found.close()


@pytest.fixture
def page(tab, file):
    found, wrong = tab
    wrong.clear()
    found.goto("about:blank")
    found.goto(file)
    yield found
    assert wrong == []


@pytest.fixture
def formulas(tab, file):
    """The page for tests that call its formulas, whatever was done to it before."""
    found, wrong = tab
    wrong.clear()
    if not found.url.startswith(file):
        found.goto(file)
    yield found
    assert wrong == []


def test_the_page_is_small_and_asks_nothing_of_a_network():
    text = play.page()
    assert len(text.encode()) < 200_000
    assert "default-src 'none'" in text
    assert set(re.findall(r"https?://[^\s\"'<]*", text)) == {"http://www.w3.org/2000/svg"}  # the name of SVG


def test_products_are_those_of_the_library(formulas):
    times = [0.0, 1e-3, 0.1, 1.0, 7.0]
    for u, v, s in STARTS:
        found = formulas.evaluate(
            "([u, v, s, times]) => times.map(t => mathematics.twoWeights(u, v, s).product(t))", [u, v, s, times]
        )
        np.testing.assert_allclose(
            found, two_layer_scalar((u - v) * (u + v), s, u * v, times), rtol=1e-12, atol=1e-12
        )


def test_weights_lie_on_their_branch(formulas):
    for u, v, s in STARTS:
        flow = "([u, v, s]) => { const f = mathematics.twoWeights(u, v, s); return [0, 0.3, 5].map(t => f.at(t)); }"
        start, *rest = formulas.evaluate(flow, [u, v, s])
        np.testing.assert_allclose(start, [u, v], atol=1e-12)
        for a, b in rest:
            assert a * a - b * b == pytest.approx(u * u - v * v, abs=1e-9)


def test_guarantees_of_two_weights_are_those_of_the_library(formulas):
    for u, v, s in STARTS:
        found = formulas.evaluate(
            "([u, v, s]) => { const f = mathematics.twoWeights(u, v, s); return [f.guaranteed, f.margin]; }",
            [u, v, s],
        )
        margin = max(0.0, abs(s) - abs(s - u * v))
        assert found == pytest.approx([2 * lf.bounds.scalar_exact([u * u - v * v], margin), margin], abs=1e-9)


@pytest.mark.parametrize(("u", "v", "s"), [(2.0, 0.4, 1.0), (-1.3, 0.4, -0.5), (0.6, 0.5, 1.0), (1.6, -0.4, 1.0)])
def test_losses_lie_below_what_is_guaranteed(formulas, u, v, s):
    """The envelope is the flow itself where the start is between 0 and the target."""
    loss, envelope, one = np.array(
        formulas.evaluate(
            """([u, v, s]) => { const f = mathematics.twoWeights(u, v, s);
            return [f.lossAt, f.envelopeAt, f.oneRateAt].map(g => [0, 0.1, 0.5, 1, 2].map(g)); }""",
            [u, v, s],
        )
    )
    assert (loss <= envelope * (1 + 1e-9)).all()
    assert (envelope <= one * (1 + 1e-9)).all()
    assert loss[0] == pytest.approx(0.5 * (s - u * v) ** 2) == one[0] == pytest.approx(envelope[0])
    if 0 < u * v < s:
        np.testing.assert_allclose(envelope, loss, rtol=1e-9)


@pytest.mark.parametrize(("layers", "s"), CHAINS)
def test_rates_of_chains_are_those_of_the_library(formulas, layers, s):
    found = formulas.evaluate("([layers, s]) => mathematics.chain(layers, s)", [layers, s])
    d = [a * a - b * b for a, b in itertools.pairwise(layers)]
    w = math.prod(layers)
    margin = max(0.0, abs(s) - abs(s - w))
    names = ("rate", "exact", "closed", "imbalance", "margin")
    expected = [
        lf.bounds.scalar_exact(d, w),
        lf.bounds.scalar_exact(d, margin),
        lf.bounds.scalar(d, margin),
        lf.bounds.scalar_exact(d, 0.0),
        margin,
    ]
    assert [found[name] for name in names] == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert found["balanced"] == pytest.approx(len(layers) * margin ** (2 - 2 / len(layers)), abs=1e-9)


@pytest.mark.parametrize(("layers", "s"), CHAINS)
def test_times_of_chains_are_those_of_a_run(formulas, layers, s):
    found = formulas.evaluate("([layers, s]) => mathematics.chain(layers, s).timeTo(1e-6)", [layers, s])
    if len(set(layers)) == 1:
        w = math.prod(layers)
        known = scalar_balanced_time(len(layers), s, w, s - math.copysign(1e-3, s - w) * abs(s - w))
        assert found == pytest.approx(known, rel=1e-9)
    run = lf.gradient_flow(
        lf.MatrixFactorization(np.array([[s]])), [np.array([[w]]) for w in layers], until=1e-7, rtol=1e-12
    )
    assert found == pytest.approx(run.time_to(1e-6), rel=1e-9)


def test_the_pointer_moves_the_start_and_all_numbers_follow(page):
    page.locator("#start").scroll_into_view_if_needed()
    box = page.locator("#start").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 60, y - 40, steps=4)
    page.mouse.up()
    u, v = (float(page.locator(f"#in-{name}").input_value()) for name in "uv")
    assert u < 1.5 and v > -0.35
    assert shown(page, "two", "conserved d = u² − v²") == pytest.approx(u * u - v * v, rel=1e-3)
    assert shown(page, "two", "rate in the end") == pytest.approx(2 * math.hypot(u * u - v * v, 2), rel=1e-3)
    assert f"u={u:g}" in page.url.replace("%2C", ",")
    # After the button is up, the pointer moves nothing.
    page.mouse.move(x, y)
    assert float(page.locator("#in-u").input_value()) == u


def test_keys_move_the_start_and_a_screen_reader_hears_where_it_is(page):
    start = page.locator("#start")
    start.focus()
    for key in ("ArrowRight", "ArrowUp", "Shift+ArrowUp"):
        page.keyboard.press(key)
    assert page.locator("#start").get_attribute("aria-valuetext") == "u 1.65, v −0.1"
    assert page.evaluate("document.activeElement.id") == "start"
    assert page.locator("#start").get_attribute("role") == "slider"


def test_a_finger_moves_the_start(browser, file):
    phone = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    page = phone.new_page()
    page.goto(file)
    page.locator("#start").scroll_into_view_if_needed()
    box = page.locator("#start").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    session = phone.new_cdp_session(page)
    for kind, dx in (("touchStart", 0), ("touchMove", -20), ("touchMove", -50), ("touchEnd", None)):
        points = [] if dx is None else [{"x": x + dx, "y": y}]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert float(page.locator("#in-u").input_value()) < 1.4
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    phone.close()


def test_bars_are_dragged_and_layers_added(page):
    before = shown(page, "deep", "product")
    page.locator("#bar-1").focus()
    page.keyboard.press("ArrowUp")
    assert shown(page, "deep", "product") == pytest.approx(before * math.sqrt(0.91) / 0.9, rel=1e-3)
    page.locator("#in-depth").fill("5")
    assert page.locator("#bars .handle").count() == 5
    page.locator("#in-depth").fill("400")
    assert page.locator("#bars .handle").count() == 8


def test_presets_words_and_an_address_that_holds_the_state(page, context, file):
    page.get_by_role("button", name="ends at the saddle").click()
    assert "saddle" in page.locator("#two-words").inner_text()
    assert shown(page, "two", "10⁻⁶ of the loss, exactly") == math.inf
    page.get_by_role("button", name="all differ").click()
    other = context.new_page()
    other.goto(page.url)
    assert other.locator("#in-v").input_value() == "-1"
    assert other.locator("#bars .handle").count() == 4
    other.close()
    odd = context.new_page()
    odd.goto(file + "#u=1e999&v=abc&layers=1 x&target=<b>")
    assert [odd.locator(f"#in-{name}").input_value() for name in ("u", "v", "target")] == ["1.6", "-0.4", "1"]
    odd.close()


def test_every_preset_draws_finite_lines(page):
    for button in page.locator("button").all():
        button.click()
        assert "NaN" not in page.content()
