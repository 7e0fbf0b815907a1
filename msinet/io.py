"""Atomic file writes, locks, hashes and the cache folder. Does not import torch."""

import contextlib
import csv
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock

from msinet.errors import Busy, UserError, did_you_mean, first_few

StrPath = str | os.PathLike[str]

REMEDIES = {
    errno.ENOSPC: "free some space or choose another folder",
    errno.EDQUOT: "free some of your quota or choose another folder",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f) or choose another folder",
    errno.EACCES: "choose a folder that you may write to, or change its permissions",
    errno.EPERM: "choose a folder that you may write to, or change its permissions",
    errno.EROFS: "the file system is read-only: choose a folder on another one",
}


@contextlib.contextmanager
def atomic_path(path: StrPath) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` when the block ends without an exception.

    The file is synced before it is renamed, so that a crash leaves either the old file or the new one. Missing folders
    are created. The temporary name keeps the suffix, because libraries choose the format by it.

    Raises:
        UserError: the operating system refuses to write (disk full, no permission, a folder of that name, ...). An old
            file is then unchanged. Other exceptions of the block pass through.
    """
    target = Path(path).resolve()  # follow a link to the file it names, rather than replace the link
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.tmp{target.suffix}")
    try:
        if target.exists() and not target.is_file():  # renaming over /dev/null would destroy it
            raise UserError(f"cannot write {path}: it exists and is not a regular file; choose another name")
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise _refusal(path, target, error) from error
    finally:
        with contextlib.suppress(OSError):  # the first error is the one to report
            temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # the file is in place; some file systems cannot sync a folder
        sync(target.parent)


def check_writable(path: StrPath) -> None:
    """Raise the error of `atomic_path` now if a file cannot be written, before long work. Creates missing folders."""
    with contextlib.suppress(_Enough), atomic_path(path) as temporary:
        temporary.touch()
        raise _Enough


class _Enough(Exception):
    """Ends the check, so that an existing file stays as it is."""


def write_text(path: StrPath, text: str) -> None:
    """Write UTF-8 text atomically, with the line ends of `text`. Raises the errors of `atomic_path`."""
    with atomic_path(path) as temporary:
        # File names that are not valid text are escaped, so that the file stays valid UTF-8.
        temporary.write_text(text, encoding="utf-8", newline="", errors="backslashreplace")


def write_json(path: StrPath, obj: Any) -> None:
    """Write `obj` atomically as indented JSON, with keys in their order.

    Raises:
        UserError: as `atomic_path`.
        ValueError, TypeError: `obj` contains NaN, an infinity, or a value that JSON does not have.
    """
    write_text(path, json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows atomically as CSV; the columns are the union of their keys."""
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream,
    ):
        writer = csv.DictWriter(stream, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _refusal(path: StrPath, target: Path, error: OSError) -> UserError:
    folder = next(parent for parent in target.parents if os.path.exists(parent))  # never raises
    state = f"{shutil.disk_usage(folder).free / 2**20:,.0f} MiB free in {folder}"
    if not os.path.isdir(folder):
        state = f"{folder} is a file, not a folder"
    remedy = REMEDIES.get(error.errno or 0, "check the path")
    return UserError(f"cannot write {path}: {error.strerror or error} ({state}); {remedy}")


@contextlib.contextmanager
def file_errors() -> Iterator[None]:
    """Report errors of the operating system as user errors. Commands wrap their work in this.

    Raises:
        UserError: replaces an `OSError` that names a file or has one of the `REMEDIES`, null bytes in a path, and
            out-of-memory errors.
    """
    try:
        yield
    except ValueError as error:
        if not re.search(r"embedded null (byte|character)", str(error)):
            raise
        raise UserError("a path contains a null byte, which no file system allows; check the paths") from error
    except MemoryError as error:
        raise _no_memory(error) from error
    except RuntimeError as error:
        if not re.search(r"out of memory|can't allocate|not enough memory", str(error)):
            raise
        raise _no_memory(error) from error
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0)
        if error.filename is not None:
            raise UserError(f"cannot use {error.filename}: {error.strerror}; {remedy or 'check the path'}") from error
        if remedy is None:
            raise
        raise UserError(f"cannot write: {error.strerror}; {remedy}") from error  # a stream does not know its file


def _no_memory(error: Exception) -> UserError:
    reason = (str(error).splitlines() or ["no reason given"])[0]
    return UserError(f"not enough memory ({reason[-160:]}); use smaller images, batches or networks")


def nearest_existing(path: StrPath) -> str:
    """Message: the deepest existing folder of a path, its entries, and the entry most like the missing name."""
    folder, missing = Path(os.path.abspath(os.path.expanduser(path))), ""
    while not os.path.exists(folder) and folder.parent != folder:  # never raises
        folder, missing = folder.parent, folder.name
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError:
        return f" {folder} exists."
    return f" {folder} exists and holds {first_few(names) or 'nothing'}.{did_you_mean(missing, names)}"


def sync(path: Path) -> None:
    """Write a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def exclusive(path: StrPath, what: str) -> Iterator[None]:
    """Hold the lock file `path` for the block; the system releases it however the process ends.

    Args:
        path: of the lock file.
        what: name of the task in the message of `Busy`.

    Raises:
        Busy: another process holds it.
        UserError: the lock file cannot be written. Exceptions of the block pass through.
    """
    lock = filelock.FileLock(path, timeout=0)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        raise Busy(f"{what} is in progress in another process; wait for it or stop it") from error
    except OSError as error:
        raise _refusal(path, Path(path).absolute(), error) from error
    try:
        yield
    finally:
        lock.release()


def stable_hash(value: Any) -> str:
    """Twelve hex digits of the canonical JSON of a value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def file_hash(path: Path) -> str:
    """Twelve hex digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def cache_folder() -> Path:
    """Folder of decoded images: $MSINET_CACHE, else ~/.cache/msinet.

    Raises:
        UserError: neither is known.
    """
    if chosen := os.environ.get("MSINET_CACHE"):
        return Path(chosen)
    try:
        return Path.home() / ".cache" / "msinet"
    except RuntimeError as error:  # as in containers whose user has no entry
        raise UserError("the user has no home folder for the cache; set MSINET_CACHE to a folder") from error
