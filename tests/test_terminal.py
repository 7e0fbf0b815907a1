"""Commands in any terminal: encodings, closed pipes, tildes, read-only folders."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from msinet.terminal import expanded


def start(words: list[str], encoding: str = "utf-8", **settings: object) -> "subprocess.Popen[bytes]":
    environment = os.environ | {"PYTHONIOENCODING": encoding, "GLIBC_TUNABLES": "", "COLUMNS": "100"}
    command = [sys.executable, "-m", *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, **settings)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("words", [["msinet", "recipe"], ["msinet", "--help"], ["ablations", "list"]])
def test_a_pipe_that_is_closed_early_is_quiet(words: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)  # as of a reader that has ended
    process = start(words, stdout=write)
    os.close(write)
    _, err = process.communicate(timeout=60)
    assert err == b""
    assert process.returncode == 141


@pytest.mark.parametrize("words", [["msinet", "train", "--help"], ["reports", "--help"]])
def test_an_ascii_terminal_gets_plain_lines(words: list[str]) -> None:
    process = start(words, "ascii", stdout=subprocess.PIPE)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    text = out.decode("ascii")
    assert "--" in text
    assert "\\u" not in text


@dataclass(frozen=True)
class Inner:
    path: Path


@dataclass(frozen=True)
class Outer:
    inner: Inner
    out: Path = Path("~/out")
    other: Path | None = None
    text: str = "~/text"
    many: tuple[Path, ...] = (Path("~/a"), Path("b"))


def test_tildes_are_expanded_in_paths_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    found = expanded(Outer(Inner(Path("~"))))
    assert found == Outer(
        Inner(Path("/home/me")), Path("/home/me/out"), None, "~/text", (Path("/home/me/a"), Path("b"))
    )
    same = Outer(Inner(Path("x")), Path("y"), many=())
    assert expanded(same) is same
