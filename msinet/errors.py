"""The errors a user can cause. Every message names the thing, the place and the remedy."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend. Commands print the message alone and exit with status 2."""


class DataError(UserError):
    """A data set is missing, has the wrong layout, or holds files that cannot be used."""


class WeightsError(UserError):
    """A weights file or checkpoint cannot be read or belongs to another network."""


class Busy(UserError):
    """Another process is doing the same thing."""


class LostProcess(UserError):
    """Of a training in several processes: another one ended, or cannot be reached."""


class TrainingDiverged(UserError):
    """The loss became NaN or infinite; the last good checkpoint is kept."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not in a table: lists the known names, nearest first guess."""
    names = sorted(known)
    guess = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {guess[0]!r}?" if guess else ""
    return UserError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(names)}")


def first_few(items: Iterable[object], limit: int = 5) -> str:
    """The first items for a message, and how many more there are."""
    shown = [str(item) for item in items]
    return ", ".join(shown[:limit]) + (f" and {len(shown) - limit} more" if len(shown) > limit else "")
