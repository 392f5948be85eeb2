"""Folders of sweeps from others: a command writes and reads nothing outside them, and waits for nothing."""

import html
import os
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from linflow.cli import app
from linflow.plots._canvas import label_text
from linflow.sweeps import grid as grids
from linflow.sweeps import plot_sweep, read_grid, read_results, run_sweep, sweep_status, write_report
from linflow.sweeps import store as store_module
from linflow.sweeps.grid_file import recorded_grid
from linflow.sweeps.store import MADE_OF, RESULTS, Store, _made_of, running
from tests.engine_here import computed_here

GRID = {"data": {"target": "Y.npy"}, "grid": {"width": [2, 3]}, "flow": {"until": 1e-2}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    np.save(folder / "Y.npy", np.diag([2.0, 1.0]))
    with computed_here():
        run_sweep(read_grid({**GRID, "data": {"target": str(folder / "Y.npy")}}), folder / "swept", workers=1)
    return folder / "swept"


@pytest.fixture
def swept(finished, tmp_path):
    """Return a copy of a finished sweep, and a file outside it."""
    shutil.copytree(finished, tmp_path / "swept")
    (tmp_path / "mine").write_text("<!-- mine -->")
    return tmp_path / "swept"


def linflow(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def linked(swept, name, to="mine"):
    (swept / name).unlink(missing_ok=True)
    (swept / name).symlink_to(swept.parent / to)


@pytest.mark.parametrize("to", ["mine", "new", "own.html", "empty"])
def test_a_report_is_not_written_through_a_link(swept, to):
    (swept.parent / "empty").touch()
    write_report(swept, swept.parent / "own.html")
    kept = {path: path.read_bytes() for path in swept.parent.iterdir() if path.is_file()}
    linked(swept, "report.html", to)
    result = linflow("sweep", "report", swept)
    assert (result.exit_code, "is a symbolic link, and links are not written" in result.stderr) == (2, True)
    assert {path: path.read_bytes() for path in swept.parent.iterdir() if path.is_file()} == kept


@pytest.mark.parametrize("name", ["rate-over-width.pdf", "results.parquet", "grid.toml", ".running-0", "parts"])
def test_nothing_else_is_written_through_a_link(swept, name):
    if name == "parts":
        shutil.move(swept / "parts", swept.parent / "elsewhere")
        linked(swept, name, "elsewhere")
    elif name in ("results.parquet", "grid.toml"):
        shutil.move(swept / name, swept.parent / name)  # it even is what the folder held
        linked(swept, name, name)
    else:
        linked(swept, name, "new")
    kept = {path: path.read_bytes() for path in swept.parent.rglob("*") if path.is_file() and not path.is_symlink()}
    commands = [("sweep", "plot", swept)] if name.endswith("pdf") else [("sweep", swept.parent / "again.toml")]
    (swept.parent / "again.toml").write_text(f"[data]\ntarget = '{swept.parent / 'Y.npy'}'\n[grid]\nwidth = [2, 4]\n")
    np.save(swept.parent / "Y.npy", np.diag([2.0, 1.0]))
    for words in commands:
        result = linflow(*words, *(() if words[1] == "plot" else ("--out", swept, "--workers", 1)))
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
        assert re.search("is a symbolic link|is not a plain file", result.stderr)
    for path, content in kept.items():
        assert path.parent == swept or path.read_bytes() == content
    assert not (swept.parent / "new").exists()


@pytest.mark.parametrize(
    "name", ["results.parquet", "grid.toml", ".running-0", "report.html", "parts/part-0.parquet"]
)
def test_pipes_and_devices_are_not_waited_for(swept, name):
    """Opened, a pipe would wait for its other end, and /dev/zero has no end."""
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        (swept / name).unlink(missing_ok=True)
        make(swept / name)
        read = [linflow("sweep", "status", swept), linflow("sweep", "report", swept)]
        if name == "grid.toml":
            assert [one.exit_code for one in read] == [2, 2]
            assert linflow("sweep", "run", swept / "grid.toml", "--out", swept.parent / "x").exit_code == 2
        elif name == "report.html":
            assert [one.exit_code for one in read] == [0, 2]
        else:  # the parts have every row
            assert [one.exit_code for one in read] == [0, 0], [one.output for one in read]
            assert read_results(swept)["width"].to_pylist() == [2, 3]
            assert running(swept) is False
        if name == ".running-0":
            with pytest.raises(OSError, match=r"running-0' is not a plain file"):
                Store(swept).claim()


def test_looking_reads_no_file_that_the_grid_names(swept, monkeypatch):
    """Its hash could be told to who made the folder, and opening it could act."""
    secret = swept.parent / "secret.npy"
    np.save(secret, np.eye(2))
    text = (swept / "grid.toml").read_text()
    (swept / "grid.toml").write_text(re.sub(r"target = .*", f"target = '{secret}'", text.partition("[files]")[0]))
    monkeypatch.setattr(grids, "file_digest", lambda path: pytest.fail(f"{path} was read"))
    found = sweep_status(swept)
    assert (found.total, found.done) == (2, 0)
    write_report(swept, swept.parent / "page.html")
    assert read_results(swept).num_rows == 0


def test_a_part_is_not_read_through_a_link(swept):
    part = min((swept / "parts").glob("*.parquet"))  # there are more where the machine is slow
    shutil.move(part, swept.parent / part.name)
    part.symlink_to(swept.parent / part.name)
    store = Store(swept, make=False)
    assert store.read(part.name) is None
    assert "is a symbolic link, and links are not read" in store.notes[0]


def test_text_of_others_begins_no_line_of_the_page(swept):
    """A page that lands where a program reads line by line must not hold a line that the author chose."""
    line = "ssh-ed25519 AAAA mallory"
    path = swept / "grid.toml"
    path.write_text(path.read_text() + f"\n# <script>\n#\u0085{line}\n# \x9b2J\u202e\u2028{line}\n")
    page = write_report(swept).read_text()
    body = page.partition("<body>")[2]
    assert "<script>" not in body
    assert html.escape("<script>") in body
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", page)
    inside = body.partition("<pre><code>")[2].partition("</code></pre>")[0]
    assert all(one.startswith("<span>") and one.endswith("</span>") for one in inside.split("\n"))
    assert line in inside
    # And so with reasons, names and values of rows.
    from linflow.pages.templating import environment

    shown = environment().from_string("<p>{{ reason }}</p>").render(reason=f"x\n{line}\n\x1b]0;title\x07<b>")
    assert shown == f"<p>x {line} \\u001b]0;title\\u0007&lt;b&gt;</p>"


def test_results_that_are_a_table_of_others_are_left_out(swept):
    shutil.copy(swept / "grid.toml", swept / RESULTS)
    assert read_results(swept)["width"].to_pylist() == [2, 3]


@pytest.mark.parametrize("column", ["id", "status", "finished", "least_rate", "certified_rate", "time", "not ascii"])
def test_a_part_with_rows_that_no_sweep_writes_is_left_out(swept, column):
    """A missing number, or an id that is no hash, is not met in the middle of a page."""
    import pyarrow as pa

    part = min((swept / "parts").glob("*.parquet"))  # there are more where the machine is slow
    rows = pq.read_table(part)
    (swept / RESULTS).unlink()
    name = "id" if column == "not ascii" else column
    bad = pa.array(["é" * 10] * len(rows)) if column == "not ascii" else pa.nulls(len(rows), rows[name].type)
    place = rows.column_names.index(name)
    pq.write_table(rows.set_column(place, rows.field(place), bad), part)
    store = Store(swept, make=False)
    assert store.read(part.name) is None
    assert re.search("a row has no|an id is not of its kind", store.notes[0])
    assert [linflow("sweep", "status", swept).exit_code, linflow("sweep", "report", swept).exit_code] == [1, 0]


def forged(swept, rows):
    """Write rows as the table of a sweep, as if it was made of the parts that are there."""

    made = _made_of(recorded_grid(swept).ids, Store(swept, make=False).names())
    pq.write_table(rows.replace_schema_metadata({MADE_OF: made}), swept / RESULTS, compression="zstd")


def changed(rows, name, values):
    import pyarrow as pa

    place = rows.column_names.index(name)
    return rows.set_column(place, rows.field(name), pa.array(values, rows.field(name).type))


@pytest.mark.parametrize("column", ["id", "status", "certified_rate", "versions", "another table", "not ascii"])
def test_results_with_rows_that_no_sweep_writes_are_left_out(swept, column):
    """Whoever makes the folder can say that the table is made of its parts."""
    rows = read_results(swept)
    if column == "another table":
        forged(swept, rows.select(["id", "width"]))
    elif column == "not ascii":
        forged(swept, changed(rows, "id", ["é" * 10] * 2))
    else:
        forged(swept, changed(rows, column, [None, None]))
    assert linflow("sweep", "report", swept).exit_code == 0
    assert read_results(swept).equals(rows)


@pytest.mark.slow
def test_results_that_decode_to_more_than_allowed_are_left_out(swept, monkeypatch):
    rows = read_results(swept)
    forged(swept, changed(rows, "notes", ["x" * 10**8] * 2))
    assert (swept / RESULTS).stat().st_size < 10**5
    monkeypatch.setattr(pq, "ParquetFile", within(2 * 10**7))
    assert read_results(swept, limit=10**7).equals(rows)


def within(limit):
    """Return ParquetFile, of which no batch may take more than so many bytes."""

    class File(pq.ParquetFile):
        def iter_batches(self, *given, **options):
            for batch in super().iter_batches(*given, **options):
                assert batch.nbytes <= limit
                yield batch

        def read(self, *given, **options):
            table = super().read(*given, **options)
            assert table.nbytes <= limit
            return table

    return File


def test_parts_that_together_take_more_than_allowed(swept, monkeypatch):
    """Each may take as much as is allowed; not all of them are kept, and no column but those asked for."""
    rows = read_results(swept)
    (swept / RESULTS).unlink()
    for part in (swept / "parts").iterdir():
        part.unlink()
    for i in range(2):
        pq.write_table(changed(rows.slice(i, 1), "notes", ["x" * 10**7]), swept / "parts" / f"part-{i}.parquet")
    monkeypatch.setattr(store_module, "LIMIT", 15 * 10**6)
    store = Store(swept, make=False)
    ids = recorded_grid(swept).ids
    assert len(store.choose(ids).row) == 2
    assert len(store._cache) == 1
    assert read_results(swept, ["width"], limit=1000)["width"].to_pylist() == [2, 3]
    with pytest.raises(ValueError, match=r"swept' is too large: its rows would take .* pass limit="):
        read_results(swept, limit=15 * 10**6)
    assert read_results(swept).num_rows == 2


SHOWN = [[1e308, 5e-324], [1e150, 1e-150], [np.inf, np.nan], [-1e308, -0.0]]


@pytest.mark.parametrize("values", SHOWN, ids=str)
def test_numbers_that_no_axis_can_show_are_left_out(swept, values):
    rows = read_results(swept)
    for column in ("certified_rate", "least_rate", "rate"):
        rows = changed(rows, column, values)
    forged(swept, changed(rows, "tightness", [None, np.inf]))
    assert linflow("sweep", "report", swept).exit_code == 0
    result = linflow("sweep", "plot", swept)
    assert result.exit_code == 0 or "there is nothing to draw" in result.stderr


def test_words_of_others_in_a_plot_are_words(swept):
    rows = read_results(swept)
    forged(swept, changed(rows, "init", [r"$\frac{$", "a\nb\x1b[2J\u202e" + "x" * 10**4]))
    for words in (("report", swept), ("plot", swept, "--x", "init", "--hue", "init")):
        assert linflow("sweep", *words).exit_code == 0
    assert label_text("a\nb\x1b" + "x" * 100) == "a b\\u001b" + "x" * 27 + "…"


def test_more_words_than_an_axis_has_room_for():
    import pyarrow as pa

    table = pa.table({"init": [f"word {i}" for i in range(501)], "rate": [1.0] * 501})
    with pytest.raises(ValueError, match="init has 501 values that are words; at most 500"):
        plot_sweep(table, "init")
