"""Save figures to files."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.collections import Collection, QuadMesh
from matplotlib.figure import Figure

from linflow._support import checks
from linflow._support.paths import write_whole
from linflow._support.version import __version__
from linflow._support.words import kind_of

FORMATS = ("pdf", "svg", "png")


def rasterize_large(fig: Figure, limit: int = 3000) -> None:
    """Rasterize collections of more than ``limit`` marks in vector files. Axes and text stay vectors."""
    for marks in fig.findobj(Collection):
        if isinstance(marks, QuadMesh):
            size = np.size(marks.get_coordinates()) // 2
        else:
            size = max(len(np.asarray(marks.get_offsets())), len(marks.get_paths()))
        if size > limit:
            marks.set_rasterized(True)


def save(
    figure: Any, path: str | os.PathLike[str], *, title: str = "", dpi: float = 300, editable: bool = True
) -> Path:
    """Write a figure as PDF, SVG or PNG. If this fails, no partial file is left.

    PDF files embed their fonts as TrueType (Type 42). They contain no date, so the same figure always gives the same
    file. Clouds of thousands of marks are stored as pixels, and everything else as vectors.

    Args:
        figure: A Figure, or Axes in one.
        path: Path of the file; its suffix determines the format.
        title: Title in the metadata of the file.
        dpi: Dots per inch of a PNG file, and of pixels inside the other formats.
        editable: Whether text in SVG stays text, for editing. The file then needs the STIX fonts wherever it is
            shown. Otherwise text becomes outlines, which look the same everywhere.

    Returns:
        The path.

    Raises:
        TypeError: `figure` is not a Figure or Axes.
        ValueError: the suffix is not .pdf, .svg or .png.
        FileNotFoundError: the folder does not exist.

    Example:
        >>> import tempfile, pathlib, linflow as lf
        >>> fig, ax = lf.plots.figure("column")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lf.plots.save(ax, pathlib.Path(folder) / "empty.pdf").read_bytes()[:5]
        b'%PDF-'
    """
    fig = figure if isinstance(figure, Figure) else getattr(figure, "figure", None)
    if not isinstance(fig, Figure):
        raise TypeError(f"figure is {kind_of(figure)}; a Figure, or Axes in one, is needed.")
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise ValueError(f"path is {str(path)!r}; a name that ends in .pdf, .svg or .png is needed.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(path.parent)!r}; create it first.")
    rasterize_large(fig)
    dpi = checks.positive(dpi, "dpi")
    write_whole(path, rendered(fig, kind, _metadata(kind, title), "linflow", dpi=dpi, editable=editable))
    return path


def rendered(
    fig: Figure,
    kind: str,
    metadata: dict[str, Any],
    salt: str,
    *,
    dpi: float | None = None,
    editable: bool = False,
) -> bytes:
    """Return a figure as the bytes of a file. `salt` makes the ids in an SVG the same each time it is drawn."""
    settings: dict[Any, Any] = {
        "pdf.fonttype": 42,
        "svg.fonttype": "none" if editable else "path",
        "svg.hashsalt": salt,
    }
    content = io.BytesIO()
    with rc_context(settings):  # matplotlib reads them only while it writes the file
        fig.savefig(content, format=kind, dpi=dpi, metadata=metadata)
    return content.getvalue()


def _metadata(kind: str, title: str) -> dict[str, Any]:
    made = f"linflow {__version__}"
    dates = {"pdf": {"Creator": made, "CreationDate": None}, "svg": {"Creator": made, "Date": None}}
    return {**dates.get(kind, {"Software": made}), **({"Title": title} if title else {})}
