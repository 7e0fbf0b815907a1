"""Entry point of `msinet`. It restarts itself with a tuned allocator before it imports the commands."""

import sys

from msinet.environment import tune_allocator


def main() -> None:
    """Entry point of the console script."""
    tune_allocator()
    from msinet.cli import run_command
    from msinet.terminal import quietly

    sys.exit(quietly(run_command))


if __name__ == "__main__":
    main()
