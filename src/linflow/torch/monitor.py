"""A monitor of training: the imbalances and their law, the operator T, and the largest safe step."""

from __future__ import annotations

import math
import time
from os import PathLike
from typing import Any

import numpy as np

import torch
from linflow._support import checks
from linflow._support.words import plural, shown
from linflow.certificates.setting import too_narrow
from linflow.geometry.imbalance import imbalance_drift
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.torch._extremes import Extremes
from linflow.torch._imbalance_law import PROBES, ImbalanceLaw
from linflow.torch._module import Layers
from linflow.torch._outlets import COLUMNS, Outlets, table_of
from linflow.torch._sgd import Sgd, buffers_of, others, rate_of, trained_layers, why_no_law, why_not_plain
from linflow.torch.smoothness import gradient_mismatch, local_smoothness, speed_of


class Monitor:
    """Follow the training of a deep linear model and log a row at regular intervals.

    Each row holds the `COLUMNS`: the drift of the imbalances against its exact law and the extreme eigenvalues of T.
    With an objective, it also holds the local gradient dominance, the local smoothness and the largest safe step.
    Rows are computed in float64 from the current weights, on their device. The first row describes the start.

    *The law.* A step of SGD without momentum, mini-batch or not, changes `D_l` by exactly
    `η² (G_lᵀG_l − G_{l+1}G_{l+1}ᵀ)`, after the factor `(1 − ηλ)²` of a weight decay λ. With momentum, Nesterov's or
    not, and any schedules, the law is that of docs/optimisers.md. With parameter groups of different learning rates
    it is about the layers `W_l/√ρ_l`. With `exact=True` the change is accumulated at every step, in a few vectors for
    wide layers. Otherwise only the last step before each row is checked, because the sum needs all the gradients. A
    difference larger than rounding means that the training is not SGD on the product: entrywise clipping, or weights
    written from outside.

    *Biases and frozen layers.* A bias of the first layer is a row of `W_1`. A bias of the last layer is outside the
    product; drift, law and T do not depend on it, and an objective, which does, is refused. If layers are frozen, T
    and what follows from it are those of the layers that are trained; there is no law, and no step is known.

    *Other optimisers.* Adam and its kin, LBFGS and frozen layers follow no law. Moreover, `smoothness`, `local_step`
    and `safe_step` are about steps along the objective's gradient at one rate, which these and SGD with momentum or
    different rates do not take. `notes` says so.

    *The cost.* A row is postponed to the next multiple of `every` if another row as costly as the last would bring
    the rows above `budget`, a fraction of the time since the monitor was made. The final row is always written, but
    without the eigenvalues of T if they do not fit. The first row is computed at once, so a training must last a
    while (20 times that row, for 5 %) to stay within the budget. `overhead` is the total fraction; it includes the
    cost of `exact=True` at every step, which the budget does not.

    Use it as a context manager, or call `close`.

    Args:
        model: an `nn.Sequential` of `nn.Linear`, or a list of layers or matrices; see `linflow.torch.network`.
        optimizer: the optimiser of the model. Its post-step hook drives the monitor. Pass None to call `step`
            yourself, with `lr=` for the law.
        objective: the function to minimise, on all data; `linflow.torch.regression` is `nn.MSELoss`.
        every: steps between rows.
        exact: accumulate the law at every step.
        writer: a `SummaryWriter` or anything with `add_scalar`, or a folder to make one in (needs tensorboard).
        csv: file to write the rows to as they are computed. A file of an earlier training is replaced; any other
            file is refused.
        budget: fraction of the time that rows may take; None for every row.
        scale: output scale of the model.
        convention: how the matrices of a list are stored, "product" or "torch".
        prefix: prefix of the names in TensorBoard.
        probes: largest width for which the law is followed on whole matrices; also the number of vectors for wider
            layers.
        done: number of steps already done, for a resumed training. The step count goes on from there, and a CSV file
            is continued instead of replaced. Drift and law start again.

    Raises:
        TypeError, ValueError: the model is not a chain of linear layers, or the objective does not fit.
        FileExistsError: the csv file exists and was not written by a monitor.
        ImportError: writer is a folder and tensorboard is not installed.

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
        loose = {"frozen": True, "outside": objective is None}
        self._layers = layers = Layers.of(model, scale=scale, convention=convention, **loose)
        self.notes: list[str] = []
        self.rows: list[dict[str, float]] = []
        self._start = layers.network()
        if objective is not None:
            layers.check_objective(objective)
            if math.isinf(objective.smoothness):
                self._note("no smoothness K is known for the objective, so no step is known to be safe")
            if optimizer is not None and (decay := rate_of(optimizer, layers)[1]) != 0:
                self._note(
                    f"the objective leaves out the weight decay {decay:g}: pl, rate, smoothness and safe_step are of "
                    "the objective alone"
                )
            if others(optimizer, layers):
                self._note(
                    "the optimizer also trains parameters that are not layers of the model: gap, pl, rate and the "
                    "steps are of the objective, a function of the product alone"
                )
        self._sgd = Sgd.of(optimizer, layers)
        before = buffers_of(optimizer, layers, torch.float64)
        self._law = ImbalanceLaw(layers, checks.count(probes, "probes"), self._sgd.rates, before)
        self._no_law = None if optimizer is None else why_no_law(optimizer, layers)
        self._other_steps()
        if narrow := too_narrow(self._start):
            self._note(f"λ_min(T) is 0 at all weights, so it certifies no rate: {narrow}")
        self._extremes, self._loss, self._last_lr = Extremes(), math.nan, math.nan
        self.steps = self._done = checks.count(done, "done", least=0)
        self._armed, self._before = False, None
        self._look_hook: Any = None
        self._outlets = Outlets(list(COLUMNS), csv, writer, prefix, go_on=self._done > 0)
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
        """Set the loss of the next row, a number or a tensor. It is read only if a row is written."""
        self._loss = loss.detach() if isinstance(loss, torch.Tensor) else loss

    def step(self, loss: Any = None, *, lr: float | None = None) -> None:
        """Count one step of training; the optimiser's hook calls this if there is an optimiser.

        Without an optimiser, call it after the weights have moved and before the gradients are cleared.

        Args:
            loss: as for `observe`.
            lr: the learning rate of the step, if there is no optimiser; the law needs it.
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
            torch.cuda.synchronize(self._layers.device)  # so waiting for training is not counted as monitor time
        began = time.perf_counter()
        self._follow(lr)
        if self._armed:
            self._record()
            self._last_cost = time.perf_counter() - began
            self._spent_on_rows += self._last_cost
        self._spent += time.perf_counter() - began
        self._arm()

    def _arm(self) -> None:
        """Decide whether to log the next step; if the law needs them, keep the imbalances before it."""
        due = (self.steps + 1) % self.every == 0
        self._armed = due and (self.budget is None or self._affordable(self.budget))
        if self._armed and not self.exact and self._no_law is None:
            began = time.perf_counter()
            self._law.restart(self._layers.weights(), buffers_of(self._optimizer, self._layers, torch.float64))
            self._spend(time.perf_counter() - began)

    def _spend(self, seconds: float) -> None:
        self._spent, self._spent_on_rows = self._spent + seconds, self._spent_on_rows + seconds

    def _affordable(self, budget: float, rows: int = 2) -> bool:
        """Tell whether `rows` more rows like the last one fit the budget; by default the next and the final one."""
        return self._spent_on_rows + rows * self._last_cost <= budget * (time.perf_counter() - self._began)

    def _follow(self, lr: float | None) -> None:
        """Add the step just done to the law."""
        decay = 0.0
        if self._optimizer is not None:
            self._last_lr, decay = rate_of(self._optimizer, self._layers)
            self._no_law = self._no_law or why_no_law(self._optimizer, self._layers)
            sgd = Sgd.of(self._optimizer, self._layers)
            if not sgd.alike(self._sgd):
                self._no_law = self._no_law or "the ratio of the learning rates of the layers changed"
            self._sgd = sgd
        else:
            self._last_lr = math.nan if lr is None else checks.positive(lr, "lr")
            if lr is None:
                self._no_law = "no learning rate was given (step(lr=…))"
        gradients = self._layers.gradients(self._law.dtype)
        if gradients is None:
            self._no_law = self._no_law or "the gradients were gone when the step was counted"
        self._other_steps()
        if self._no_law is None and gradients is not None:
            buffers = buffers_of(self._optimizer, self._layers, self._law.dtype)
            self._law.add(self._last_lr, decay, gradients, self._sgd, buffers)

    def _record(self, *, spectrum: bool = True) -> None:
        """Compute one row, with or without the eigenvalues of T, and write it."""
        row = dict.fromkeys(COLUMNS, math.nan)
        row["step"], row["lr"] = float(self.steps), self._last_lr
        try:
            net = self._layers.network()
        except ValueError as error:  # a diverging training is followed to its end
            self._note(f"after {plural(self.steps, 'step')}: {error}")
        else:
            self._imbalances(row, net)
            try:
                self._operator(row, net, spectrum=spectrum)
            # torch.linalg.LinAlgError is public, although its type stubs say otherwise.
            except (torch.linalg.LinAlgError, np.linalg.LinAlgError, ValueError) as error:  # pyright: ignore[reportPrivateImportUsage]
                self._note(f"after {plural(self.steps, 'step')}: {str(error).splitlines()[0]}")
        if self.objective is None:
            row["loss"] = float(self._loss)
        self.rows.append(row)
        repeated = self._done > 0 and len(self.rows) == 1  # the last row of the earlier run
        self._outlets.write(row, repeated=repeated)

    def _imbalances(self, row: dict[str, float], net: Network) -> None:
        row["drift"] = imbalance_drift(net, self._start)
        if self._no_law is None and self._law.steps > 0:
            row["law"], row["change"], row["law_error"] = self._law.compare(list(net.weights))
            row["rounding"] = self._law.rounding(self._layers)
            if row["law_error"] > row["rounding"] and not any("law_error" in note for note in self.notes):
                self._note(
                    f"up to step {self.steps} the imbalances moved by {row['law_error']:.3g} otherwise than the law "
                    "says (law_error above rounding): gradients in a lower precision than the weights, as under "
                    "autocast, or clipped by entries, a loss that is not a function of the product, or weights "
                    "written from outside"
                )

    def _operator(self, row: dict[str, float], net: Network, *, spectrum: bool) -> None:
        f = self.objective
        trained = trained_layers(self._optimizer, self._layers)
        if f is None:
            if spectrum:
                row["lambda_min"], row["lambda_max"], row["lambda_min_error"] = self._extremes(net, trained)
            return
        own = self._layers.network_for(f)
        seen, restricted = f.effective(own)
        if restricted is not own:  # T of the part that the objective sees; the rest never moves
            device = self._layers.device
            inner = [W.to(device) if isinstance(W, torch.Tensor) else torch.as_tensor(W) for W in restricted.weights]
            net = Network([W.to(device) for W in inner], net.scale)
        if spectrum:
            row["lambda_min"], row["lambda_max"], row["lambda_min_error"] = self._extremes(net, trained)
        if seen.pl_constant > 0:
            row["pl"] = seen.pl_constant * row["lambda_min"]
        at = local_smoothness(f, own)
        row["gap"], row["loss"] = at.gap, at.gap + f.minimum
        if at.gap > 0:
            root = (at.speed if all(trained) else speed_of(f, own, trained)) / math.sqrt(at.gap)
            row["rate"] = root * root
        if all(trained):
            row["smoothness"], row["local_step"], row["safe_step"] = at.constant, at.step, at.largest

    @property
    def overhead(self) -> float:
        """Fraction of the elapsed time that the monitor itself took, its construction included.

        The time runs from construction until the monitor is closed.
        """
        now = time.perf_counter() if self._ended is None else self._ended
        return self._spent / max(now - self._began, 1e-9)

    def table(self) -> dict[str, np.ndarray]:
        """Return the rows so far as one array per column; see `COLUMNS`."""
        columns = {name: np.array([row[name] for row in self.rows]) for name in COLUMNS}
        return columns | {"step": columns["step"].astype(np.int64)}

    def close(self) -> None:
        """Log the last step if it is not logged yet, remove the hooks, and close what the monitor opened."""
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
        self._outlets.close()
        self._ended = time.perf_counter()
        self._spent += self._ended - began

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @shown
    def __str__(self) -> str:
        return table_of(COLUMNS, self.rows, self.notes)

    def __repr__(self) -> str:
        widths = "×".join(map(str, self._layers.widths))
        done = f"{plural(self.steps, 'step')}, {plural(len(self.rows), 'row')}"
        return f"Monitor({widths}, {done}, overhead {self.overhead:.1%})"

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _other_steps(self) -> None:
        """Note why there is no law, and that the steps are not along the gradient."""
        why = self._no_law or (None if self._optimizer is None else why_not_plain(self._optimizer, self._layers))
        if why is None:
            return
        trained = all(trained_layers(self._optimizer, self._layers))
        steps = "; smoothness, local_step and safe_step are not " + ("of its steps" if trained else "computed")
        rest = "" if self.objective is None else steps
        if self._no_law:
            whose = "of one rate for all layers" if trained else "of the layers that are trained"
            rest += f"; lambda_min, lambda_max, pl and rate are those {whose}"
            self._note(f"the law of the imbalances is not followed: {why}{rest}")
        elif rest:
            self._note(f"{why}{rest}; lambda_min, pl and rate are those of one rate and no momentum")
        if self._sgd.rates and self._no_law is None:
            rates = ", ".join(f"{r:g}" for r in self._sgd.rates)
            self._note(f"change and law are of the layers W_l/√ρ_l, with the rates ρ = ({rates})")

    def _look(self, *_: Any) -> None:
        """Keep the weights before the first step; a closure may compute its gradient only during the step."""
        searches = isinstance(self._optimizer, torch.optim.LBFGS)  # LBFGS leaves the gradient at other weights
        if self.steps == self._done and self.objective is not None and not searches:
            began = time.perf_counter()
            self._before = self._layers.network_for(self.objective)
            self._spend(time.perf_counter() - began)

    def _compare(self, network: Network) -> None:
        """Add a note if the first gradient is not that of the objective."""
        assert self.objective is not None  # a network is kept only with an objective
        found = gradient_mismatch(self._layers, self.objective, network)
        if found:
            self._note(f"{found}: the steps in the table are for the objective")
