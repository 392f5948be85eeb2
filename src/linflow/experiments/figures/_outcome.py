"""The findings of a figure: claims that are checked, claims that are left out, and tables."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from linflow._support.digits import typeset as number


@dataclass(frozen=True)
class Claim:
    """A statement about a figure, and what the numbers show.

    A claim whose value is not a number fails, whatever its given verdict.

    Attributes:
        text: The claim in words.
        observed: What was seen, in words.
        passed: The verdict.
        value: The observed number, or several, for machines.
    """

    text: str
    observed: str
    passed: bool
    value: float | tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        passed = bool(self.passed)
        if self.value is not None:
            values = np.asarray(self.value, dtype=float)
            passed = passed and not np.isnan(values).any()
            value = tuple(values.ravel().tolist()) if values.ndim else float(values)
            object.__setattr__(self, "value", value)
        object.__setattr__(self, "passed", passed)

    @classmethod
    def all_below(cls, text: str, lower: ArrayLike, upper: ArrayLike, allowance: float = 0.0) -> "Claim":
        """Claim that every ``lower`` is at most its ``upper``, give or take a relative allowance.

        >>> Claim.all_below("The bound is below the rate", [1.0, 2.0], [4.0, 2.5]).observed
        'closest: 2 against 2.5, ratio 0.8 (2 comparisons)'
        """
        low, high = np.broadcast_arrays(np.asarray(lower, float), np.asarray(upper, float))
        if not low.size:
            return cls(text, "nothing was compared", False)
        low, high = low.ravel(), high.ravel()
        with np.errstate(divide="ignore", invalid="ignore"):
            excess = np.where(low == high, 0.0, low / np.abs(high) - np.sign(high))
            ratio = np.where(low == high, 1.0, low / high)
        worst = int(np.argmax(excess))  # the first NaN, if there is one
        return cls(
            text,
            f"closest: {number(low[worst])} against {number(high[worst])}, "
            f"ratio {number(ratio[worst])} ({number(low.size)} comparison{'s'[: low.size > 1]})",
            bool((excess <= allowance).all()),
            float(ratio[worst]),
        )

    @classmethod
    def within(cls, text: str, value: ArrayLike, low: float = -np.inf, high: float = np.inf) -> "Claim":
        """Claim that a value, or each of several values, lies between two limits.

        >>> Claim.within("The rates are near 2", [1.9, 2.2], 1.5, 2.5).observed
        '1.9 to 2.2'
        """
        values = np.asarray(value, dtype=float)
        if not values.size:
            return cls(text, "nothing was measured", False)
        ends = (float(values.min()), float(values.max()))
        observed = " to ".join(dict.fromkeys(map(number, ends)))
        return cls(text, observed, low <= ends[0] and ends[1] <= high, ends if values.ndim else ends[0])

    @classmethod
    def same(cls, text: str, shown: ArrayLike, named: ArrayLike, allowance: float) -> "Claim":
        """Claim that the numbers an axis shows are those of the function its label names.

        Args:
            text: The claim in words.
            shown: What is drawn.
            named: What the function gives.
            allowance: Relative difference allowed for rounding or for the error of the integration.

        >>> Claim.same("The axis shows the rate", [2.0, 4.0], [2.0, 2.0], 1e-9).observed
        'largest difference: 4, where 2 is right (2 comparisons)'
        """
        seen, right = np.broadcast_arrays(np.asarray(shown, float), np.asarray(named, float))
        if not seen.size:
            return cls(text, "nothing was compared", False)
        seen, right = seen.ravel(), right.ravel()
        with np.errstate(divide="ignore", invalid="ignore"):
            off = np.where(seen == right, 0.0, np.abs(seen - right) / np.abs(right))
        worst = int(np.argmax(off))  # the first NaN, if there is one
        many = f"({number(off.size)} comparison{'s'[: off.size > 1]})"
        if off[worst] <= allowance:
            return cls(text, f"equal to a relative {number(off[worst], 1)} {many}", True, float(off[worst]))
        found = f"largest difference: {number(seen[worst])}, where {number(right[worst])} is right {many}"
        return cls(text, found, False, float(off[worst]))


@dataclass(frozen=True)
class LeftOut:
    """A statement that was not checked, because it is about other settings.

    Attributes:
        text: The claim in words.
        reason: Why it was not checked.
    """

    text: str
    reason: str


def about_these(changes: str, claims: Iterable[Claim]) -> Iterator[Claim | LeftOut]:
    """Yield claims about the settings of the paper; mark them as left out if a setting was changed.

    >>> [one] = about_these("h = 20, not 30", [Claim("The rate is 4", "4", True)])
    >>> one.reason
    'stated for other settings: h = 20, not 30'
    """
    for claim in claims:
        yield LeftOut(claim.text, f"stated for other settings: {changes}") if changes else claim


@dataclass(frozen=True)
class Table:
    """Numbers shown below a figure. Columns that hold only numbers are aligned as numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"table {self.title!r}: every row needs {len(self.columns)} cells, one per column.")

    def is_numeric(self, column: int) -> bool:
        """Whether a column holds only numbers."""
        return all(isinstance(row[column], Real) for row in self.rows)

    def texts(self) -> list[tuple[str, ...]]:
        """The rows as text; the numbers of a column have equally many decimals, so that their points align.

        >>> Table("Rates", ["h", "rate"], [(30, 0.4), (1000, 3.456)]).texts()
        [('30', '0.400'), ('1000', '3.456')]
        """
        columns = []
        for j in range(len(self.columns)):
            values = [row[j] for row in self.rows]
            texts = [number(x, 4) if isinstance(x, Real) else str(x) for x in values]
            if self.is_numeric(j) and all(text.strip("−0123456789.") == "" for text in texts):
                decimals = min(4, max((len(text.partition(".")[2]) for text in texts), default=0))
                texts = [f"{x:.{decimals}f}".replace("-", "−") for x in values]
            columns.append(texts)
        return list(zip(*columns, strict=True))


@dataclass(frozen=True)
class Outcome:
    """What an experiment found.

    Attributes:
        claims: The statements that were checked.
        draw: Draws the figure from numbers already computed; it never simulates.
        data: The numbers behind the figure: nested mappings, sequences and arrays.
        setup: Sizes, distributions and seeds, as the reader sees them.
        tables: Tables shown below the figure.
        left_out: The statements that are not checked with these settings.
    """

    claims: Sequence[Claim]
    draw: Callable[[], Figure]
    data: Mapping[str, Any]
    setup: Mapping[str, str]
    tables: Sequence[Table] = ()
    left_out: Sequence[LeftOut] = ()


class Progress(Protocol):
    """The function with which an experiment reports its progress."""

    def __call__(self, fraction: float, note: str = "") -> None:
        """Report the fraction done, between 0 and 1, and what is under way."""
