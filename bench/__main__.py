"""Command line: python -m bench COMMAND."""

from msinet.environment import tune_allocator

if __name__ == "__main__":
    tune_allocator()

import sys
from collections.abc import Callable, Sequence

import tyro

from bench import cost, latency, retrieval
from msinet.errors import UserError
from msinet.io import file_errors

#: One row per command; the fields and docstring of its class are its command line.
COMMANDS: dict[str, Callable[..., Callable[[], None]]] = {
    "cost": cost.Table,
    "latency": latency.Latency,
    "throughput": latency.Throughput,
    "memory": latency.Memory,
    "retrieval": retrieval.Ranking,
}


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, or 2 for an error that the user can mend.

    Args:
        args: what follows `python -m bench`; from the process when left out.
    """
    try:
        command: Callable[[], None] = tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="python -m bench", description="Measure what networks cost.", args=args
        )
        with file_errors():
            command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
