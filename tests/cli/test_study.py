"""`linflow certify`, `simulate`, `design` and `analyze`, as a user types them."""

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys

import numpy as np
import pandas
import pyarrow.parquet
import pytest
import xarray
from rich.console import Console
from rich.progress import Progress
from typer.testing import CliRunner

import linflow as lf
from linflow.cli import app
from linflow.cli._show import _speed, columns
from linflow.pages.typesetting import typeset
from tests.waiting import PATIENCE, ended, waited


@pytest.fixture
def linflow(tmp_path, monkeypatch):
    """Runs the command line in a folder with data."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.savetxt("X.csv", rng.standard_normal((60, 5)), delimiter=",")
    np.save("T.npy", rng.standard_normal((60, 2)))
    np.savetxt("Y.csv", 0.1 * rng.standard_normal((6, 4)), delimiter=",")
    return lambda *arguments: CliRunner(env={"COLUMNS": "80"}).invoke(app, [str(a) for a in arguments])


REGRESSION = ("--x", "X.csv", "--y", "T.npy", "--hidden", "20")
TARGET = ("--target", "Y.csv", "--hidden", "12")


def objective():
    return lf.LinearRegression(lf.files.read_matrix("X.csv"), np.load("T.npy"))


def test_analyze_of_a_descent_states_its_step_and_its_steps(linflow, tmp_path, undrawn):
    descent = ("--algorithm", "descent", "--until", "1e-4")
    done = linflow("analyze", *TARGET, *descent, "--out", "there")
    net = lf.init.ntk((6, 12, 4), rng=0)
    f = lf.MatrixFactorization(lf.files.read_matrix("Y.csv"))
    cert = lf.certify(f, net, algorithm="descent")
    run = lf.gradient_descent(f, net, step_size=cert.step_size, steps=10_000, until=1e-4)
    said = " ".join(done.stdout.split())
    sure, taken = cert.steps_to(1e-4), run.stats.steps
    assert f"in {sure:,} steps of {cert.step_size:.4g} (descent, any depth); the run took {taken:,} steps" in said
    assert "steps to 1e-6" in said and "steps guaranteed taken" in said and "η" not in said
    assert f"0.0001 {sure} {taken}" in said
    content = json.loads((tmp_path / "there/analysis.json").read_text())
    assert content["certificate"]["step_size"] == content["run"]["step_size"] == cert.step_size
    assert content["certificate"]["steps_to"]["0.0001"] == sure
    assert content["run"]["steps_to"]["0.0001"] == taken
    page = re.sub(r"<[^>]+>", " ", (tmp_path / "there/index.html").read_text())
    assert "Steps to 10" in " ".join(page.split()) and "η × steps" not in page
    flow = linflow("analyze", *TARGET, "--until", "1e-4", "--out", "flow")
    assert "steps guaranteed" not in flow.stdout
    assert json.loads((tmp_path / "flow/analysis.json").read_text())["run"]["steps_to"] is None


def test_certify_is_the_library(linflow):
    result = linflow("certify", *REGRESSION, "--seed", 4)
    assert result.exit_code == 0, result.stderr
    cert = lf.certify(objective(), lf.init.ntk((5, 20, 2), rng=4))
    assert "(rigorous=True proves it)" in str(cert)  # which is an option on the command line
    assert result.stdout.startswith(str(cert).replace("(rigorous=True proves it)", "(--rigorous proves it)"))
    found = json.loads(linflow("certify", *REGRESSION, "--seed", 4, "--json").stdout)
    assert found["guarantees"] == json.loads(json.dumps(cert.to_dict()))["guarantees"]
    assert found["settings"]["start"]["hidden"] == [20]
    assert found["versions"]["numpy"] == np.__version__
    assert found["seed"] == 4


def test_certify_proves_its_rounding_when_asked(linflow):
    cert = lf.certify(objective(), lf.init.ntk((5, 20, 2), rng=4), rigorous=True)
    result = linflow("certify", *REGRESSION, "--seed", 4, "--rigorous")
    assert result.exit_code == (0 if cert.best else 1)
    assert result.stdout.startswith(str(cert).replace("rigorous=True", "--rigorous"))
    found = json.loads(linflow("certify", *REGRESSION, "--seed", 4, "--rigorous", "--json").stdout)
    assert found["rests_on"] == "float64 numbers, rounding included and proved"
    assert found["guarantees"] == json.loads(json.dumps(cert.to_dict()))["guarantees"]


def test_arrays_of_one_file_and_what_is_left_out_of_another(linflow, tmp_path):
    X = lf.files.read_matrix("X.csv")
    np.savez("data.npz", X=X, Y=np.load("T.npy"))
    from_one = linflow("certify", "--x", "data.npz:X", "--y", "data.npz:Y", "--hidden", "20", "--seed", 4)
    assert from_one.stdout == linflow("certify", *REGRESSION, "--seed", 4).stdout
    result = linflow("certify", "--x", "data.npz", "--y", "T.npy", "--hidden", "20")
    assert "or data.npz:X as its path" in result.stderr
    index = pandas.Index(np.arange(60) ** 2, name="when")
    pandas.DataFrame({f"x{j}": X[:, j] for j in range(5)}, index=index).to_parquet("X.parquet")
    told = "the index 'when' of pandas in 'X.parquet' was left out"
    again = ("--x", "X.parquet", "--y", "T.npy", "--hidden", "20", "--seed", 4)
    assert linflow("certify", *again).stdout.count(told) == 1
    assert linflow("simulate", *again, "--until", "1e-2").stdout.count(told) == 1
    assert told in json.loads(linflow("certify", *again, "--json").stdout)["notes"]


def test_landscape_is_the_library(linflow):
    weights = {"W1": np.diag([0.0, 2, 0]), "W2": np.diag([0.0, 1, 0])}
    np.savetxt("Z.csv", np.diag([3.0, 2, 1]), delimiter=",")
    np.savez("end.npz", **weights)
    done = linflow("landscape", "--target", "Z.csv", "--weights", "end.npz")
    found = lf.landscape(lf.MatrixFactorization(np.diag([3.0, 2, 1])), list(weights.values()))
    assert done.exit_code == 0 and done.stdout.strip() == str(found)
    told = json.loads(linflow("landscape", "--target", "Z.csv", "--weights", "end.npz", "--json").stdout)
    assert told["verdict"] == "strict saddle" and told["modes"] == [2] and told["least"] == found.least
    assert told["settings"]["data"]["target"] == "Z.csv"
    assert "not stationary" in linflow("landscape", *TARGET).stdout


@pytest.mark.parametrize(
    ("options", "made"),
    [
        (("powers",), lambda X, y: lf.LpRegression(X, y, 4)),
        (("powers", "--p", "3"), lambda X, y: lf.LpRegression(X, y, 3)),
        (("diagonal", "--init", "identity", "--size", "0.5"), lf.DiagonalRegression),
        (("circular", "--init", "identity", "--size", "0.5"), lf.CircularRegression),
    ],
)
def test_objectives_by_name(linflow, options, made):
    X, y = lf.files.read_matrix("X.csv"), np.load("T.npy")[:, :1]
    np.save("one.npy", y)
    f = made(X, y)
    width = f.shape[0]
    done = linflow("simulate", "--x", "X.csv", "--y", "one.npy", "--hidden", width, "--objective", *options,
                   "--until", "0.5", "--json")  # fmt: skip
    told = json.loads(done.stdout)
    assert done.exit_code == 0
    if "identity" in options:
        net = lf.init.identity((width, width, width), 0.5)
    else:
        net = lf.init.ntk((width, width, 1), rng=0)
    assert told["initial_gap"] == pytest.approx(f.gap(net.product()), rel=1e-12, abs=0)


def test_certify_says_when_there_is_nothing(linflow):
    result = linflow("certify", "--target", "Y.csv", "--init", "balanced", "--hidden", "12", "--size", "0.01")
    assert result.exit_code == 1


def test_certify_a_descent(linflow):
    result = linflow("certify", *REGRESSION, "--algorithm", "descent", "--step-size", "1e-4")
    assert result.exit_code == 0, result.stderr
    assert "gradient descent with step 0.0001" in result.stdout


def test_simulate_writes_what_it_is_asked(linflow, tmp_path):
    result = linflow(
        "simulate", *REGRESSION, "--until", "1e-8", "--save", "run.nc", "--table", "t.csv", "--plot", "p.svg"
    )
    assert result.exit_code == 0, result.stderr
    run = lf.load("run.nc")
    again = lf.gradient_flow(objective(), lf.init.ntk((5, 20, 2), rng=0), until=1e-8)
    assert np.array_equal(run.gap, again.gap)
    assert "target reached" in result.stdout
    assert [line for line in result.stdout.splitlines() if line.startswith("wrote")] == [
        "wrote run.nc",
        "wrote t.csv",
        "wrote t.csv.toml",
        "wrote p.svg",
    ]
    assert lf.files.load_settings("run.nc")["settings"]["data"]["x"] == "X.csv"
    assert "until = 1e-08" in (tmp_path / "p.svg").read_text()  # a picture, too, says what it shows
    again = linflow(
        "simulate", "t.csv.toml", "--table", "u.csv"
    )  # the table is bare, and what lies next to it repeats it
    assert again.exit_code == 0, again.stderr
    assert (tmp_path / "u.csv").read_bytes() == (tmp_path / "t.csv").read_bytes()
    assert f'"numpy": "{np.__version__}"' in (tmp_path / "t.csv.toml").read_text()
    linflow("simulate", *REGRESSION, "--table", "t.parquet")
    assert not (tmp_path / "t.parquet.toml").exists()
    echoed = json.loads(pyarrow.parquet.read_schema("t.parquet").metadata[b"linflow"])
    assert echoed["settings"]["start"]["hidden"] == [20]
    assert echoed["dtype"] == "float64"
    assert len((tmp_path / "t.csv").read_text().splitlines()) == len(run.t) + 1
    with xarray.open_dataset("run.nc", engine="h5netcdf") as plain:
        assert plain.sizes


def test_simulate_says_when_it_did_not_get_there(linflow):
    result = linflow("simulate", *REGRESSION, "--max-steps", "3", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["result"] == "step limit reached"
    assert found["times"]["1e-06"] is None


def test_simulate_a_descent_with_the_safe_step(linflow):
    found = json.loads(linflow("simulate", *REGRESSION, "--algorithm", "descent", "--steps", 50, "--json").stdout)
    assert found["step_size"] == lf.safe_step_size(objective(), lf.init.ntk((5, 20, 2), rng=0))


def test_design_is_kept_and_confirmed(linflow):
    result = linflow("design", *TARGET, "--rate", "5", "--out", "start.npz", "--confirm")
    assert result.exit_code == 0, result.stderr
    cert = lf.certify(lf.MatrixFactorization(lf.files.read_matrix("Y.csv")), lf.load("start.npz"))
    assert cert.rate >= 5
    assert "kept at every recorded time" in result.stdout
    found = linflow("certify", "--target", "Y.csv", "--weights", "start.npz")
    assert found.exit_code == 0
    steps = json.loads(linflow("design", *TARGET, "--algorithm", "descent", "--within", 20, "--json").stdout)
    assert steps["steps"] <= 20
    assert linflow("design", "--hidden", "2", "--target", "Y.csv", "--rate", "5").exit_code == 2  # too narrow


def test_analyze_writes_a_folder_that_repeats_itself(linflow, tmp_path):
    result = linflow("analyze", *TARGET)
    assert result.exit_code == 0, result.stderr
    assert sorted(p.name for p in (tmp_path / "analysis").iterdir()) == [
        "analysis.json",
        "experiment.toml",
        "index.html",
        "run.nc",
    ]
    again = linflow("analyze", "analysis/experiment.toml", "--out", "again")
    assert again.exit_code == 0, again.stderr
    # To the last bit, but for the folder that was asked for.
    first, second = ((tmp_path / name / "analysis.json").read_text() for name in ("analysis", "again"))
    assert first.replace('"folder": "analysis"', '"folder": "again"') == second
    runs = [lf.load(tmp_path / name / "run.nc") for name in ("analysis", "again")]
    assert all(np.array_equal(a, b) for a, b in zip(*(run.weights for run in runs), strict=True))
    echoed = lf.files.load_settings(tmp_path / "again" / "run.nc")
    assert echoed["versions"]["numpy"] == np.__version__
    assert echoed["settings"]["start"]["hidden"] == [12]
    page = (tmp_path / "analysis/index.html").read_text()
    assert page.count("<svg") == 3
    assert "https://" not in re.sub(r"http[s]?://www\.w3\.org/\S+", "", page)  # it stands alone
    assert "<h1>Two layers, 6×12×4, fitted to Y.csv: gradient flow from an NTK start, seed 0</h1>" in page
    assert "λ<sub>min</sub>(T)" in page
    assert "&lt;sub" not in page
    found = json.loads((tmp_path / "analysis/analysis.json").read_text())
    for finding in found["findings"]:
        assert str(typeset(finding["text"])) in page
    assert found["check"]["holds"] is True
    other = json.loads(
        linflow("analyze", "analysis/experiment.toml", "--until", "1e-3", "--out", "c", "--json").stdout
    )
    assert other["settings"]["flow"]["until"] == 1e-3


def test_findings_are_computed(linflow, undrawn):
    found = json.loads(linflow("analyze", *TARGET, "--json").stdout)
    by = {finding["kind"]: finding for finding in found["findings"]}
    f = lf.MatrixFactorization(lf.files.read_matrix("Y.csv"))
    net, wide = (lf.init.ntk((6, 12 * k, 4), rng=0) for k in (1, int(by["width"]["numbers"]["factor"])))
    assert by["rate"]["numbers"]["rate"] == lf.certify(f, net).rate
    assert by["width"]["numbers"]["rate"] == lf.certify(f, wide).rate > 2 * lf.certify(f, net).rate
    spectrum = lf.imbalance_spectrum(net)
    assert by["hold"]["numbers"]["spectral_gap"] == by["hold"]["numbers"]["gap"] == spectrum.spectral_gap
    assert by["hold"]["numbers"]["spread"] == spectrum.positive_spread + spectrum.negative_spread
    assert by["step"]["numbers"]["step_size"] == lf.safe_step_size(f, net)
    assert "plateau" not in by  # an NTK start has none
    assert "data" not in by  # a factorization is well conditioned
    assert f"{by['hold']['numbers']['gap']:.3g}" in by["hold"]["text"]


def test_findings_on_a_start_near_a_saddle_and_bad_data(linflow, undrawn):
    X = np.random.default_rng(1).standard_normal((40, 3)) * [1.0, 1.0, 0.05]
    np.savetxt("X3.csv", X, delimiter=",")
    np.save("Y3.npy", X @ np.ones((3, 2)))
    small = ("--x", "X3.csv", "--y", "Y3.npy", "--init", "small", "--size", "1e-4", "--hidden", "8")
    found = json.loads(linflow("analyze", *small, "--until", "1e-2", "--json").stdout)
    by = {finding["kind"]: finding for finding in found["findings"]}
    assert by["plateau"]["numbers"]["share"] > 0.1
    assert by["data"]["numbers"]["condition"] > 10
    narrow = json.loads(linflow("analyze", "--target", "Y.csv", "--hidden", "2", "--json", "--max-steps", 50).stdout)
    assert "narrower than min(n, m) = 4" in next(f["text"] for f in narrow["findings"] if f["kind"] == "narrow")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("certify", "--target", "nope.csv", "--hidden", "3"), "nope.csv"),
        (("certify", "--target", "Y.csv", "--hidden", "a,3"), "--hidden is 'a,3'"),
        (("certify", "--target", "Y.csv"), "no hidden widths"),
        (("certify",), "--target"),
        (("simulate", *REGRESSION, "--until", "2"), "--until is 2.0"),
        (("simulate", *REGRESSION, "--record", "loss"), "record"),
        (("simulate", *REGRESSION, "--step-size", "big"), "--step-size is 'big'"),
        (("simulate", *REGRESSION, "--save", "run.csv"), "run.csv"),
        (("simulate", *REGRESSION, "--save", "no/run.nc"), "no"),
        (("analyze", "X.csv"), "X.csv is not TOML"),
        (("certify", *TARGET, "--step-size", "0.1"), "option --step-size is 0.1, which is not used"),
        (("design", *TARGET, "--rate", "5", "--within", "0"), "option --within is 0"),
        (("design", *TARGET, "--rate", "5", "--within", "9"), "option --within is 9, which is not used"),
        (("design", *TARGET), "rate is needed"),
        (("design", *TARGET, "--rate", "-1"), "--rate is -1.0"),
        (("certify", *REGRESSION, "--p", "3"), "p is 3, but regression does not use it"),
        (("certify", *REGRESSION, "--objective", "powers", "--p", "1.5"), "--p is 1.5"),
    ],
)
def test_mistakes_are_one_line(linflow, arguments, message):
    result = linflow(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("linflow: ")
    assert result.stderr.count("\n") == 1
    assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("command", ["certify", "landscape", "simulate", "design", "analyze", "reproduce", "cite"])
def test_every_command_explains_itself(linflow, command):
    result = linflow(command, "--help")
    assert result.exit_code == 0
    if command not in ("reproduce", "cite"):
        assert f"Example: linflow {command}" in result.stdout


def command(*arguments, **options):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80", "TERM": "xterm"}
    return subprocess.Popen([sys.executable, "-m", "linflow", *arguments], text=True, env=env, **options)


def test_shell_completion(tmp_path):
    env = {**os.environ, "_LINFLOW_COMPLETE": "complete_bash", "COMP_WORDS": "linflow simul", "COMP_CWORD": "1"}
    code = "from linflow.cli import app; app(prog_name='linflow')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.stdout.split() == ["simulate"]
    env |= {"COMP_WORDS": "linflow certify --init fan", "COMP_CWORD": "3"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.stdout.split() == ["fan_in", "fan_out"]


SLOW = ("--init", "small", "--size", "0.05", "--hidden", "10,10", "--until", "1e-12", "--rtol", "1e-13")


UNDER_WAY = """
import signal, sys, time
from pathlib import Path
from linflow import cli
from linflow.dynamics.trajectory import Recorder

add, records = Recorder.add, 0

def watched(self, *words):
    global records
    records += 1
    if records == 20:
        Path("under-way").touch()
    while records == 1500:  # no machine is so fast that it ends before it is interrupted
        time.sleep(0.01)
    add(self, *words)

Recorder.add = watched
# As on a terminal: a suite started in the background hands its children an ignored Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
cli.main()
"""


@pytest.mark.parametrize("what", ["simulate", "analyze"])
def test_ctrl_c_keeps_what_is_done(what, tmp_path):
    np.save(tmp_path / "Y.npy", np.diag([2.0, 1.5, 1.0, 0.0, 0.0, 0.0]))
    extra = ("--save", "run.nc") if what == "simulate" else ("--out", ".")
    words = (what, "--target", "Y.npy", *SLOW, "--max-steps", "1000000000", *extra)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with ended(subprocess.Popen([sys.executable, "-c", UNDER_WAY, *words], env=env, **pipes)) as process:
        waited(lambda: (tmp_path / "under-way").exists() or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, (out, err)
    assert re.match(r"linflow: interrupted at t = \d.*(kept in run\.nc|the results so far are in index\.html)", err)
    run = lf.load(tmp_path / "run.nc")
    assert run.result is lf.Result.INTERRUPTED
    assert len(run.t) > 10


def test_a_bar_on_a_terminal_and_nothing_in_a_pipe(tmp_path):
    np.save(tmp_path / "Y.npy", np.diag([2.0, 1.5, 1.0, 0.0, 0.0, 0.0]))
    arguments = ("simulate", "--target", "Y.npy", *SLOW[:-2], "--until", "1e-8")
    with command(*arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as piped:
        _, err = piped.communicate(timeout=PATIENCE)
    assert piped.returncode == 0
    assert err == ""
    outside, inside = pty.openpty()
    with command(*arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=inside) as process:
        os.close(inside)
        seen = b""
        while True:
            try:
                part = os.read(outside, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            seen += part
        process.communicate(timeout=PATIENCE)
    os.close(outside)
    assert process.returncode == 0
    assert b"flow" in seen
    assert b"%" in seen
    assert b"left" in seen


def bar(total, seconds, count):
    """What a bar shows after so many steps of some seconds each."""
    now = [0.0]
    screen = io.StringIO()
    console = Console(file=screen, width=80, force_terminal=True, color_system=None)
    shown = Progress(*columns(), console=console, get_time=lambda: now[0])
    task = shown.add_task("flow", total=total)
    for i in range(count + 1):
        now[0] = i * seconds
        shown.update(task, completed=i)
    console.print(shown.make_tasks_table(shown.tasks))
    return " ".join(screen.getvalue().replace("━", " ").replace("╸", " ").replace("╺", " ").split())


def test_a_bar_says_what_went_by_and_what_is_left():
    assert bar(2500, 1.0, 2499).startswith("flow 99%, ")  # 99.96 % is not all
    assert bar(1000, 1.0, 6) == "flow 0%, 6%/min, 0:00:06 elapsed, 0:16:34 left"  # 994 of 1000, one a second
    assert bar(10, 1.0, 5) == "flow 50%, 10%/s, 0:00:05 elapsed, 0:00:05 left"
    assert bar(10, 60.0, 3) == "flow 30%, 10%/min, 0:03:00 elapsed, 0:07:00 left"  # of rare steps, too
    assert bar(10, 1.0, 0) == "flow 0%, 0:00:00 elapsed, -:--:-- left"
    assert bar(10, 1.0, 10).endswith("0:00:10 elapsed, 0:00:00 left")
    assert bar(None, 1.0, 6) == "flow 0:00:06 elapsed"


def test_the_speed_of_a_bar_has_a_unit_that_suits_it():
    rates = [2.1e3, 0.5, 0.01, 1e-3, 1e-5, 1e-9]  # parts of the whole a second
    assert [_speed(rate) for rate in rates] == ["", "50%/s", "1%/s", "6%/min", "4%/h", ""]


def hostile(kind, folder):
    """A file that is not what its name says, or worse."""
    path = folder / {"npz": "w.npz", "pickle": "w.npz", "pt": "w.pt", "safetensors": "w.safetensors"}.get(
        kind, "Y.npy"
    )
    if kind == "pickle":
        np.savez(path, W1=np.array([print], dtype=object))
    elif kind == "cut":
        whole = folder / "whole.npy"
        np.save(whole, np.ones((6, 4)))
        path.write_bytes(whole.read_bytes()[:-9])
    elif kind == "nan":
        np.save(path, np.full((6, 4), np.nan))
    elif kind == "giant":
        path.write_bytes(
            b"\x93NUMPY\x01\x00\x76\x00"
            + b"{'descr': '<f8', 'fortran_order': False, 'shape': (10000000, 100000), }".ljust(117)
            + b"\n"
        )
    else:
        path.write_bytes(b"\x80\x04\x95 nonsense" * 20)
    return path


@pytest.mark.parametrize("kind", ["cut", "nan", "giant", "npz", "pickle", "pt", "safetensors"])
def test_a_hostile_file_is_one_line_and_nothing_is_written(linflow, tmp_path, kind):
    path = hostile(kind, tmp_path)
    given = ("--target", path, "--hidden", "3") if path.suffix == ".npy" else ("--target", "Y.csv", "--weights", path)
    if kind == "pt":
        pytest.importorskip("torch")
    before = sorted(tmp_path.iterdir())
    result = linflow("analyze", *given)
    assert result.exit_code == 2
    assert result.stderr.startswith("linflow: ")
    assert path.name in result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_audit_finds_the_chains_of_a_model(linflow, tmp_path):
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    A, B = rng.standard_normal((40, 20)), rng.standard_normal((5, 40))
    save_file({"0.weight": A, "1.weight": B}, tmp_path / "model.safetensors")
    result = linflow("audit", "model.safetensors")
    assert result.exit_code == 0, result.stderr
    assert "20×40×5" in result.stdout
    found = json.loads(linflow("audit", "model.safetensors", "--json").stdout)
    expected = lf.TangentOperator([A.T, B.T]).least_eigenvalue()
    assert found["chains"][0]["least_eigenvalue"] == pytest.approx(float(expected), rel=1e-10)
    save_file({"a": A}, tmp_path / "none.safetensors")
    assert linflow("audit", "none.safetensors").exit_code == 1
    wrong = linflow("audit", "X.csv")
    assert wrong.exit_code == 2
    assert wrong.stderr.count("\n") == 1


def test_ctrl_c_after_the_run_keeps_it(linflow, tmp_path, monkeypatch):
    from linflow.pages import analysis as analysis_page

    def stop(found):
        raise KeyboardInterrupt

    monkeypatch.setattr(analysis_page, "_drawings", stop)
    result = linflow("analyze", *TARGET)
    assert result.exit_code == 130
    assert "interrupted at the end of the run; the results so far are in analysis/index.html" in result.stderr
    assert lf.load(tmp_path / "analysis" / "run.nc").result is lf.Result.TARGET


def test_what_cannot_be_written_is_said_before_the_work(linflow, monkeypatch):
    def work(*arguments, **options):
        raise AssertionError("it ran")

    monkeypatch.setattr(lf, "gradient_flow", work)
    monkeypatch.setattr("linflow.experiments.setup.gradient_flow", work)
    for arguments in [
        ("simulate", *TARGET, "--save", "no/run.nc"),
        ("simulate", *TARGET, "--plot", "p.jpg"),
        ("analyze", *TARGET, "--out", "Y.csv"),
        ("analyze", *TARGET, "--out", "Y.csv/deeper"),
    ]:
        result = linflow(*arguments)
        assert result.exit_code == 2, arguments
        assert result.stderr.startswith("linflow: ")
        assert result.stderr.count("\n") == 1


def test_a_summary_fits_80_columns(linflow, undrawn):
    result = linflow("analyze", *TARGET)
    assert max(map(len, result.stdout.splitlines()[:-1])) <= 80  # the last line names the page, and is never broken
    assert "guaranteed" in result.stdout


def test_analyze_says_when_nothing_is_certified_and_nothing_proved(linflow, tmp_path, undrawn):
    command = ("analyze", "--target", "Y.csv", "--init", "balanced", "--hidden", "12")
    result = linflow(*command, "--proof-steps", "0")
    assert result.exit_code == 1
    assert "nothing is certified for this start" in result.stdout
    assert "Proved" not in result.stdout
    assert "kept the certificate" not in (tmp_path / "analysis" / "index.html").read_text("utf-8")
    # Balanced weights have no spread to blame, only rounding.
    assert "spread of the imbalance" not in result.stdout


def test_analyze_proves_where_nothing_is_certified(linflow, tmp_path, undrawn):
    result = linflow("analyze", "--target", "Y.csv", "--init", "balanced", "--hidden", "12", "--json")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    low, high = told["proof"]["time_to"]["1e-06"]
    assert low < told["run"]["times"]["1e-06"] * (1 + 1e-6)  # the run's own error
    assert told["run"]["times"]["1e-06"] * (1 - 1e-6) < high < low * (1 + 1e-6)
    first = told["findings"][0]
    assert first["kind"] == "proof"
    assert first["text"].startswith("Proved: the loss gap reaches 1e-6 of its initial value at t = ")
    assert first["text"].endswith("at all later times. Before any run nothing is guaranteed.")
    page = (tmp_path / "analysis" / "index.html").read_text("utf-8")
    assert "proved by a verified run" in page
    assert "proved by the verified run, observed (circles)" in page


def test_a_descent_is_proved_to_the_step(linflow, undrawn):
    options = ("--target", "Y.csv", "--hidden", "12", "--algorithm", "descent", "--step-size", "0.02")
    told = json.loads(linflow("analyze", *options, "--json").stdout)
    fewest, most = told["proof"]["steps_to"]["1e-06"]
    assert fewest == most == told["run"]["steps"]
    proved = f"Proved: the loss gap reaches 1e-6 of its initial value after exactly {most} steps"
    assert told["findings"][0]["text"].startswith(proved)
    text = linflow("certify", *options, "--verified").stdout
    assert f"after exactly {most} steps" in text


def test_certify_proves_where_it_is_asked_to(linflow):
    start = ("certify", "--target", "Y.csv", "--init", "balanced", "--hidden", "12")
    assert linflow(*start).exit_code == 1
    result = linflow(*start, "--verified")
    assert result.exit_code == 0
    assert "\n\nProved: the loss gap reaches 1e-6 of its initial value at t = " in result.stdout
    assert "proof" not in json.loads(linflow(*start, "--json").stdout)
    assert json.loads(linflow(*start, "--verified", "--json").stdout)["proof"]["result"] == "target proved"
    none = linflow(*start, "--verified", "--proof-steps", "0")
    assert none.exit_code == 1
    assert "Nothing is proved: no steps were allowed for it." in none.stdout


def test_memory_that_is_not_there_is_not_asked_for(linflow, monkeypatch):
    monkeypatch.setattr("linflow._support.memory.memory", lambda: 20 * 2**30)
    # 8 GB of weights fit into 20 GiB, and what is done with them does not.
    for command in ("certify", "simulate", "analyze"):
        monkeypatch.setattr(lf.init, "ntk", None)  # which nothing gets to
        result = linflow(command, "--target", "Y.csv", "--hidden", "100000000")
        assert result.exit_code == 2
        assert "6×100000000×4 and work on them take 59.6 GiB, and there are 20 GiB" in result.stderr
        assert "use narrower layers" in result.stderr
        assert result.stderr.count("\n") == 1


def test_too_wide_a_layer_is_one_line(linflow):
    result = linflow("certify", "--target", "Y.csv", "--hidden", "10000000,10000000")
    assert result.exit_code == 2
    assert "not enough memory" in result.stderr
    assert result.stderr.count("\n") == 1
