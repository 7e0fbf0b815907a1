"""Errors that a user can cause. Every message names the problem, its location and the remedy."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A user error. Commands print only the message and exit with status 2."""


class DataError(UserError):
    """A data set is missing, has the wrong layout, or contains files that cannot be used."""


class WeightsError(UserError):
    """A weights file or checkpoint cannot be read or belongs to another network."""


class Busy(UserError):
    """Another process runs the same task."""


class LostProcess(UserError):
    """In a training with several processes, another process ended or cannot be reached."""


class TrainingDiverged(UserError):
    """The loss became NaN or infinite; the last good checkpoint is kept."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 160 characters; without a message, the name of its type."""
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for an unknown name. It lists the known names and suggests the nearest one."""
    names = sorted(known)
    return UserError(f"unknown {kind} {name!r}.{did_you_mean(name, names)} Known: {', '.join(names)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence with the known name that is nearest to a mistyped one; empty if none is near."""
    guess = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {guess[0]!r}?" if guess else ""


def first_few(items: Iterable[object], limit: int = 5) -> str:
    """The first items for a message, and how many more there are."""
    shown = [str(item) for item in items]
    return ", ".join(shown[:limit]) + (f" and {len(shown) - limit} more" if len(shown) > limit else "")
