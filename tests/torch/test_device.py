"""The training tools on a device as strict as a GPU about what may meet on it, where no GPU is present too."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import PATIENCE

pytest.importorskip("torch", reason="PyTorch is not installed (CI installs it)")

CHECKS = Path(__file__).parents[1] / "device_checks.py"


@pytest.mark.slow
def test_the_checks_pass_in_a_process_of_their_own():
    command = [sys.executable, "-m", "pytest", str(CHECKS), "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, check=False, cwd=CHECKS.parents[1]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= 25 and "skipped" not in done.stdout
