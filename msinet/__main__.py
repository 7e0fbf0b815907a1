"""Entry point of `msinet`. It restarts itself with a tuned allocator before it imports the commands."""

import sys

from msinet.environment import tune_process


def main() -> None:
    """Entry point of the console script."""
    tune_process()
    try:
        from msinet.cli import run_command
        from msinet.terminal import quietly
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(quietly(run_command))


if __name__ == "__main__":
    main()
