"""Own results may be replaced, the files of others never, whoever writes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import linflow as lf
from linflow._support.own_files import refuse_foreign_files
from linflow.cli import app
from linflow.experiments.figures import EXPERIMENTS, Claim, Outcome
from linflow.files import save_weights, write_table
from linflow.pages import reproduction as report
from linflow.pages.analysis import FILES
from linflow.plots import figure
from linflow.sweeps import read_grid, run_sweep, write_report
from tests.fake_figures import whole

DATA = ("--target", "Y.npy", "--hidden", "4", "--init", "gaussian", "--until", "1e-2")
REFUSED = "already exists and was not written by linflow; name another"
OTHERS = {
    ".html": b"<title>mine</title>",
    ".json": b'{"mine": "linflow"}',
    ".toml": b"# mine\n[data]\ntarget = 'Y.npy'\n",
    ".csv": b"a,b\n1,2\n",
}


@pytest.fixture
def linflow(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("Y.npy", np.diag([2.0, 1.0]))
    return lambda *words: CliRunner().invoke(app, list(words))


def other(path):
    """Write a file of somebody else, as it may be of its kind."""
    path = Path(path)
    kind = path.suffix
    if kind == ".npz":
        np.savez(path, W1=np.eye(2), mine=np.eye(2))
    elif kind == ".parquet":
        write_table({"a": [1.0]}, path)
    elif kind in (".pdf", ".svg", ".png"):
        from matplotlib.figure import Figure

        Figure().savefig(path)
    else:
        path.write_bytes(OTHERS.get(kind, b"mine"))
    return path.read_bytes()


def refuses(linflow, words, *paths):
    """Assert that a command refuses each file of others before it does anything, and replaces those of its own."""
    words, paths = [*words], [Path(path) for path in paths]
    for _ in range(2):  # the second time they are its own
        assert linflow(*words).exit_code in (0, 1), linflow(*words).output
        assert all(path.stat().st_size > 0 for path in paths)
    for path in paths:
        own, content = path.read_bytes(), other(path)
        there = sorted(Path().rglob("*"))
        result = linflow(*words)
        assert result.exit_code == 2, (path, result.output)
        assert REFUSED in result.stderr
        assert path.name in result.stderr
        assert path.read_bytes() == content
        assert sorted(Path().rglob("*")) == there
        path.write_bytes(own)
    for path in paths:
        path.write_bytes(b"")  # nothing to lose
    assert linflow(*words).exit_code in (0, 1)
    assert all(path.stat().st_size > 0 for path in paths)


@pytest.mark.parametrize(
    ("option", "path"),
    [
        ("--save", "run.nc"),
        ("--table", "run.parquet"),
        ("--plot", "run.pdf"),
        ("--plot", "run.svg"),
        ("--plot", "run.png"),
    ],
)
def test_simulate(linflow, option, path):
    refuses(linflow, ("simulate", *DATA, option, path), path)


def test_a_table_that_can_hold_no_mark_is_known_by_the_file_beside_it(linflow):
    words = ("simulate", *DATA, "--table", "run.csv")
    for _ in range(2):
        assert linflow(*words).exit_code == 0
    kept = {name: Path(name).read_bytes() for name in ("run.csv", "run.csv.toml")}
    for name, others in (("run.csv.toml", []), ("run.csv", ["run.csv.toml"]), ("run.csv.toml", ["run.csv"])):
        content = other(name)
        for path in others:
            Path(path).unlink()
        result = linflow(*words)
        assert (result.exit_code, f"'{name}' {REFUSED}" in result.stderr) == (2, True), result.output
        assert Path(name).read_bytes() == content
        assert not any(Path(path).exists() for path in others)
        for path, before in kept.items():
            Path(path).write_bytes(before)


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_design(linflow, kind):
    words = ("design", "--target", "Y.npy", "--hidden", "4", "--rate", "1", "--out", f"start.{kind}")
    refuses(linflow, words, f"start.{kind}")
    if kind == "safetensors":
        from safetensors.numpy import save

        mine = save({"W1": np.eye(2)}, metadata={"format": "np"})
        Path("start.safetensors").write_bytes(mine)
        assert REFUSED in linflow(*words).stderr
    result = linflow(*words[:-1], "start.txt")
    assert (result.exit_code, "a name that ends in .npz or .safetensors is needed" in result.stderr) == (2, True)


@pytest.mark.parametrize("folder", ["analysis", "."])
def test_analyze(linflow, folder, undrawn):
    words = ("analyze", *DATA, *(() if folder == "analysis" else ("--out", folder)))
    refuses(linflow, words, *(f"{folder}/{name}" for name in FILES))


def test_an_analysis_that_is_replaced_is_told_and_can_be_run_from_its_own_file(linflow, undrawn):
    assert "earlier one" not in linflow("analyze", *DATA).stdout
    first = Path("analysis/experiment.toml").read_text()
    assert first.startswith("# experiment.toml was made by: linflow analyze")
    result = linflow("analyze", "analysis/experiment.toml")
    assert "It replaced an earlier one; use --out FOLDER to keep both." in result.stdout
    assert Path("analysis/experiment.toml").read_text() == first
    # What a user wrote by hand is theirs, though the command is given it.
    shutil.copy("analysis/experiment.toml", "experiment.toml")
    mine = Path("experiment.toml").read_text().partition("\n")[2].replace('"../Y.npy"', '"Y.npy"')
    Path("experiment.toml").write_text(mine)
    result = linflow("analyze", "experiment.toml", "--out", ".")
    assert (result.exit_code, REFUSED in result.stderr) == (2, True), result.output
    assert Path("experiment.toml").read_text() == mine


def test_reproduce(linflow, monkeypatch):
    def draw():
        return figure("column")[0]

    def run(seed, progress):
        return Outcome([Claim("It is so", "it is", True)], draw=draw, data={}, setup={})

    monkeypatch.setitem(EXPERIMENTS, "toy", whole("toy", run))
    names = ("index.html", "report.json", "play.html", "figures/toy.pdf", "figures/toy.svg", "figures/toy.png")
    for folder in ("report", "."):
        refuses(linflow, ("reproduce", "toy", "--out", folder), *(f"{folder}/{name}" for name in names))
    # Figures that another run made stay its own where it ended before its page was written.
    Path("report/index.html").unlink()
    Path("report/report.json").unlink()
    report.reproduce(["toy"], out="report")
    assert json.loads(Path("report/report.json").read_text())["passed"]


def test_sweeps(linflow, tmp_path, here):
    run_sweep(read_grid({"data": {"target": "Y.npy"}, "grid": {"width": [2, 3]}}), "swept", workers=1)
    refuses(linflow, ("sweep", "report", "swept"), "swept/report.html")
    refuses(linflow, ("sweep", "report", "swept", "--out", "page.html"), "page.html")
    refuses(linflow, ("sweep", "plot", "swept"), "swept/rate-over-width.pdf")
    refuses(linflow, ("sweep", "plot", "swept", "--out", "p.svg"), "p.svg")
    other("page.html")
    with pytest.raises(FileExistsError, match=REFUSED):
        write_report("swept", "page.html")


def test_a_monitor(tmp_path):
    torch = pytest.importorskip("torch")
    import linflow.torch as lt

    model = torch.nn.Sequential(torch.nn.Linear(2, 3, bias=False), torch.nn.Linear(3, 2, bias=False))
    path = tmp_path / "log.csv"
    for _ in range(2):  # its own
        with lt.Monitor(model, None, csv=path):
            pass
    assert path.read_text().count("\n") == 2
    for content in ("a,b\n1,2\n", path.read_text().replace("step,", "Step,", 1), "mine"):
        path.write_text(content)
        for done in (0, 4):  # neither replaced nor gone on with
            with pytest.raises(FileExistsError, match=REFUSED):
                lt.Monitor(model, None, csv=path, done=done)
            assert path.read_text() == content
    path.write_text("")
    with lt.Monitor(model, None, csv=path, done=4):
        pass
    assert path.read_text().startswith("step,lr,")


def test_files_that_are_no_files_of_their_kind_are_of_others(tmp_path):
    save_weights(lf.init.ntk((2, 3, 2), rng=0), tmp_path / "own.npz")
    refuse_foreign_files([tmp_path / "own.npz", tmp_path / "none.npz"])
    deep = (10**6).to_bytes(8, "little") + b'{"a":' * 100_000
    newer = bytearray((tmp_path / "own.npz").read_bytes())
    newer[newer.rfind(b"PK\x01\x02") + 6] = 99  # the version that is needed to unpack it
    for name in ("w.npz", "w.safetensors", "w.nc", "w.txt", "w"):
        for content in (b"mine", b"\x00" * 100, b"linflow", deep, bytes(newer)):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(FileExistsError, match=REFUSED):
                refuse_foreign_files([tmp_path / name])
