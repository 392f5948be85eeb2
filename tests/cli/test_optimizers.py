"""Layer rates, weight decay, momentum, friction and mini-batches on the command line and in experiment files."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import linflow as lf
from linflow.cli import app
from linflow.experiments.analysis import analyse
from linflow.experiments.schema import experiment
from linflow.experiments.setup import Setup
from linflow.files import load_run, load_settings


@pytest.fixture
def data(tmp_path, rng):
    X = rng.standard_normal((12, 3)) / 3
    np.savetxt(tmp_path / "X.csv", X, delimiter=",")
    np.savetxt(tmp_path / "Y.csv", X @ rng.standard_normal((3, 2)), delimiter=",")
    return ["--x", tmp_path / "X.csv", "--y", tmp_path / "Y.csv", "--hidden", "200", "--seed", "1"]


def run(*arguments):
    return CliRunner(env={"COLUMNS": "300"}).invoke(app, [str(one) for one in arguments])


def test_a_descent_with_momentum_is_run_and_kept(data, tmp_path):
    out = tmp_path / "run.nc"
    options = ["--algorithm", "descent", "--step-size", "0.05", "--momentum", "0.8", "--nesterov", "--weight-decay"]
    options += ["0.01", "--layer-rates", "1,2", "--batch-size", "4", "--batch-seed", "7", "--steps", "40"]
    done = run("simulate", *data, *options, "--record", "law_error", "--save", out, "--json")
    told = json.loads(done.stdout)
    assert told["optimizer"] == {
        "layer_rates": [1.0, 2.0],
        "weight_decay": 0.01,
        "momentum": 0.8,
        "nesterov": True,
        "batch_size": 4,
        "seed": 7,
    }
    back = load_run(out)
    assert back.optimizer.to_dict() == told["optimizer"] and float(back.law_error.max()) < 1e-12
    assert load_settings(out)["settings"]["optimizer"]["momentum"] == 0.8
    assert any("no rate is claimed" in note for note in told["notes"])
    words = run("simulate", *data, *options)
    assert "Nesterov momentum 0.8" in words.stdout and "no rate is claimed" in words.stdout


def test_what_is_certified_and_what_is_refused(data):
    done = run("certify", *data, "--layer-rates", "1,4", "--json")
    told = json.loads(done.stdout)
    assert done.exit_code == 0 and told["optimizer"] == {"layer_rates": [1.0, 4.0]} and told["rate"] > 0
    heavy = run("certify", *data, "--friction", "8")
    assert "heavy ball" in heavy.stdout and "2ℓ(0)/a²" in heavy.stdout
    decay = run("certify", *data, "--weight-decay", "0.1")
    assert decay.exit_code == 1 and "D_l(t) = e^(−0.2t) D_l(0)" in decay.stdout
    for options, words in (
        (["--algorithm", "descent", "--step-size", "0.01", "--momentum", "0.9"], "descent with momentum"),
        (["--algorithm", "descent", "--step-size", "0.01", "--batch-size", "4"], "no rate is claimed"),
        (["--algorithm", "descent", "--momentum", "0.9"], "no step is certified for descent with momentum 0.9"),
        (["--momentum", "0.9"], "a flow has a friction instead"),
        (["--algorithm", "descent", "--friction", "0.9"], "a descent has a momentum instead"),
        (["--layer-rates", "1,2,3"], "one positive number for each of the 2 layers"),
        (["--layer-rates", "1,x"], "numbers are needed"),
    ):
        bad = run("certify", *data, *options)
        assert bad.exit_code == 2 and words in bad.stderr, options
    verified = run("certify", *data, "--layer-rates", "1,4", "--verified")
    assert "verified runs are of the flow and of descent with or without momentum" in verified.stdout


def test_a_file_of_an_experiment(data, tmp_path):
    text = f'[data]\nx = "{data[1]}"\ny = "{data[3]}"\n[start]\nhidden = [200]\nseed = 1\n'
    path = tmp_path / "one.toml"
    path.write_text(text + "[flow]\nuntil = 1e-3\n[optimizer]\nlayer_rates = [1.0, 4.0]\n", encoding="utf-8")
    made = experiment(path)
    assert experiment(options={}).optimizer.optimizer(3).plain and "layer_rates = [1.0, 4.0]" in made.to_toml()
    setup = Setup.of(made)
    flow = setup.run()
    assert flow.optimizer == lf.Optimizer.of(2, layer_rates=(1, 4)) == setup.optimizer
    assert setup.certify().check(flow).holds
    assert setup.prove()[0] is None
    with pytest.raises(ValueError, match="an analysis is of the plain flow or descent"):
        analyse(made)
    path.write_text(text + "[optimizer]\nlayer_rates = 4.0\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 8: optimizer\.layer_rates is 4\.0: a list is needed, such as \[1\.0"):
        experiment(path)
    path.write_text(text + "[optimizer]\nmomentun = 0.5\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"did you mean momentum\?"):
        experiment(path)
    descent = {"algorithm": "descent", "descent.steps": 30, "optimizer.layer_rates": [1.0, 4.0]}
    path.write_text(text, encoding="utf-8")
    for schedule in ("constant", "xu2025", "local_smoothness"):
        one = Setup.of(experiment(path, {**descent, "descent.schedule": schedule}))
        assert one.certify().check(one.run()).holds
