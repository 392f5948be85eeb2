"""The examples run as scripts, keep what they claim, and write their figures."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import PATIENCE

EXAMPLES = Path(__file__).parents[2] / "examples"
FIGURES = {
    "deep_linear_autoencoder": {
        "deep_linear_autoencoder.csv",
        "deep_linear_autoencoder_monitor.png",
        "deep_linear_autoencoder_steps.png",
    },
    "lora_on_minilm": {"lora_on_minilm.png"},
    "talk_in_ten_minutes": {"phase_plane.png", "certificate.png", "init_map.png"},
    "slow_factorization": {"slow_factorization.png"},
    "width_and_step_size": {"width_and_step_size.png"},
}


def test_every_example_is_run():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(FIGURES)


NEEDS = {
    "deep_linear_autoencoder": ("torch",),
    "lora_on_minilm": ("torch", "peft", "transformers", "all_minilm_l6_v2"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FIGURES))
def test_example_keeps_its_claims(name, tmp_path):
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package, reason=f"{package} is not installed (CI installs it)")
    folder = tmp_path / "not" / "there"
    command = [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert {path.name for path in folder.iterdir()} == FIGURES[name]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.glob("*.png"))
