"""The lines of the README train a model, and every name has its place in the guides."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (CI installs it)")

import linflow.torch as lt  # noqa: E402 - after the check for PyTorch

ROOT = Path(__file__).parents[2]


def test_the_lines_of_the_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(import linflow\.torch as lt\n.*?)^```$", readme, re.DOTALL | re.MULTILINE)
    torch.manual_seed(0)
    X = torch.randn(40, 4)
    model = torch.nn.Sequential(*(torch.nn.Linear(4, 4, bias=False) for _ in range(3)))
    scope = {"X": X, "Y": X, "model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=1.0)}
    exec(compile(block, "README.md", "exec"), scope)
    gaps = []
    for _ in range(60):
        scope["optimizer"].zero_grad()
        loss = torch.nn.functional.mse_loss(model(X), X)
        loss.backward()
        scope["optimizer"].step()
        scope["scheduler"].step()
        gaps.append(loss.item())
    scope["monitor"].close()
    assert all(a > b for a, b in pairwise(gaps)) and not scope["monitor"].notes
    assert len((tmp_path / "run.csv").read_text().splitlines()) >= 2


def test_every_name_of_the_module_is_listed_and_documented():
    assert set(lt.__all__) <= set(dir(lt))
    guides = "".join((ROOT / "docs" / f"torch_{x}.md").read_text(encoding="utf-8") for x in ("audit", "training"))
    assert lt.__doc__ is not None
    for name in lt.__all__:
        if name != "MonitorCallback":  # needs Lightning
            assert getattr(lt, name).__doc__
        if name not in {
            "Adapter",
            "Alignment",
            "Audit",
            "ChainAudit",
            "Chain",
            "Found",
            "LoraReport",
            "LoraComparison",
        }:
            assert f"`{name}`" in lt.__doc__ or name in {"LocalSmoothness", "MonitorCallback"}, name
            assert name in guides or name == "find_chains", name
