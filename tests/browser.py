"""A real browser for tests of pages: Chromium, driven by Playwright. Tests skip where either is missing."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.waiting import waited

OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
"""No sandbox, as tests often run as root in a container; and no requests of the browser's own."""


def executable() -> str | None:
    """Return the path of Chromium: `LINFLOW_BROWSER`, or the first one found."""
    names = (os.environ.get("LINFLOW_BROWSER"), "chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def shown(page: Any, view: str, term: str) -> float:
    """Return the number beside a term of a view, as it is read off the page."""
    text = page.locator(f"#{view}-numbers div", has=page.get_by_text(term, exact=True)).locator("dd").inner_text()
    return float(re.sub(r"^[tη] = ", "", text).replace("−", "-").replace("∞", "inf"))


def said(page: Any, name: str) -> str:
    """Return the text of an element."""
    return page.locator(f"#{name}").text_content()


def dragged(page: Any, name: str, by: tuple[float, float], steps: int = 3) -> None:
    """Drag an element by so many pixels."""
    grip = page.locator(f"#{name}")
    grip.scroll_into_view_if_needed()
    box = grip.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + by[0], y + by[1], steps=steps)
    page.mouse.up()


def settled(page: Any) -> None:
    """Wait until every question of the explorer has its answer on the page."""
    waited(lambda: page.evaluate("explore.pending()") == 0)


@contextmanager
def chromium() -> Iterator[Any]:
    """Start Chromium, one at a time."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = executable()
    if path is None:
        pytest.skip("no Chromium is installed; name one by LINFLOW_BROWSER")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=OPTIONS)
        try:
            yield browser
        finally:
            browser.close()
