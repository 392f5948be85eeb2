"""Compute the figures, check their claims, and write both as one page, one JSON file and figure files."""

import json
import os
import re
import shlex
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from linflow import plots
from linflow._support.own_files import refuse_foreign_files
from linflow._support.paths import write_whole
from linflow._support.plain import plain
from linflow._support.provenance import machine, software
from linflow._support.words import plural, verb_for
from linflow.experiments.figures import Claim, Outcome, PaperFigure, Settings, assigned, select
from linflow.pages import play
from linflow.pages.templating import environment, inlined
from linflow.plots.saving import rendered

Watcher = Callable[[str, float, str], None]
"""Called with the figure under way, the fraction of it done (1 once its files are written) and a note."""

_FORMATS = {
    "svg": {"Date": None, "Creator": "linflow", "Format": None, "Type": None},
    "pdf": {"Creator": "linflow", "CreationDate": None},
    "png": {"Software": "linflow"},
}


class ReportInterrupted(KeyboardInterrupt):
    """The run was stopped from the keyboard; `report` holds what was done before."""

    def __init__(self, report: "Report") -> None:
        super().__init__()
        self.report = report


@dataclass(frozen=True)
class FinishedFigure:
    """An experiment that has run, its settings and outcome, and its drawing as inline SVG ("" if there is none)."""

    experiment: PaperFigure
    settings: Settings
    outcome: Outcome
    seconds: float
    svg: str = ""
    width: float = 0.0  # inches

    @property
    def verdict(self) -> str:
        """How many claims hold, in words."""
        return _tally(self.outcome.claims)

    def document(self) -> dict[str, Any]:
        """The figure as it appears in ``report.json``."""
        name = self.experiment.id
        return {
            "id": name,
            "title": self.experiment.title,
            "source": self.experiment.source,
            "settings": self.settings.texts(),
            "setup": self.outcome.setup,
            "claims": [
                {
                    "figure": name,
                    "claim": c.text,
                    "observed": c.observed,
                    "value": c.value,
                    "passed": c.passed,
                }
                for c in self.outcome.claims
            ],
            "left_out": [{"claim": one.text, "reason": one.reason} for one in self.outcome.left_out],
            "data": self.outcome.data,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class Report:
    """Everything that was found, and the folder it is written to."""

    out: Path
    names: list[str]
    seed: int
    given: Mapping[str, str]
    figures: list[FinishedFigure]
    date: datetime
    seconds: float

    @property
    def index(self) -> Path:
        """The page to read."""
        return self.out / "index.html"

    @property
    def claims(self) -> list[Claim]:
        """All claims, in the order of the page."""
        return [claim for figure in self.figures for claim in figure.outcome.claims]

    @property
    def complete(self) -> bool:
        """Whether every figure asked for is in the report."""
        return len(self.figures) == len(self.names)

    @property
    def passed(self) -> bool:
        """Whether the report is complete and every claim holds."""
        return self.complete and all(claim.passed for claim in self.claims)

    @property
    def verdict(self) -> str:
        """How many claims hold, in words."""
        return _tally(self.claims)

    def document(self) -> dict[str, Any]:
        """The report as plain numbers, texts, lists and dictionaries; a number that is not finite is None."""
        document = {
            "passed": self.passed,
            "complete": self.complete,
            "date": self.date.isoformat(timespec="seconds"),
            "seconds": round(self.seconds, 3),
            "seed": self.seed,
            "versions": software("matplotlib"),
            "machine": f"{machine()}, {os.cpu_count()} cores",
            "figures": [figure.document() for figure in self.figures],
        }
        return plain(document)

    def json(self) -> str:
        """The report as JSON, with each list of numbers on one line."""
        text = json.dumps(self.document(), indent=2, ensure_ascii=False, allow_nan=False)
        # A raw line break never occurs inside a JSON string, so this changes lists of numbers only.
        return re.sub(r"\[\n[^\[\]{}\"]*\]", lambda m: re.sub(r"\n\s*", " ", m[0]), text) + "\n"

    def html(self) -> str:
        """The report as one page that needs no other file."""
        pages = environment()
        changed = [word for name, text in self.given.items() for word in ("--set", f"{name}={text}")]
        command = ["linflow", "reproduce", *self.names, *changed, "--seed", str(self.seed), "--out", str(self.out)]
        page = pages.get_template("report.html.j2")
        return page.render(report=self, command=shlex.join(command), **self.document())


def reproduce(
    names: Iterable[str] | None = None,
    *,
    out: str | Path = "report",
    seed: int = 0,
    full: bool = False,
    given: Mapping[str, str] | None = None,
    progress: Watcher | None = None,
) -> Report:
    """Run experiments one after another and write what they found.

    Writes ``index.html``, ``report.json``, ``play.html`` (starts to drag) and ``figures/ID.{svg,pdf,png}``.
    An experiment that stops with an error becomes a failed claim, and the others go on.

    Args:
        names: Ids of the experiments. By default all of them, except those that take minutes.
        full: Also compute those that take minutes.
        out: Folder to write to, created if missing.
        seed: Given to every experiment.
        given: Values of settings by name, as on the command line; each goes to every figure that has the setting.
        progress: Called as the work goes on.

    Raises:
        ValueError: If the name of a figure or a setting is unknown, or a value cannot be read.
        OSError: If the folder cannot be written to, or holds files of these names that linflow has not written.
        ReportInterrupted: On Ctrl-C, after the report of the figures done so far is written.
    """
    experiments = select(names, full=full)
    if not experiments:
        raise ValueError("there is no figure to reproduce.")
    settings = assigned({one.id: one.settings for one in experiments}, given or {})
    out, watcher, start = Path(out), progress or (lambda *_: None), time.perf_counter()
    # Fail now, not after minutes, if nothing can be written or the files there are not linflow's.
    drawn = [out / "figures" / f"{experiment.id}.{kind}" for experiment in experiments for kind in _FORMATS]
    refuse_foreign_files(
        [out / name for name in ("index.html", "report.json", "play.html")] + drawn, "name another folder"
    )
    if (out / "figures").is_symlink():
        raise FileExistsError(
            f"{str(out / 'figures')!r} is a symbolic link; name another folder, or remove the link."
        )
    (out / "figures").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out):
        pass

    figures, stopped = [], False
    try:
        for experiment in experiments:
            figures.append(figure := _run(experiment, settings[experiment.id], seed, out / "figures", watcher))
            watcher(experiment.id, 1.0, f"{figure.verdict} ({figure.seconds:.1f} s)")
    except KeyboardInterrupt:
        stopped = True
    names = [experiment.id for experiment in experiments]
    report = Report(out, names, seed, given or {}, figures, datetime.now(UTC), time.perf_counter() - start)
    if figures:  # otherwise keep an earlier report
        write_whole(out / "report.json", report.json())
        write_whole(report.index, report.html())
        play.write(out / "play.html")
    if stopped:
        raise ReportInterrupted(report)
    return report


def _run(experiment: PaperFigure, settings: Settings, seed: int, folder: Path, watcher: Watcher) -> FinishedFigure:
    start, files, width = time.perf_counter(), {}, 0.0

    def watch(fraction: float, note: str = "") -> None:
        watcher(experiment.id, 0.95 * min(max(fraction, 0.0), 1.0), note)  # the rest is drawing and writing

    watch(0.0)
    try:
        outcome = experiment.run(seed, watch, settings)
    except Exception as error:
        outcome = Outcome([_stopped("computation", error)], draw=_nothing, data={}, setup={})
    else:
        watch(1.0, "drawing")
        try:
            files, width = _draw(outcome, experiment.id)
        except Exception as error:
            outcome = replace(outcome, claims=[*outcome.claims, _stopped("drawing", error)])
    for kind in _FORMATS:
        path = folder / f"{experiment.id}.{kind}"
        if kind in files:
            write_whole(path, files[kind])
        else:
            path.unlink(missing_ok=True)  # a figure of an earlier run would contradict the failed claim
    label = f"{experiment.title}. {experiment.summary}"
    svg = inlined(files["svg"].decode(), experiment.id, label) if files else ""
    return FinishedFigure(experiment, settings, outcome, time.perf_counter() - start, svg, width)


def _nothing() -> Any:
    raise RuntimeError("there is nothing to draw")


def _stopped(what: str, error: Exception) -> Claim:
    reason = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    return Claim(f"The {what} runs to its end", f"the {what} stopped: {reason}", False)


def _draw(outcome: Outcome, salt: str) -> tuple[dict[str, bytes], float]:
    files = {}
    with plots.style():
        fig = outcome.draw()
        plots.rasterize_large(fig)
        for kind, metadata in _FORMATS.items():
            files[kind] = rendered(fig, kind, metadata, salt)
    return files, float(fig.get_figwidth())


def _tally(claims: Iterable[Claim]) -> str:
    verdicts = [claim.passed for claim in claims]
    return f"{sum(verdicts)} of {plural(len(verdicts), 'claim')} {verb_for(sum(verdicts), 'hold')}"
