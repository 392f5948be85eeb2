"""Small files that decode to more than is allowed: refused before the memory is taken, whatever the format."""

import struct
import zipfile
import zlib

import numpy as np
import pytest

import linflow as lf
from linflow import files
from linflow._support.toml import DEEPEST, LIMIT, read_toml
from linflow.files import FileError

SMALL = 10**6
"""The limit of these tests. What would be decoded without it is 20 times as much or more, but fits into memory."""

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def refused(read, path, match="is too large: .* pass limit=", **options):
    before = pa.default_memory_pool().max_memory()
    with pytest.raises(FileError, match=match):
        read(path, **options)
    # The pool counts its maximum over the whole process. What other tests took is not counted here.
    assert pa.default_memory_pool().max_memory() <= max(before, 4 * SMALL)


# Parquet


def test_parquet_by_a_dictionary(tmp_path):
    path = tmp_path / "t.parquet"
    words = pa.DictionaryArray.from_arrays(pa.array(np.zeros(200, dtype=np.int32)), pa.array(["x" * 100_000]))
    for table in (pa.table({"a": words}), pa.table({"a": pa.ListArray.from_arrays([0, 200], words)})):
        pq.write_table(table, path, compression="zstd", store_schema=False)
        assert path.stat().st_size < 2000
        refused(files.read_table, path, limit=SMALL)
        assert files.read_table(path).num_rows == len(table)


def test_parquet_by_shared_beginnings(tmp_path):
    path = tmp_path / "t.parquet"
    table = pa.table({"a": ["x" * 100_000] * 200})
    pq.write_table(table, path, compression="zstd", use_dictionary=False, column_encoding={"a": "DELTA_BYTE_ARRAY"})
    assert path.stat().st_size < 5000
    refused(files.read_table, path, limit=SMALL)
    assert files.read_table(path).equals(table)


def zigzag(number):
    found, number = b"", 2 * number
    while number >= 128:
        found, number = found + bytes([number & 127 | 128]), number >> 7
    return found + bytes([number])


def test_parquet_by_run_lengths_and_a_footer_that_lies(tmp_path):
    path, rows = tmp_path / "t.parquet", 3_000_000
    pq.write_table(pa.table({"a": np.zeros(rows)}), path, compression="none")
    for read in (files.read_table, files.read_matrix):
        refused(read, path, limit=SMALL)
    whole = path.read_bytes()
    (size,) = struct.unpack("<I", whole[-8:-4])
    footer = whole[-8 - size : -8]
    for place in range(footer.count(zigzag(rows))):  # of the file, of the group, of the column
        for told in (10, 2**40):
            parts = footer.split(zigzag(rows))
            lie = zigzag(rows).join(parts[: place + 1]) + zigzag(told) + zigzag(rows).join(parts[place + 1 :])
            path.write_bytes(whole[: -8 - size] + lie + struct.pack("<I", len(lie)) + b"PAR1")
            for read in (files.read_table, files.read_matrix):
                refused(read, path, "is too large|corrupt", limit=SMALL)


def test_parquet_by_pages_that_decompress(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": ["x" * 30_000_000]}), path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 20_000
    refused(files.read_table, path, limit=SMALL)


def test_parquet_of_every_writer_reads_as_pyarrow_reads_it(tmp_path, rng):
    path = tmp_path / "t.parquet"
    words = [f"word {i % 7}" for i in range(1000)]
    table = pa.table(
        {
            "a": rng.random(1000), "s": words, "l": [words[: i % 4] for i in range(1000)], "b": [True] * 1000,
            "n": [None if i % 2 else i for i in range(1000)], "d": pa.array([b"1234"] * 1000, pa.binary(4)),
            "c": pa.array(words).dictionary_encode(), "e": pa.array([None] * 1000, pa.string()),
        }
    )  # fmt: skip
    kinds = [
        {}, {"data_page_version": "2.0"}, {"use_dictionary": False}, {"compression": "zstd"}, {"row_group_size": 100},
        {"use_dictionary": False, "column_encoding": {"s": "DELTA_BYTE_ARRAY", "a": "BYTE_STREAM_SPLIT"}},
        {"data_page_size": 100}, {"write_statistics": False, "compression": "none"},
    ]  # fmt: skip
    for kind in kinds:
        pq.write_table(table, path, write_page_checksum=True, **kind)
        assert files.read_table(path).equals(table), kind
        assert files.read_table(path, limit=2 * table.nbytes).equals(table), kind
        assert files.read_table(path, columns=["l", "a"]).equals(table.select(["l", "a"])), kind
    pq.write_table(table.slice(0, 0), path)
    assert files.read_table(path).equals(table.slice(0, 0))


def test_parquet_with_two_columns_of_one_name(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array([1.0, 2.0]), pa.array([3.0, 4.0])], names=["a", "a"]), path)
    assert files.read_matrix(path).tolist() == [[1.0, 3.0], [2.0, 4.0]]
    assert files.read_table(path).num_columns == 2


# Text


def test_a_table_of_empty_cells(tmp_path):
    """Each of its bytes is a number in memory."""
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,b\n" + b",\n" * 100_000)
    refused(files.read_table, path, limit=SMALL)
    assert files.read_table(path, limit=2 * SMALL).num_rows == 100_000


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_short_lines_count_however_they_end(tmp_path, end):
    """Each takes eight bytes in memory, and as few as two on disk."""
    path = tmp_path / "m.csv"
    path.write_bytes(f"1{end}".encode() * 100_000)
    refused(files.read_matrix, path, limit=8 * 10**5)
    assert files.read_matrix(path, limit=8 * (10**5 + 1)).shape == (10**5, 1)
    refused(files.read_table, path, limit=8 * 10**5)
    assert files.read_table(path, limit=8 * (10**5 + 1)).num_rows == 10**5 - 1  # the first line names the column


@pytest.mark.parametrize("end", ["csv", "tsv", "txt"])
def test_one_long_line(tmp_path, end):
    """Cut into cells, it takes 30 times its size."""
    path = tmp_path / f"m.{end}"
    path.write_bytes(b"1\n" + b"1," * 100_000 + b"1\n")
    with pytest.raises(FileError, match=r"a line of 200001 characters would take .* pass limit="):
        files.read_matrix(path, limit=SMALL)
    path.write_bytes(b"1," * 1000 + b"1\r" + b"2," * 1000 + b"2\r")
    assert files.read_matrix(path).shape == (2, 1001)


def test_numbers_of_thousands_of_digits(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("1" * 5000 + ",2\n1,2\n")
    with pytest.raises(FileError, match="finite numbers are needed"):
        files.read_matrix(path)


# Runs


def bad_run(tmp_path, change):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "run.nc"
    run = lf.gradient_descent(lf.MatrixFactorization(np.eye(2)), [np.eye(2) / 2] * 2, step_size=0.1, steps=9)
    files.save_run(run, path)
    with h5py.File(path, "r+") as file:
        values = file["gap"][()]
        del file.attrs["checksum"], file["gap"]
        change(h5py, file, values)
    return path


def test_a_run_whose_chunk_decompresses_to_more(tmp_path):
    def one(h5py, file, values):
        made = file.create_dataset("gap", shape=(10,), chunks=(10,), dtype="f8", compression="gzip")
        made.id.write_direct_chunk((0,), zlib.compress(bytes(20 * SMALL)))

    refused(files.load_run, bad_run(tmp_path, one), "'gap' has a chunk that does not decompress to its 80 bytes")


def test_a_run_compressed_twice(tmp_path):
    def twice(h5py, file, values):
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_chunk((10,))
        made.set_deflate(9)
        made.set_filter(h5py.h5z.FILTER_DEFLATE, 0, (9,))
        space = h5py.h5s.create_simple((10,))
        data = h5py.h5d.create(file.id, b"gap", h5py.h5t.IEEE_F64LE, space, made)
        data.write_direct_chunk((0,), zlib.compress(zlib.compress(bytes(20 * SMALL))))

    refused(files.load_run, bad_run(tmp_path, twice), "'gap' is compressed more than once")


@pytest.mark.parametrize("options", [{"shuffle": True, "fletcher32": True}, {"fletcher32": True}, {}])
def test_a_run_compressed_as_others_do_it_loads(tmp_path, options):
    def good(h5py, file, values):
        file.create_dataset("gap", data=values, chunks=(4,), compression="gzip", **options)

    assert len(files.load_run(bad_run(tmp_path, good)).gap) == 10


# Weights


def changed_torch(tmp_path, change, compression=zipfile.ZIP_STORED):
    torch = pytest.importorskip("torch")
    torch.save({"W1": torch.ones(3, 2), "W2": torch.ones(2, 4)}, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as source,
        zipfile.ZipFile(tmp_path / "b.pt", "w", compression) as target,
    ):
        for info in source.infolist():
            content = source.read(info)
            target.writestr(info.filename, change(content) if info.filename.endswith("data.pkl") else content)
    return tmp_path / "b.pt"


def test_a_pickle_that_makes_a_bytearray(tmp_path):
    def change(content):
        return content[:2] + b"cbuiltins\nbytearray\nJ" + struct.pack("<i", 20 * SMALL) + b"\x85R0" + content[2:]

    with pytest.raises(FileError, match="makes a bytearray"):
        files.load_weights(changed_torch(tmp_path, change))


def test_a_pickle_that_claims_more_numbers_than_the_file_has(tmp_path):
    """Read from beyond its data, a tensor would show what else is in memory."""

    def change(content):
        assert content.count(b"K\x06tq") == content.count(b"K\x03K\x02") == content.count(b"K\x02K\x01") == 1
        content = content.replace(b"K\x06tq", b"J" + struct.pack("<i", 10**6) + b"tq")
        return content.replace(b"K\x03K\x02", b"M\xe8\x03M\xe8\x03").replace(b"K\x02K\x01", b"M\xe8\x03K\x01")

    with pytest.raises(FileError, match="cannot be read by PyTorch"):
        files.load_weights(changed_torch(tmp_path, change))
    with pytest.raises(FileError, match=r"compressed, as torch\.save does not; save it again"):
        files.load_weights(changed_torch(tmp_path, bytes, zipfile.ZIP_DEFLATED))
    assert files.load_weights(changed_torch(tmp_path, bytes)).widths == (3, 2, 4)


def test_safetensors_with_a_side_of_any_length(tmp_path):
    pytest.importorskip("safetensors")
    for shape in ([0, 2**63], [0, 2**63 - 1], [2**62, 4], [2**64, 1]):
        header = f'{{"W1":{{"dtype":"F64","shape":{shape},"data_offsets":[0,0]}}}}'.encode()
        (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
        with pytest.raises(FileError):
            files.load_weights(tmp_path / "w.safetensors")


# Experiment files


@pytest.mark.parametrize(
    "text",
    [
        "\n" + ".".join("a" * 50_000) + " = 1",
        '\n"a" . ' + "'b'\t.\t" * 50_000 + "c = 1",
        "\n[" + ".".join("a" * 50_000) + "]",
        "\na = " + "[" * 20_000,
        "\na = " + "{b = " * 20_000,
        "# [\nx = [\n" + "[" * DEEPEST,
        'x = """a""""\ny = ' + "[" * 50,
    ],
)
def test_toml_that_is_nested_deep(tmp_path, text):
    """Its parser takes the square of the depth, in memory and in time, or ends in a RecursionError."""
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(
        ValueError, match=rf"x\.toml, line [1-3]: there are more than {DEEPEST} names in a dotted key"
    ):
        read_toml(tmp_path / "x.toml")


def test_toml_that_only_looks_deep(tmp_path):
    deep = "[" * 50
    text = f'a = "{deep}"\nb = \'{deep}\'\n# {deep}\nc = """\n{deep}\\"""{deep}"""""\nd = \'\'\'{deep}\'\'\'\n'
    text += "e = 1.5\n" + "x.y.z.w = [[1.25, 2.5], [3.5]]\n" + f"f = {[1.5] * 100}\n"
    (tmp_path / "x.toml").write_text(text)
    assert read_toml(tmp_path / "x.toml")[0]["b"] == deep
    (tmp_path / "x.toml").write_text("")
    assert read_toml(tmp_path / "x.toml") == ({}, "")


def test_toml_that_is_large_or_has_long_numbers(tmp_path):
    path = tmp_path / "x.toml"
    with open(path, "wb") as file:
        file.truncate(LIMIT + 1)
    with pytest.raises(ValueError, match="a TOML file of at most 16 MiB is needed"):
        read_toml(path)
    path.write_text("a = " + "9" * 5000)
    with pytest.raises(ValueError, match=r"x.toml is not TOML: Exceeds the limit"):
        read_toml(path)
