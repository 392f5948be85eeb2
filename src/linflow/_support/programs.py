"""Compiled programs kept on disk, so that a machine compiles them only once, whichever process comes first."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from numba import njit
from numba.core.compiler import Compiler

from linflow._support.code_files import CodeFiles
from linflow._support.interpreter import environment, is_python, python
from linflow._support.turns import in_turn

Program = tuple[Any, tuple[Any, ...]]
"""A compiled function and the types of its arguments."""
PATIENCE = 600.0
"""Seconds that a process waits for another one that compiles."""


class _NotKept(Exception):  # noqa: N818 - not an error: the program is compiled then
    pass


_compiling = ContextVar("compiling", default=True)


class _Compiler(Compiler):
    """The compiler of numba, called only for programs that are not on the disk."""

    def define_pipelines(self) -> Any:
        if not _compiling.get():
            raise _NotKept
        return super().define_pipelines()


_compiled: Any = njit(nogil=True, error_model="numpy", fastmath=False, cache=True, pipeline_class=_Compiler)


def kept(function: Callable[..., Any]) -> Any:
    """Compile a function when it is called, and keep its code on disk.

    A function that uses code of other modules must close over their `fingerprint`.
    """
    made = _compiled(function)
    cache = made._cache
    stamp = cache._impl.locator.get_source_stamp()
    cache._cache_file = CodeFiles(cache._cache_path, cache._impl.filename_base, stamp)
    return made


def fingerprint(*modules: ModuleType) -> int:
    """Return a number that changes with the sources of these modules.

    A copy on disk counts as current by the size and the date of one file only; this number covers all sources.
    """
    sources = (Path(str(module.__file__)).read_bytes() for module in modules)
    return int(sha256(b"".join(sources)).hexdigest()[:15], 16)


def loaded(build: Callable[[], Sequence[Program]]) -> list[Any]:
    """Return the programs that a module's function builds, loaded from the disk or compiled."""
    found = build()
    try:
        load(found, compiling=False)
    except _NotKept:
        # Freshly compiled code and code from the disk are assembled differently and may round differently. So another
        # process compiles, and a first run gives the same numbers as all later ones. Several processes that begin
        # together take turns, and all but the first find what they need.
        cache = found[0][0]._cache
        with in_turn(Path(cache._cache_path) / f"{cache._impl.filename_base}.turn", PATIENCE):
            try:
                load(found, compiling=False)
            except _NotKept:
                _compile_in_another_process(build)
        try:
            load(found, compiling=False)
        except _NotKept:  # no other process can run, or nothing can be written
            load(found, compiling=True)
    return [program for program, _ in found]


def load(found: Sequence[Program], *, compiling: bool) -> None:
    """Load programs from the disk; compile missing ones only if `compiling`."""
    before = _compiling.set(compiling)
    try:
        for program, arguments in found:
            program.compile(arguments)
    finally:
        _compiling.reset(before)


def _compile_in_another_process(build: Callable[[], Sequence[Program]]) -> None:
    """Let another process of this Python compile the programs and keep them on disk."""
    if not is_python():
        return
    name = build.__name__
    command = f"from {__name__} import load; from {build.__module__} import {name}; load({name}(), compiling=True)"
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            python("-c", command),
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=PATIENCE,
        )
