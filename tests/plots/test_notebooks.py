"""What a notebook shows: every figure once, and values in words that a person reads."""

import ast
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.figure
import numpy as np
import pytest

import linflow as lf
from linflow.plots import themes
from tests.waiting import PATIENCE

EXAMPLES = Path(__file__).parents[2] / "examples"
PNG = b"\x89PNG\r\n\x1a\n"


def cells(path):
    """The code cells of a script in percent format."""
    parts = ("\n" + path.read_text(encoding="utf-8")).split("\n# %%")
    return [part.partition("\n")[2] for part in parts[1:] if not part.startswith(" [markdown]")]


def last_value(cell, scope, name):
    """Run a cell as a notebook does, and return the value that it shows: that of its last line."""
    body = ast.parse(cell).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), name, "exec"), scope)
    return None if last is None else eval(compile(ast.Expression(last.value), name, "eval"), scope)


def size(png):
    """Width and height in pixels, from the header of a PNG file."""
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


@pytest.fixture(scope="module")
def run_and_certificate():
    f, net = lf.MatrixFactorization(np.eye(2)), lf.init.gaussian((2, 30, 2), rng=0)
    record = ("least_eigenvalue", "singular_values")
    return lf.gradient_flow(f, net, until=1e-4, record=record), lf.certify(f, net)


# ---------------------------------------------------------------- figures


def test_a_plot_without_axes_shows_its_figure(run_and_certificate):
    run, cert = run_and_certificate
    f, scalar = cert.objective, lf.MatrixFactorization([[2.0]])
    for ax in (
        lf.plots.convergence(run, cert),
        lf.plots.rate(run, cert),
        lf.plots.eigenvalues(run),
        lf.plots.singular_values(run, f),
        lf.plots.imbalance_spectrum(run.start),
        lf.plots.phase_plane(scalar),
        lf.plots.init_map(f, points=9),
        lf.plots.bound_against_truth([1.0, 2.0], [2.0, 3.0]),
    ):
        picture, shown = ax._repr_png_()
        assert picture.startswith(PNG)
        across, high = ax.figure.get_size_inches()
        assert shown == {"width": round(125 * across), "height": round(125 * high)}
        assert size(picture) == (int(200 * across), int(200 * high))  # of 200 dots an inch, as matplotlib rounds


def test_a_figure_and_its_axes_show_the_same_picture(run_and_certificate):
    run, cert = run_and_certificate
    fig, (left, right) = lf.plots.figure("text", aspect=0.7, ncols=2, theme="dark")
    lf.plots.rate(run, cert, left)
    lf.plots.convergence(run, cert, right)
    assert fig._repr_png_() == left._repr_png_() == right._repr_png_()


def test_settings_of_the_reader_do_not_change_the_picture(run_and_certificate):
    ax = lf.plots.convergence(*run_and_certificate)
    usual = ax._repr_png_()
    with mpl.rc_context({"savefig.bbox": "tight", "savefig.transparent": True, "savefig.facecolor": "red"}):
        assert ax._repr_png_() == usual


def test_axes_of_another_kind_are_as_they_were(run_and_certificate):
    given = matplotlib.figure.Figure().subplots()
    assert lf.plots.convergence(*run_and_certificate, given) is given
    assert not hasattr(given, "_repr_png_")  # their figure is shown by whoever made it
    assert lf.plots.figure(subplot_kw={"projection": "polar"})[1].name == "polar"
    themes.Axes(given.figure, (0, 0, 1, 1))._repr_png_()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_cells_of_the_examples_end_with_the_figure_that_they_save(path):
    source = path.read_text(encoding="utf-8")
    assert "pyplot" not in source and "Agg" not in source  # nothing opens a window, with or without a display
    saving = [cell for cell in cells(path) if "lf.plots.save(" in cell]
    assert saving
    for cell in saving:
        (saved,) = (
            node.args[0].id
            for node in ast.walk(ast.parse(cell))
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "lf.plots.save"
        )
        last = ast.parse(cell).body[-1]
        assert isinstance(last, ast.Expr) and ast.unparse(last) == saved


AS_A_NOTEBOOK = """
import sys
from pathlib import Path
from tests.plots.test_notebooks import PNG, cells, last_value
path, scope, shown = Path(sys.argv.pop(1)), {}, []
for cell in cells(path):
    value = last_value(cell, scope, path.name)
    if value is not None:
        picture, size = value._repr_png_()
        assert picture.startswith(PNG)
        shown.append(picture)
assert len(set(shown)) == len(shown)
assert "matplotlib.pyplot" not in sys.modules
print(len(shown), "pictures")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("talk_in_ten_minutes", 3), ("slow_factorization", 1)])
def test_an_example_as_a_notebook_shows_each_figure_once(name, count, tmp_path):
    command = [sys.executable, "-W", "error", "-c", AS_A_NOTEBOOK, str(EXAMPLES / f"{name}.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, cwd=EXAMPLES.parent, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{count} pictures"


# ---------------------------------------------------------------- values


def values():
    f, net = lf.MatrixFactorization(np.diag([2.0, 1.0])), lf.init.gaussian((2, 6, 6, 2), rng=0)
    cert, run = lf.certify(f, net), lf.gradient_flow(f, net, until=1e-4)
    steps = lf.certify(f, net, algorithm="descent")
    wide = lf.init.gaussian((2, 40, 2), rng=0)
    yield from (f, net, cert, run, run.stats, cert.check(run), steps)
    for one in (cert, steps):
        yield from one.guarantees
        yield from one.prior
        yield from (g.curve for g in one.guarantees)
    yield from lf.bounds.table(net)
    yield from lf.bounds.THEOREMS
    yield from (lf.bounds.best(net), lf.bounds.Invariants.of(net), lf.bounds.optimum(net, 2, rng=0))
    yield from (lf.TangentOperator(net), lf.imbalance_spectrum(net), lf.reduce_width(wide))
    yield from (
        lf.design(f, (2, 6, 2), rate=1.0, rng=0),
        lf.schedules.xu2025(f, wide),
        lf.schedules.backtracking(1.0),
    )


def test_values_show_themselves_in_words():
    for value in values():
        text = repr(value)
        assert " at 0x" not in text and "array(" not in text, text
        assert "\n" not in text and len(text) < 400, text


def test_the_table_of_bounds_is_a_table():
    net = lf.init.gaussian((3, 5, 2), rng=0)
    table = lf.bounds.table(net)
    lines = repr(table).splitlines()
    assert lines == str(table).splitlines()
    assert [b.name for b in table] == [t.name for t in lf.bounds.THEOREMS]  # the list is in its own order
    best = lf.bounds.best(net)
    assert lines[1].split("  ")[0] == best.name and f" {float(best.value):.4g} " in lines[1]


def test_a_guarantee_says_what_it_promises():
    f, net = lf.MatrixFactorization(np.diag([2.0, 1.0])), lf.init.gaussian((2, 60, 2), rng=0)
    best = lf.certify(f, net).best
    assert best is not None and repr(best) == (
        f"Guarantee('envelope', rate={best.rate:.4g}, time {best.time_to(1e-6):.4g} to 1e-6; linflow, docs/theory.md)"
    )
    descent = lf.certify(f, net, algorithm="descent").best
    assert descent is not None and f"{descent.steps_to(1e-6):.4g} steps to 1e-6" in repr(descent)
    left = next(g for g in lf.certify(f, net).guarantees if not g.applies)
    assert repr(left) == f"Guarantee({left.name!r}, does not apply: {left.reason})"
