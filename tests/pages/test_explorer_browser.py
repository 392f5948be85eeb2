"""The explorer in a real browser: drag, read the numbers, compare with the library."""

import re
from pathlib import Path

import numpy as np
import pytest

import linflow as lf
from linflow.pages.explorer import Explorer
from linflow.pages.explorer.views import VIEWS
from tests.browser import dragged, said, settled, shown
from tests.explorer_times import times
from tests.pages.conftest import STATES
from tests.waiting import waited

KEPT = Path(__file__).parents[2] / "build" / "explorer"


def test_an_eigenvalue_is_dragged(page):
    dragged(page, "spectrum-0", (0, -60))
    settled(page)
    value = page.evaluate("explore.layers.eigenvalues[0]")
    assert value > 3
    waited(lambda: f"[{value}" in said(page, "two_layers-code"))
    D, W = np.diag([value, 0.5, 0.0, -1.0]), np.diag([1.0, 0.5])
    cert = lf.certify(lf.MatrixFactorization(W), lf.init.with_imbalance(D, 0.6 * W))
    assert shown(page, "two_layers", "guaranteed rate") == pytest.approx(cert.rate, rel=1e-3)


def test_a_step_past_the_edge_ends_the_proof(page):
    before = page.locator("#descent-code").text_content()
    page.locator("#in-step").fill("0")
    waited(lambda: said(page, "descent-code") != before)
    assert "The proof ends" in page.locator("#descent-words").text_content()
    assert shown(page, "descent", "edge of stability in the end") < 1


def test_a_start_without_weights_says_why_and_the_old_curves_fade(page):
    for k in (2, 3):  # W_1ᵀW_1 would need rank 4, and n is 2
        page.locator(f"#spectrum-{k}").focus()
        for _ in range(5):
            page.keyboard.press("Shift+ArrowUp")
    waited(lambda: "no such weights" in said(page, "two_layers-words"))
    assert "stale" in page.locator("#two_layers-shown").get_attribute("class")


def test_a_server_that_has_stopped_is_said(browser):
    with Explorer() as gone:
        page = browser.new_context().new_page()
        page.goto(gone.url)
        waited(lambda: said(page, "two_layers-code"))
    page.locator("#in-part").fill("0.4")
    waited(lambda: "has stopped" in said(page, "two_layers-words"))
    page.context.close()


def test_a_step_of_the_page_is_one_of_the_library(shared):
    state = {**STATES["descent"], "step": 0.1}
    found = shared.evaluate("state => descending.taken(state)", state)
    run = lf.gradient_descent(
        lf.MatrixFactorization([[1.0]]), [[[1.6]], [[-0.4]]], step_size=0.1, steps=300, until=1e-6
    )
    assert [loss for _, loss in found["losses"]] == pytest.approx((run.loss / run.loss[0]).tolist(), rel=1e-9)
    assert len(found["path"]) == len(run.t)


def test_the_start_of_the_descent_is_dragged(page):
    dragged(page, "descent-start", (30, -30))
    settled(page)
    s = {name: page.evaluate(f"play.two.{name}") for name in "uvs"}
    assert s["u"] > 1.6 and s["v"] > -0.4
    eta = float(lf.safe_step_size(lf.MatrixFactorization([[s["s"]]]), [[[s["u"]]], [[s["v"]]]]))
    assert shown(page, "descent", "certified before the run") == pytest.approx(eta, rel=1e-3)


def test_a_bar_is_dragged_and_the_certificate_is_that_of_the_library(page):
    dragged(page, "bar-1", (0, -40))
    settled(page)
    layers = page.evaluate("play.deep.layers")
    assert layers[1] > 0.95
    cert = lf.certify(lf.MatrixFactorization([[1.0]]), [[[w]] for w in layers])
    assert f"10⁻⁶ by t = {cert.time_to(1e-6):.6g}" in said(page, "depth-words")


@pytest.mark.parametrize("grip", ["descent-start", "least_norm-sample", "spectrum-1", "sample-1"])
def test_keys_go_on_after_an_answer(shared, grip):
    shared.locator(f"#{grip}").focus()
    said_before = []
    for _ in range(2):
        said_before.append(shared.locator(f"#{grip}").get_attribute("aria-valuetext"))
        shared.keyboard.press("ArrowUp")
        settled(shared)
        assert shared.evaluate("document.activeElement.id") == grip
    assert len({*said_before, shared.locator(f"#{grip}").get_attribute("aria-valuetext")}) == 3


def test_the_sample_is_dragged_and_the_distance_is_that_of_the_library(page):
    dragged(page, "least_norm-sample", (-20, -25))
    settled(page)
    s = page.evaluate("leastNorm.state")
    assert s["x1"] < 1.5 and s["x2"] > 0.8
    f = lf.LinearRegression([[s["x1"], s["x2"]]], [[1.5]])
    found = lf.least_norm_distance(f, lf.gradient_flow(f, lf.init.gaussian((2, 50, 1), 50**-0.5, rng=0), until=1e-9))
    assert shown(page, "least_norm", "distance to the least norm") == pytest.approx(found.distance, rel=1e-3)
    assert said(page, "least_norm-words").endswith(f"at most {found.bound:.4g} from the solution of least norm.")


def test_a_link_holds_the_state_of_every_view(page, browser):
    page.locator("#in-part").fill("0.3")
    page.locator("#in-step").fill("-1")
    dragged(page, "neuron-1", (20, 10))
    page.locator("#in-size").fill("-2")
    page.locator("#in-seed").fill("7")
    page.locator("[data-figure=exploding]").click()
    page.get_by_role("button", name="large text").click()
    settled(page)
    states = "[play.two, play.deep, explore.layers, descending.steps, neurons.state, leastNorm.state]"
    other = browser.new_context().new_page()
    other.goto(page.url)
    settled(other)
    assert other.evaluate(states) == page.evaluate(states)
    assert all(said(other, f"{view}-code") == said(page, f"{view}-code") for view in VIEWS)
    assert other.locator("#in-large").get_attribute("aria-pressed") == "true"
    # What does not fit is left as it was at first. The page is left before: it would keep the state it has.
    other.goto("about:blank")
    other.goto(
        page.url.split("#")[0] + "#n=9&eigenvalues=1 x&samples=1 2&neurons=1 1 0.5&loss=hinge&step=abc&at=&size=1e999"
    )
    settled(other)
    assert other.evaluate("[neurons.state, descending.steps.step]") == [STATES["neurons"], 0.3]
    assert other.evaluate("[explore.layers.n, explore.layers.eigenvalues]") == [6, [2, 0.5, 0, -1]]
    other.context.close()


@pytest.mark.parametrize("view", VIEWS)
def test_the_lines_of_python_are_copied_and_run(shared, view, capsys):
    shared.context.grant_permissions(["clipboard-read", "clipboard-write"])
    shared.locator(f"#{view}-copy").click()
    waited(lambda: shared.locator(f"#{view}-copy").inner_text() == "copied")
    lines = shared.evaluate("navigator.clipboard.readText()")
    assert lines == said(shared, f"{view}-code")
    exec(lines, {})
    assert capsys.readouterr().out


@pytest.mark.parametrize(("view", "kind", "begin"), [("two_weights", "svg", b"<?xml"), ("neurons", "pdf", b"%PDF")])
def test_a_figure_is_saved(shared, view, kind, begin, tmp_path):
    with shared.expect_download() as saved:
        shared.locator(f"#{view}-{kind}").click()
    saved.value.save_as(tmp_path / f"{view}.{kind}")
    assert saved.value.suggested_filename == f"{view}.{kind}"
    assert (tmp_path / f"{view}.{kind}").read_bytes().startswith(begin)


def test_text_is_large_enough_for_a_projector(explorer, browser):
    """On 1920 × 1080 the smallest text has 24 pixels, one part in 45 of the height."""
    page = browser.new_context(viewport={"width": 1920, "height": 1080}).new_page()
    page.goto(explorer.url + "#text=large")
    settled(page)
    sizes = page.evaluate(
        """() => [...document.querySelectorAll("main *, header *")].filter(x => x.childElementCount === 0
        && x.textContent.trim() && x.getClientRects().length && !x.closest("details")).map(x => {
          const svg = x.closest("svg"), scale = svg ? svg.getScreenCTM().a : 1;
          return [parseFloat(getComputedStyle(x).fontSize) * scale, x.tagName + " " + x.textContent.slice(0, 30)];
        })"""
    )
    assert len(sizes) > 100
    small = [found for found in sizes if found[0] < 24 and not re.match("su[bp] ", found[1], re.IGNORECASE)]
    assert small == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 1920
    page.context.close()


def test_a_screen_reader_finds_a_name_on_everything_that_can_be_moved(shared):
    handles = shared.locator("[role=slider]").all()
    assert len(handles) > 20
    for handle in handles:
        assert handle.get_attribute("aria-label") and handle.get_attribute("aria-valuetext")
        assert handle.get_attribute("tabindex") == "0"
    unnamed = shared.evaluate(
        """() => [...document.querySelectorAll("input, select, button, svg[role], section")]
        .filter(x => !(x.labels?.length || x.ariaLabel || x.getAttribute("aria-labelledby") || x.textContent.trim()))
        .map(x => x.outerHTML)"""
    )
    assert unnamed == []
    for view in VIEWS:
        assert shared.locator(f"#{view}-words").get_attribute("role") == "status"


def test_a_finger_drags_in_every_view_and_the_page_scrolls_beside_handles(explorer, browser):
    phone = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    page = phone.new_page()
    page.goto(explorer.url)
    settled(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    session = phone.new_cdp_session(page)
    for grip, value in (
        ("start", "play.two.v"),
        ("bar-0", "play.deep.layers[0]"),
        ("spectrum-1", "explore.layers.eigenvalues[1]"),
        ("descent-start", "play.two.v"),
        ("sample-2", "neurons.state.y[2]"),
        ("neuron-5", "neurons.state.b[5]"),
        ("least_norm-sample", "leastNorm.state.x2"),
    ):
        page.locator(f"#{grip}").scroll_into_view_if_needed()
        box = page.locator(f"#{grip}").bounding_box()
        x, y, before = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, page.evaluate(value)
        for kind, dy in (("touchStart", 0), ("touchMove", 15), ("touchMove", 30), ("touchEnd", None)):
            points = [] if dy is None else [{"x": x, "y": y + dy}]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        assert page.evaluate(value) < before, grip
    touch = page.evaluate("[...document.querySelectorAll('.room')].map(x => getComputedStyle(x).touchAction)")
    assert set(touch) == {"none"}
    assert page.evaluate("getComputedStyle(document.getElementById('plane')).touchAction") == "auto"
    phone.close()


SCREENS = {
    "desktop-light": {"viewport": {"width": 1280, "height": 900}},
    "desktop-dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone-light": {"viewport": {"width": 390, "height": 800}, "has_touch": True, "is_mobile": True},
    "phone-dark": {"viewport": {"width": 390, "height": 800}, "is_mobile": True, "color_scheme": "dark"},
}


@pytest.mark.slow
@pytest.mark.parametrize("screen", SCREENS)
def test_a_picture_of_every_view_is_kept(explorer, browser, screen):
    """Pictures to look at, in `build/explorer`; a picture of nothing would have one colour."""
    image = pytest.importorskip("PIL.Image")
    page = browser.new_context(**SCREENS[screen]).new_page()
    page.goto(explorer.url)
    settled(page)
    page.evaluate("document.activeElement.blur()")
    KEPT.mkdir(parents=True, exist_ok=True)
    for view in VIEWS:
        path = KEPT / f"{view}-{screen}.png"
        page.locator(f"section[aria-labelledby={view}-title]").screenshot(path=path)
        with image.open(path) as picture:
            assert picture.width > 300 and len(picture.convert("RGB").getcolors(1 << 24)) > 50
    page.context.close()


def test_times_are_measured_one_of_each_for_a_move(page):
    """How long they are is for `make explorer-times` to say."""
    curves, numbers = times(page, "least_norm", 2)
    assert len(curves) == len(numbers) == 2 and min(curves) > 0
