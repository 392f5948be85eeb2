"""Many gradient flows at once, in threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from threading import Event
from typing import Any

from linflow._support import checks
from linflow._support.threads import one_thread
from linflow._support.words import plural
from linflow.dynamics.flow import gradient_flow
from linflow.dynamics.trajectory import Interrupted, Trajectory
from linflow.model.network import Network
from linflow.model.objectives import Objective


@dataclass(frozen=True)
class Failure:
    """A run that failed.

    Attributes:
        index: position of its network in the input.
        error: name of the exception type, such as "ValueError".
        reason: the error message.
    """

    index: int
    error: str
    reason: str


def gradient_flow_many(
    objective: Objective | Sequence[Objective],
    networks: Sequence[Network | Sequence[Any]],
    *,
    workers: int | None = None,
    progress: Callable[[float], None] | None = None,
    **options: Any,
) -> list[Trajectory | Failure]:
    """Run `gradient_flow` from each network in threads, and return the runs in the order of the networks.

    Compiled integrations run in parallel; each uses one BLAS thread. A run is the same to the last digit for any
    number of workers. If a run fails (shapes that do not fit, a gradient that raises), a `Failure` takes its place in
    the list, and the other runs continue.

    Args:
        objective: one for all, or one for each network.
        networks: initial networks, as `Network` objects or their weights.
        workers: number of threads; by default, the number of cores.
        progress: called with the fraction done after each run, in the calling thread.
        **options: options of `gradient_flow`, the same for all runs.

    Returns:
        A list of `Trajectory` and `Failure`.

    Raises:
        Interrupted: Ctrl-C was pressed; its `run` is the list of results so far, with unfinished runs cut short.
        ValueError, TypeError: different numbers of objectives and networks, or options that `gradient_flow` lacks.

    Example:
        >>> import numpy as np, linflow as lf
        >>> f = lf.MatrixFactorization(np.eye(2))
        >>> runs = lf.gradient_flow_many(f, [lf.init.gaussian((2, 8, 2), rng=i) for i in range(3)], until=1e-6)
        >>> [run.result.value for run in runs]
        ['target reached', 'target reached', 'target reached']
    """
    networks = list(networks)
    objectives = [objective] * len(networks) if isinstance(objective, Objective) else list(objective)
    if len(objectives) != len(networks):
        raise ValueError(
            f"{plural(len(objectives), 'objective', 'are')} given for {plural(len(networks), 'network')}; give one "
            "objective for all, or one for each network."
        )
    count = os.cpu_count() or 1 if workers is None else checks.count(workers, "workers")
    unknown = set(options) - set(gradient_flow.__kwdefaults__ or {})
    if "stopped" in options:
        raise TypeError("stopped does not work for many runs at once: Ctrl-C ends them all; leave it out.")
    if unknown:
        raise TypeError(f"{', '.join(sorted(unknown))}: gradient_flow has no such option.")
    results: list[Trajectory | Failure | None] = [None] * len(networks)
    stop, begun = Event(), [False] * len(networks)
    ended = [Event() for _ in networks]

    def run(index: int) -> None:
        begun[index] = True
        if stop.is_set():  # checked after `begun` is set: the run is waited for, or does nothing
            ended[index].set()
            return
        try:
            results[index] = gradient_flow(objectives[index], networks[index], stopped=stop.is_set, **options)
        except Interrupted as interrupted:
            results[index] = interrupted.run
        except Exception as error:
            results[index] = Failure(index, type(error).__name__, str(error))
        finally:
            ended[index].set()

    with one_thread(), ThreadPoolExecutor(min(count, max(len(networks), 1))) as pool:
        try:
            futures = [pool.submit(run, index) for index in range(len(networks))]
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                if progress is not None:
                    progress(done / len(networks))
        except BaseException as error:
            stop.set()
            pool.shutdown(cancel_futures=True)
            # The pool does not know, and does not wait for, a thread that had only just started when Ctrl-C came.
            for started, end in zip(begun, ended, strict=True):
                if started:
                    end.wait()
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted(results) from None
            raise
    return [result for result in results if result is not None]
