"""Weights, matrices and tables that are corrupt, misshapen, giant or hostile: an error of one line, nothing run."""

import io
import json
import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from linflow import files
from linflow.files import FileError
from tests.files.test_hostile import refused, written

MARK = "linflow_was_run"


class Bomb:
    """Unpickled, it leaves a mark."""

    def __init__(self, folder):
        self.target = str(Path(folder) / MARK)

    def __reduce__(self):
        return (open, (self.target, "w"))


@pytest.fixture(autouse=True)
def nothing_is_run(tmp_path):
    yield
    assert not (tmp_path / MARK).exists()


# NumPy


def npy(shape, dtype="<f8", data=b"", order=False):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": order, "shape": shape})
    return file.getvalue() + data


def archive(path, members, **options):
    with zipfile.ZipFile(path, "w", **options) as file:
        for name, data in members:
            file.writestr(zipfile.ZipInfo(name), data, options.get("compression"))
    return path


BAD_NPY = {
    "giant": (npy((2**30, 2**30)), "is too large: the array would take"),
    "giant on one side": (npy((10**30, 1)), "is too large"),
    "shorter than it says": (npy((2, 2), data=b"\0" * 31), "takes 32 bytes, and 31 follow"),
    "longer than it says": (npy((2, 2), data=b"\0" * 40), "takes 32 bytes, and 40 follow"),
    "empty": (npy((0, 5)), r"an empty matrix \(shape \(0, 5\)\)"),
    "empty and giant": (npy((0, 10**30)), "empty matrix|corrupt"),
    "a tensor": (npy((2, 1, 2), data=b"\0" * 32), r"has 3 dimensions \(shape \(2, 1, 2\)\)"),
    "a number": (npy((), data=b"\0" * 8), "has 0 dimensions"),
    "text": (npy((1,), "<U1", b"abcd"), "has dtype <U1; real numbers"),
    "complex": (npy((1,), "<c16", b"\0" * 16), "has dtype complex128"),
    "truth values": (
        npy((1,), "|b1", b"\0"),
        r"has dtype bool; .*: write truth values as 1 and 0, x.astype\(float\)",
    ),
    "a record": (npy((1,), [("a", "<f8")], b"\0" * 8), "real numbers are needed"),
    "NaN": (npy((2, 2), data=np.array([1, 2, np.nan, np.inf]).tobytes()), "holds nan at row 2, column 1"),
    "infinite": (npy((2, 2), data=np.array([1, -np.inf, np.nan, 1]).tobytes()), "holds -inf at row 1, column 2"),
    "no array": (b"\x93NUMPY\x09\x00" + b"\0" * 50, "no NumPy array"),
    "code in the header": (
        b"\x93NUMPY\x01\x00" + struct.pack("<H", 60) + b"__import__('os').system('touch /tmp/x')".ljust(60),
        "no NumPy array",
    ),
    "negative side": (npy((-1, 2), data=b""), "has the shape|no NumPy array"),
}


@pytest.mark.parametrize("kind", list(BAD_NPY))
def test_bad_npy(tmp_path, kind):
    content, match = BAD_NPY[kind]
    (tmp_path / "m.npy").write_bytes(content)
    refused(files.read_matrix, tmp_path / "m.npy", match)
    archive(tmp_path / "m.npz", [("x.npy", content)])
    refused(files.read_matrix, tmp_path / "m.npz", match.replace("the array", "'x'|it"))
    refused(
        files.load_weights,
        tmp_path / "m.npz",
    )


def test_pickles_in_numpy_files(tmp_path):
    objects = np.array([[Bomb(tmp_path)]], dtype=object)
    np.save(tmp_path / "m.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "m.npz", W1=objects)
    refused(files.read_matrix, tmp_path / "m.npy", "holds Python objects, .* unpickling runs code")
    refused(files.read_matrix, tmp_path / "m.npz", "'W1' holds Python objects")
    refused(files.load, tmp_path / "m.npz", "'W1' holds Python objects")
    for end in ("npy", "npz", "safetensors", "pt"):  # a bare pickle under another name
        (tmp_path / f"p.{end}").write_bytes(pickle.dumps(Bomb(tmp_path)))
        for read in (files.load_weights, files.read_matrix):
            if not (end == "npy" and read is files.load_weights) and not (
                end in "safetensors.pt" and read is files.read_matrix
            ):
                refused(
                    read,
                    tmp_path / f"p.{end}",
                )


ONE = npy((1, 1), data=b"\0" * 8)
BAD_NPZ = {
    "climbs": ([("../../evil.npy", ONE)], "'../../evil.npy', a name that leads out of its folder"),
    "absolute": ([("/etc/evil.npy", ONE)], "leads out of its folder"),
    "Windows": ([("..\\evil.npy", ONE)], "leads out of its folder"),
    "drive": ([("C:evil.npy", ONE)], "leads out of its folder"),
    "other content": ([("W1.npy", ONE), ("readme.txt", b"hi")], "holds 'readme.txt', not a NumPy array"),
    "nothing": ([], "an archive of 0 members"),
    "many": ([(f"{i}.npy", b"") for i in range(10001)], "an archive of 10001 members"),
}


@pytest.mark.parametrize("kind", list(BAD_NPZ))
def test_bad_npz(tmp_path, kind):
    members, match = BAD_NPZ[kind]
    before = set(tmp_path.iterdir())
    archive(tmp_path / "w.npz", members)
    refused(files.load_weights, tmp_path / "w.npz", match)
    refused(files.read_matrix, tmp_path / "w.npz", match)
    assert set(tmp_path.iterdir()) - before == {tmp_path / "w.npz"}


def test_zip_bombs(tmp_path):
    path = tmp_path / "w.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file,
        file.open("W1.npy", "w", force_zip64=True) as member,
    ):
        member.write(npy((2**13, 2**15)))
        for _ in range(32):
            member.write(b"\0" * 2**20)
    refused(files.load_weights, path, "takes 2147483648 bytes, and 33554432 follow|corrupt")
    with pytest.raises(FileError, match=r"is too large: it would take 32 MiB, and 1 MiB are allowed"):
        files.load_weights(path, limit=2**20)
    assert path.stat().st_size < 2**17
    lies = bytearray(path.read_bytes())  # the directory claims a member of 64 bytes that decodes to 32 MiB
    place = lies.rfind(b"PK\x01\x02")
    lies[place + 24 : place + 28] = struct.pack("<I", 64)
    path.write_bytes(lies)
    refused(
        files.load_weights,
        path,
    )
    lies[place + 24 : place + 28] = struct.pack("<I", 0xFFFFFFF0)  # and one that no compression reaches
    path.write_bytes(lies)
    refused(files.load_weights, path, "no compression does that|too large")


def test_archives_that_numpy_does_not_write(tmp_path):
    path = archive(tmp_path / "w.npz", [("W1.npy", ONE)], compression=zipfile.ZIP_BZIP2)
    refused(files.load_weights, path, "compressed by another method")
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive(path, [("W1.npy", ONE), ("W1.npy", ONE)])
    refused(files.load_weights, path, "holds 'W1.npy' more than once")
    data = bytearray(archive(path, [("W1.npy", ONE)]).read_bytes())
    data[data.rfind(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    refused(files.load_weights, path, "which is encrypted")


BAD_LAYERS = {
    "none": ({"scale": np.float64(1)}, "holds no matrix"),
    "bias": (
        {"0.weight": np.ones((3, 2)), "0.bias": np.ones(3)},
        "'0.bias' is a vector of 3, a bias that is not zero",
    ),
    "tensor": ({"W1": np.ones((2, 2, 2))}, r"'W1' has 3 dimensions \(shape \(2, 2, 2\)\)"),
    "number": ({"W1": np.ones((2, 2)), "step": np.int64(3)}, "'step' has 0 dimensions"),
    "NaN": ({"W1": np.array([[1.0, np.nan]])}, "'W1' is nan at row 1, column 2"),
    "empty": ({"W1": np.ones((0, 2))}, "'W1' is empty"),
    "chain": ({"W1": np.ones((2, 3)), "W2": np.ones((4, 5))}, "'W1' 2×3, 'W2' 4×5, which do not chain"),
    "scale": ({"W1": np.ones((2, 2)), "scale": np.float64(-1)}, "scale is -1.0; a positive number"),
    "too large": ({"W1": np.full((2, 2), 1e140), "W2": np.full((2, 2), 1e140)}, "too large"),
}


@pytest.mark.parametrize("kind", list(BAD_LAYERS))
def test_arrays_that_are_no_network(tmp_path, kind):
    from safetensors.numpy import save_file

    arrays, match = BAD_LAYERS[kind]
    np.savez(tmp_path / "w.npz", **arrays)
    refused(files.load_weights, tmp_path / "w.npz", match)
    save_file({name: np.asarray(x) for name, x in arrays.items()}, tmp_path / "w.safetensors")
    refused(files.load_weights, tmp_path / "w.safetensors", match)


def test_keys_of_an_archive(tmp_path):
    np.savez(tmp_path / "m.npz", a=np.eye(2), b=np.eye(3))
    refused(files.read_matrix, tmp_path / "m.npz", "holds 'a', 'b'; say which: key='a'")
    refused(lambda path: files.read_matrix(path, "c"), tmp_path / "m.npz", "has no 'c'; it holds 'a', 'b'")
    np.save(tmp_path / "m.npy", np.eye(2))
    with pytest.raises(ValueError, match=r"key is 'a', and .* is not an .npz"):
        files.read_matrix(tmp_path / "m.npy", "a")


# safetensors


def tensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(begin=0, end=8, shape=(1, 1), dtype="F64"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


BAD_TENSORS = {
    "header past the end": tensors({"W1": tensor()}, b"\0" * 8, 2**40),
    "header of all": tensors({"W1": tensor()}, b"\0" * 8, 2**64 - 1),
    "no header": b"\0" * 4,
    "no JSON": tensors(b"{'W1': 1}    ", b"\0" * 8),
    "not UTF-8": tensors(b'{"\xff": 1}  ', b"\0" * 8),
    "deep JSON": tensors(b'{"a":' * 50000, b"\0" * 8),
    "a list": tensors([1, 2], b"\0" * 8),
    "offsets past the end": tensors({"W1": tensor(0, 800, (10, 10))}, b"\0" * 8),
    "offsets backwards": tensors({"W1": tensor(8, 0)}, b"\0" * 8),
    "offsets overlap": tensors({"W1": tensor(0, 8), "W2": tensor(0, 8)}, b"\0" * 8),
    "a hole": tensors({"W1": tensor(0, 8), "W2": tensor(16, 24)}, b"\0" * 24),
    "shape unlike offsets": tensors({"W1": tensor(0, 8, (2, 2))}, b"\0" * 8),
    "negative shape": tensors({"W1": tensor(0, 8, (-1, -1))}, b"\0" * 8),
    "overflowing shape": tensors({"W1": tensor(0, 8, (2**63, 2**63))}, b"\0" * 8),
    "unknown dtype": tensors({"W1": tensor(0, 8, dtype="F128")}, b"\0" * 8),
    "more data": tensors({"W1": tensor()}, b"\0" * 16),
    "less data": tensors({"W1": tensor()}, b"\0" * 4),
    "powers of two": tensors({"W1": tensor(0, 1, dtype="F8_E8M0")}, b"\0"),
    "truth values": tensors({"W1": tensor(0, 1, dtype="BOOL")}, b"\0"),
}


@pytest.mark.parametrize("kind", list(BAD_TENSORS))
def test_bad_safetensors(tmp_path, kind):
    (tmp_path / "w.safetensors").write_bytes(BAD_TENSORS[kind])
    refused(
        files.load,
        tmp_path / "w.safetensors",
    )


@pytest.mark.parametrize("scale", ["nan", "inf", "-1", "0", "x" * 10**5, "1;2"])
def test_a_scale_that_is_none(tmp_path, scale):
    header = {"__metadata__": {"scale": scale}, "W1": tensor()}
    (tmp_path / "w.safetensors").write_bytes(tensors(header, b"\0" * 8))
    refused(files.load, tmp_path / "w.safetensors", "its scale is '")


# PyTorch


def test_pickles_in_torch_files(tmp_path):
    torch = pytest.importorskip("torch")

    path = tmp_path / "w.pt"
    for content in (Bomb(tmp_path), {"W1": torch.ones(2, 2), "x": Bomb(tmp_path)}, torch.nn.Linear(2, 2), os.system):
        torch.save(content, path)
        refused(files.load, path, r"holds code or objects besides tensors, .* save model.state_dict\(\)")
    assert not (tmp_path / MARK).exists()


def test_torch_files_that_are_no_weights(tmp_path):
    torch = pytest.importorskip("torch")

    path = tmp_path / "w.pt"
    eye = torch.eye(2)
    cases = [
        ({"W1": eye, "epoch": 3}, "holds a dict of 'W1', 'epoch', not tensors alone"),
        ({"a": {"W1": eye}, "b": {"W1": eye}}, "holds a dict of 'a', 'b'"),
        ({}, "holds an empty dict"),
        (3, "holds an object of type int"),
        ({"W1": eye.to_sparse()}, "'W1' is a torch.float32 tensor on cpu with layout torch.sparse_coo"),
        ({"W1": eye * 1j}, "'W1' is a torch.complex64"),
        ({"W1": eye > 0}, "'W1' is a torch.bool"),
        ({"W1": torch.empty(2, 2, device="meta")}, "on meta"),
        ({"W1": eye, "b": torch.ones(2)}, "'b' is a vector of 2, a bias"),
        ({"W1": torch.full((2, 2), torch.nan)}, "'W1' is nan at row 1, column 1"),
        # A stride of zero: one number that claims to be 8 TB.
        ({"W1": torch.ones(1).expand(2**20, 2**20)}, "is too large: it would take 8192 GiB"),
    ]
    for content, match in cases:
        torch.save(content, path)
        refused(files.load, path, match)
    torch.save({"W1": eye}, path, _use_new_zipfile_serialization=False)
    refused(files.load, path, "was not written by torch.save of PyTorch 1.6 or later")


def test_torchscript(tmp_path):
    path = archive(tmp_path / "w.pt", [("m/constants.pkl", b""), ("m/data.pkl", b""), ("m/code/x.py", b"")])
    refused(files.load, path, "TorchScript archive, which holds code")


def test_torch_missing(tmp_path, monkeypatch):
    path = written("w.pt", tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"needs the package torch, .*pip install 'linflow\[torch\]'"):
        files.load(path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"needs the package pyarrow, .*pip install 'linflow\[files\]'"):
        files.write_table({"a": [1]}, tmp_path / "t.csv")


# Text and Parquet

BAD_TEXT = {
    "blank": ("\n \n", "holds no numbers"),
    "comments alone": ("# a\n# b\n", "holds no numbers"),
    "header alone": ("a,b\n", "holds a header and no numbers"),
    "a word": ("1,2\n3,x\n", "line 2, column 2 is 'x'; a number is needed"),
    "a word in the first line": ("1,x\n3,4\n", "line 1, column 2 is 'x'"),
    "a word below a header": ("a,b\n\n1,2\n3,4\noops,5\n", "line 5, column 1 is 'oops'"),
    "a second header": ("a,b\nc,d\n1,2\n", "line 2, column 1 is 'c'"),
    "a cell missing": ("1,2\n3,\n", "line 2, column 2 is empty"),
    "a cell missing at the start": ("1,2\n,4\n", "line 2, column 1 is empty"),
    "ragged": ("1,2\n3,4\n5,6,7\n", "ragged: line 3 has 3 columns and line 1 has 2"),
    "ragged below a header": ("a,b\n1,2\n3\n", "ragged: line 3 has 1 columns and line 2 has 2"),
    "decimal commas": (
        "1,5;2,5\n3,5;4,5\n",
        "line 1, column 1 is '1,5'; a number is needed. Write decimals with a point|column",
    ),
    "NaN": ("1,2\n3,nan\n", "holds nan at row 2, column 2"),
    "infinite": ("1,2\n-inf,3\n", "holds -inf at row 2, column 1"),
    "too large for float64": ("1,2\n3,1e999\n", "holds inf at row 2, column 2"),
    "underscores": ("1,2\n3,1_000\n", "line 2, column 2 is '1_000'"),
    "complex": ("1,2\n3,1j\n", "line 2, column 2 is '1j'"),
    "percent": ("1 2\n3 4%\n", "line 2, column 2 is '4%'"),
    "formula": ('1,2\n"=cmd|x",3\n', "line 2, column 1 is '=cmd"),
    "zero bytes": ("1,2\n3,\0\n", "line 2 holds a zero byte"),
    "long cell": ("1,2\n3," + "x" * 10**6, "line 2, column 2 is 'xxxx"),
    "an open quote": ('1,2\n3,"4\n5,6\n', "line 2 has a quotation mark that is not closed"),
}


# What the programs write that data come from: an index is no data, and neither are names of columns.
BAD_COLUMNS = {
    "pandas": (",a,b\n0,1.5,2\n1,3.5,4\n", "its first column has no name, as an index .*index=False"),
    "pandas, an array": (",0,1\n0,1.5,2\n1,3.5,4\n", "its first column has no name"),
    "pandas, twice": ("Unnamed: 0,a\n0,1.5\n1,3.5\n", "its first column is named 'Unnamed: 0', as an index"),
    "pandas, without an index": (
        "0,1,2\n1.5,2.5,3.5\n4.5,5.5,6.5\n",
        "begins with 0, 1, 2, which looks .*header=False",
    ),
    "pandas, a series": ("0\n1.5\n2.5\n", "begins with 0, which looks like the names"),
    "years": ("2001,2002\n1.5,2.5\n", "begins with 2001, 2002, .* write data as 2001.0, …"),
    "pandas, reset": ("index,a\n0,1.5\n1,3.5\n", "its first column, 'index', counts the rows from 0 to 1"),
    "numbers of rows": ("ID;a\n1;1.5\n2;3.5\n3;2\n", "'ID', counts the rows from 1 to 3"),
    "R, write.csv": ('"","a"\n"1",1.5\n"2",3.5\n', "its first column has no name"),
    "R, write.table": ('"a" "b"\n"1" 1.5 2\n"2" 3.5 4\n', r"a header of 2 and 3 columns .*row.names = FALSE"),
    "R, names of rows": ('"a" "b"\n"one two" 1.5 2\n', r"a header of 2 and 3 columns below it \(line 2\)"),
    "a short header": ("a,b\n1,2,3,4\n", "a header of 2 and 4 columns .*decimal commas"),
    "a long header": ("a,b,c\n1,2\n", "a header of 3 and 2 columns"),
    "one decimal comma": ("y\n1,5\n2,25\n", "a header of 1 and 2 columns .*decimal commas, write them with points"),
    "decimal commas and a zero": ("1,5\n2,05\n", "line 2 holds '05', half of a number with a decimal comma"),
    "decimal commas below zero": ("-0,5\n2,5\n", "line 1 holds '-0', half of a number"),
    "decimal commas of many digits": ("3,5\n0,6931471806\n", "line 2 holds '6931471806', half of a number"),
    "decimal commas far down": ("1,5\n" * 50 + "2,00\n", "line 51 holds '00'"),
    "decimal commas and tabs": ("1,5\t2,5\n3,5\t4,5\n", "Write decimals with a point"),
    "decimal commas and blanks": ("1,5 2,5\n3,5 4,5\n", "Write decimals with a point"),
    "truth values": ("a,b\n1,True\n", "is 'True'; a number is needed. Write 1 for true and 0 for false"),
}


@pytest.mark.parametrize("kind", list(BAD_COLUMNS))
def test_columns_and_lines_that_are_no_data(tmp_path, kind):
    text, match = BAD_COLUMNS[kind]
    for end in ("csv", "txt"):
        (tmp_path / f"m.{end}").write_text(text)
        refused(files.read_matrix, tmp_path / f"m.{end}", match)


GOOD_COLUMNS = {
    "whole numbers": ("1,0\n0,1\n", [[1, 0], [0, 1]]),
    "counting, and whole numbers": ("0,1\n1,0\n", [[0, 1], [1, 0]]),
    "counting alone": ("0,1,2\n", [[0, 1, 2]]),
    "an id that does not count": ("id,a\n7,1.5\n3,2.5\n", [[7, 1.5], [3, 2.5]]),
    "a name that is no index": ("t,a\n0,1.5\n1,2.5\n", [[0, 1.5], [1, 2.5]]),
    "a later column without a name": ("a,\n1.5,2\n", [[1.5, 2]]),
    "long whole numbers": ("1700000000000,3\n1700000000001,4\n", [[1700000000000, 3], [1700000000001, 4]]),
    "a zero in decimals": ("1.5,05\n", [[1.5, 5]]),
    "blanks in a quoted name": ('"a b" c\n1.5 2\n', [[1.5, 2]]),
}


@pytest.mark.parametrize("kind", list(GOOD_COLUMNS))
def test_columns_and_lines_that_are_data(tmp_path, kind):
    text, wanted = GOOD_COLUMNS[kind]
    (tmp_path / "m.csv").write_text(text)
    np.testing.assert_array_equal(files.read_matrix(tmp_path / "m.csv"), wanted)


def test_an_index_in_a_parquet_file_is_no_data(tmp_path):
    import pandas

    path, frame = tmp_path / "m.parquet", pandas.DataFrame({"a": [1.5, 2.5, 2], "b": [3, 4, 9]})
    dated = frame.set_index(pandas.Index([2001, 2005, 2006], name="year"))
    for made, left in (
        (frame, None),
        (dated, "'year'"),
        (dated.set_index("a", append=True).rename_axis(["year", None]), "'year', '__index_level_1__'"),
    ):
        made.to_parquet(path)
        notes = []
        read = files.read_matrix(path, notes=notes)
        np.testing.assert_array_equal(read, made.to_numpy())
        assert notes == ([] if left is None else [f"the index {left} of pandas in {str(path)!r} was left out"])
    dated[[]].to_parquet(path)
    refused(files.read_matrix, path, "holds an index of pandas, 'year', and no other column")
    for name, match in (("Unnamed: 0", "its first column is named"), ("index", "counts the rows from 0 to 2")):
        pandas.concat([pandas.DataFrame({name: [0, 1, 2]}), frame], axis=1).to_parquet(path)
        refused(files.read_matrix, path, match)


def test_the_name_of_an_array_may_stand_in_a_path(tmp_path):
    np.savez(tmp_path / "m.npz", a=np.eye(2), X=np.eye(3))
    assert files.read_matrix(f"{tmp_path}/m.npz:X").shape == (3, 3)
    assert files.read_matrix(tmp_path / "m.npz:a").shape == (2, 2)
    refused(lambda path: files.read_matrix(f"{path}:x"), tmp_path / "m.npz", "has no 'x'; it holds 'a', 'X'")
    refused(files.read_matrix, tmp_path / "m.npz", "or m.npz:a as its path")


def test_a_sparse_matrix_of_scipy_says_how_to_write_it(tmp_path):
    from scipy import sparse

    for kind in ("csr", "csc", "coo", "bsr", "dia"):
        sparse.save_npz(tmp_path / "m.npz", sparse.eye_array(3, format=kind))
        refused(files.read_matrix, tmp_path / "m.npz", r"a sparse matrix of SciPy; .*load_npz\(path\).toarray\(\)")
        refused(files.load_weights, tmp_path / "m.npz", "a sparse matrix of SciPy")


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("m.xlsx", "Save it as CSV"),
        ("m.csv.gz", "Unpack it first"),
        ("m.pkl", "It can contain code"),
        ("m.mat", "scipy.io.loadmat"),
        ("m.dat", "Rename it to .txt"),
        ("m.feather", "Write it as Parquet"),
        ("m.xyz", "Convert it"),
        ("m", "Add it to its name"),
    ],
)
def test_files_of_other_kinds_say_the_way(tmp_path, name, way):
    refused(files.read_matrix, tmp_path / name, way)


@pytest.mark.parametrize("kind", list(BAD_TEXT))
def test_bad_text(tmp_path, kind):
    text, match = BAD_TEXT[kind]
    (tmp_path / "m.csv").write_text(text)
    refused(files.read_matrix, tmp_path / "m.csv", match)


def test_text_that_is_not_utf_8(tmp_path):
    (tmp_path / "m.csv").write_bytes("höhe\n1\n".encode("latin-1"))
    refused(files.read_matrix, tmp_path / "m.csv", "is not UTF-8 text")
    (tmp_path / "m.csv").write_bytes("1,2\n3,4\n".encode("utf-16"))
    refused(files.read_matrix, tmp_path / "m.csv", "is not UTF-8 text|zero byte")


def test_bad_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "m.parquet"
    cases = [
        ({"a": [1.0], "name": ["x"], "on": [True]}, r"not numbers: 'name' \(string\), 'on' \(bool\)"),
        ({"a": [1.0, None]}, "no value at row 2 of column 'a'"),
        ({"a": [1.0, 2.0], "b": [3.0, np.inf]}, "holds inf at row 2, column 2"),
        ({"a": pa.array([], pa.float64())}, r"an empty matrix \(shape \(0, 1\)\)"),
        ({"a": [[1.0]]}, "not numbers: 'a'"),
    ]
    for columns, match in cases:
        pq.write_table(pa.table(columns), path)
        refused(files.read_matrix, path, match)
    # Three million rows of one number take some hundred bytes a group.
    pq.write_table(pa.table({"a": pa.array(np.zeros(3 * 10**6))}), path)
    assert path.stat().st_size < 10**5
    with pytest.raises(FileError, match=r"would take 22.89 MiB, and 1 MiB are allowed"):
        files.read_matrix(path, limit=2**20)
