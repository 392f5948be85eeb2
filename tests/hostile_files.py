"""The hostile files that were made by hand, from the tables of the tests and with bombs of their full size."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from linflow import files
from linflow._support.toml import read_toml
from tests.files import test_content as content
from tests.files import test_hostile as runs

Case = tuple[str, Path, Callable[[Path], Any]]
ZEROS = 3 * 2**30
"""Bytes that a bomb decodes to."""
LIMIT = 2**24
"""The limit with which bombs are read."""


def hostile_files(folder: Path) -> Iterator[Case]:
    """Make each file, and yield its name, its path and what reads it. Each must be refused in one line."""
    for made in (_arrays, _layers, _texts, _runs, _bombs, _toml):
        yield from made(folder)


def _arrays(folder: Path) -> Iterator[Case]:
    for kind, (whole, _) in content.BAD_NPY.items():
        (folder / "m.npy").write_bytes(whole)
        yield f"npy, {kind}", folder / "m.npy", files.read_matrix
        content.archive(folder / "m.npz", [("x.npy", whole)])
        yield f"npz, {kind}", folder / "m.npz", files.load_weights
    for kind, (members, _) in content.BAD_NPZ.items():
        yield f"npz, {kind}", content.archive(folder / "w.npz", members), files.load_weights
    np.save(folder / "o.npy", np.array([[content.Bomb(folder)]], dtype=object), allow_pickle=True)
    yield "npy with a pickle", folder / "o.npy", files.read_matrix


def _layers(folder: Path) -> Iterator[Case]:
    from safetensors.numpy import save_file

    for kind, (arrays, _) in content.BAD_LAYERS.items():
        np.savez(folder / "l.npz", **arrays)
        yield f"npz, {kind}", folder / "l.npz", files.load_weights
        save_file({name: np.asarray(x) for name, x in arrays.items()}, folder / "l.safetensors")
        yield f"safetensors, {kind}", folder / "l.safetensors", files.load_weights
    for kind, whole in content.BAD_TENSORS.items():
        (folder / "w.safetensors").write_bytes(whole)
        yield f"safetensors, {kind}", folder / "w.safetensors", files.load


def _texts(folder: Path) -> Iterator[Case]:
    for table, ends in ((content.BAD_TEXT, ("csv",)), (content.BAD_COLUMNS, ("csv", "txt"))):
        for kind, (text, _) in table.items():
            for end in ends:
                (folder / f"m.{end}").write_text(text, encoding="utf-8")
                yield f"{end}, {kind}", folder / f"m.{end}", files.read_matrix


def _runs(folder: Path) -> Iterator[Case]:
    path = folder / "run.nc"
    kinds = ["giant", "giant_chunk", "bomb", "outside_link", "soft_link", "outside_data", "virtual", "plug_in"]
    changes = {kind: change for kind, (change, _) in runs.BAD_RUNS.items()}
    for kind, change in (changes | {kind: runs.hostile(kind) for kind in kinds}).items():
        path.write_bytes(runs.content_of_a_run())
        yield f"run, {kind}", runs.without_checksum(path, change), files.load_run


def _bombs(folder: Path) -> Iterator[Case]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with (
        zipfile.ZipFile(folder / "z.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("W1.npy", "w", force_zip64=True) as member,
    ):
        member.write(content.npy((ZEROS // 8, 1)))
        for _ in range(ZEROS // 2**24):
            member.write(bytes(2**24))
    yield "npz that decodes to 3 GiB", folder / "z.npz", partial(files.load_weights, limit=LIMIT)
    word = pa.array(["x" * 10**6])
    many = pa.DictionaryArray.from_arrays(pa.array(np.zeros(ZEROS // 10**6, dtype=np.int32)), word)
    pq.write_table(pa.table({"a": many}), folder / "d.parquet", compression="zstd", store_schema=False)
    yield "Parquet of one word, 3 GiB", folder / "d.parquet", partial(files.read_table, limit=LIMIT)
    runs_of = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10**8, dtype=np.int8)), pa.array([1.0]))
    pq.write_table(pa.table({f"c{i}": runs_of for i in range(4)}), folder / "r.parquet", store_schema=False)
    yield "Parquet of run lengths, 3 GiB", folder / "r.parquet", partial(files.read_matrix, limit=LIMIT)
    (folder / "long.csv").write_bytes(b"1\n" + b"1," * (75 * 10**6) + b"1\n")
    yield "csv with a line of 150 MB", folder / "long.csv", partial(files.read_matrix, limit=LIMIT)
    for shape in ([0, 2**63], [2**62, 4], [2**64, 1]):
        header = f'{{"W1":{{"dtype":"F64","shape":{shape},"data_offsets":[0,0]}}}}'.encode()
        (folder / "s.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
        yield f"safetensors of {shape}", folder / "s.safetensors", partial(files.load_weights, limit=LIMIT)


def _toml(folder: Path) -> Iterator[Case]:
    deep = {
        "a dotted key of 50 000 parts": ".".join("a" * 50_000) + " = 1",
        "20 000 brackets": "a = " + "[" * 20_000,
        "20 000 tables": "a = " + "{b = " * 20_000,
        "a number of 5000 digits": "a = " + "9" * 5000,
    }
    for kind, text in deep.items():
        (folder / "x.toml").write_text(text, encoding="utf-8")
        yield f"toml, {kind}", folder / "x.toml", read_toml
    with open(folder / "x.toml", "wb") as file:
        file.truncate(2**30)
    yield "toml of 1 GiB", folder / "x.toml", read_toml
    for name in ("p.toml", "p.npy", "p.parquet", "p.nc"):
        (folder / name).symlink_to("/dev/zero")
        read = {"toml": read_toml, "npy": files.read_matrix, "parquet": files.read_table, "nc": files.load_run}
        yield f"/dev/zero as {name}", folder / name, read[name.partition(".")[2]]
