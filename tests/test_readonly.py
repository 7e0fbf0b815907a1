"""Folders that cannot be written, by root either: one error that names the file and the remedy, before any training."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ablations.__main__ import main as ablations
from bench.__main__ import main as bench
from msinet.cli import run_command as msinet
from reports.__main__ import main as reports

#: A folder of the kernel, in which nobody can make a file.
NOWHERE = Path("/sys/kernel/msinet")
COMMANDS: dict[str, tuple[Callable[[list[str]], int], list[str]]] = {
    "render": (msinet, ["data", "render", f"{NOWHERE}", "--datasets", "market1501", "--profile", "smoke"]),
    "train": (msinet, ["train", "--out", f"{NOWHERE}", "--data-root", "DATA", "--profile", "smoke", "--device", "cpu"]),
    "search": (
        msinet,
        ["search", "--out", f"{NOWHERE}", "--data-root", "DATA", "--profile", "smoke", "--device", "cpu"],
    ),
    "learn": (msinet, ["learn", "--out", f"{NOWHERE}", "--data-root", "DATA", "--profile", "smoke", "--device", "cpu"]),
    "run": (ablations, ["run", "table2", "--profile", "smoke", "--store", f"{NOWHERE}", "--data-root", "DATA"]),
    "table": (reports, ["table", "table2", "--profile", "smoke", "--store", f"{NOWHERE}", "--data-root", "DATA"]),
    "cost": (bench, ["cost", "--models", "msinet_x0_25", "--csv", f"{NOWHERE / 'cost.csv'}"]),
}


@pytest.mark.skipif(sys.platform != "linux" or not NOWHERE.parent.is_dir(), reason="needs Linux's /sys")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_cannot_be_written_is_one_error(
    name: str, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main, words = COMMANDS[name]
    assert main([str(data_root) if word == "DATA" else word for word in words]) == 2
    message = capsys.readouterr().err.splitlines()[-1].rpartition("\r")[2].strip()
    assert message.startswith("error: cannot write /sys/kernel/")
    assert "choose a folder that you may write to" in message
