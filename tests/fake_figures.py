"""A figure for tests: one function that returns its whole outcome."""

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from linflow.experiments.figures import Outcome, PaperFigure, Progress


def whole(name: str, run: Callable[[int, Progress], Outcome], **more: Any) -> PaperFigure[Outcome]:
    """Return an experiment whose parts read the outcome that `run` returns for a seed."""
    return PaperFigure(
        name,
        more.pop("title", f"The {name} figure"),
        more.pop("summary", "What it “shows”: x < y."),
        more.pop("source", "A paper, Figure 1"),
        compute=lambda settings, seed, progress: run(seed, progress),
        claims=attrgetter("claims"),
        draw=lambda outcome: outcome.draw(),
        numbers=attrgetter("data"),
        setup=attrgetter("setup"),
        tables=attrgetter("tables"),
        **more,
    )
