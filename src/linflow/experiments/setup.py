"""An experiment that is ready to run, for the commands and the sweeps to certify, run and prove."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from linflow.certificates import Certificate
from linflow.dynamics import Trajectory, gradient_descent, gradient_flow
from linflow.experiments.building import network_of, objective_of, steps_of
from linflow.experiments.schema import Experiment
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.model.optimizer import Optimizer
from linflow.verified import DescentEnclosure, Enclosure, certify
from linflow.verified.attempt import attempt


@dataclass(frozen=True)
class Setup:
    """The parts of an experiment, read and computed.

    Attributes:
        experiment: the settings.
        objective, network: what is minimised, and the first weights.
        steps: the step of a descent as arguments of `certify` and `gradient_descent`; empty for a flow. Finding it
            takes a search.
    """

    experiment: Experiment
    objective: Objective
    network: Network
    steps: dict[str, Any]

    @classmethod
    def of(cls, experiment: Experiment) -> Setup:
        """Read the data and the start, and find the step."""
        objective = objective_of(experiment.data)
        network = network_of(experiment, objective)
        return cls(experiment, objective, network, steps_of(experiment, objective, network))

    def certify(self, *, rigorous: bool = False) -> Certificate:
        """Return what is certified before the run, with its rounding proved if `rigorous`.

        Raises:
            ValueError: no guarantee is known for the optimizer.
        """
        optimizer = self.optimizer
        if optimizer.batches is not None:
            raise ValueError(
                f"no guarantee is known for descent with {optimizer.batches}: the law of the imbalance is exact for "
                "every batch, but no rate is claimed. Leave out batch_size (--batch-size) for the whole gradient."
            )
        options = {name: value for name, value in optimizer.options().items() if name != "nesterov"}
        return certify(
            self.objective,
            self.network,
            algorithm=self.experiment.algorithm,
            rigorous=rigorous,
            **self.steps,
            **options,
        )

    @property
    def optimizer(self) -> Optimizer:
        """Layer rates, weight decay, momentum, friction and mini-batches of the run."""
        return self.experiment.optimizer.optimizer(self.network.depth)

    def run(
        self,
        *,
        every: int = 1,
        progress: Callable[[float], None] | None = None,
        stopped: Callable[[], bool] | None = None,
    ) -> Trajectory:
        """Run what the experiment asks for.

        Args:
            every: number of steps of a descent between records; a flow records every step.
            progress: called with the fraction done.
            stopped: called now and then; once it returns True, the run ends as on Ctrl-C.

        Raises:
            Interrupted: the run was stopped; its `run` holds what was done.
        """
        flow, descent = self.experiment.flow, self.experiment.descent
        if self.experiment.algorithm == "flow":
            options = {**flow.limits(), "record": flow.record, "progress": progress, "stopped": stopped}
            return gradient_flow(self.objective, self.network, **options, **self.optimizer.options())
        batches = self.optimizer.batches
        drawn: dict[str, Any] = {} if batches is None else {"batch_size": batches.size, "seed": batches.seed}
        return gradient_descent(
            self.objective,
            self.network,
            **self.steps,
            **self.optimizer.options(),
            **drawn,
            steps=descent.steps,
            until=flow.until,
            record=flow.record,
            every=every,
            progress=progress,
            stopped=stopped,
        )

    def prove(
        self, progress: Callable[[float], None] | None = None
    ) -> tuple[Enclosure | DescentEnclosure | None, str]:
        """Return the verified run, or None and the reason."""
        optimizer = self.optimizer
        if optimizer != Optimizer(momentum=optimizer.momentum, nesterov=optimizer.nesterov):
            return (
                None,
                f"verified runs are of the flow and of descent with or without momentum; this has {optimizer}",
            )
        options: dict[str, Any] = {"until": self.experiment.flow.until, "max_steps": self.experiment.proof.steps}
        if self.experiment.algorithm == "flow":
            options["t_max"] = self.experiment.flow.t_max
        else:
            options |= self.steps | {"steps": self.experiment.descent.steps}
        return attempt(self.objective, self.network, **options, optimizer=optimizer, progress=progress)
