"""The command `msinet`. Commands import their modules when they run, so that --help does not import torch."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from types import SimpleNamespace
from typing import Any

import tyro

from msinet import __version__
from msinet.cli.data import Check, Render, Show, Split
from msinet.cli.describe import List, ShowRecipe
from msinet.cli.networks import Embed, Evaluate, Export, Find
from msinet.cli.training import Learn, Pretrain, Search, Train
from msinet.errors import UserError
from msinet.io import file_errors
from msinet.terminal import INTERRUPTED, example_at_end, expanded

Command = Callable[[], int]


@dataclass(frozen=True)
class Data:
    """Render, check, split and look at data sets. More: msinet data --help."""


#: Commands that `torchrun` may start in several processes.
PARALLEL: dict[str, Callable[..., Any]] = {
    "train": Train,
    "search": Search,
    "pretrain": Pretrain,
    "evaluate": Evaluate,
    "embed": Embed,
}
#: `Data` is only a line of the help: `_parse` has the commands of `msinet data`.
COMMANDS = PARALLEL | {"learn": Learn, "find": Find, "export": Export, "recipe": ShowRecipe, "list": List, "data": Data}
#: Commands that continue where they were interrupted.
RESUMABLE = (["train"], ["learn"], ["search"], ["pretrain"], ["data", "render"])
DATA_COMMANDS: dict[str, Callable[..., Any]] = {"render": Render, "check": Check, "split": Split, "show": Show}
#: Shown after the help of each command.
EXAMPLES = {
    "train": "--data-root DIR --out runs/a --model msinet --profile full",
    "search": "--data-root DIR --out found --profile full",
    "pretrain": "--imagenet FOLDER --out weights/msinet.safetensors --model msinet",
    "evaluate": "--weights runs/a/model.safetensors --model msinet --data-root DIR --rerank",
    "embed": "FOLDER --weights runs/a/model.safetensors --model msinet --out features.npz",
    "learn": "--data-root DIR --dataset market1501 --method gs --weights weights/msinet.safetensors --out runs/gs",
    "find": "photo.jpg --gallery FOLDER --weights runs/a/model.safetensors --model msinet --out found",
    "export": "--weights runs/a/model.safetensors --model msinet --out msinet.onnx",
    "recipe": "--profile paper --dataset msmt17 --model osnet",
    "list": "",
}
DATA_EXAMPLES = {
    "render": "DIR --profile mini --datasets market1501",
    "check": "DIR",
    "split": "FOLDER --out list.csv",
    "show": "DIR --datasets market1501",
}


def run_command(args: Sequence[str] | None = None) -> int:
    """Run one command.

    Under `torchrun` this is one of several processes. The first prints; the first to fail reports its error, which
    ends the others.

    Args:
        args: the words after `msinet`; None: those of the process.

    Returns:
        The exit status: 0, 2 for a user error, 130 for Ctrl-C.
    """
    words = list(sys.argv[1:] if args is None else args)
    if words[:1] == ["--version"]:
        print(f"msinet {__version__}")
        return 0
    ranks = _ranks()
    try:
        ranks.start()
        with file_errors(), nullcontext() if ranks.leads() else redirect_stdout(StringIO()):
            status = _parse(words, ranks)()
        ranks.stop()
        return status
    except UserError as error:
        if ranks.first_to_fail():
            print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if ranks.leads():
            resumes = words[:1] in RESUMABLE or words[:2] in RESUMABLE
            without = " without --no-resume" * ("--no-resume" in words)
            print("\ninterrupted" + f"; the same command{without} resumes" * resumes, file=sys.stderr)
        return INTERRUPTED
    except Exception:
        if ranks.first_to_fail():
            raise
        return 1


def _ranks() -> Any:
    """`msinet.distributed` under `torchrun`; otherwise a stand-in for one process, as that module imports torch."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        from msinet import distributed

        return distributed
    true = lambda: True  # noqa: E731
    return SimpleNamespace(start=true, stop=true, leads=true, first_to_fail=true, world=lambda: 1)


def _parse(words: list[str], ranks: Any) -> Command:
    """The chosen command with its arguments. Only the first process reports invalid arguments."""
    if ranks.world() > 1 and words[:1] and words[0] in COMMANDS.keys() - PARALLEL.keys():
        raise UserError(f"msinet {words[0]} runs in one process; start it without torchrun")
    with nullcontext() if ranks.leads() else redirect_stderr(StringIO()):
        if words[:1] == ["data"]:
            what = "Render, check, split and look at data sets."
            with example_at_end("msinet data", words[1:], DATA_EXAMPLES):
                return _choose(DATA_COMMANDS, "msinet data", what, words[1:])
        with example_at_end("msinet", words, EXAMPLES):
            return _choose(COMMANDS, "msinet", "Light networks for object re-identification.", words)


def _choose(commands: Mapping[str, Callable[..., Any]], prog: str, what: str, words: list[str]) -> Command:
    command: Command = expanded(
        tyro.extras.subcommand_cli_from_dict(dict(commands), prog=prog, description=what, args=words)
    )
    return command
