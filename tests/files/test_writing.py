"""Writing is whole or not at all, wherever it goes wrong."""

import os
import resource
import signal
import stat

import numpy as np
import pytest

from linflow import files
from linflow.files import FileError, atomic
from tests.files.test_hostile import WRITERS, written


@pytest.mark.parametrize("name", list(WRITERS))
def test_where_nothing_can_be_written(tmp_path, name):
    write = WRITERS[name]
    with pytest.raises(FileNotFoundError, match=r"the folder '.*no folder' does not exist; make it first"):
        write(tmp_path / "no folder" / name)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"is not a folder|a part of its path is a file"):
        write(tmp_path / "file" / name)
    (tmp_path / name).mkdir()
    with pytest.raises(IsADirectoryError, match="is a directory; name a file in it"):
        write(tmp_path / name)
    (tmp_path / name).rmdir()
    os.mkfifo(tmp_path / name)  # and so with devices: as root, /dev/null itself would be replaced
    with pytest.raises(OSError, match="is not a regular file, so it was not replaced"):
        write(tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(tmp_path / name)
    with pytest.raises(OSError, match="is a symbolic link, and links are not written"):
        write(tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"file", name}
    with pytest.raises(FileError, match=r"ends in '.tar'; .* written as \."):
        write(tmp_path / "x.tar")
    with pytest.raises(FileError, match="has no suffix"):
        write(tmp_path / "x")


# NumPy before 2.1 leaves its archive open where writing fails, which Python says when it is collected.
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", list(WRITERS))
def test_a_full_disk_leaves_the_old_file(tmp_path, name):
    """A limit on the size of files is met at the same place as the end of a disk, by the system itself."""
    path = tmp_path / name
    path.write_bytes(b"old")
    old, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN  # as Python sets it: the call fails instead
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            WRITERS[name](path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (old, hard))
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    WRITERS[name](path)
    assert path.read_bytes() != b"old"


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_whatever_fails_leaves_the_old_file(tmp_path, monkeypatch, step, error):
    def fail(*args):
        raise error

    path = tmp_path / "w.npz"
    path.write_bytes(b"old")
    with monkeypatch.context() as patched:
        patched.setattr(os, step, fail)
        with pytest.raises(type(error)):
            WRITERS["w.npz"](path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_atomic_shows_nothing_before_the_end(tmp_path):
    path = tmp_path / "new.txt"

    def interrupted():
        with atomic(path) as temporary:
            temporary.write_text("half")
            assert temporary.parent == tmp_path and not path.exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    with atomic(path) as temporary:
        temporary.write_text("whole")
    assert path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_the_disk_before_the_name(tmp_path, monkeypatch):
    done = []
    real_sync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda handle: (done.append(stat.S_ISDIR(os.fstat(handle).st_mode)), real_sync(handle))
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("renamed"), real_replace(a, b)))
    with atomic(tmp_path / "a") as temporary:
        temporary.write_text("x")
    assert done == [False, "renamed", True]


def test_permissions_and_links(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic(tmp_path / "a") as temporary:
            temporary.write_text("x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640  # as of any new file
    (tmp_path / "a").chmod(0o604)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "a")
    (tmp_path / "folder" / "hanging").symlink_to(tmp_path / "b")
    for name in ("link", "hanging"):  # they may lead to a file that was not meant
        with (
            pytest.raises(OSError, match="is a symbolic link, and links are not written"),
            atomic(tmp_path / "folder" / name),
        ):
            pytest.fail("a temporary file was made")
    with atomic(tmp_path / "a") as temporary:
        temporary.write_text("y")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o604
    assert (tmp_path / "a").read_text() == "y"
    assert not (tmp_path / "b").exists()
    (tmp_path / "by link").symlink_to(tmp_path / "folder")  # a folder may be reached by a link
    (tmp_path / "folder" / "link").unlink()
    with atomic(tmp_path / "by link" / "link") as temporary:
        temporary.write_text("z")
    assert (tmp_path / "folder" / "link").read_text() == "z"


def test_permission_denied(tmp_path, monkeypatch):
    """Root may do all, so the system's answer is put in its place."""
    path = written("w.npz", tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda *args: False)
        with pytest.raises(PermissionError, match="may not be read; check its permissions"):
            files.load(path)
        with pytest.raises(PermissionError, match="may not be written"):
            files.save_weights([np.eye(2)], path)

    def deny(*args, **options):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", deny)
        with pytest.raises(PermissionError, match="no files may be made in"):
            files.save_weights([np.eye(2)], path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", deny)
        with pytest.raises(PermissionError, match="lies in a folder that may not be read"):
            files.load(path)


@pytest.mark.parametrize(
    "name", ["a b.npz", "μ – ½.npz", "-rf.npz", "new\nline.npz", "quote'\".npz", ".npz.npz", "x" * 251 + ".npz"]
)
def test_names_of_any_kind(tmp_path, name):
    path = tmp_path / name
    files.save_weights([np.eye(2)], path)
    assert files.load(path).widths == (2, 2)
    path.write_bytes(b"PK")
    with pytest.raises(FileError) as caught:
        files.load(path)
    assert "\n" not in str(caught.value)


def test_names_that_cannot_be(tmp_path):
    with pytest.raises((OSError, ValueError)):
        files.save_weights([np.eye(2)], tmp_path / ("x" * 300 + ".npz"))
    for read in (files.load, files.read_matrix):
        with pytest.raises(OSError, match="cannot be reached"):
            read(tmp_path / ("x" * 300 + ".npz"))
        with pytest.raises(ValueError, match="null"):
            read(str(tmp_path / "a\0b.npz"))
    assert list(tmp_path.iterdir()) == []


def test_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.save_weights([np.eye(2)], "w.npz")
    assert files.load("w.npz").widths == (2, 2)
