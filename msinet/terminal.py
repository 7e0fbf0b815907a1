"""Commands in any terminal: encodings, pipes that are closed early, paths with a tilde. Does not import torch."""

import codecs
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from msinet.errors import UserError
from msinet.io import file_errors

#: Lines and marks of help texts for terminals that cannot show them.
PLAIN = str.maketrans(
    dict.fromkeys("─━╌╴╶", "-") | dict.fromkeys("│┃╎", "|") | {"°": " deg", "•": "*", "→": "->", "…": "...", "–": "-"}
)
CORNERS = range(0x2500, 0x2580)
#: Exit status of a command after Ctrl-C, as shells report SIGINT.
INTERRUPTED = 130
#: Exit status of a command whose output pipe was closed, as shells report SIGPIPE.
CLOSED = 141


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Plain characters for lines and marks, escapes for other characters that an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(PLAIN)
    drawn = "".join("+" if ord(one) in CORNERS else one for one in text)
    return drawn.encode("ascii", "backslashreplace").decode("ascii"), error.end


codecs.register_error("msinet", _plain)


def quietly(command: Callable[[], int]) -> int:
    """Run a command so that neither its output's encoding nor a closed pipe ends it in a traceback.

    Returns:
        The command's exit status, or 141 if the pipe that reads its output was closed.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not those of tests
            stream.reconfigure(errors="msinet")
    try:
        try:
            return command()
        finally:
            if sys.stdout is not None:  # None: it was closed before the command began
                sys.stdout.flush()  # here, where a closed pipe can be reported
    except BrokenPipeError:
        # What is still in the buffers would raise the same error when Python ends.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        return CLOSED


def exit_status(command: Callable[[], int | None], interrupted: str) -> int:
    """Run a command and report its errors.

    Args:
        command: the command; None as its result is 0.
        interrupted: message after Ctrl-C: what is kept.

    Returns:
        The command's exit status, 2 after a user error, or 130 after Ctrl-C.
    """
    try:
        with file_errors():
            return command() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ninterrupted; {interrupted}", file=sys.stderr)
        return INTERRUPTED


@contextmanager
def example_at_end(program: str, words: Sequence[str] | None, examples: Mapping[str, str]) -> Iterator[None]:
    """Context manager: an example of the command follows its help, the first one that of the program.

    Args:
        program: name of the program, printed before the words.
        words: command-line arguments; None: those of the process.
        examples: arguments of an example, by command name.
    """
    given = list(sys.argv[1:] if words is None else words)
    try:
        yield
    except SystemExit as end:
        name = next(iter(examples)) if given[:1] in (["-h"], ["--help"]) else "".join(given[:1])
        if not end.code and name in examples:
            print(f"example: {program} {name} {examples[name]}".rstrip())
        raise


def expanded(command: Any) -> Any:
    """The command with a leading tilde in its paths expanded to the user's home; other values are unchanged."""
    if isinstance(command, Path):
        return Path(os.path.expanduser(command))
    if isinstance(command, tuple):
        return tuple(map(expanded, command))
    if not is_dataclass(command) or isinstance(command, type):
        return command
    known: dict[str, Any] = {one.name: getattr(command, one.name) for one in fields(command) if one.init}
    changed = {name: new for name, value in known.items() if (new := expanded(value)) != value}
    return replace(command, **changed) if changed else command
