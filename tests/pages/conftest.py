"""The explorer, a browser, and its page, for the tests of this folder."""

from contextlib import contextmanager

import pytest

from linflow.pages.explorer import Explorer
from linflow.pages.explorer.views import VIEWS
from linflow.pages.play import NEURONS
from tests.browser import chromium, said, settled

TWO = {"u": 1.6, "v": -0.4, "s": 1.0}
STATES = {
    "two_weights": TWO,
    "depth": {"layers": [1.5, 0.9, 0.6], "s": 1.0},
    "two_layers": {"n": 2, "m": 2, "eigenvalues": [2.0, 0.5, 0.0, -1.0], "targets": [1.0, 0.5], "part": 0.6},
    "descent": {**TWO, "step": 0.3},
    "neurons": dict(NEURONS)["small start"],
    "least_norm": {"x1": 1.5, "x2": 0.8, "target": 1.5, "width": 50, "exponent": 0.5, "seed": 0},
}
"""What the page shows at first, by view."""


@pytest.fixture(scope="package")
def explorer():
    with Explorer() as found:
        yield found


@pytest.fixture(scope="package")
def browser():
    with chromium() as found:
        yield found


@contextmanager
def tab(browser):
    """A tab, and what it has said of errors."""
    found, wrong = browser.new_context(viewport={"width": 1100, "height": 900}).new_page(), []
    found.on("pageerror", lambda error: wrong.append(str(error)))
    yield found, wrong
    found.context.close()


@contextmanager
def opened(explorer, tab):
    """The page of the explorer, after every view has its first answer; it must end without an error."""
    found, wrong = tab
    wrong.clear()
    found.goto("about:blank")
    found.goto(explorer.url)
    settled(found)
    assert all(said(found, f"{view}-code") for view in VIEWS)
    yield found
    assert wrong == []


@pytest.fixture(scope="package")
def kept_tab(browser):
    """A tab for all tests, as each of its own takes half a second to start."""
    with tab(browser) as found:
        yield found


@pytest.fixture
def page(explorer, kept_tab):
    with opened(explorer, kept_tab) as found:
        yield found


@pytest.fixture(scope="module")
def shared(explorer, browser):
    """One page for all tests of a file that do not rest on the first state."""
    with tab(browser) as found, opened(explorer, found) as page:
        yield page
