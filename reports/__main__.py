"""Command line: python -m reports table NAME."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from ablations.__main__ import find_catalogue
from ablations.catalogue import Request
from msinet.errors import UserError
from reports.tables import as_text, brief, build_table, write_table


@dataclass(frozen=True)
class Table:
    """Show a table beside the paper's numbers and write it as text, Markdown, LaTeX and CSV."""

    name: Annotated[str, tyro.conf.Positional]
    """table, such as table2"""
    request: Annotated[Request, tyro.conf.OmitArgPrefixes] = field(default_factory=Request)
    brief: bool = False
    """only the rows that have results, and no notes"""
    out: Path | None = None
    """folder for the files; by default tables/ in the store"""

    def __call__(self) -> int:
        """Build, print and write it."""
        table = build_table(find_catalogue(self.name), self.request)
        stem = (self.out or self.request.store / "tables") / f"{self.name}-{self.request.profile}"
        written = write_table(table, stem)
        if self.brief:
            print(as_text(brief(table)))
            return 0
        print(as_text(table))
        print("written: " + ", ".join(map(str, written)))
        return 0


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; 2 for an error that the user can mend."""
    try:
        command: Table = tyro.extras.subcommand_cli_from_dict(
            {"table": Table}, prog="python -m reports", description="Tables from finished runs.", args=args
        )
        return command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
