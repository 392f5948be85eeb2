"""A pytest plugin that collects once, makes each error in a forked process, and runs the tests that reach it there.

No module is imported again: the code of the live function is exchanged (`__code__`), or the constant rebound.
"""

from __future__ import annotations

import ast
import gc
import importlib
import json
import math
import os
import pickle
import signal
import sys
import tempfile
import time
import types
from contextlib import suppress
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

from tests.mutants.changes import Mutant, mutants

SEEN, UNSEEN, UNREACHED, BROKEN = 1, 0, 3, 4
WALL = 600
"""Seconds after which a process that waits for something that never comes is ended, and counts as seen."""


def pytest_addoption(parser):
    parser.addoption("--mutate", help="the module, dotted")
    parser.addoption("--mutants-out", help="the file for what is found")
    parser.addoption("--mutants-workers", type=int, default=2)
    parser.addoption("--mutants-leave", help="a file with the errors to leave out: [function, text] each")
    parser.addoption("--mutants-every", type=int, default=1)
    parser.addoption("--mutants-longest", type=float, default=math.inf)


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    """Let hypothesis stop at the first failure, and draw the same examples each time."""
    from hypothesis import Phase, settings

    settings.register_profile(
        "mutants", settings.default, phases=[Phase.explicit, Phase.generate], database=None, derandomize=True
    )
    settings.load_profile("mutants")


def pytest_runtestloop(session):
    config = session.config
    if session.testsfailed:
        raise session.Interrupted("the tests cannot be collected")
    module = importlib.import_module(config.getoption("--mutate"))
    source = Path(module.__file__)
    tree = ast.parse(source.read_text(encoding="utf-8"))
    every = config.getoption("--mutants-every")
    left = {tuple(pair) for pair in json.loads(Path(config.getoption("--mutants-leave")).read_text(encoding="utf-8"))}
    chosen = [m for m in list(mutants(tree))[::every] if (m.function, m.text) not in left]
    reached = _baseline(session.items, str(source))
    session.items[:] = [i for i in session.items if reached[i.nodeid][0] <= config.getoption("--mutants-longest")]
    live = functions_of(module.__file__)
    gc.freeze()  # what is there already is not collected in a child, whose pages it would copy
    results, waiting = [], list(enumerate(chosen))[::-1]
    running: dict[int, int] = {}
    while waiting or running:
        while waiting and len(running) < config.getoption("--mutants-workers"):
            k, mutant = waiting.pop()
            items = _reaching(mutant, session.items, reached)
            if not items:
                results.append((k, UNREACHED))
                continue
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                _child(mutant, items, tree, module, live, [reached[i.nodeid][0] for i in items])
            running[pid] = k
        if running:
            pid, status = os.wait()
            k = running.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            results.append((k, code))
    found = [
        {"line": chosen[k].line, "function": chosen[k].function, "mutant": chosen[k].text, "code": code}
        for k, code in sorted(results)
    ]
    Path(config.getoption("--mutants-out")).write_text(json.dumps(found), encoding="utf-8")
    return True


def _baseline(items, source: str) -> dict[str, tuple[float, set[int]]]:
    """Run all tests as they are, in a process of their own; return their times and the lines they reach.

    What they import is imported here afterwards, once, and not again for each error.
    """
    with tempfile.NamedTemporaryFile(delete=False) as file:
        pid = os.fork()
        if pid == 0:
            found, failed = {}, []
            lines: set[int] = set()

            def local(frame, event, arg):
                lines.add(frame.f_lineno)
                return local

            def trace(frame, event, arg):
                if frame.f_code.co_filename == source:
                    lines.add(frame.f_lineno)
                    return local
                return None

            for item in items:
                lines.clear()
                start = time.process_time()
                sys.settrace(trace)
                reports = runtestprotocol(item, log=False, nextitem=None)
                sys.settrace(None)
                found[item.nodeid] = (time.process_time() - start, set(lines))
                failed += [(r.nodeid, r.longreprtext) for r in reports if r.failed]
            file.write(pickle.dumps((found, failed, [*sys.modules])))
            file.flush()
            os._exit(0)
        os.waitpid(pid, 0)
    found, failed, imported = pickle.loads(Path(file.name).read_bytes())
    os.unlink(file.name)
    if failed:
        raise pytest.UsageError("tests fail without any error made: " + "\n".join("\n".join(f) for f in failed))
    for name in imported:
        with suppress(Exception):  # some are made up by others, and no files
            importlib.import_module(name)
    return found


def _reaching(mutant: Mutant, items, reached) -> list:
    """Return the tests that reach the statement, the quickest first; for a constant those that reach the module."""
    lines = set(range(mutant.first, mutant.last + 1))
    of_function = mutant.outer is not None
    hit = [i for i in items if (reached[i.nodeid][1] & lines if of_function else reached[i.nodeid][1])]
    return sorted(hit, key=lambda item: reached[item.nodeid][0])


def _child(mutant: Mutant, items, tree, module, live: dict, seconds: list[float]) -> None:
    """Make the error, run the tests, and end the process with what came of it."""
    signal.setitimer(signal.ITIMER_REAL, WALL + 100 * sum(seconds))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        if not _install(mutant, tree, module, live):
            os._exit(BROKEN)
    except BaseException:
        os._exit(BROKEN if mutant.outer is not None else SEEN)  # a module that cannot be imported is seen
    code = UNSEEN
    try:
        for item, once in zip(items, seconds, strict=True):
            # By CPU time, so that a busy machine decides nothing: an endless loop is an error that shows.
            signal.setitimer(signal.ITIMER_PROF, 3 + 10 * once)
            if any(report.failed for report in runtestprotocol(item, log=False, nextitem=None)):
                code = SEEN
                break
    except BaseException:
        code = SEEN
    os._exit(code)


def _install(mutant: Mutant, tree, module, live: dict) -> bool:
    before = _codes(compile(tree, module.__file__, "exec"))
    mutant.make()
    if mutant.outer is None:
        return _rebind(mutant, tree, module)
    after = _codes(compile(ast.fix_missing_locations(tree), module.__file__, "exec"))
    done = False
    for old, new in zip(before, after, strict=True):
        for function in live.get(old, []) if old != new else []:
            function.__code__ = new
            done = True
    return done


def _codes(code) -> list:
    """Return all code objects inside one."""
    found = []
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            found += [const, *_codes(const)]
    return found


def functions_of(file: str) -> dict:
    """Return the functions of a file by their code."""
    gc.unfreeze()  # the collector does not list what is frozen, as all that was collected is
    live: dict = {}
    for thing in gc.get_objects():
        if type(thing) is types.FunctionType and thing.__code__.co_filename == file:
            live.setdefault(thing.__code__, []).append(thing)
    return live


def _rebind(mutant: Mutant, tree, module) -> bool:
    """Give a constant of the module its wrong value wherever it was imported to."""
    for statement in tree.body:
        if statement.lineno == mutant.first and isinstance(statement, (ast.Assign, ast.AnnAssign)):
            scope = dict(vars(module))
            exec(compile(ast.fix_missing_locations(ast.Module([statement], [])), module.__file__, "exec"), scope)
            changed = {n: v for n, v in scope.items() if n != "__builtins__" and vars(module).get(n) is not v}
            for other in list(sys.modules.values()):
                if getattr(other, "__name__", "").startswith(("linflow", "tests")) and other is not module:
                    for name, value in changed.items():
                        if name in vars(other) and vars(other)[name] is vars(module)[name]:
                            setattr(other, name, value)
            vars(module).update(changed)
            return bool(changed)
    return False
