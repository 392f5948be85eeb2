"""Damaged files, odd command lines and extreme numbers, by the thousand: `make attack`.

    python -m tests.attack --instances 20000 --seed 0 --workers 2

Allowed ends are an answer, a note, and an error of one line. Everything else is a violation: another exception, a
line that acts on a terminal, more than a few warnings, memory or processor time beyond the limits, and above all a
certificate whose check fails on its own run. Prints what was seen and exits with 1 if anything was violated.
"""

from __future__ import annotations

import functools
import io
import os
import re
import resource
import signal
import sys
import tempfile
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import linflow as lf
from linflow import files
from tests.campaign import main

BLOCK = 100
MEMORY = 3 * 2**30
"""Bytes that an attack may take beyond what the process has at its start."""
SECONDS = 30.0
"""Processor time that an attack may take."""
LIMIT = 2**24
"""The limit with which files are read."""
WARNINGS = 20
LONGEST = 3000
ACTS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


class TooLong(BaseException):
    """An attack took more processor time than allowed."""


@contextmanager
def bounded() -> Iterator[None]:
    """Limit the memory and the processor time of what runs inside."""

    def late(*_: Any) -> None:
        raise TooLong

    taken = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, before[1]))
    # The timer is heard by Python alone. A library that goes on for ever ends the process.
    processor = resource.getrlimit(resource.RLIMIT_CPU)
    most = int(sum(os.times()[:2]) + SECONDS + 60)
    resource.setrlimit(resource.RLIMIT_CPU, (most, processor[1]))
    handler = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)
        resource.setrlimit(resource.RLIMIT_CPU, processor)


# Files

BYTES = (
    b"\0",
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\xff" * 8,
    b"\x1b[2J",
    b"1e999",
    b"nan",
    b"-0",
    b'"',
    b"[" * 40,
    b"\n",
    b",",
)


def changed(content: bytes, rng: np.random.Generator) -> bytes:
    """Return content with a few places flipped, cut out, repeated or written over."""
    found = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(len(found) + 1))
        span = int(rng.integers(1, 40))
        kind = rng.integers(6)
        if kind == 0 and at < len(found):
            found[at] ^= 1 << int(rng.integers(8))
        elif kind == 1 and at < len(found):
            found[at] = int(rng.integers(256))
        elif kind == 2:
            del found[at : at + span]
        elif kind == 3:
            found[at:at] = found[at : at + span] * int(rng.integers(1, 50))
        elif kind == 4:
            some = BYTES[rng.integers(len(BYTES))]
            found[at : at + len(some) * int(rng.integers(2))] = some
        elif rng.random() < 0.2:
            del found[at:]
    return bytes(found)


def changed_member(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a zip archive with one member changed, and the checksum that belongs to it."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(made, "w") as target:
        chosen = rng.integers(len(source.infolist()))
        for i, info in enumerate(source.infolist()):
            whole = source.read(info)
            target.writestr(info.filename, changed(whole, rng) if i == chosen else whole)
    return made.getvalue()


def _experiment(path: Path) -> Any:
    from linflow.experiments.schema import experiment

    return experiment(path)


def _grid(path: Path) -> Any:
    from linflow.sweeps import read_grid

    return read_grid(path).ids


READERS: dict[str, tuple[Callable[..., Any], ...]] = {
    "m.csv": (files.read_matrix, files.read_table),
    "m.tsv": (files.read_matrix,),
    "m.txt": (files.read_matrix,),
    "m.npy": (files.read_matrix,),
    "w.npz": (files.load_weights, files.read_matrix),
    "m.parquet": (files.read_matrix, files.read_table),
    "t.parquet": (files.read_table,),
    "w.safetensors": (files.load_weights,),
    "w.pt": (files.load_weights,),
    "run.nc": (files.load, files.load_settings),
    "e.toml": (_experiment,),
    "g.toml": (_grid,),
}
"""For each file, what reads it."""
UNLIMITED = (files.load_settings, _experiment, _grid)


@functools.cache
def originals() -> dict[str, bytes]:
    """Return a small file of each kind."""
    import torch

    layers = [np.arange(6.0).reshape(3, 2), np.ones((2, 4))]
    words = [f"word {i % 3}" for i in range(30)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for end, mark in (("csv", ","), ("tsv", "\t"), ("txt", " ")):
            text = "\n".join(mark.join(map(str, row)) for row in np.arange(12.0).reshape(4, 3) / 7)
            (folder / f"m.{end}").write_text(f"a{mark}b{mark}c\n{text}\n", encoding="utf-8")
        np.save(folder / "m.npy", layers[0])
        files.save_weights(layers, folder / "w.npz")
        files.save_weights(layers, folder / "w.safetensors")
        torch.save({f"W{l}": torch.tensor(W) for l, W in enumerate(layers, 1)}, folder / "w.pt")
        files.write_table({"a": np.arange(30.0), "b": np.arange(30)}, folder / "m.parquet")
        files.write_table({"s": words, "l": [words[: i % 4] for i in range(30)]}, folder / "t.parquet")
        f = lf.MatrixFactorization(np.eye(2))
        lf.gradient_flow(f, [np.eye(2) / 2] * 2, until=0.1, engine="plain").save(folder / "run.nc")
        (folder / "e.toml").write_text(
            'algorithm = "flow"\n[data]\ntarget = "Y.npy"\n[start]\ninit = "ntk"\nhidden = [4, 4]\nseed = 1\n'
            "[flow]\nuntil = 1e-6\n",
            encoding="utf-8",
        )
        (folder / "g.toml").write_text(
            '[data]\ntarget = "Y.npy"\n[grid]\nwidth = { log = [10, 100, 3] }\n"start.init" = ["ntk", "fan_in"]\n'
            "seeds = 3\n[sweep]\ncheck = true\n",
            encoding="utf-8",
        )
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def attack_file(rng: np.random.Generator) -> tuple[str, str]:
    """Read a changed file. Return what was done and how it ended."""
    name = list(READERS)[rng.integers(len(READERS))]
    content = originals()[name]
    inside = name in ("w.npz", "w.pt") and rng.random() < 0.7
    content = (changed_member if inside else changed)(content, rng)
    read = READERS[name][rng.integers(len(READERS[name]))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            read(path, **({} if read in UNLIMITED else {"limit": LIMIT}))
        except (ValueError, OSError) as error:
            return f"{name} of {content!r:.2000}", _one_line(str(error))
    return name, "read"


# Command lines

NUMBERS = (
    "0",
    "1",
    "4",
    "-1",
    "1e-20",
    "1e-300",
    "1e308",
    "1e999",
    "nan",
    "inf",
    "",
    " ",
    "9" * 30,
    "0x10",
    "1_0",
    "٣",
    "1e-3",
)
WIDTHS = ("4", "1", "0", "4,4", "2,3,2", "4,", ",", "1e3", "-4", "9" * 25, "4;4", "4," * 40 + "4")
WORDS = ("flow", "descent", "ntk", "spectral", "\x1b[2J", "Y.npy", "no.csv", "é", "..", "-", "--", "a" * 300, "safe")
_WORD_OPTIONS = "init algorithm target x weights schedule objective layers record table save"
_NUMBER_OPTIONS = "size seed until t-max rtol max-steps step-size scale rate within steps"
OPTIONS = {
    "--hidden": WIDTHS,
    **{f"--{name}": WORDS for name in _WORD_OPTIONS.split()},
    **{f"--{name}": NUMBERS for name in _NUMBER_OPTIONS.split()},
}
COMMANDS = ("certify", "simulate", "design", "certify", "simulate", "audit", "cite", "sweep", "reproduce")


def attack_line(rng: np.random.Generator) -> tuple[str, str]:
    """Run a command line. Return it and how it ended."""
    from typer.testing import CliRunner

    from linflow.cli import app

    command = COMMANDS[rng.integers(len(COMMANDS))]
    given = [command]
    if command in ("certify", "simulate", "design"):
        given += ["--target", "Y.npy", "--hidden", "4", "--until", "0.1", "--max-steps", "200"][
            : 2 * rng.integers(1, 5)
        ]
        for _ in range(int(rng.integers(0, 4))):
            option = list(OPTIONS)[rng.integers(len(OPTIONS))]
            given += [option, OPTIONS[option][rng.integers(len(OPTIONS[option]))]]
    else:
        some = (*WORDS, "status", "plot", "report", "--list", "--set", "--out", "--json", "e.toml")
        given += ["--list"] if command == "reproduce" else []  # figures take minutes
        given += [some[rng.integers(len(some))] for _ in range(int(rng.integers(1, 3)))]
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            np.save("Y.npy", np.diag([2.0, 1.0]))
            result = CliRunner().invoke(app, given, color=True)
        finally:
            os.chdir(before)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code not in (0, 1, 2):
        raise AssertionError(f"exit code {result.exit_code}")
    if ACTS.search(result.output):
        raise AssertionError(f"the output acts on a terminal: {result.output!r:.300}")
    if result.exit_code == 2 and result.stderr:
        _one_line(result.stderr.rstrip("\n"))
    return " ".join(given), f"exit code {result.exit_code}"


# Numbers

POWERS = (0.0, 0.0, 0.0, -1.0, 1.0, -10.0, 10.0, -100.0, 100.0, -154.0, 150.0, -300.0, 300.0, -320.0)
RUN = 200
"""The most steps of a run."""


def attack_numbers(rng: np.random.Generator) -> tuple[str, str]:
    """Certify a start of extreme numbers, run it and check it. Return the start and how it ended."""
    depth = int(rng.choice([1, 2, 2, 2, 3, 4, 8, 30]))
    widths = [int(w) for w in rng.integers(1, 5, depth + 1)]
    powers = (
        [POWERS[rng.integers(len(POWERS))] for _ in range(depth + 1)] if rng.random() < 0.5 else [0.0] * (depth + 1)
    )
    with np.errstate(all="ignore"):
        weights = [
            odd(rng.standard_normal((a, b)) * 10.0**p, rng)
            for a, b, p in zip(widths[:-1], widths[1:], powers[1:], strict=True)
        ]
        Y = odd(rng.standard_normal((widths[0], widths[-1])) * 10.0 ** powers[0], rng)
    eta = float(10.0 ** rng.choice([-300.0, -20.0, -3.0, -2.0, -1.0, 0.0, 10.0, 300.0]))
    how = {"algorithm": "descent", "step_size": eta} if rng.random() < 0.4 else {}
    told = f"widths {widths}, powers {powers}, {how}, Y {Y!r:.300}, weights {weights!r:.600}"
    try:
        f = lf.MatrixFactorization(Y)
        cert = lf.certify(f, weights, **how)
        _one_line(repr(cert))
        str(cert)
        cert.time_to(1e-6)
        cert.to_dict()
        if how:
            run = lf.gradient_descent(f, weights, step_size=eta, steps=RUN, until=1e-3)
        else:
            run = lf.gradient_flow(f, weights, until=1e-3, max_steps=RUN, engine="plain")
        holds = cert.check(run).holds
    except (ValueError, TypeError) as error:
        return told, _one_line(str(error))
    if not holds:
        raise AssertionError(f"a certificate fails on its own run: {cert.check(run)}")
    return told, "certified" if cert.best else "not certified"


def odd(x: np.ndarray, rng: np.random.Generator) -> Any:
    """Return an array in another layout, and now and then something that is no matrix of numbers."""
    kind = rng.integers(40)
    if kind < 30:
        return x
    others: dict[int, Callable[[np.ndarray], Any]] = {
        30: np.asfortranarray,
        31: lambda x: x.astype(">f8"),
        32: lambda x: x[::-1],
        33: lambda x: x.astype(np.float32),
        34: lambda x: np.round(x).clip(-9, 9).astype(np.int8),
        35: np.zeros_like,
        36: lambda x: x * np.nan,
        37: lambda x: x[:0],
        38: lambda x: x.sum(),
        39: lambda x: x.tolist(),
    }
    made = others[int(kind)](x)
    if isinstance(made, np.ndarray):
        made.setflags(write=False)
    return made


# All


def _one_line(text: str) -> str:
    """Return "an error of one line", or raise if it is none."""
    if "\n" in text or len(text) > LONGEST or ACTS.search(text.replace("\\", "")):
        raise AssertionError(f"not one line that can be read: {text!r:.300}")
    return "an error of one line"


ATTACKS = {"file": attack_file, "line": attack_line, "numbers": attack_numbers}
SHARES = (0.5, 0.15, 0.35)


def instance(rng: np.random.Generator) -> tuple[str, str, str | None]:
    """Return the kind of an attack, how it ended, and what was violated (None if nothing)."""
    kind = list(ATTACKS)[rng.choice(len(SHARES), p=SHARES)]
    state = rng.bit_generator.state
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            with bounded():
                told, ended = ATTACKS[kind](rng)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            place = "".join(traceback.format_tb(error.__traceback__)[-2:]).strip()
            return kind, "violation", f"{kind}: {type(error).__name__}: {error!s:.500}\n{place}\nstate {state}"
    if len(said) > WARNINGS:
        return kind, "violation", f"{kind}: {len(said)} warnings, such as {said[0].message}; {told}"
    return kind, ended, None


def made_by_hand() -> tuple[Counter, list[str]]:
    """Read the hostile files that were made by hand. Return their number, and which were read, in words."""
    from tests.hostile_files import hostile_files  # its tables take a second

    violations, count = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for count, (name, path, read) in enumerate(hostile_files(Path(folder)), 1):  # noqa: B007
            try:
                with bounded():
                    read(path)
                violations.append(f"{name}: it was read")
            except (ValueError, OSError) as error:
                _one_line(str(error))
    return Counter({"file made by hand: an error of one line": count - len(violations)}), violations


def block(seed: int, first: int, count: int) -> tuple[Counter, list[str]]:
    """Return the counts of some attacks, and the violations in words."""
    rng = np.random.default_rng((seed, first // BLOCK))
    originals()
    seen, violations = made_by_hand() if first == 0 else (Counter(), [])
    for k in range(count):
        kind, ended, violated = instance(rng)
        seen[f"{kind}: {ended}"] += 1
        if violated:
            violations.append(f"block {first // BLOCK} instance {k}: {violated}")
    return seen, violations


if __name__ == "__main__":
    sys.exit(main("Damaged files, odd command lines and extreme numbers.", block, BLOCK, 20_000))
