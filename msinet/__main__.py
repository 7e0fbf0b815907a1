"""The command `msinet`. It restarts for its allocator before it imports what takes seconds."""

import sys

from msinet.environment import tune_allocator


def main() -> None:
    """Entry point of the console script."""
    tune_allocator()
    from msinet.cli import run_command

    sys.exit(run_command())


if __name__ == "__main__":
    main()
