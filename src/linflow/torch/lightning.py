"""The monitor as a callback of Lightning."""

from __future__ import annotations

import math
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from linflow.torch.monitor import Monitor

if TYPE_CHECKING:
    MonitorCallback: Any

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def _callback_class() -> type:
    """Return the base class of callbacks, preferably from the Lightning package that is already imported."""
    for package in sorted(_PACKAGES, key=lambda name: name not in sys.modules):
        try:
            return import_module(package).Callback
        except ImportError:
            continue
    raise ImportError("MonitorCallback needs Lightning, which is not installed: pip install lightning")


class _MonitorHooks:
    """The hooks of `MonitorCallback`, which adds the base class of Lightning."""

    def __init__(self, objective: Any = None, layers: Any = None, *, optimizer: int = 0, **options: Any):
        super().__init__()
        self.objective, self.layers, self.optimizer, self.options = objective, layers, optimizer, options
        self.monitor: Monitor | None = None
        self._logged = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Make the monitor, once the layers are on the device of the training."""
        if not getattr(trainer, "is_global_zero", True):
            return
        model = self.layers(pl_module) if _makes(self.layers) else self.layers
        model = getattr(pl_module, "model", None) if model is None else model
        if model is None:
            raise AttributeError(
                f"{type(pl_module).__name__} has no attribute `model`; give MonitorCallback(layers=…) the chain "
                "of linear layers, or a function of the module that returns it."
            )
        options = {"done": int(getattr(trainer, "global_step", 0)), **self.options}
        self.monitor = Monitor(model, trainer.optimizers[self.optimizer], self.objective, **options)
        self._logged = 0
        self._log(trainer)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Pass new rows to the loggers."""
        if self.monitor is not None:
            loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
            if loss is not None:
                self.monitor.observe(loss)
            self._log(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Close the monitor."""
        if self.monitor is not None:
            self.monitor.close()
            self._log(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Close the monitor when training stops with an exception."""
        if self.monitor is not None:
            self.monitor.close()

    def _log(self, trainer: Any) -> None:
        assert self.monitor is not None
        for row in self.monitor.rows[self._logged :]:
            named = {f"{self.monitor.prefix}/{name}": x for name, x in row.items() if math.isfinite(x)}
            for logger in trainer.loggers:
                logger.log_metrics(named, step=int(row["step"]))
        self._logged = len(self.monitor.rows)


def _define() -> type:
    class MonitorCallback(_MonitorHooks, _callback_class()):
        """A `Monitor` for a `LightningModule` that sends its rows to the loggers of the trainer.

        Steps are those of the optimiser, however many batches each accumulates. A resumed training continues the
        count. With several devices, only the first process has a monitor.

        Args:
            objective: the function to minimise; None if unknown.
            layers: the chain in the module, in any form that `Monitor` takes, or a function of the module that
                returns it; the attribute `model` of the module if omitted.
            optimizer: index of the optimiser among those of the trainer.
            **options: options of `Monitor`, such as `every`, `exact`, `csv`.

        Example (`trainer.fit` runs the rest):
            `Trainer(callbacks=[MonitorCallback(regression(X, Y), every=50)])`
        """

    return MonitorCallback


def _makes(layers: Any) -> bool:
    """Tell whether `layers` is a function that returns layers, and not a module (also callable)."""
    return callable(layers) and not hasattr(layers, "parameters")


def __getattr__(name: str) -> Any:
    if name != "MonitorCallback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = _define()
    return found
