"""The literature that results rest on, as BibTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from linflow._support.version import __version__
from linflow._support.words import kind_of

_LATEX = {"ï": r"{\"\i}", "é": r"{\'e}", "ö": r"{\"o}", "ø": r"{\o}", "ç": r"{\c c}", "Ł": r"{\L}", "–": "--"}

# The file holds letters in Unicode; they are printed in LaTeX. A line that begins with four spaces continues the line
# before it.
_BIBLIOGRAPHY = Path(__file__).with_name("references.bib")


@dataclass(frozen=True)
class Reference:
    """One entry of the bibliography.

    Attributes:
        key: the key by which results cite it.
        title: the title, in Unicode.
        bibtex: the entry, in ASCII.
    """

    key: str
    title: str
    bibtex: str

    @classmethod
    def parse(cls, entry: str) -> Reference:
        """Parse one entry of the bibliography."""
        entry = entry.strip().replace("\n    ", " ")
        key, title = (_group(pattern, entry) for pattern in (r"^@\w+\{(\w+),", r"\btitle = \{\{(.*)\}\},"))
        for letter, code in _LATEX.items():
            entry = entry.replace(letter, code)
        return cls(key, title, entry)


def _group(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"the entry {text!r} does not have the form {pattern!r}.")
    return found.group(1)


REFERENCES: dict[str, Reference] = {
    reference.key: reference
    for reference in map(
        Reference.parse, _BIBLIOGRAPHY.read_text("utf-8").replace("VERSION", __version__).strip().split("\n\n")
    )
}


def select(keys: Iterable[str]) -> list[Reference]:
    """Return the references with these keys, each once, in alphabetical order.

    Raises:
        ValueError: an unknown key; the text names the nearest ones.
    """
    wanted = sorted(set(keys))
    for key in wanted:
        if key not in REFERENCES:
            near = get_close_matches(key, REFERENCES, n=3, cutoff=0.4)
            hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise ValueError(f"there is no reference {key!r}.{hint} `linflow cite --list` shows all of them.")
    return [REFERENCES[key] for key in wanted]


@runtime_checkable
class Cited(Protocol):
    """A result that rests on references: a certificate, run, guarantee, theorem or bound."""

    @property
    def citations(self) -> frozenset[str]:
        """Keys of the references."""
        ...


def cite(x: Any) -> str:
    """Return the BibTeX entries of the literature that a result rests on.

    Args:
        x: a `Certificate` (the guarantees that apply, and the theory of its objective), a `Trajectory` (the
            integrator of a flow), a `Guarantee`, a bound, a key, or a list of any of these.

    Returns:
        The entries in alphabetical order of their keys, each once. For a certificate or a run they include the
        software.

    Raises:
        ValueError: an unknown key.
        TypeError: `x` has no references.

    Example:
        >>> import linflow as lf
        >>> from linflow._support.references import cite
        >>> print(cite("linflow"))
        @software{linflow,
          author = {{The linflow developers}},
          title = {{linflow: certified convergence rates of gradient flow on multi-layer linear models}},
          version = {0.1.0},
          license = {MIT},
          year = {2026},
        }
    """
    return "\n\n".join(reference.bibtex for reference in select(_keys(x)))


def _keys(x: Any) -> set[str]:
    """Return the keys that a result rests on."""
    if isinstance(x, str):
        return {x}
    if isinstance(x, (list, tuple, set, frozenset)):
        return set().union(*(_keys(part) for part in x))
    if isinstance(x, Cited):
        return set(x.citations)
    raise TypeError(
        f"x is {kind_of(x)}, which has no references; a Certificate, a Trajectory, a Guarantee, a bound, "
        "a key such as 'min2023', or a list of these, is needed."
    )
