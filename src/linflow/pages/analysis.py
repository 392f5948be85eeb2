"""The folder that `linflow analyze` writes: one page to read, the numbers, the run, and the experiment itself."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from markupsafe import Markup

from linflow import plots
from linflow._support.own_files import MADE
from linflow._support.paths import write_whole
from linflow._support.plain import plain
from linflow._support.provenance import provenance
from linflow.experiments.analysis import Analysis
from linflow.experiments.forms import FORMS
from linflow.experiments.unused import SIZES
from linflow.pages.templating import environment, number, svg
from linflow.verified import Enclosure

WIDEST = 2000
"""Width of a hidden layer up to which its imbalance is drawn."""
FILES = ("experiment.toml", "analysis.json", "run.nc", "index.html")
"""The files that `write` writes."""
_COUNTS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten")


def write(found: Analysis, folder: Path, *, drawings: bool = True) -> Path:
    """Write `index.html`, `analysis.json`, `run.nc` and `experiment.toml`, each whole; return the page's path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    made = f"# experiment.toml {MADE} analyze, and linflow analyze experiment.toml does it again\n"
    write_whole(folder / "experiment.toml", made + found.experiment.to_toml(folder))
    write_whole(folder / "analysis.json", json.dumps(plain(found.to_dict()), indent=2, ensure_ascii=False) + "\n")
    found.run.save(folder / "run.nc", settings=found.experiment.echo())
    index = folder / "index.html"
    write_whole(index, page(found, drawings=drawings))
    return index


def template() -> Any:
    """Return the template of the page. The first call compiles it; after Ctrl-C there is no time for that."""
    return environment().get_template("analysis.html.j2")


def page(found: Analysis, *, drawings: bool = True) -> str:
    """Return the page with its drawings inside, or without them if it is needed at once."""
    return template().render(
        found=found,
        heading=heading(found),
        drawn=_drawings(found) if drawings else [],
        imbalance=_imbalance(found) if drawings else None,
        start=_start(found),
        unknown_error=found.run.stats.estimated and math.isnan(found.run.stats.gap_error),
        guarantees=[g for g in found.certificate.guarantees if g.applies],
        others=[g for g in found.certificate.guarantees if not g.applies],
        prior=found.certificate.prior,
        toml=found.experiment.to_toml(),
        provenance=provenance(found.experiment.start.seed),
        number=number,
    )


def heading(found: Analysis) -> str:
    """Say in one line what is fitted, by which layers, how, and from which start."""
    data, net = found.experiment.data, found.network
    layers = f"{_COUNTS[net.depth] if net.depth < len(_COUNTS) else net.depth} layer{'s' * (net.depth > 1)}"
    x, y = (path.name if path is not None else "" for path in (data.x, data.y or data.target))
    fitted = f"to {y}" if data.x is None else f"to {y}, given {x}"
    loss = FORMS[data.objective or ("completion" if data.missing else "regression")].phrase
    how = "gradient flow" if found.experiment.algorithm == "flow" else "gradient descent"
    return f"{layers}, {'×'.join(map(str, net.widths))}, fitted {fitted}{loss}: {how} from {_origin(found)}"


def _origin(found: Analysis) -> str:
    """Say where the first weights come from."""
    start = found.experiment.start
    if start.weights is not None:
        return f"the weights in {start.weights.name}"
    name = "NTK" if start.init == "ntk" else start.init.replace("_", "-")
    times = f", each layer times {start.multiplier:g}" if start.multiplier != 1 else ""
    of = f" of {SIZES[start.init][0]} {start.size:g}" if start.size is not None and start.init in SIZES else ""
    # No size comes between the article and the initialisation.
    article = "an" if name[0] in "aeioNAEIO" else "a"
    return f"{article} {name} start{of}{times}, seed {start.seed}"


def _start(found: Analysis) -> dict[str, str]:
    """Return what is known about the start before the run."""
    net = found.network
    facts = {
        "Widths": "×".join(map(str, net.widths)),
        "Output scale": number(net.scale),
        "Norms of the layers": ", ".join(f"{size:.4g}" for size in net.sizes),
        "First loss gap": number(float(found.certificate.gap)),
    }
    eta = found.run.step_size
    if found.certificate.schedule is not None:
        return {**facts, "Steps": repr(found.certificate.schedule)}
    return facts if eta is None else {**facts, "Step size": number(eta)}


def _drawings(found: Analysis) -> list[tuple[str, Markup]]:
    run, cert = found.run, found.certificate
    if len(run.t) < 2 or not float(run.gap[0]) > 0:
        return []
    promise = ", and what was guaranteed before it" if cert.best is not None else ""
    return [
        _gap(found, promise),
        (f"The rate at which it falls, at every instant{promise and ', and the least it could be'}.",
         svg(plots.rate(run, cert), "r")),
    ]  # fmt: skip


def _gap(found: Analysis, promise: str) -> tuple[str, Markup]:
    """Draw the loss gap; if there is a proof, draw what was guaranteed, proved and observed."""
    run, cert, proof = found.run, found.certificate, found.proof
    if isinstance(proof, Enclosure) and proof.steps:
        text = "The loss gap: proved by the verified run, observed (circles)"
        text += f"{promise and ', and guaranteed before the run (dashed)'}; dotted, proved for all later times."
        return text, svg(plots.proof(proof, cert, run), "c")
    return f"The loss gap of the run{promise}.", svg(plots.convergence(run, cert), "c")


def _imbalance(found: Analysis) -> Markup | None:
    net = found.network
    if net.depth == 1 or max(net.widths[1:-1]) > WIDEST:
        return None
    return svg(plots.imbalance_spectrum(net, layer=1), "d")
