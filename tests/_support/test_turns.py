"""Processes and threads that begin the same work together: one does it, the others find it done."""

import os
import stat
import subprocess
import sys
import threading

import pytest

from linflow._support import turns
from linflow._support.turns import in_turn
from tests.waiting import PATIENCE, ended, waited

fcntl = pytest.importorskip("fcntl", reason="Windows has no such locks; work is then done twice")


def locked(path):
    """Whether somebody is in a block of this file."""
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def test_a_second_block_waits_for_the_first(tmp_path, monkeypatch):
    path, tried, order = tmp_path / "turn", threading.Event(), []
    sleep = turns.time.sleep
    monkeypatch.setattr(turns.time, "sleep", lambda seconds: (tried.set(), sleep(seconds)))

    def second():
        with in_turn(path, PATIENCE):
            order.append("second")

    thread = threading.Thread(target=second)
    with in_turn(path, PATIENCE):
        assert locked(path)
        thread.start()
        assert tried.wait(PATIENCE)
        order.append("first")
    thread.join(PATIENCE)
    assert order == ["first", "second"]
    assert not locked(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_error_gives_the_turn_back(tmp_path):
    with pytest.raises(RuntimeError, match="of the block"), in_turn(tmp_path / "turn", PATIENCE):
        raise RuntimeError("of the block")
    assert not locked(tmp_path / "turn")


def test_a_process_that_is_killed_gives_its_turn_back(tmp_path):
    path = tmp_path / "turn"
    script = """
import sys, time
from pathlib import Path
from linflow._support.turns import in_turn
with in_turn(Path(sys.argv[1]), 1.0):
    print("in", flush=True)
    time.sleep(10_000)
"""
    with ended(subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE)) as process:
        assert process.stdout.readline() == b"in\n"
        assert locked(path)
        process.kill()
        process.wait()
        waited(lambda: not locked(path))


def test_the_block_is_entered_after_all(tmp_path, monkeypatch):
    entered = []
    with in_turn(tmp_path / "turn", PATIENCE), in_turn(tmp_path / "turn", 0.0):
        entered.append("no patience is left")
    with in_turn(tmp_path / "none" / "turn", PATIENCE):
        entered.append("there is no such folder")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with in_turn(tmp_path / "link", PATIENCE):
        entered.append("a link is not followed")
    assert not (tmp_path / "elsewhere").exists()

    def no_locks(*_):
        raise OSError(os.strerror(95))

    monkeypatch.setattr(turns.fcntl, "flock", no_locks)
    with in_turn(tmp_path / "turn", PATIENCE):
        entered.append("the file system has no locks")
    monkeypatch.setattr(turns, "fcntl", None)
    with in_turn(tmp_path / "windows", PATIENCE):
        entered.append("Windows")
    assert len(entered) == 5
    assert not (tmp_path / "windows").exists()
