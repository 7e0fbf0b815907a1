"""Command line: python -m bench COMMAND."""

import sys
from collections.abc import Callable, Sequence

import tyro

from bench import commands
from msinet.environment import tune_process
from msinet.terminal import example_at_end, exit_status, expanded, quietly

#: The fields and the docstring of a class are its command line.
COMMANDS: dict[str, Callable[..., Callable[[], None]]] = {
    "cost": commands.Cost,
    "latency": commands.Latency,
    "throughput": commands.Throughput,
    "memory": commands.Memory,
    "retrieval": commands.Ranking,
    "clustering": commands.Clustering,
    "gpu": commands.Gpu,
}

#: Shown after the help of each command.
EXAMPLES = {
    "cost": "--models msinet resnet50",
    "latency": "--models msinet resnet50 osnet --batches 1 32",
    "throughput": "--models msinet osnet",
    "memory": "--models msinet osnet",
    "retrieval": "--rounds 2",
    "clustering": "--sizes market1501 msmt17",
    "gpu": "--out gpu --minutes 15",
}


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 2 for a user error, or 130 for Ctrl-C.

    Args:
        args: arguments after `python -m bench`; None: those of the process.
    """

    def command() -> None:
        with example_at_end("python -m bench", args, EXAMPLES):
            chosen: Callable[[], None] = tyro.extras.subcommand_cli_from_dict(
                COMMANDS, prog="python -m bench", description="Measure the cost of networks.", args=args
            )
        expanded(chosen)()

    return exit_status(command, "rows that were measured are on disk")


if __name__ == "__main__":
    tune_process()
    sys.exit(quietly(main))
