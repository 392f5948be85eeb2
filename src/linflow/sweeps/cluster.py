"""What is installed on a Dask cluster, against this machine. Rows of different versions must not mix in one table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from linflow._support.paths import one_line
from linflow._support.provenance import PACKAGES, software
from linflow.sweeps.cells import Answer, Task, run_task

COMPARED = ("linflow", *PACKAGES)
"""The packages whose versions must be the same."""
QUESTION = "__import__('linflow._support.provenance', fromlist=['software']).software()"
"""Asked by `eval`, which every Python has. A function of linflow would end a worker that cannot import linflow."""


class OtherVersions(Exception):  # noqa: N818 - what a worker answers, not a mistake
    """A worker has other versions than the machine that runs the sweep."""


def run_checked(task: Task, versions: Mapping[str, str]) -> Answer:
    """Compute the cells of a task, on a worker with the versions of the machine that runs the sweep.

    Raises:
        OtherVersions: this worker has others. It may have joined after the sweep began.
    """
    if (found := _differing(software(), versions)) is not None:
        raise OtherVersions(f"it has {found}")
    return run_task(task)


def compared(client: Any, workers: Iterable[str], versions: Mapping[str, str]) -> tuple[set[str], list[str]]:
    """Compare the versions of workers, before they get work.

    Args:
        client: the client of the cluster.
        workers: the addresses of the workers.
        versions: what this machine has.

    Returns:
        The workers that answered, and sentences on what differs and changes no number.

    Raises:
        OSError: a worker cannot import linflow, or has another version of a package that numbers depend on.
    """
    answers = client.run(eval, QUESTION, workers=[*workers], on_error="return")
    notes = []
    for worker, found in answers.items():
        if isinstance(found, OSError):  # it is gone
            continue
        if isinstance(found, Exception):
            raise OSError(
                f"the worker {worker} cannot import linflow ({one_line(found)}). Install version "
                f"{versions['linflow']} there: pip install 'linflow[sweep]=={versions['linflow']}'; the same command "
                "then continues the sweep."
            )
        if (other := _differing(found, versions)) is not None:
            raise OSError(refusal(worker, f"it has {other}"))
        if found.get("python") != versions["python"]:
            notes.append(f"the worker {worker} runs Python {found.get('python')}, this machine {versions['python']}")
    return {worker for worker, found in answers.items() if not isinstance(found, OSError)}, notes


def refusal(worker: str, reason: str) -> str:
    """Return a sentence that refuses a worker."""
    return (
        f"the worker {worker} was refused: {reason}. Rows of both in one table could not be compared. Install the "
        "same versions there, or stop that worker; the same command then continues the sweep."
    )


def check_scheduler(client: Any, address: str) -> None:
    """Raise OSError if the scheduler cannot import linflow, which it needs to read tasks."""
    try:
        client.run_on_scheduler(eval, QUESTION)
    except ImportError as error:
        raise OSError(
            f"the Dask scheduler at {address} cannot import linflow ({one_line(error)}), and needs it to hand out "
            "cells: pip install 'linflow[sweep]' there."
        ) from None


def _differing(found: Mapping[str, str], versions: Mapping[str, str]) -> str | None:
    """Return the first package of which another version was found, with both versions; None if there is none."""
    for name in COMPARED:
        if found.get(name) != versions[name]:
            return f"{name} {found.get(name, 'of an unknown version')}, and this machine has {versions[name]}"
    return None
