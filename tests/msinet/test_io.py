"""Files appear whole or not at all, and errors of the operating system become messages."""

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from msinet.errors import Busy, UserError
from msinet.io import (
    atomic_path,
    cache_folder,
    check_writable,
    exclusive,
    file_errors,
    nearest_existing,
    write_json,
    write_text,
)


def run(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, where limits and identities can be given up."""
    command = [sys.executable, "-c", f"import os, sys, resource\nfrom msinet.io import write_text\n{code}"]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False, env=environment
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_new_text_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "first, and long\n")
    write_text(path, "Zweitens: ü\r\n")
    assert path.read_bytes() == "Zweitens: ü\r\n".encode()
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failing_block_leaves_the_old_file_and_nothing_else(tmp_path: Path, failure: type[BaseException]) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")

    def write() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half of the n")
            assert temporary.parent == tmp_path
            assert temporary.suffix == ".csv"
            assert path.read_text() == "old"  # nothing is visible before the end
            raise failure

    with pytest.raises(failure):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.csv"]


def test_the_file_is_synced_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("sync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("rename"), replace(a, b)))
    write_text(tmp_path / "a", "text")
    assert calls == ["sync", "rename", "sync"]


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "b" / "c" / "a.txt", "text")
    assert (tmp_path / "b" / "c" / "a.txt").read_text() == "text"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "there" / "a.txt", tmp_path / "link.txt"
    write_text(target, "old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(UserError, match=rf"{name}.*not a regular file"):
            write_text(tmp_path / name, "text")
    assert (tmp_path / "pipe").is_fifo()
    assert names(tmp_path) == ["folder", "pipe"]


def test_a_file_in_the_place_of_a_folder_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(UserError, match=r"cannot write .*a/b\.txt.*\(.*/a is a file, not a folder\); check the path"):
        write_text(tmp_path / "a" / "b.txt", "text")
    assert (tmp_path / "a").read_text() == "old"


def test_a_check_reports_what_writing_would_and_changes_no_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    for path, message in ((tmp_path / "a" / "b.txt", "not a folder"), (tmp_path, "not a regular file")):
        with pytest.raises(UserError, match=message):
            check_writable(path)
    check_writable(tmp_path / "a")
    check_writable(tmp_path / "new" / "b.txt")
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path / "new") == []


def test_a_lock_reports_its_own_errors_only(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    for error in (FileNotFoundError(errno.ENOENT, "No such file", "photo.jpg"), BrokenPipeError(errno.EPIPE, "pipe")):
        with pytest.raises(type(error)) as caught, exclusive(lock, "a test"):
            raise error
        assert caught.value is error
    with exclusive(lock, "a test"), pytest.raises(Busy, match="a test is in progress"), exclusive(lock, "a test"):
        pass
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"cannot write .*file/\.lock.*not a folder"),
        exclusive(tmp_path / "file/.lock", ""),
    ):
        pass


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EACCES, "permissions"),
        (errno.EROFS, "read-only"),
    ],
)
def test_refusals_name_the_path_the_space_and_the_remedy(tmp_path: Path, number: int, remedy: str) -> None:
    with pytest.raises(UserError) as caught, atomic_path(tmp_path / "a.bin"):
        raise OSError(number, os.strerror(number))
    for part in ("a.bin", os.strerror(number), "MiB free", remedy):
        assert part in str(caught.value)


def test_a_file_that_outgrows_its_limit_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    result = run(
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); write_text(sys.argv[1], 'x' * 100_000)", path
    )
    assert result.returncode == 1
    assert "UserError: cannot write" in result.stderr
    assert "ulimit -f" in result.stderr
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_without_permission_is_a_user_error(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "a.txt").write_text("old")
    folder.chmod(0o500)
    # root may write anywhere, so it becomes nobody first
    result = run("os.getuid() or os.setuid(65534); write_text(sys.argv[1], 'new')", folder / "a.txt")
    folder.chmod(0o700)
    assert "UserError: cannot write" in result.stderr
    assert "Permission denied" in result.stderr
    assert names(folder) == ["a.txt"]
    assert (folder / "a.txt").read_text() == "old"


def test_json_is_strict_and_readable(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": [1, None], "a": "größer"})
    assert json.loads(path.read_text()) == {"b": [1, None], "a": "größer"}
    assert path.read_text().startswith('{\n  "b"')
    assert "größer" in path.read_text()
    for bad, error in (({"a": math.nan}, ValueError), ({"a": object()}, TypeError)):
        with pytest.raises(error):
            write_json(path, bad)
    assert json.loads(path.read_text())["b"] == [1, None]
    assert names(tmp_path) == ["a.json"]


def test_what_the_system_says_of_a_file_is_for_the_user(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"cannot use {tmp_path}: Is a directory"), file_errors():
        tmp_path.read_text()
    with pytest.raises(OSError, match="nobody's file"), file_errors():
        raise OSError(errno.EIO, "nobody's file")
    with pytest.raises(UserError, match="cannot write: disk full; free some space"), file_errors():
        raise OSError(errno.ENOSPC, "disk full")  # a stream that is open already does not name its file


def test_the_message_on_a_missing_path_lists_what_exists(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    for path, found in (
        ("phots", " {0} exists and holds photos. Did you mean 'photos'?"),
        ("phots/b/c", " {0} exists and holds photos. Did you mean 'photos'?"),
        ("photos", " {0}/photos exists and holds a.jpg."),
        ("photos/a.jpg/b", " {0}/photos/a.jpg exists."),
    ):
        assert nearest_existing(tmp_path / path) == found.format(tmp_path)


def test_the_cache_is_in_the_chosen_folder_or_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSINET_CACHE", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "msinet"

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(UserError, match="no home folder for the cache; set MSINET_CACHE"):
        cache_folder()
    monkeypatch.setenv("MSINET_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
