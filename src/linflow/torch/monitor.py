"""A monitor of training: the imbalances and their law, the operator T, and the step that is safe now."""

from __future__ import annotations

import math
import time
from os import PathLike
from typing import Any, TextIO

import numpy as np

import torch
from linflow._support import checks
from linflow._support.words import plural
from linflow.certificates.setting import too_narrow
from linflow.geometry.imbalance import imbalance_drift
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.torch._extremes import Extremes
from linflow.torch._imbalance_law import PROBES, ImbalanceLaw, rate_of, why_no_law
from linflow.torch._module import Layers
from linflow.torch._outlets import rows_into, scalars_into
from linflow.torch.smoothness import gradient_mismatch, local_smoothness

COLUMNS = {
    "step": "steps done",
    "lr": "learning rate of the last step",
    "loss": "the objective, or what `observe` was given",
    "gap": "loss over the minimum, ℓ",
    "drift": "max_l ‖D_l − D_l(0)‖_F",
    "change": "change of the imbalances since the start (exact), or in the last step",
    "law": "the change that η²(G_lᵀG_l − G_{l+1}G_{l+1}ᵀ) makes in the same steps",
    "law_error": "norm of the difference of the two",
    "rounding": "what rounding of the weights to their dtype may do to it",
    "lambda_min": "least eigenvalue of T; a Rayleigh quotient, and so not below it, where it was iterated",
    "lambda_min_error": "an eigenvalue is within this of it",
    "lambda_max": "greatest eigenvalue of T",
    "pl": "local PL constant (gradient dominance) γ λ_min(T), as exact as lambda_min",
    "rate": "‖∇L‖²/ℓ, never below pl",
    "smoothness": "K_t, smoothness along the gradient step, at the step 1/K_t",
    "local_step": "1/K_t",
    "safe_step": "largest step now for which no step up to it can raise the loss",
}
"""What is logged, and what it is. NaN stands for what is not known."""


class Monitor:
    """Follows the training of a deep linear model and logs every so many steps.

    Each row holds the `COLUMNS`: the drift of the imbalances against its exact law, the extreme eigenvalues of T, and
    with an objective the local gradient dominance and smoothness and the largest safe step. Rows are computed in
    float64 from the weights as they are, on their device. The first is the start.

    *The law.* A step of SGD without momentum, mini-batch or not, changes `D_l` by exactly
    `η² (G_lᵀG_l − G_{l+1}G_{l+1}ᵀ)`, after the factor `(1 − ηλ)²` of a weight decay λ. With `exact=True` it is
    accumulated at every step, in a few vectors for wide layers; otherwise it is checked on the last step before each
    row, as the sum needs all the gradients. More than rounding between the two is the mark of something else than
    descent: clipping by entries, a frozen layer, weights written from outside.

    *Other optimisers.* Momentum, Adam, LBFGS and frozen layers break the law, and do not take the steps along the
    objective's gradient that `smoothness`, `local_step` and `safe_step` are about; `notes` says so.

    *The cost.* A row due is put off to the next multiple of `every` while another like the last would make the rows
    take more than `budget` of the time since the monitor was made; one that comes at the end all the same leaves out
    the eigenvalues of T. The first row is made at once, so that a training must last a while (20 times that row, for
    5 %) to be within the budget. `overhead` is the fraction taken in all; what `exact=True` takes at every step is in
    it, and not in the budget.

    Use it as a context manager, or call `close`.

    Args:
        model: an `nn.Sequential` of bias-free `nn.Linear`, or a list of layers or matrices (`linflow.torch.network`).
        optimizer: what trains it. Its post-step hook drives the monitor; pass None to call `step` yourself, with
            `lr=` for the law.
        objective: what is minimised, on all data; `linflow.torch.regression` is `nn.MSELoss`.
        every: steps between rows.
        exact: accumulate the law at every step.
        writer: a `SummaryWriter` or anything with `add_scalar`, or a folder to make one in (needs tensorboard).
        csv: a file to write the rows to, as they come; one of an earlier training is replaced, no other.
        budget: fraction of the time that rows may take; None for every row.
        scale: output scale of the model.
        convention: of a list of matrices, "product" or "torch".
        prefix: of the names in TensorBoard.
        probes: width up to which the law is followed for whole matrices, and number of vectors beyond.
        done: steps done before, of a training that is taken up again: rows count on from there, and a CSV file is
            gone on with instead of replaced. Drift and law begin anew.

    Raises:
        TypeError, ValueError: a model that is no chain of linear layers, or an objective that does not fit.
        FileExistsError: a file as csv that no monitor has written.
        ImportError: a folder as writer without tensorboard.

    Example:
        >>> import torch, linflow.torch as lt
        >>> _ = torch.manual_seed(0)
        >>> X = torch.randn(50, 4)
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 6, bias=False), torch.nn.Linear(6, 4, bias=False))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        >>> with lt.Monitor(model, optimizer, lt.regression(X, X), every=10, exact=True, budget=None) as monitor:
        ...     for _ in range(40):
        ...         optimizer.zero_grad()
        ...         torch.nn.functional.mse_loss(model(X), X).backward()
        ...         optimizer.step()
        >>> table = monitor.table()
        >>> table["step"].tolist(), bool((table["law_error"][1:] <= table["rounding"][1:]).all())
        ([0, 10, 20, 30, 40], True)
    """

    def __init__(
        self,
        model: Any,
        optimizer: torch.optim.Optimizer | None = None,
        objective: Objective | None = None,
        *,
        every: int = 50,
        exact: bool = False,
        writer: Any = None,
        csv: str | PathLike[str] | None = None,
        budget: float | None = 0.05,
        scale: float = 1.0,
        convention: str = "product",
        prefix: str = "linflow",
        probes: int = PROBES,
        done: int = 0,
    ):
        self._began = time.perf_counter()
        self._spent = 0.0
        self.every, self.exact = checks.count(every, "every"), exact
        self.budget = None if budget is None else checks.fraction(budget, "budget", "the rows' part of time", "0.05")
        self.prefix, self.objective, self._optimizer = prefix, objective, optimizer
        self._layers = layers = Layers.of(model, scale=scale, convention=convention)
        self.notes: list[str] = []
        self.rows: list[dict[str, float]] = []
        self._start = layers.network()
        if objective is not None:
            objective.check_network(layers.network_for(objective))
            if math.isinf(objective.smoothness):
                self._note("no smoothness K is known for the objective, so no step is known to be safe")
            if optimizer is not None and (decay := rate_of(optimizer, layers)[1]) != 0:
                self._note(
                    f"the objective leaves out the weight decay {decay:g}: pl, rate, smoothness and safe_step are of "
                    "the objective alone"
                )
        self._law = ImbalanceLaw(layers, checks.count(probes, "probes"))
        self._no_law = None if optimizer is None else why_no_law(optimizer, layers)
        if self._no_law:
            self._note(self._other_steps())
        if narrow := too_narrow(self._start):
            self._note(f"λ_min(T) is 0 at all weights, so it certifies no rate: {narrow}")
        self._extremes, self._loss, self._last_lr = Extremes(), math.nan, math.nan
        self.steps = self._done = checks.count(done, "done", least=0)
        self._armed, self._before = False, None
        self._file: TextIO | None = None
        self._rows_out: Any = None
        self._look_hook: Any = None
        self._writer, self._own_writer = scalars_into(writer)
        if csv is not None:
            self._file, self._rows_out = rows_into(csv, list(COLUMNS), go_on=self._done > 0)
        self._ended: float | None = None
        self._hook: Any = None
        if optimizer is not None:
            self._hook = optimizer.register_step_post_hook(lambda *_: self.step())
            if objective is not None:
                self._look_hook = optimizer.register_step_pre_hook(self._look)
        self._record()
        self._last_cost = self._spent_on_rows = self._spent = time.perf_counter() - self._began
        self._arm()

    def observe(self, loss: Any) -> None:
        """Give the loss that goes with the next row, a number or tensor; it is read only if a row is written."""
        self._loss = loss.detach() if isinstance(loss, torch.Tensor) else loss

    def step(self, loss: Any = None, *, lr: float | None = None) -> None:
        """Count one step of training; called by the optimiser's hook where there is an optimiser.

        Without one, call it after the weights have moved and before the gradients are cleared.

        Args:
            loss: as for `observe`.
            lr: the learning rate of the step, where there is no optimiser; the law needs it.
        """
        if loss is not None:
            self.observe(loss)
        self.steps += 1
        if self._before is not None:
            began = time.perf_counter()
            self._compare(self._before)
            self._before = None
            self._spend(time.perf_counter() - began)
        if not (self._armed or (self.exact and self._no_law is None)):
            self._arm()
            return
        if self._armed and self._layers.device.type == "cuda":
            torch.cuda.synchronize(self._layers.device)  # lest the wait for the training count as the monitor's
        began = time.perf_counter()
        self._follow(lr)
        if self._armed:
            self._record()
            self._last_cost = time.perf_counter() - began
            self._spent_on_rows += self._last_cost
        self._spent += time.perf_counter() - began
        self._arm()

    def _arm(self) -> None:
        """Decide whether the next step is to be logged, and keep the imbalances before it if the law needs them."""
        due = (self.steps + 1) % self.every == 0
        self._armed = due and (self.budget is None or self._affordable(self.budget))
        if self._armed and not self.exact and self._no_law is None:
            began = time.perf_counter()
            self._law.restart(self._layers.weights())
            self._spend(time.perf_counter() - began)

    def _spend(self, seconds: float) -> None:
        self._spent, self._spent_on_rows = self._spent + seconds, self._spent_on_rows + seconds

    def _affordable(self, budget: float, rows: int = 2) -> bool:
        """Tell whether more rows like the last leave the overhead within the budget: one and the last of all."""
        return self._spent_on_rows + rows * self._last_cost <= budget * (time.perf_counter() - self._began)

    def _follow(self, lr: float | None) -> None:
        """Take the step that was done into the law."""
        decay = 0.0
        if self._optimizer is not None:
            self._last_lr, decay = rate_of(self._optimizer, self._layers)
            self._no_law = self._no_law or why_no_law(self._optimizer, self._layers)
        else:
            self._last_lr = math.nan if lr is None else checks.positive(lr, "lr")
            if lr is None:
                self._no_law = "no learning rate was given (step(lr=…))"
        gradients = self._layers.gradients(self._law.dtype)
        if gradients is None:
            self._no_law = self._no_law or "the gradients were gone when the step was counted"
        if self._no_law:
            self._note(self._other_steps())
        elif gradients is not None:
            self._law.add(self._last_lr, decay, gradients)

    def _record(self, *, spectrum: bool = True) -> None:
        """Compute one row, with or without the eigenvalues of T, and write it."""
        row = dict.fromkeys(COLUMNS, math.nan)
        row["step"], row["lr"] = float(self.steps), self._last_lr
        try:
            net = self._layers.network()
        except ValueError as error:  # a training that diverges goes on to its end
            self._note(f"after {plural(self.steps, 'step')}: {error}")
        else:
            self._imbalances(row, net)
            try:
                self._operator(row, net, spectrum=spectrum)
            # The former is public, if not for its type stubs.
            except (torch.linalg.LinAlgError, np.linalg.LinAlgError, ValueError) as error:  # pyright: ignore[reportPrivateImportUsage]
                self._note(f"after {plural(self.steps, 'step')}: {str(error).splitlines()[0]}")
        if self.objective is None:
            row["loss"] = float(self._loss)
        self.rows.append(row)
        repeated = self._done > 0 and len(self.rows) == 1  # the last row of the run before
        if self._rows_out is not None and self._file is not None and not repeated:
            self._rows_out.writerow([_cell(row[name], name) for name in COLUMNS])
            self._file.flush()
        if self._writer is not None:
            for name, value in row.items():
                if name != "step" and math.isfinite(value):
                    self._writer.add_scalar(f"{self.prefix}/{name}", value, self.steps)

    def _imbalances(self, row: dict[str, float], net: Network) -> None:
        row["drift"] = imbalance_drift(net, self._start)
        if self._no_law is None and self._law.steps > 0:
            row["law"], row["change"], row["law_error"] = self._law.compare(list(net.weights))
            row["rounding"] = self._law.rounding(self._layers)
            if row["law_error"] > row["rounding"] and not any("law_error" in note for note in self.notes):
                self._note(
                    f"up to step {self.steps} the imbalances moved by {row['law_error']:.3g} otherwise than the law "
                    "says (law_error above rounding): gradients in a lower precision than the weights, as under "
                    "autocast, or clipped by entries, a loss that is no function of the product, or weights written "
                    "from outside"
                )

    def _operator(self, row: dict[str, float], net: Network, *, spectrum: bool) -> None:
        f = self.objective
        if f is None:
            if spectrum:
                row["lambda_min"], row["lambda_max"], row["lambda_min_error"] = self._extremes(net)
            return
        own = self._layers.network_for(f)
        seen, restricted = f.effective(own)
        if restricted is not own:  # T of what the objective sees; the rest never moves
            device = self._layers.device
            inner = [W.to(device) if isinstance(W, torch.Tensor) else torch.as_tensor(W) for W in restricted.weights]
            net = Network([W.to(device) for W in inner], net.scale)
        if spectrum:
            row["lambda_min"], row["lambda_max"], row["lambda_min_error"] = self._extremes(net)
        if seen.pl_constant > 0:
            row["pl"] = seen.pl_constant * row["lambda_min"]
        at = local_smoothness(f, own)
        row["gap"], row["loss"] = at.gap, at.gap + f.minimum
        if at.gap > 0:
            root = at.speed / math.sqrt(at.gap)
            row["rate"] = root * root
        row["smoothness"], row["local_step"], row["safe_step"] = at.constant, at.step, at.largest

    @property
    def overhead(self) -> float:
        """The monitor's own time, its making included, over all the time from then on (until it is closed)."""
        now = time.perf_counter() if self._ended is None else self._ended
        return self._spent / max(now - self._began, 1e-9)

    def table(self) -> dict[str, np.ndarray]:
        """Return the rows so far as columns; see `COLUMNS`."""
        columns = {name: np.array([row[name] for row in self.rows]) for name in COLUMNS}
        return columns | {"step": columns["step"].astype(np.int64)}

    def close(self) -> None:
        """Log the last step if it is not, let go of the optimiser, and close what was opened here."""
        if self._ended is not None:
            return
        if self._hook is not None:
            self._hook.remove()
        if self._look_hook is not None:
            self._look_hook.remove()
        began = time.perf_counter()
        if self.rows[-1]["step"] != self.steps:
            if not self.exact:
                self._no_law = self._no_law or "the last step was not followed"
            free = self.budget is None or self._affordable(self.budget, rows=1)
            self._record(spectrum=free)
        if self._file is not None:
            self._file.close()
            self._file = self._rows_out = None
        if self._own_writer:
            self._writer.close()
        self._ended = time.perf_counter()
        self._spent += self._ended - began

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __str__(self) -> str:
        shown = [name for name in COLUMNS if any(math.isfinite(row[name]) for row in self.rows)]
        lines = [shown, *([_cell(row[name], name, "#.4g") for name in shown] for row in self.rows)]
        wide = [max(len(line[i]) for line in lines) for i in range(len(shown))]
        table = ["  ".join(f"{cell:>{w}}" for cell, w in zip(line, wide, strict=True)) for line in lines]
        return "\n".join([*table, *self.notes])

    def __repr__(self) -> str:
        widths = "×".join(map(str, self._layers.widths))
        done = f"{plural(self.steps, 'step')}, {plural(len(self.rows), 'row')}"
        return f"Monitor({widths}, {done}, overhead {self.overhead:.1%})"

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _other_steps(self) -> str:
        rest = "" if self.objective is None else "; smoothness, local_step and safe_step are not of its steps"
        if not all(p.requires_grad for p in self._layers.parameters):
            rest += "; lambda_min, lambda_max, pl and rate are those of training all layers"
        return f"the law of the imbalances is not followed: {self._no_law}{rest}"

    def _look(self, *_: Any) -> None:
        """Keep the weights of the first step, whose gradient may come only during it, from a closure."""
        searches = isinstance(self._optimizer, torch.optim.LBFGS)  # it leaves the gradient at other weights
        if self.steps == self._done and self.objective is not None and not searches:
            began = time.perf_counter()
            self._before = self._layers.network_for(self.objective)
            self._spend(time.perf_counter() - began)

    def _compare(self, network: Network) -> None:
        """Note a first gradient that is not the objective's."""
        assert self.objective is not None  # there is a network with one
        found = gradient_mismatch(self._layers, self.objective, network)
        if found:
            self._note(f"{found}: the steps in the table are for the objective")


def _cell(value: float, name: str, form: str = "") -> str:
    if name == "step":
        return str(int(value))
    return format(value, form) if form else repr(float(value))
