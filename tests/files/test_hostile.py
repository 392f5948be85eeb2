"""Files of every format that are missing, cut off or something else, and bad files of runs: an error of one line."""

import functools
import os
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest

import linflow as lf
from linflow import files
from linflow.dynamics.storage.schema import SEAL, SEALED
from linflow.files import FileError


def refused(read, path, match="."):
    """Check that a file is refused in one line that names it."""
    with pytest.raises(FileError, match=match) as caught:
        read(path)
    text = str(caught.value)
    assert "\n" not in text and Path(path).name in text and len(text) < 700
    assert text.rstrip().endswith((".", ")")) or "pass limit=" in text


def run():
    return lf.gradient_descent(lf.MatrixFactorization(np.eye(2)), [np.eye(2) / 2] * 2, step_size=0.1, steps=9)


@functools.cache
def content_of_a_run():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.nc"
        files.save_run(run(), path, settings={"seed": 1})
        return path.read_bytes()


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "run.nc"
    path.write_bytes(content_of_a_run())
    return path


WRITERS = {
    "run.nc": lambda path: files.save_run(run(), path),
    "w.npz": lambda path: files.save_weights([np.ones((3, 2)), np.ones((2, 4))], path),
    "w.safetensors": lambda path: files.save_weights([np.ones((3, 2)), np.ones((2, 4))], path),
    "t.parquet": lambda path: files.write_table({"a": [1.0, 2.0], "b": [3.0, 4.0]}, path),
    "t.csv": lambda path: files.write_table({"a": [1.0, 2.0], "b": [3.0, 4.0]}, path),
}
READERS = {
    "run.nc": [files.load_run, files.load_settings, files.load],
    "w.npz": [files.load_weights, files.load, lambda path, **options: files.read_matrix(path, "W1", **options)],
    "w.safetensors": [files.load_weights, files.load],
    "w.pt": [files.load_weights, files.load],
    "t.parquet": [files.read_table, files.read_matrix],
    "m.npy": [files.read_matrix],
    "t.csv": [files.read_table, files.read_matrix],
}
CASES = [(name, i) for name, readers in READERS.items() for i in range(len(readers))]


def written(name, folder):
    path = folder / name
    if name == "w.pt":
        torch = pytest.importorskip("torch")

        torch.save({"W1": torch.ones(3, 2), "W2": torch.ones(2, 4)}, path)
    elif name == "m.npy":
        np.save(path, np.ones((3, 2)))
    else:
        WRITERS[name](path)
    return path


# Every format


@pytest.mark.parametrize(("name", "i"), CASES)
def test_what_is_not_there_or_no_file(tmp_path, name, i):
    read, path = READERS[name][i], tmp_path / name
    with pytest.raises(FileNotFoundError, match=r"does not exist; check the name"):
        read(path)
    with pytest.raises(FileNotFoundError, match=r"does not exist"):
        read(tmp_path / "no folder" / name)
    path.mkdir()
    with pytest.raises(IsADirectoryError, match=r"is a directory; name a file in it"):
        read(path)
    path.rmdir()
    path.write_bytes(b"")
    refused(read, path, r"is empty \(0 bytes\)")
    path.unlink()
    os.mkfifo(path)  # opened, it would wait for ever
    with pytest.raises(OSError, match="is not a regular file"):
        read(path)
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(OSError, match="cannot be reached"):
        read(path)


# A text has no length of its own: that its end was cut off cannot be seen.
@pytest.mark.parametrize(("name", "i"), [case for case in CASES if case[0] != "t.csv"])
def test_truncated_anywhere(tmp_path, name, i):
    whole = written(name, tmp_path).read_bytes()
    path = tmp_path / f"cut {name}"
    read = READERS[name][i]
    for share in (0.001, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        path.write_bytes(whole[: max(1, int(share * len(whole)))])
        refused(
            read,
            path,
        )
    path.write_bytes(whole[:-1])
    refused(
        read,
        path,
    )


@pytest.mark.parametrize("name", ["run.nc", "w.npz", "w.safetensors", "w.pt", "m.npy", "t.parquet"])
def test_other_content_under_the_name(tmp_path, name):
    path = tmp_path / name
    for content in (b"\0" * 5000, b"<!DOCTYPE html>\n<title>404</title>", os.urandom(3000), b"1,2\n3,4\n"):
        path.write_bytes(content)
        for read in READERS[name]:
            refused(
                read,
                path,
            )


@pytest.mark.parametrize("name", ["w.npz", "w.pt"])
def test_members_with_flipped_bytes(tmp_path, name):
    """The data of a zip archive have a checksum."""
    whole = bytearray(written(name, tmp_path).read_bytes())
    place = whole.find(struct.pack("<d" if name == "w.npz" else "<f", 1.0))
    assert place > 0
    whole[place] ^= 1
    (tmp_path / f"bad {name}").write_bytes(whole)
    refused(files.load, tmp_path / f"bad {name}", "truncated|corrupt")


def test_a_run_with_a_flipped_bit_anywhere(saved, tmp_path, rng):
    """It is refused, without HDF5, which some would make run for ever; or the bit was in the mark of the seal."""
    whole, path = saved.read_bytes(), tmp_path / "bad.nc"
    good = files.to_dataset(files.load_run(saved), settings={"seed": 1}).attrs["checksum"]
    seal = len(whole) - SEALED
    for place in [*rng.integers(0, seal, 300).tolist(), *range(seal, len(whole))]:
        bad = bytearray(whole)
        bad[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        if seal <= place < seal + len(SEAL):
            assert files.to_dataset(files.load_run(path), settings={"seed": 1}).attrs["checksum"] == good
        else:
            refused(files.load_run, path, "its bytes do not have the digest|is no NetCDF-4 file|is NetCDF-3")


def test_limits_are_looked_at_first(tmp_path):
    for name, readers in READERS.items():
        path = written(name, tmp_path)
        for read in readers:
            if read is files.load_settings:
                continue
            with pytest.raises(FileError, match=r"is too large: .* bytes are allowed.*pass limit="):
                read(path, limit=7)


# Runs


def changed(saved, change):
    import h5py

    with h5py.File(saved, "r+") as file:
        change(file)
    return saved


def without_checksum(saved, change):
    def both(file):
        del file.attrs["checksum"]
        change(file)

    return changed(saved, both)


def replace(file, name, values):
    del file[name]
    file[name] = values


def poke(name, index, value):
    def change(file):
        file[name][index] = value

    return change


BAD_RUNS = {
    "next version": (lambda f: f.attrs.__setitem__("format_version", 2), "in format 2, written by 'linflow .*update"),
    "version as text": (lambda f: f.attrs.__setitem__("format_version", "one"), "in format 'one'"),
    "version of many numbers": (
        lambda f: f.attrs.__setitem__("format_version", [1, 2]),
        "'format_version' is of type ndarray",
    ),
    "another file": (lambda f: f.attrs.__delitem__("format_version"), "is not a run of linflow"),
    "algorithm": (lambda f: f.attrs.__setitem__("algorithm", "adam"), "algorithm is 'adam'"),
    "result": (lambda f: f.attrs.__setitem__("result", "WON"), "result is 'WON', none of 'TARGET'"),
    "result, a number": (lambda f: f.attrs.__setitem__("result", 3), "result is 3"),
    "notes": (lambda f: f.attrs.__setitem__("notes", "{"), "'notes' is not a list in JSON"),
    "notes, a dict": (lambda f: f.attrs.__setitem__("notes", "{}"), "'notes' is not a list in JSON"),
    "notes, numbers": (lambda f: f.attrs.__setitem__("notes", "[1]"), "notes are not all text"),
    "notes, deep": (lambda f: f.attrs.__setitem__("notes", "[" * 20000), "'notes' is not a list in JSON"),
    "until": (lambda f: f.attrs.__setitem__("until", 1.5), "'until' is 1.5, not a fraction"),
    "until, a text": (lambda f: f.attrs.__setitem__("until", "1e-6"), "'until' is '1e-6', not a fraction"),
    "no gap": (lambda f: f.__delitem__("gap"), "no variable 'gap'"),
    "no weights": (lambda f: [f.__delitem__(x) for x in list(f) if x.startswith("W")], "weights is empty"),
    "no last weights": (lambda f: f.__delitem__("W2_end"), "no variable 'W2_end'"),
    "no first layer": (lambda f: f.__delitem__("W1_start"), "no variable 'W1_start'|W2_start"),
    "no times": (lambda f: f.__delitem__("t"), "no variable 't'"),
    "no nodes": (lambda f: f.__delitem__("node_log_gap"), "no variable 'node_log_gap'"),
    "no scale": (lambda f: f.__delitem__("scale"), "no variable 'scale'"),
    "short gap": (lambda f: replace(f, "gap", np.ones(3)), "'gap' has the shape 3, and 10 is needed"),
    "gap, a matrix": (lambda f: replace(f, "gap", np.ones((10, 1))), "'gap' has the shape 10×1, and 10 is needed"),
    "minimum, a vector": (
        lambda f: replace(f, "minimum", np.ones(1)),
        "'minimum' has the shape 1, and a single number",
    ),
    "scale of zero": (lambda f: replace(f, "scale", 0.0), "scale is 0.0"),
    "steps": (lambda f: replace(f, "stats_steps", 10), "'step_sizes' has the shape 9, and 10 is needed"),
    "fewer than no steps": (lambda f: replace(f, "stats_rejected", -1), "counts -1 rejected"),
    "text for numbers": (lambda f: replace(f, "gap", ["a"] * 10), "'gap' is not an array of real numbers"),
    "complex": (lambda f: replace(f, "gap", np.ones(10) * 1j), "'gap' is not an array of real numbers"),
    "a group": (lambda f: [f.__delitem__("gap"), f.create_group("gap")], "'gap' is not an array of real numbers"),
    "NaN in the gap": (poke("gap", 4, np.nan), "'gap' is nan at index 4, and finite numbers"),
    "infinite time": (poke("t", 9, np.inf), "'t' is inf at index 9"),
    "NaN in the weights": (poke("W1_end", (0, 1), np.nan), "'W1_end' is nan at row 1, column 2"),
    "NaN at the start": (poke("W2_start", (1, 0), np.nan), "'W2_start' is nan at row 2, column 1"),
    "NaN for the minimum": (lambda f: replace(f, "minimum", np.nan), "'minimum' is nan, and finite"),
    "time that goes back": (poke("t", 3, 0.0), "'t' is not a sequence of times"),
    "nodes that go back": (poke("node_t", 3, 0.0), "'node_t' is not a sequence of times"),
    "no record": (
        lambda f: [replace(f, x, np.ones(0)) for x in ("t", "gap", "rate")],
        "'t' is not a sequence of times",
    ),
    "shapes that do not chain": (
        lambda f: [replace(f, x, np.ones((3, 2))) for x in ("W2_start", "W2_end")],
        "not form a network: W_1 is 2×2 but W_2 is 3×2",
    ),
    "ends that differ": (
        lambda f: replace(f, "W2_end", np.ones((2, 3))),
        "'W2_end' has the shape 2×3, and 2×2 is needed",
    ),
    "weights too large": (
        lambda f: [replace(f, f"W{l}_end", np.full((2, 2), 1e140)) for l in (1, 2)],
        "not form a network: .* too large",
    ),
}


@pytest.mark.parametrize("kind", list(BAD_RUNS))
def test_a_run_that_is_none(saved, kind):
    change, match = BAD_RUNS[kind]
    refused(files.load_run, without_checksum(saved, change), match)


@pytest.mark.parametrize("name", ["gap", "minimum", "stats_seconds", "W1_start", "notes", "result", "settings"])
def test_the_checksum_covers_everything(saved, name):
    def change(file):
        if name in file.attrs:
            file.attrs[name] = {"notes": '["x"]', "result": "TARGET", "settings": "{}"}[name]
        else:
            file[name][...] = np.nextafter(file[name][()], 9.0)

    refused(files.load_run, changed(saved, change), "does not have the checksum")


def test_a_run_without_a_checksum_loads(saved):
    assert repr(files.load_run(without_checksum(saved, lambda file: None))) == repr(run())


def test_a_diverged_run_may_end_beyond_float64(saved):
    """Where a run ended its records may be no numbers; before, they may not."""
    for name in ("gap", "rate", "node_log_gap"):
        changed(saved, poke(name, 9, np.nan))
    assert np.isnan(files.load_run(without_checksum(saved, lambda file: None)).gap[-1])


def hostile(name):
    import h5py

    def giant(file):
        del file["gap"]
        file.create_dataset("gap", shape=(2**40,), dtype="f8", chunks=(1024,))

    def giant_chunk(file):
        del file["gap"]
        file.create_dataset("gap", shape=(10,), maxshape=(None,), dtype="f8", chunks=(2**28 + 1,))

    def bomb(file):
        del file["W1_end"]
        file.create_dataset("W1_end", shape=(2**16, 2**16), dtype="f8", chunks=(1024, 1024), compression="gzip")

    def outside_link(file):
        del file["gap"]
        file["gap"] = h5py.ExternalLink("/etc/hostname", "x")

    def soft_link(file):
        del file["gap"]
        file["gap"] = h5py.SoftLink("/rate")

    def outside_data(file):
        del file["gap"]
        file.create_dataset("gap", shape=(10,), dtype="f8", external=[("/etc/passwd", 0, 80)])

    def virtual(file):
        layout = h5py.VirtualLayout(shape=(10,), dtype="f8")
        layout[:] = h5py.VirtualSource("/etc/passwd", "x", shape=(10,))
        del file["gap"]
        file.create_virtual_dataset("gap", layout)

    def plug_in(file):
        del file["gap"]
        file.create_dataset("gap", data=np.ones(10), chunks=(10,), compression="lzf")

    return locals()[name]


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("giant", "is too large: it would take 8192 GiB, and 2 GiB are allowed"),
        ("giant_chunk", "one chunk of it would take 2 GiB"),
        ("bomb", "is too large: it would take 32 GiB"),
        ("outside_link", "'gap' is a link to elsewhere; do not trust"),
        ("soft_link", "'gap' is a link to elsewhere"),
        ("outside_data", "'gap' takes its data from another file"),
        ("virtual", "'gap' takes its data from another file"),
        ("plug_in", r"'gap' is compressed by a filter \(number 32000\)"),
    ],
)
def test_hostile_runs(saved, name, match):
    refused(files.load_run, without_checksum(saved, hostile(name)), match)


def test_netcdf_3(tmp_path):
    (tmp_path / "old.nc").write_bytes(b"CDF\x01" + b"\0" * 100)
    refused(files.load_run, tmp_path / "old.nc", "is NetCDF-3; save it as NetCDF-4")
