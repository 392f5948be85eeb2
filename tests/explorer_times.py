"""From a pointer's move to new curves: times in Chromium, for every view of the explorer.

    python -m tests.explorer_times --moves 120

A handle of each view is dragged by a real pointer, one pixel or two at a time. The clock starts with the time stamp
that the browser gives the move. It stops in the frame after the curves of the view have changed, and a second time in
the frame after the certified numbers have. The next move begins when both are there, after a pause of 50 ms. The load
of the machine is told beside the numbers, as they are worth little on a busy one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

from linflow.pages.explorer import Explorer
from tests.browser import chromium, settled
from tests.waiting import waited

WATCHED = {
    "two_weights": ("start", "loss", "two_weights-words"),
    "depth": ("bar-1", "rates", "depth-words"),
    "two_layers": ("spectrum-0", "layers-loss", "two_layers-numbers"),
    "descent": ("descent-start", "descent-loss", "descent-numbers"),
    "neurons": ("sample-0", "neurons-loss", "neurons-numbers"),
    "least_norm": ("least_norm-sample", "least_norm-numbers", "least_norm-numbers"),  # its path comes with them
}
"""By view: what is dragged, where the curves are, and where the certified numbers are."""

WATCH = """([curves, numbers]) => {
  window.timed = { move: 0, curves: [], numbers: [] };
  window.addEventListener("pointermove", event => {
    timed.move = event.timeStamp;
    timed.drawn = timed.said = false;
  }, true);
  const watch = (id, flag, list) => new MutationObserver(() => {
    if (!timed.move || timed[flag]) return;
    timed[flag] = true;
    const began = timed.move;
    requestAnimationFrame(() => setTimeout(() => list.push(performance.now() - began)));
  }).observe(document.getElementById(id), { childList: true, subtree: true, characterData: true });
  watch(curves, "drawn", timed.curves);
  watch(numbers, "said", timed.numbers);
}"""

SHOWN = "Math.min(timed.curves.length, timed.numbers.length)"


def times(page: Any, view: str, moves: int) -> tuple[list[float], list[float]]:
    """Return milliseconds to the curves and to the certified numbers, one of each for a move."""
    grip, curves, numbers = WATCHED[view]
    page.locator(f"#{grip}").scroll_into_view_if_needed()
    box = page.locator(f"#{grip}").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.evaluate(WATCH, [curves, numbers])
    for k in range(moves + 3):  # the first few find cold caches
        x, y = x + (1.0 if k % 40 < 20 else -1.0), y + (1.5 if k % 30 < 15 else -1.5)
        page.mouse.move(x, y)
        waited(lambda k=k: page.evaluate(SHOWN) > k, every=0.01)
        time.sleep(0.05)
    page.mouse.up()
    settled(page)
    found = page.evaluate("[timed.curves, timed.numbers]")
    return found[0][3:], found[1][3:]


def row(found: list[float]) -> str:
    """Return the median and the 95th percentile."""
    return f"{statistics.median(found):8.1f}{statistics.quantiles(found, n=20)[-1]:8.1f}"


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=120)
    parser.add_argument("--views", nargs="*", default=list(WATCHED), choices=list(WATCHED))
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before; {given.moves} moves for each view")
    print(
        f"{'ms after the move':<18}{'curves':>16}{'certified':>17}\n"
        f"{'':<18}{'median':>8}{'95 %':>8} {'median':>8}{'95 %':>8}"
    )
    with Explorer() as explorer, chromium() as browser:
        for view in given.views:
            page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
            page.goto(explorer.url)
            settled(page)
            curves, numbers = times(page, view, given.moves)
            print(f"{view:<18}{row(curves)} {row(numbers)}", flush=True)
            page.context.close()
        print(f"{browser.version}, load {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
