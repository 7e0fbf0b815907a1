"""CSV tables that grow row by row: each row is on disk as soon as it is measured. Needs neither torch nor pandas."""

import csv
import io
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from msinet.errors import UserError

Row = Mapping[str, object]
Key = tuple[str, ...]


class Rows:
    """A CSV file to which rows are added. An existing file is continued.

    A row that was cut off in the middle, because the process or the machine died, is removed.

    Args:
        path: path of the file, which the first row creates.
        columns: header of the file.
        keys: columns that identify a row.

    Raises:
        UserError: the file has other columns.
    """

    def __init__(self, path: Path, columns: Sequence[str], keys: Sequence[str]) -> None:
        self.path, self.columns, self.keys = path, tuple(columns), tuple(keys)
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            path.write_text(whole, encoding="utf-8")
        found = list(csv.DictReader(io.StringIO(whole)))
        if whole and tuple(next(csv.reader(io.StringIO(whole)))) != self.columns:
            raise UserError(f"{path} has other columns than this version writes; give another folder")
        self._started = bool(whole)
        self.rows: list[dict[str, str]] = found
        self._known = {self.key(row) for row in found}

    def key(self, row: Row) -> Key:
        """The key of a row: its values in the key columns."""
        return tuple(_text(row.get(name, "")) for name in self.keys)

    def __contains__(self, row: Row) -> bool:
        return self.key(row) in self._known

    def append(self, row: Row) -> None:
        """Add a row, unless there is one with its key; it is on disk when this returns."""
        if row in self:
            return
        values = {name: _text(row.get(name, "")) for name in self.columns}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = io.StringIO()
        writer = csv.DictWriter(lines, self.columns, lineterminator="\n")
        if not self._started:
            writer.writeheader()
        writer.writerow(values)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(lines.getvalue())
            stream.flush()
            os.fsync(stream.fileno())
        self._started = True
        self._known.add(self.key(row))
        self.rows.append(values)


def check_name(out: Path) -> None:
    """Raise a `UserError` if a table is not named X.csv, or is a folder."""
    if out.suffix != ".csv" or out.is_dir():
        raise UserError(f"--out {out} must be a file X.csv; X.json next to it describes the machine")


@contextmanager
def growing(out: Path, columns: Sequence[str], keys: Sequence[str]) -> Iterator[Rows]:
    """Yield an empty table in NAME.part.csv, which is to be renamed when it is complete.

    If the block fails or is interrupted, the table stays there, and a line on stderr names it.

    Raises:
        UserError: as `check_name`.
    """
    check_name(out)
    path = out.with_suffix(".part.csv")
    path.unlink(missing_ok=True)
    rows = Rows(path, columns, keys)
    try:
        yield rows
    except BaseException:
        if rows.rows:
            print(f"\nrows measured before: {len(rows.rows)}, in {path}", file=sys.stderr)
        raise


def merge(sources: Iterable[Path], target: Rows) -> None:
    """Add the rows of other files with the same columns.

    Raises:
        UserError: a file has other columns.
    """
    for path in sources:
        for row in Rows(path, target.columns, target.keys).rows:
            target.append(row)


def _text(value: object) -> str:
    """A value on one line, numbers with six digits."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return " ".join(str(value).split())
