"""Compiled code on the disk: what is damaged, or could be written by others, is compiled again and never run."""

import os
import pickle
import stat
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("numba", reason="compiled code needs numba: pip install 'linflow[fast]'")

from linflow._support import code_files as _code_files
from linflow._support import programs
from linflow._support.code_files import CodeFiles
from linflow.dynamics import _march

KEY, CODE = ("signature", "processor"), ("name", b"\x7fELF code", 3.0)


@pytest.fixture
def kept(tmp_path):
    files = CodeFiles(str(tmp_path), "march.py311", (b"source", 7))
    files.save(KEY, CODE)
    files.save(("other",), "other code")
    return files


def again(kept, stamp=(b"source", 7)):
    return CodeFiles(kept._cache_path, "march.py311", stamp)


def test_what_is_kept_is_loaded_and_belongs_to_the_user(kept, tmp_path):
    assert again(kept).load(KEY) == CODE
    assert again(kept).load(("other",)) == "other code"
    assert again(kept).load(("none",)) is None
    assert again(kept, (b"newer source", 7)).load(KEY) is None
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["march.py311.1.nbc", "march.py311.2.nbc", "march.py311.nbi"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    other = again(kept)
    other._version = "another numba"
    assert other.load(KEY) is None


@pytest.mark.parametrize("name", ["march.py311.nbi", "march.py311.1.nbc"])
def test_damaged_files_count_as_absent_and_are_written_again(kept, tmp_path, name):
    whole = (tmp_path / name).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    swapped = (tmp_path / "march.py311.2.nbc").read_bytes()[:32] + whole[32:]
    of_numba = pickle.dumps(CODE)  # without a hash
    other = (tmp_path / "march.py311.2.nbc").read_bytes()  # whole, and of another function
    for content in (b"", whole[:10], whole[:32], whole[:-1], whole + b"x", bytes(flipped), swapped, of_numba, other):
        (tmp_path / name).write_bytes(content)
        assert again(kept).load(KEY) is None
        again(kept).save(KEY, CODE)
        assert again(kept).load(KEY) == CODE
    (tmp_path / name).unlink()
    assert again(kept).load(KEY) is None


@pytest.mark.parametrize("name", ["march.py311.nbi", "march.py311.1.nbc"])
def test_what_others_could_have_written_is_not_loaded(kept, tmp_path, name, monkeypatch):
    path = tmp_path / name
    for mode, loads in ((0o666, False), (0o620, False), (0o644, True), (0o400, True)):
        path.chmod(mode)
        assert (again(kept).load(KEY) == CODE) is loads
    whole = path.read_bytes()
    path.unlink()
    (tmp_path / "elsewhere").write_bytes(whole)
    path.symlink_to(tmp_path / "elsewhere")
    assert again(kept).load(KEY) is None
    path.unlink()
    os.mkfifo(path)  # opened, it would wait for ever
    assert again(kept).load(KEY) is None
    path.unlink()
    path.write_bytes(whole)
    path.chmod(0o600)
    assert again(kept).load(KEY) == CODE
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    # A file of the administrator, who installs for all, is loaded.
    assert (again(kept).load(KEY) == CODE) is (path.stat().st_uid == 0)
    found = list(path.stat())
    found[stat.ST_UID] = 12345
    assert not _code_files._own(os.stat_result(found))


def test_nothing_that_is_damaged_is_unpickled(kept, tmp_path, monkeypatch):
    (tmp_path / "march.py311.1.nbc").write_bytes(b"x" * 32 + pickle.dumps(CODE))
    again(kept)._load_index()
    monkeypatch.setattr(_code_files.pickle, "loads", lambda content: pytest.fail("it was unpickled"))
    assert again(kept)._load_data("march.py311.1.nbc") is None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    files = CodeFiles(str(tmp_path / "none"), "march", (b"", 0))
    files.save(KEY, CODE)
    assert files.load(KEY) is None


def test_the_compiled_loops_are_kept_so():
    programs: Any = _march.programs()
    assert all(type(program._cache._cache_file) is CodeFiles for program in programs)


@pytest.mark.parametrize("meanwhile", [True, False])
def test_processes_that_begin_together_compile_once(tmp_path, monkeypatch, meanwhile):
    """What another process compiles while this one waits for its turn is loaded."""
    done, asked = [], []

    class Program:
        _cache = SimpleNamespace(_cache_path=str(tmp_path), _impl=SimpleNamespace(filename_base="march.py311"))

        def compile(self, arguments):
            if not done:
                raise programs._NotKept

    @contextmanager
    def in_turn(path, patience):
        assert (path, patience) == (tmp_path / "march.py311.turn", 600.0)
        done.extend([1] * meanwhile)
        yield
        assert done

    monkeypatch.setattr(programs, "in_turn", in_turn)
    monkeypatch.setattr(programs, "_compile_in_another_process", lambda build: (asked.append(build), done.append(1)))
    made = Program()

    def build():
        return [(made, ())]

    assert programs.loaded(build) == [made]
    assert asked == [build] * (not meanwhile)


@pytest.mark.slow  # compiles, five times
def test_what_is_damaged_is_compiled_again(tmp_path):
    """Shown with the smallest programs, those of a bound; the loops of the flow are kept in the same way."""
    script = """
import numpy as np, linflow as lf
from linflow.bounds import _interval_search
from linflow.bounds._interval_program import PLAIN
print(lf.bounds.best(lf.init.ntk((3, 5, 4, 3), rng=0)).value.tobytes().hex())
assert _interval_search.programs() is not PLAIN
"""

    def run():
        env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
        return subprocess.run([sys.executable, "-c", script], env=env, check=True, capture_output=True).stdout

    first, damaged = run(), 0
    for path in sorted([*tmp_path.rglob("*.nbi"), *tmp_path.rglob("*.nbc")]):
        whole = path.read_bytes()
        path.write_bytes(b"" if path.suffix == ".nbi" else whole[:5000] + bytes(5000) + whole[10_000:])
        assert run() == first
        assert len(path.read_bytes()) > 100
        damaged += 1
    assert damaged >= 2
