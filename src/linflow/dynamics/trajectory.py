"""The object that a run returns: loss, rate and weights along the way, and how the run ended."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import Array, from_numpy, is_numpy, singular_values, to_numpy
from linflow._support.deprecation import renamed_arguments, renamed_attributes
from linflow._support.digits import number
from linflow._support.fractions import SHOWN
from linflow._support.html import block, never_raising, notes, sparkline, table
from linflow._support.words import kind_of, plural
from linflow.dynamics._hermite import LEVEL, first_times, interpolate
from linflow.dynamics._stepping import advance
from linflow.dynamics.ending import Result, Stats
from linflow.dynamics.field import GradientField, Point, rate
from linflow.dynamics.storage.stored_weights import StoredWeights
from linflow.geometry.imbalance import imbalance_drift
from linflow.geometry.laziness import tangent_change
from linflow.geometry.operator import TangentOperator
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.model.optimizer import PLAIN, Optimizer

OBSERVABLES = (
    "loss",
    "rate",
    "least_eigenvalue",
    "imbalance_drift",
    "tangent_change",
    "law_error",
    "singular_values",
)


class Interrupted(KeyboardInterrupt):
    """Raised when Ctrl-C ends a run; keeps the part done so far.

    Attributes:
        run: the `Trajectory` so far, with `Result.INTERRUPTED`. For `gradient_flow_many`, the list of results so far,
            with None for runs that had not begun.
    """

    def __init__(self, run: Any):
        super().__init__("interrupted; the run so far is in .run")
        self.run = run


@renamed_attributes(network="final")
@dataclass(frozen=True, repr=False)
class Trajectory:
    """A run of gradient flow or gradient descent.

    Arrays have the array kind of the weights. Times are in units of the flow (for descent, the sum of the steps `η`).

    Attributes:
        t: recorded times, shape `(N,)`.
        gap: loss gaps `L − f*`, shape `(N,)`.
        rate: instantaneous rates `‖∇L‖²/(L − f*)`, shape `(N,)`; for the flow `−L̇/(L − f*)`.
        minimum: `f*`.
        start, final: networks of the first and last weights.
        result: how the run ended, a `Result`.
        stats: cost and imbalance drift.
        notes: messages, for example on converted input or contradicted declarations.
        algorithm: "flow" or "descent".
        optimizer: layer rates, weight decay, momentum, friction and mini-batches of the run. With layer rates, what
            is recorded of T and of the imbalance is of the layers `W_l/√ρ_l`, and so is `rate`.
        step_size: η of a descent with a constant step, else None.
        step_sizes: the steps of a descent, one for each step taken, shape `(stats.steps,)`; None for a flow.
        least_eigenvalue, imbalance_drift, tangent_change, law_error: shape `(N,)` if recorded, else None.
        singular_values: of the product, shape `(N, min(n, m))` if recorded, else None.
        until: the requested fraction of the initial gap, None if none was given.
        nodes: what the curve of the gap is interpolated from: times, `log(L − f*)` and, for a flow, its first and
            second derivative. `gap_at`, `time_to` and saved files read it.
        checkpoints: the weights along a flow at some of its steps, which `network_at` reads; None for a descent.
    """

    t: Array
    gap: Array
    rate: Array
    minimum: float
    start: Network
    final: Network
    result: Result
    stats: Stats
    notes: tuple[str, ...] = ()
    algorithm: str = "flow"
    step_size: float | None = None
    step_sizes: Array | None = None
    least_eigenvalue: Array | None = None
    imbalance_drift: Array | None = None
    singular_values: Array | None = None
    until: float | None = None
    tangent_change: Array | None = None
    nodes: tuple[np.ndarray, ...] = field(default=())
    checkpoints: Checkpoints | StoredWeights | None = field(default=None)
    optimizer: Optimizer = PLAIN
    law_error: Array | None = None

    def difference(self, other: Trajectory) -> float:
        """Return the largest difference of `log(L − f*)` to another run, over the time both cover.

        The curves are compared at the steps of the other run and halfway between the steps of this one.

        Raises:
            TypeError: the other one is no run.
        """
        if not isinstance(other, Trajectory):
            raise TypeError(f"other is {kind_of(other)}; a run of gradient_flow or gradient_descent is needed.")
        return difference(self.nodes, other.nodes)

    @property
    def loss(self) -> Array:
        """Losses `L = gap + f*`, shape `(N,)`."""
        return self.gap + self.minimum

    @property
    def objective(self) -> Objective | None:
        """The objective of a flow; None for a descent or a run from a file, where `network_at` cannot integrate."""
        return None if self.checkpoints is None else self.checkpoints.objective

    @property
    def weights(self) -> tuple[Array, ...]:
        """The final weights."""
        return self.final.weights

    def gap_at(self, t: Any) -> Any:
        """Return the loss gap at any time of the run (float or sequence), interpolating its logarithm.

        For a flow, Hermite interpolation of degree 11 uses value, slope and curvature at the accepted steps. For a
        descent, interpolation between the steps is linear.

        Raises:
            ValueError: times outside the run.
        """
        times = checks.numbers(t, "t")
        end = float(self.nodes[0][-1])
        if times.size and not (times.min() >= 0 and times.max() <= end):
            raise ValueError(f"the run covers t = 0 to {end!r} ({self.result.value}); {t!r} lies outside.")
        values = np.exp(interpolate(times, *self.nodes))
        return float(values) if times.ndim == 0 else from_numpy(values, self.gap)

    def loss_at(self, t: Any) -> Any:
        """Return the loss at any time of the run; see `gap_at`."""
        return self.gap_at(t) + self.minimum

    @renamed_arguments(fraction="until")
    def time_to(self, until: Any) -> Any:
        """Return when the gap first reached the fraction `until` of its start (float or sequence); inf if never.

        Example:
            >>> import numpy as np, linflow as lf
            >>> run = lf.gradient_flow(lf.MatrixFactorization([[2.0]]), [np.array([[1.0]]), np.array([[1.0]])])
            >>> bool(np.all(run.time_to([1e-1, 1e-2]) == [run.time_to(1e-1), run.time_to(1e-2)]))
            True
        """
        given = checks.each(lambda x: checks.fraction(x, "until"), until, "until")
        each = np.ravel(given)
        if float(self.gap[0]) == 0.0:  # every fraction is reached at once
            found = np.zeros(len(each))
        else:
            found = first_times(self.nodes[1][0] + np.log(each), *self.nodes)
            if self.result is Result.TARGET and self.until is not None:
                # A flow meets its target to a tolerance, or to rounding of the gap, so it may end just above.
                reached = each >= self.until * (1 - LEVEL)
                found[reached] = np.minimum(found[reached], float(self.nodes[0][-1]))
        return float(found[0]) if np.ndim(given) == 0 else found.reshape(given.shape)

    def network_at(self, t: float) -> Network:
        """Return the weights at any time of a flow, integrated from the nearest earlier stored step.

        A run read from a file has weights only at the times stored in it.

        Raises:
            ValueError: a time outside the run, one that was not stored, or a descent.
        """
        if self.checkpoints is None:
            raise ValueError(
                "a descent keeps its first and last weights only: they are run.start and run.final; for those in "
                "between, run it again with fewer steps."
            )
        end = float(self.nodes[0][-1])
        t = checks.positive(t, "t", allow_zero=True)
        if t > end:
            raise ValueError(f"the run covers t = 0 to {end!r}; {t!r} lies outside.")
        return self.checkpoints.network_at(t)

    @property
    def citations(self) -> frozenset[str]:
        """Keys of the references behind the run: the integrator of a flow, and the software."""
        return frozenset({"linflow", "hairer1993"} if self.algorithm == "flow" else {"linflow"})

    def save(
        self, path: str | PathLike[str], *, weights: str = "ends", settings: Mapping[str, Any] | None = None
    ) -> None:
        """Write the run as NetCDF (`.nc`), whole or not at all; `linflow.load(path)` restores it to the last bit.

        Args:
            path: file to write, ending in `.nc`; its folder must exist.
            weights: "ends" stores the first and last weights; "all" also stores those at every stored step of a flow.
            settings: settings of the experiment, stored as JSON; `linflow.files.load_settings(path)` returns them.

        Raises:
            ValueError, TypeError, OSError, ImportError: as for `linflow.files.save_run`.

        Example:
            >>> import numpy as np, linflow as lf, pathlib, tempfile
            >>> run = lf.gradient_flow(lf.MatrixFactorization(np.eye(2)), [np.eye(2), 0.5 * np.eye(2)])
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     run.save(pathlib.Path(folder) / "run.nc")
            ...     again = lf.load(pathlib.Path(folder) / "run.nc")
            >>> bool((again.gap == run.gap).all())
            True
        """
        from linflow.dynamics.storage.writing import save_run  # noqa: PLC0415 - xarray is slow to import

        save_run(self, path, weights=weights, settings=settings)

    def _repr_html_(self) -> str:
        return never_raising(_view, self)

    def __repr__(self) -> str:
        t, gap = to_numpy(self.t), to_numpy(self.gap)
        return (
            f"Trajectory({self.result.value}; t = {t[-1]:.6g}, loss gap {gap[0]:.4g} → {gap[-1]:.4g}, "
            f"{plural(self.stats.steps, 'step')}{'' if self.optimizer.plain else f'; {self.optimizer}'})"
        )


def difference(nodes: tuple[np.ndarray, ...], others: tuple[np.ndarray, ...]) -> float:
    """Return the largest difference of two curves; see `Trajectory.difference`."""
    t = np.concatenate([others[0], 0.5 * (nodes[0][1:] + nodes[0][:-1])])
    t = t[t <= min(nodes[0][-1], others[0][-1])]
    return float(np.max(np.abs(interpolate(t, *nodes) - interpolate(t, *others))))


def ended_outside(gradient: GradientField, point: Point) -> Result:
    """Return how a run ends if its loss is not a number, or not above the minimum."""
    if not point.finite:
        return Result.DIVERGED
    below = -point.gap > gradient.objective.rounding(gradient.network_at(point.y))
    return Result.BELOW_MINIMUM if below else Result.ROUNDING


class Checkpoints:
    """Weights along a flow, within a memory budget: every step at first, then every 2nd, 4th, … as they grow."""

    def __init__(
        self,
        gradient: GradientField,
        tolerance: float,
        budget: int = 256 * 2**20,
        further: Callable[[Array, float], Array] | None = None,
    ):
        self.gradient, self.tolerance, self.budget, self._further = gradient, tolerance, budget, further
        self.times: list[float] = []
        self.vectors: list[Array] = []
        self.expand: Callable[[Network], Network] | None = None  # from a reduced width of integration to the full one
        self._stride = 1
        self._count = 0

    @property
    def objective(self) -> Objective:
        """The objective that the flow minimises."""
        return self.gradient.objective

    def add(self, t: float, y: Array) -> None:
        """Store a step, or skip it if the stride says so."""
        if self._count % self._stride == 0:
            self.times.append(t)
            self.vectors.append(y)
            if len(self.times) * y.shape[0] * 8 > self.budget and len(self.times) > 2:
                self.times, self.vectors = self.times[::2], [_alone(y) for y in self.vectors[::2]]
                self._stride *= 2
        self._count += 1

    def extend(self, times: Sequence[float], rows: Array) -> None:
        """Store several steps, as `add` would one by one."""
        if self._stride == 1 and (len(self.times) + len(times)) * rows.shape[1] * 8 <= self.budget:
            self.times += times
            self.vectors.extend(rows)
            self._count += len(times)
        else:
            for t, y in zip(times, rows, strict=True):
                self.add(t, _alone(y))

    def cut(self, end: float) -> None:
        """Drop all steps after a time, and an incomplete one."""
        count = min(bisect_right(self.times, end), len(self.vectors))
        self.times, self.vectors = self.times[:count], self.vectors[:count]

    def network_at(self, t: float) -> Network:
        """Integrate from the nearest stored step before t."""
        i = int(np.searchsorted(self.times, t, side="right")) - 1
        y, rest = self.vectors[i], t - self.times[i]
        if rest > 0:
            further = self._further
            y = advance(self.gradient, y, rest, self.tolerance) if further is None else further(y, rest)
        network = self.gradient.network_at(y)
        return network if self.expand is None else self.expand(network)


class Recorder:
    """Collects what a run is asked to record."""

    def __init__(
        self, gradient: GradientField, record: Sequence[str], law: Callable[[float, Point], float] | None = None
    ):
        if isinstance(record, str):
            record = (record,)
        for name in record:
            checks.choice(name, "record", OBSERVABLES)
        if "law_error" in record and law is None:
            raise ValueError(
                "record holds law_error, and the imbalance of this run follows no law in closed form (heavy ball, or "
                "a decay that differs between layers along a flow); record imbalance_drift."
            )
        self.gradient, self.start, self.law = gradient, gradient.network, law
        self.names = [name for name in OBSERVABLES[2:] if name in record]
        self.t: list[float] = []
        self.gap: list[float] = []
        self.rate: list[float] = []
        self.extra: dict[str, list[Any]] = {name: [] for name in self.names}

    def add(self, t: float, point: Point) -> None:
        """Record one instant."""
        self.t.append(t)
        self.gap.append(point.gap)
        self.rate.append(point.rate)
        if not self.names:
            return
        if not point.finite:
            shape = min(self.start.shape)
            blank = {"singular_values": np.full(shape, np.nan)}
            for name in self.names:
                self.extra[name].append(blank.get(name, np.nan))
            return
        network = self.gradient.network_at(point.y)
        _, effective = self.gradient.objective.effective(network)
        if "least_eigenvalue" in self.extra:
            self.extra["least_eigenvalue"].append(float(TangentOperator(effective).least_eigenvalue()))
        if "imbalance_drift" in self.extra:
            self.extra["imbalance_drift"].append(imbalance_drift(network, self.start))
        if "tangent_change" in self.extra:
            first = self.gradient.objective.effective(self.start)[1]
            self.extra["tangent_change"].append(tangent_change(effective, first))
        if "law_error" in self.extra and self.law is not None:
            self.extra["law_error"].append(self.law(t, point))
        if "singular_values" in self.extra:
            self.extra["singular_values"].append(to_numpy(singular_values(network.product())))

    def extend(self, times: Sequence[float], gaps: Sequence[float], speeds: Sequence[float]) -> None:
        """Record several instants, of which no more than `loss` and `rate` is asked."""
        self.t += times
        self.gap += gaps
        self.rate += map(rate, gaps, speeds)

    def cut(self, end: float) -> None:
        """Drop all records after a time, and any incomplete record."""
        columns = (self.t, self.gap, self.rate, *self.extra.values())
        count = min(bisect_right(self.t, end), *map(len, columns))
        for values in columns:
            del values[count:]

    def arrays(self) -> dict[str, Array]:
        """Return the records as arrays of the kind of the weights."""
        like = self.start.weights[0]
        columns = {"t": self.t, "gap": self.gap, "rate": self.rate, **self.extra}
        return {name: from_numpy(np.asarray(values), like) for name, values in columns.items()}


def _alone(y: Array) -> Array:
    """Return a copy of a row of an array, which would keep all of it in memory; arrays of other kinds have none."""
    return y.copy() if is_numpy(y) else y


def _view(run: Trajectory) -> str:
    """Return how the run ended, its numbers, and the logarithm of the loss gap against time."""
    t, gap = to_numpy(run.t), to_numpy(run.gap)
    step = "" if run.step_size is None else f", step {run.step_size:.4g}"
    step += "" if run.optimizer.plain else f", {run.optimizer}"
    rows = [
        ("time", f"{t[-1]:.4g}"),
        ("loss gap", f"{gap[0]:.4g} → {gap[-1]:.4g}"),
        ("steps", f"{run.stats.steps} ({run.stats.rejected} rejected)"),
        ("imbalance drift", f"{run.stats.imbalance_drift:.2g}"),
        *((f"time to {x}", number(run.time_to(float(x)))) for x in SHOWN),
    ]
    body = table((), rows) + sparkline(t, gap)
    return block("Trajectory", f"gradient {run.algorithm}{step}: {run.result.value}", body, notes(run.notes))
