import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from linflow.cli import app
from linflow.experiments import figures as experiments
from linflow.experiments import schema as settings
from linflow.experiments.figures import Claim, LeftOut, Outcome, PaperFigure, Settings, setting
from linflow.experiments.unused import SIZES
from linflow.plots import figure
from tests.fake_figures import whole
from tests.waiting import PATIENCE, ended


def fake(name, passed=True, error=None, **more):
    def run(seed, progress):
        progress(0.5, "[half]")
        if error:
            raise error
        return Outcome([Claim("It [holds]", f"seed {seed}", passed)], lambda: figure(3, 2)[0], {}, {})

    return whole(name, run, title=f"Figure {name}", source="Source", **more)


@pytest.fixture
def registry(monkeypatch):
    def use(*fakes):
        monkeypatch.setattr(experiments, "EXPERIMENTS", {e.id: e for e in fakes}, raising=False)

    use(fake("good"), fake("bad", passed=False), fake("broken", error=OSError("no data")))
    return use


@pytest.fixture
def linflow(tmp_path, monkeypatch):
    """Runs the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner(env={"COLUMNS": "100"}).invoke(app, arguments)


def test_all_claims_hold(registry, linflow, tmp_path):
    result = linflow("reproduce", "good", "--seed", "5")
    assert result.exit_code == 0
    assert "✓ holds" in result.stdout
    assert "It [holds]" in result.stdout
    assert "seed 5" in result.stdout
    assert "1 of 1 claim holds. The report is report/index.html" in result.stdout
    assert result.stderr.startswith("good  1 of 1 claim holds")
    assert result.stderr.count("\n") == 1
    assert (tmp_path / "report" / "index.html").is_file()


def test_an_audit_says_what_it_saw_and_takes_named_chains(linflow, tmp_path):
    save = pytest.importorskip("safetensors.numpy").save_file
    save({"encoder.weight": np.eye(2, 3), "decoder.weight": np.eye(3, 2)}, tmp_path / "m.safetensors")
    result = linflow("audit", "m.safetensors")
    assert result.exit_code == 1
    # The order is that of the file, which the writer of safetensors chooses.
    orders = (("encoder", "2×3"), ("decoder", "3×2")), (("decoder", "3×2"), ("encoder", "2×3"))
    seen = [", ".join(f"{name}.weight {sides}" for name, sides in order) in result.stdout for order in orders]
    asked = [f"--chain {first[0]},{second[0]}" in result.stdout for first, second in orders]
    assert seen == asked and sum(seen) == 1
    result = linflow("audit", "m.safetensors", "--chain", "encoder,decoder", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert [chain["widths"] for chain in found["chains"]] == [[3, 2, 3]] and found["reason"] == ""
    result = linflow("audit", "m.safetensors", "--chain", "encoder,middle")
    assert result.exit_code == 2 and "'middle' is not a matrix" in result.stderr


def test_a_claim_fails(registry, linflow):
    result = linflow("reproduce", "--out", "elsewhere")
    assert result.exit_code == 1
    assert result.stdout.count("✗ fails") == 2
    assert "no data" in result.stdout
    assert "1 of 3 claims holds. The report is elsewhere/index.html" in result.stdout


def test_json_is_all_of_stdout(registry, linflow, tmp_path):
    result = linflow("reproduce", "good", "bad", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == json.loads((tmp_path / "report" / "report.json").read_text("utf-8"))


def test_list(registry, linflow, tmp_path):
    result = linflow("reproduce", "--list")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[:2] == ["This library", "  good    Figure good"]
    listed = json.loads(linflow("reproduce", "bad", "--list", "--json").stdout)
    assert listed == [
        {"id": "bad", "title": "Figure bad", "paper": "This library", "source": "Source", "settings": {}}
    ]
    assert list(tmp_path.iterdir()) == []


@dataclass(frozen=True)
class Widths(Settings):
    h: tuple[int, ...] = setting((30, 100), "the hidden widths")
    seeds: int = setting(5, "the draws of each width")


def with_widths(settings, seed, progress):
    claim = Claim(f"h is {settings.h}", f"{settings.seeds} draws", True)
    left = [LeftOut("The rate is 4", "stated for other settings")] if settings.changes("h") else []
    return Outcome([claim], lambda: figure(3, 2)[0], {}, {}, (), left)


@pytest.fixture
def two_papers(monkeypatch):
    parts = {
        "compute": with_widths,
        "claims": lambda outcome: [*outcome.claims, *outcome.left_out],
        "draw": lambda outcome: outcome.draw(),
        "numbers": lambda outcome: {},
        "setup": lambda outcome: {},
        "tables": lambda outcome: [],
    }
    wide = PaperFigure("wide", "Over width", "S.", "A", **parts, settings=Widths, paper="Min 2023", full=True)
    old = fake("old", paper="Saxe 2014")
    monkeypatch.setattr(experiments, "EXPERIMENTS", {e.id: e for e in (wide, fake("own"), old)}, raising=False)


def test_figures_are_listed_by_paper_with_the_settings_of_those_named(two_papers, linflow):
    assert linflow("reproduce", "--list").stdout.splitlines() == [
        "Saxe 2014",
        "  old   Figure old",
        "",
        "Min 2023",
        "  wide  Over width (takes minutes; --full)",
        "",
        "This library",
        "  own   Figure own",
    ]
    assert linflow("reproduce", "wide", "--list").stdout.splitlines()[2:] == [
        "    h=30,100  the hidden widths",
        "    seeds=5   the draws of each width",
    ]


def test_settings_are_given_on_the_command_line(two_papers, linflow, tmp_path):
    result = linflow("reproduce", "wide", "old", "--set", "h=40", "--seeds", "2", "--json")
    assert result.exit_code == 0, result.stderr
    wide, old = json.loads(result.stdout)["figures"]
    assert wide["settings"] == {"h": "40", "seeds": "2"} and old["settings"] == {}
    assert [(c["claim"], c["observed"]) for c in wide["claims"]] == [("h is (40,)", "2 draws")]
    assert wide["left_out"] == [{"claim": "The rate is 4", "reason": "stated for other settings"}]
    page = (tmp_path / "report" / "index.html").read_text("utf-8")
    assert "linflow reproduce wide old --set seeds=2 --set h=40 --seed 0 --out report" in page
    assert "Changed" in page and "40, not 30,100" in page and page.count("left out") == 2
    shown = linflow("reproduce", "wide", "--set", "h=40").stdout
    assert "left out" in shown and "1 of 1 claim holds" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("wide", "--set", "hh=3"), "no setting 'hh' in wide. Did you mean 'h'? Settings: h, seeds."),
        (("old", "--seeds", "3"), "no setting 'seeds' in old. Settings: none."),
        (("wide", "--set", "h"), "--set is 'h'; it must be NAME=VALUE, such as h=30,100."),
        (("wide", "--set", "h=3", "--set", "h=4"), "--set gives h twice; give it once."),
        (
            ("wide", "--set", "h=3,x"),
            "wide: h=3,x: 'x' is not a whole number. It is the hidden widths, 30,100 if not given.",
        ),
        (("wide", "--set", "h=0"), "wide: h=0: '0' is not at least 1. It is the hidden widths, 30,100 if not given."),
        (("wide", "--set", "h=3,3"), "wide: h=3,3: a value occurs twice. It is the hidden widths, "),
    ],
)
def test_a_wrong_setting_is_one_line(two_papers, linflow, tmp_path, arguments, message):
    result = linflow("reproduce", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"linflow: {message}") and result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_unknown_figure(registry, linflow, tmp_path):
    result = linflow("reproduce", "goood")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == (
        "linflow: there is no figure 'goood'. Did you mean 'good'? Known figures: good, bad, broken.\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_written(registry, linflow, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for out in ("file", "file/report"):
        result = linflow("reproduce", "good", "--out", out)
        assert result.exit_code == 2
        assert result.stderr.startswith("linflow: cannot use 'file")
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("certify --hiden 3", "option --hiden is not known; did you mean --hidden? See linflow certify --help."),
        ("certify --zzzz", "option --zzzz is not known; see linflow certify --help."),
        ("certify --hidden", "option --hidden needs a value after it; see linflow certify --help."),
        ("certify --json=3", "option --json takes no value; see linflow certify --help."),
        ("certify --seed x", "option --seed is 'x': a whole number is needed; see linflow certify --help."),
        ("certify --size=big", "option --size is 'big': a number is needed; see linflow certify --help."),
        ("reproduce --seed -1", "option --seed is '-1': input should be greater than or equal to 0; see"),
        ("reproduce --sed 1", "option --sed is not known; did you mean --seed? See linflow reproduce --help."),
        ("certify a.toml b c", "linflow certify got 'b c', which it does not take; leave it out"),
        ("reprodce", "no such command 'reprodce'. Did you mean 'reproduce'? Commands are "),
        ("zzz", "no such command 'zzz'; commands are "),
        ("sweep status", "linflow sweep status needs FOLDER after it: folder of the sweep; see linflow sweep status"),
        (
            "sweep plot --x width",
            "linflow sweep plot needs FOLDER after it: folder of the sweep; see linflow sweep plot",
        ),
        ("audit", "linflow audit needs FILE after it: weights of a model: .safetensors, "),
        ("--versin", "option --versin is not known; did you mean --version? See linflow --help."),
    ],
)
def test_a_line_that_cannot_be_read(registry, linflow, tmp_path, line, message):
    result = linflow(*line.split())
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("linflow: " + message)
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def leaves(command=None, names=()):
    """Every command, the groups included, and the words that call it."""
    command = command or typer.main.get_command(app)
    yield names, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from leaves(inner, (*names, name))


COMMANDS = dict(leaves())


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_every_command_has_help(linflow, names):
    long, short = (linflow(*names, flag) for flag in ("--help", "-h"))
    assert long.exit_code == short.exit_code == 0
    assert long.stdout == short.stdout
    assert "<bool>" not in long.stdout  # flags take no value
    assert "--help" in long.stdout


def test_help_breaks_no_line_of_its_own(linflow):
    shown = linflow("analyze", "--help").stdout
    assert "nothing is certified; 2: bad input; 130: Ctrl-C" in " ".join(shown.split())
    assert "2: bad input;" not in [line.strip() for line in shown.splitlines()]


def test_help_says_the_defaults(linflow):
    shown = " ".join(linflow("analyze", "--help").stdout.replace("│", " ").split())
    made = settings.Experiment()
    for words, value in (
        ("small or identity.", made.start.init),
        ("Seed of the start.", made.start.seed),
        ("flow or descent.", made.algorithm),
        ("at which the run ends.", made.flow.until),
        ("one step of the flow.", made.flow.rtol),
        ("Maximum number of steps of the integration.", made.flow.max_steps),
        ("if it changes), or safe.", made.descent.step_size),
        ("Maximum number of steps of a descent.", made.descent.steps),
        ("Folder for the report.", made.output.folder),
    ):
        assert f"{words} [default: {value}]" in shown, words
    for name, (_, size) in SIZES.items():
        assert size == 1 or f"default 1, or {size:g} for {name}." in shown
    shown = linflow("sweep", "plot", "--help").stdout  # an option of the same name as another's keeps its own
    assert "Column along the axis. [default: width]" in shown
    assert "Inputs" not in shown


def test_the_help_of_a_sweep_has_the_options_of_a_run(linflow):
    shown, of_run = (linflow("sweep", *names, "--help").stdout for names in ((), ("run",)))
    for parameter in COMMANDS["sweep", "run"].params:
        name = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.metavar
        assert name in shown
        assert name in of_run
    assert all(name in shown for name in ("run", "status", "plot", "report"))


def test_without_a_command_there_is_help(linflow):
    result = linflow()
    assert result.exit_code == 2
    assert "Usage: " in result.stdout + result.stderr
    assert "linflow: " not in result.stderr


def test_ctrl_c(registry, linflow, tmp_path):
    registry(fake("good"), fake("slow", error=KeyboardInterrupt()))
    result = linflow("reproduce")
    assert result.exit_code == 130
    assert result.stderr.endswith("linflow: interrupted; done: good (1 of 2), in report/index.html.\n")
    assert (tmp_path / "report" / "index.html").is_file()
    result = linflow("reproduce", "slow", "--out", "none")
    assert result.exit_code == 130
    assert "nothing was written" in result.stderr


def test_version(linflow):
    result = linflow("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("linflow ")


def python(*arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=PATIENCE, **options
    )


def test_as_a_module():
    result = python("-m", "linflow", "reproduce", "--list")
    assert result.returncode == 0
    shown = [line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ")]
    assert sorted(shown) == sorted(experiments.EXPERIMENTS)
    assert result.stderr == ""


def test_help_needs_no_numbers():
    heavy = "{'numpy', 'matplotlib', 'scipy', 'jinja2'}"
    result = python("-c", f"import sys, linflow.cli; print(sorted({heavy} & set(sys.modules)))")
    assert result.stdout.strip() == "[]"


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_ctrl_c_from_outside(tmp_path):
    program = textwrap.dedent("""
        import signal
        from linflow import cli

        from linflow.experiments import figures as experiments

        # As on a terminal: a suite started in the background hands its children an ignored Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)

        def run(settings, seed, progress):
            print("under way", flush=True)
            signal.pause()  # for ever, but for the signal

        parts = {"compute": run, "claims": list, "draw": list, "numbers": dict, "setup": dict, "tables": list}
        experiments.EXPERIMENTS = {"slow": experiments.PaperFigure("slow", "Slow", "Sleeps.", "None", **parts)}
        cli.main()
    """)
    command = [sys.executable, "-c", program, "reproduce", "--out", str(tmp_path / "out")]
    with ended(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "under way\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert process.stderr.read().startswith("linflow: interrupted before the first figure")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "figures"]
