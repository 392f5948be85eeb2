"""Sweeps of each loss beyond the squared loss of the product: small grids in TOML, from end to end."""

import json
import math

import numpy as np
import pytest

import linflow as lf
from linflow.sweeps import read_grid, read_results, run_sweep

GRIDS = {
    "sensing": ('x = "A.npy"\ny = "b.csv"\nshape = [2, 2]\n', lambda d: lf.Sensing(d["A"], d["b"], shape=(2, 2))),
    "completion": ('target = "M.csv"\nmissing = "nan"\n', lambda d: lf.Completion(d["M"])),
    "softmax": ('x = "X.npy"\ny = "classes.csv"\nmean = true\n', lambda d: lf.SoftmaxLoss(d["X"], d["c"], mean=True)),
    "huber": ('x = "X.npy"\ny = "Y.npy"\n', lambda d: lf.Huber(d["X"], d["Y"], d["delta"])),
    "regression": (
        'x = "X.npy"\ny = "Y.npy"\nsample_weights = "w.csv"\n',
        lambda d: lf.LinearRegression(d["X"], d["Y"], weights=d["w"], ridge=d["ridge"]),
    ),
}
AXES = {"huber": "delta = [0.2, 2.0]\n", "regression": "ridge = [0.0, 0.5]\n"}


@pytest.fixture
def data(tmp_path, here):
    rng = np.random.default_rng(3)
    M = rng.standard_normal((2, 2))
    M[0, 1] = np.nan
    found = {
        "A": rng.standard_normal((3, 4)) / 2,
        "b": rng.standard_normal(3),
        "M": M,
        "X": np.vstack([np.eye(2), 0.5 * np.eye(2) + 0.1]),
        "Y": rng.standard_normal((4, 2)) + np.array([[9.0], [0], [0], [0]]),
        "c": np.array([0, 1, 0, 1]),
        "w": np.array([1.0, 2.0, 0.5, 0.0]),
    }
    for name in ("A", "X", "Y"):
        np.save(tmp_path / f"{name}.npy", found[name])
    for name, file in (("b", "b"), ("M", "M"), ("w", "w")):
        np.savetxt(tmp_path / f"{file}.csv", found[name], delimiter=",")
    np.savetxt(tmp_path / "classes.csv", found["c"], fmt="%d")
    return tmp_path, found


@pytest.mark.parametrize(
    "objective", [pytest.param(name, marks=[pytest.mark.slow] if name == "huber" else []) for name in GRIDS]
)
@pytest.mark.parametrize("algorithm", ["flow", "descent"])
def test_a_grid_says_what_the_library_says(data, objective, algorithm):
    folder, found = data
    lines, make = GRIDS[objective]
    step = 0.05 if objective in ("sensing", "completion") else "safe"  # without a margin no step is certified
    if algorithm == "descent":
        lines += f"[descent]\nstep_size = {json.dumps(step)}\n"
    until = 0.3 if objective in ("softmax", "huber") else 1e-2
    (folder / "grid.toml").write_text(
        f'algorithm = "{algorithm}"\n[data]\nobjective = "{objective}"\n{lines}'
        f'[start]\ninit = "imbalanced"\nhidden = [4]\n[flow]\nuntil = {until}\n'
        f"[grid]\nsize = [2.0]\nseeds = [5]\n{AXES.get(objective, '')}[sweep]\ncheck = true\nverified = true\n"
    )
    run_sweep(read_grid(folder / "grid.toml"), folder / "out", workers=1)
    table = read_results(folder / "out").to_pylist()
    assert len(table) == (2 if objective in AXES else 1)
    for row in table:
        assert (row["status"], row["reason"], row["objective"]) == ("ok", "", objective)
        settings = json.loads(row["settings"])
        f = make(found | {key.partition(".")[2]: value for key, value in settings.items() if key.startswith("data.")})
        net = lf.init.imbalanced((2, 4, 2), [2.0], rng=5)
        eta = None if algorithm == "flow" else lf.safe_step_size(f, net) if step == "safe" else step
        cert = lf.certify(f, net, algorithm=algorithm, step_size=eta)
        assert row["certified_rate"] == pytest.approx(cert.rate, rel=1e-9)
        assert row["initial_gap"] == pytest.approx(f.gap(net.product()), rel=1e-12)
        assert row["pl_constant"] == pytest.approx(cert.pl_constant, rel=1e-12)
        assert row["holds"] and row["result"] == "target reached"
        assert row["proof"] == "target proved"
        eta = row["step_size"]  # a proof counts whole steps, and a run interpolates between two
        time = row["time"] if algorithm == "flow" else eta * math.ceil(row["time"] / eta - 1e-9)
        assert row["proved_earliest"] * (1 - 1e-6) <= time <= row["proved_latest"] * (1 + 1e-6)
