"""The folder that `linflow analyze` writes: one page to read, the numbers, the run, and the experiment itself."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib import rc_context

from linflow import plots
from linflow._provenance import provenance
from linflow.analysis import Analysis
from linflow.files import atomic


def write(found: Analysis, folder: Path, *, drawings: bool = True) -> Path:
    """Write `index.html`, `analysis.json`, `run.nc` and `experiment.toml`, each whole; return the page."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _text(folder / "experiment.toml", found.experiment.to_toml(folder))
    _text(folder / "analysis.json", json.dumps(plain(found.to_dict()), indent=2, ensure_ascii=False) + "\n")
    found.run.save(folder / "run.nc", settings=found.experiment.echo())
    index = folder / "index.html"
    _text(index, page(found, drawings=drawings))
    return index


def page(found: Analysis, *, drawings: bool = True) -> str:
    """Return the page, with its drawings inside unless it is to be had at once."""
    environment = Environment(
        loader=PackageLoader("linflow"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["typeset"] = typeset
    return environment.get_template("analysis.html.j2").render(
        found=found,
        heading=heading(found),
        origin=origin(found),
        figures=[(title, Markup(svg)) for title, svg in (_drawings(found) if drawings else [])],
        guarantees=[g for g in found.certificate.guarantees if g.applies],
        others=[g for g in found.certificate.guarantees if not g.applies],
        prior=found.certificate.prior,
        toml=found.experiment.to_toml(),
        provenance=provenance(found.experiment.start.seed),
        number=number,
    )


def _drawings(found: Analysis) -> list[tuple[str, str]]:
    run, cert, net = found.run, found.certificate, found.network
    drawings = []
    if len(run.t) > 1:
        drawings.append(
            ("Loss gap: the run, and what was certain before it", _svg(plots.convergence(run, cert), "c"))
        )
        drawings.append(("Rate at every instant", _svg(plots.rate(run, cert), "r")))
    if net.depth > 1 and max(net.widths[1:-1]) <= 2000:
        drawings.append(("Imbalance of the first two layers", _svg(plots.imbalance_spectrum(net, layer=1), "d")))
    return drawings


def heading(found: Analysis) -> str:
    """Say in a line what was run on what."""
    net, depth = found.network, found.network.depth
    return f"Gradient {found.run.algorithm} on {depth} layer{'s' * (depth > 1)}, {' × '.join(map(str, net.widths))}"


def origin(found: Analysis) -> str:
    """Say in a sentence where data and start came from."""
    data, start = found.experiment.data, found.experiment.start
    read = f"Target: {data.target}" if data.target else f"Inputs: {data.x}; outputs: {data.y}"
    drawn = f"weights from {start.weights}" if start.weights else f"{start.init}, seed {start.seed}"
    return f"{read}. Start: {drawn}."


def typeset(text: str) -> Markup:
    """Return text with its indices, as in `λ_min` and `W_1`, set below the line."""
    index = r"(?<![\w.])([A-Za-zλσγμκ])_(min|max|[0-9]+|[lLF])(?![\w.])"
    return Markup(re.sub(index, r"\1<sub>\2</sub>", str(escape(text))))


def _svg(ax: Any, name: str) -> str:
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": name}):
        ax.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for mark in ('id="', "url(#", 'href="#'):
        svg = svg.replace(mark, mark + name + "-")
    return svg


def number(x: float | None) -> str:
    """Return four digits; a dash for what there is none of."""
    return "–" if x is None or not math.isfinite(x) or x == 0 else f"{x:.4g}"


def plain(value: Any) -> Any:
    """Return a value as JSON takes it: what is not finite becomes null."""
    if isinstance(value, dict):
        return {str(key): plain(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(x) for x in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return float(value) if math.isfinite(value) else None


def _text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        Path(temporary).write_text(text, encoding="utf-8")
