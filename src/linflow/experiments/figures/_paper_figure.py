"""A figure made of separate parts: one computes, one states the claims, one draws, and one makes the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Generic, TypeVar

from matplotlib.figure import Figure

from linflow.experiments.figures._outcome import Claim, LeftOut, Outcome, Progress, Table
from linflow.experiments.figures._settings import Settings

D = TypeVar("D")


@dataclass(frozen=True)
class PaperFigure(Generic[D]):
    """One figure: what it shows, where it comes from and how it is computed.

    Only `compute` simulates. The other parts read what it returned, so a figure can be redrawn from its numbers.

    Attributes:
        id: Short name, as in ``linflow reproduce ID``; also the name of its files.
        title: Heading in the report.
        summary: One paragraph of plain text.
        source: Where the figure or its statements were published.
        compute: Returns the data for settings and a seed, and reports progress.
        claims: States what holds for the data.
        draw: Draws the data.
        numbers: The data as nested mappings, sequences and arrays, for the report.
        setup: Sizes, distributions and seeds, as the reader sees them.
        tables: The tables below the figure.
        settings: The class of its settings.
        paper: The paper whose figure or statements it reproduces; the figure is listed under it.
        full: Whether it takes minutes. Such a figure is skipped when all figures are asked for but not in full.
    """

    id: str
    title: str
    summary: str
    source: str
    _: KW_ONLY
    compute: Callable[[Any, int, Progress], D]
    claims: Callable[[D], Iterable[Claim | LeftOut]]
    draw: Callable[[D], Figure]
    numbers: Callable[[D], Mapping[str, Any]]
    setup: Callable[[D], Mapping[str, str]]
    tables: Callable[[D], Sequence[Table]]
    settings: type[Settings] = Settings
    paper: str = "This library"
    full: bool = False

    def run(self, seed: int, progress: Progress, settings: Settings | None = None) -> Outcome:
        """Compute the figure and check its claims; it is drawn later, from the data."""
        data = self.compute(self.settings() if settings is None else settings, seed, progress)
        stated = list(self.claims(data))
        return Outcome(
            [claim for claim in stated if isinstance(claim, Claim)],
            lambda: self.draw(data),
            self.numbers(data),
            self.setup(data),
            self.tables(data),
            [claim for claim in stated if isinstance(claim, LeftOut)],
        )
