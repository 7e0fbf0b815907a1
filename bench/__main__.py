"""Command line: python -m bench COMMAND."""

import sys
from collections.abc import Callable, Sequence

import tyro

from bench import commands
from msinet.environment import tune_process
from msinet.errors import UserError
from msinet.io import file_errors
from msinet.terminal import expanded, quietly

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


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, or 2 for a user error.

    Args:
        args: what follows `python -m bench`; None: from the process.
    """
    try:
        command: Callable[[], None] = tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="python -m bench", description="Measure what networks cost.", args=args
        )
        with file_errors():
            expanded(command)()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    tune_process()
    sys.exit(quietly(main))
