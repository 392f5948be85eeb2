"""The core works without the optional packages, and each one that is missing is a line that says what to install."""

import subprocess
import sys
import tomllib
from pathlib import Path

from linflow._support.extras import EXTRAS, explained, install

ROOT = Path(__file__).parents[2]
MISSING = ("numba", "llvmlite", "xarray", "h5netcdf", "h5py", "pyarrow", "safetensors", "distributed")
PRELUDE = f"""
import sys
for name in {MISSING!r}:
    sys.modules[name] = None
import numpy as np, linflow as lf
f, net = lf.MatrixFactorization(np.eye(3)), lf.init.gaussian((3, 5, 3), rng=0)
"""


def without(program: str) -> subprocess.CompletedProcess:
    code = PRELUDE + program
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_core_certifies_runs_proves_and_draws():
    done = without(
        "run = lf.gradient_flow(f, net, until=1e-6)\n"
        "print(lf.certify(f, net).check(run).holds, lf.enclose(f, net).result, run.notes)\n"
        "lf.plots.convergence(run); lf.cite('min2023'); lf.design(f, (3, 6, 3), rate=1.0)\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("True target proved")
    assert "pip install 'linflow[fast]'" in done.stdout  # the note of the plain loop


def test_a_missing_package_is_a_line_that_says_what_to_install():
    programs = {
        "lf.gradient_flow(f, net).save('a.nc')": "files",
        "lf.files.save_weights(net, 'w.safetensors')": "files",
        "lf.files.write_table({'a': [1]}, 't.parquet')": "files",
        "lf.sweep({})": "files",
        "lf.gradient_flow(f, net, engine='compiled')": "fast",
    }
    tried = "try:\n    {}\nexcept (ImportError, ValueError) as error:\n    print(error)\n"
    done = without("".join(map(tried.format, programs)))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(programs)
    for line, extra in zip(lines, programs.values(), strict=True):
        assert f"pip install 'linflow[{extra}]'" in line


def test_every_extra_that_is_named_exists_and_brings_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    names = {"sklearn": "scikit-learn", "llvmlite": "numba", "dask": "distributed", "pytorch_lightning": "lightning"}
    for package, extra in EXTRAS.items():
        assert any(line.startswith(names.get(package, package)) for line in extras[extra]), package
        assert not any(line.startswith(names.get(package, package)) for line in project["dependencies"]), package
    assert set(extras) >= {"fast", "files", "sweep", "reproduce", "torch", "monitor", "all", "test", "dev"}


def test_other_packages_and_errors_keep_their_names():
    assert install("peft") == "pip install peft"
    assert explained(ImportError("a\n  b")) == "a b"
    assert (
        explained(ModuleNotFoundError("No module named 'linflow.x'", name="linflow.x"))
        == "No module named 'linflow.x'"
    )
