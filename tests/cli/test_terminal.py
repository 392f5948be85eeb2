"""What reaches the terminal: names of others cannot act on it, and any terminal can show what is printed."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

import linflow as lf
from linflow._support import words
from linflow.cli import _show, app
from tests.attack import ACTS

EVIL = "\x1b]0;mine\x07\x1b[2J\x9b1m\u202e"


@pytest.fixture
def linflow(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("Y.npy", np.diag([2.0, 1.0]))
    # With colours, the runner leaves escapes as they are, as on a terminal.
    return lambda *given: CliRunner().invoke(app, [str(word) for word in given], color=True)


@pytest.mark.parametrize(
    "given",
    [
        ("certify", "--target", f"{EVIL}.npy", "--hidden", "4"),
        ("certify", "--target", "Y.npy", "--hidden", EVIL),
        ("certify", "--target", "Y.npy", "--init", EVIL),
        ("certify", f"--{EVIL}", "1"),
        ("certify", f"{EVIL}.toml"),
        (f"certify{EVIL}",),
        ("reproduce", EVIL),
        ("reproduce", "--set", f"{EVIL}=1"),
        ("reproduce", "--out", EVIL, "--seed", "x"),
        ("sweep", f"{EVIL}.toml", "--out", "x"),
        ("sweep", "status", EVIL),
        ("sweep", "plot", "x", "--x", EVIL),
        ("audit", f"{EVIL}.pt"),
        ("cite", EVIL),
    ],
)
def test_options_and_paths(linflow, given):
    result = linflow(*given)
    assert result.exit_code == 2
    assert result.stderr.startswith("linflow: ")
    assert not ACTS.search(result.output)


def test_keys_and_names_in_files(linflow):
    from safetensors.numpy import save_file

    escaped = EVIL.encode("unicode_escape").decode().replace("\\x", "\\u00")
    texts = (f'"{escaped}" = 1\n', f'[start]\n"{escaped}" = 1\n', f'[data]\ntarget = "{escaped}"\n')
    for name, text in (
        *(("k.toml", text) for text in texts),
        (f"{EVIL}k.toml", "x = ]\n"),
        ("k.toml", f"{EVIL[0]} ="),
    ):
        with open(name, "w", encoding="utf-8") as file:
            file.write(text)
        result = linflow("certify", name)
        assert (result.exit_code, ACTS.search(result.output)) == (2, None), result.output
    save_file(
        {f"a{EVIL}.0.weight": np.eye(3), f"a{EVIL}.1.weight": np.eye(3), f"{EVIL}.bias": np.ones(3)}, "w.safetensors"
    )
    for given in (
        ("audit", "w.safetensors"),
        ("audit", "w.safetensors", "--json"),
        ("audit", "w.safetensors", "--chain", f"{EVIL},b"),
        ("certify", "--target", "Y.npy", "--weights", "w.safetensors"),
        ("certify", "--target", "Y.npy", "--weights", "w.safetensors", "--layers", f"a{EVIL}.0.weight"),
    ):
        assert not ACTS.search(linflow(*given).output), given
    assert not ACTS.search(str(__import__("linflow.torch", fromlist=["audit_file"]).audit_file("w.safetensors")))


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (("simulate", "--hidden", "4", "--max-steps", "9" * 20, "--until", "0.1"), "target reached"),
        (("simulate", "--hidden", "4", "--algorithm", "descent", "--steps", "9" * 20, "--until", "0.1"), "target"),
        (("certify", "--hidden", "4", "--algorithm", "descent", "--step-size", "1e-20"), "gradient descent"),
        (("certify", "--hidden", "9" * 400), "take over 10\\^300 bytes"),
        (("certify", "--hidden", "9" * 5000), "whole numbers separated by commas"),
        (("certify", "--hidden", ",".join("2" * 5000)), "the hidden widths multiply to over"),
        (("certify", "--hidden", ",".join("2" * 20_000)), "has 20000 widths; fewer than 10000"),
    ],
)
def test_numbers_that_nobody_means_are_no_tracebacks(linflow, given, match):
    result = linflow(given[0], "--target", "Y.npy", *given[1:])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert re.search(match, result.output)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_any_terminal_can_show_a_certificate(encoding):
    script = """
import numpy as np, linflow as lf
f, net = lf.MatrixFactorization(np.eye(2)), [np.eye(2) / 2] * 2
print(lf.certify(f, net)); print(lf.certify(f, net, algorithm="descent", step_size=0.1))
print(lf.certify(f, net).check(lf.gradient_flow(f, net, until=0.1, engine="plain")))
"""
    env = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run([sys.executable, "-c", script], env=env, check=True, capture_output=True).stdout
    assert "gamma = 2" in out.decode(encoding)


def test_an_encoding_that_is_unknown_is_no_error():
    assert words._encodable("σ", "no encoding") == "sigma"
    assert words._encodable("σ", "utf-8") == "σ"
    assert "γ" in str(lf.certify(lf.MatrixFactorization(np.eye(2)), [np.eye(2)]))


@pytest.mark.parametrize(
    ("option", "name", "package"),
    [
        ("--table", "run.parquet", "pyarrow"),
        ("--table", "run.csv", "pyarrow"),
        ("--save", "run.nc", "xarray"),
    ],
)
def test_a_missing_package_is_reported_before_the_work(linflow, option, name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("linflow.experiments.setup.Setup.run", lambda *args, **options: pytest.fail("it was run"))
    result = linflow("simulate", "--target", "Y.npy", "--hidden", "4", option, name)
    assert (result.exit_code, f"needs the package {package}" in result.stderr) == (2, True), result.output
    assert {*_show._NEEDS} >= {".nc", ".parquet", ".csv", ".safetensors"}
