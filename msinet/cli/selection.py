"""Options that choose data sets, shared by commands."""

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from msinet.errors import UserError, first_few

if TYPE_CHECKING:
    from msinet.data import Dataset


@dataclass(frozen=True)
class NameOption:
    """Name of the data set under a data root."""

    name: str = ""
    """another name for the only data set under the data root, such as cuhk03 for a folder in Market-1501's layout"""


@dataclass(frozen=True)
class DataOptions(NameOption):
    """Names and ranking protocol of the data sets under a data root."""

    keep_same_camera: bool = False
    """also rank gallery images of the query's own identity and camera; for data sets with a single camera"""

    def chosen(self, names: Sequence[str], root: Path, usual: str) -> tuple[str, ...]:
        """The data sets to use: those that are named, else the usual one, or the only one under the data root.

        Raises:
            UserError: the choice is ambiguous, or a set is named twice.
        """
        from msinet.data.datasets import JOIN
        from msinet.data.layouts import default_dataset
        from msinet.data.own import notice

        if self.name:
            notice(root, self.name)
        found = tuple(one for name in names for one in name.split(JOIN)) or (self.name or default_dataset(root, usual),)
        if len(set(found)) < len(found):
            raise UserError(f"--dataset names {first_few(found)}: give each data set once")
        return found

    def load(self, names: Sequence[str], root: Path, needs: Collection[str]) -> "Dataset":
        """Load and join the data sets, which must have the parts `needs`; prints skipped files to standard error.

        Raises:
            UserError: as `msinet.data.load_dataset`.
        """
        from msinet.data import load_dataset
        from msinet.data.datasets import JOIN

        dataset = load_dataset(JOIN.join(names), root, keep_same_camera=self.keep_same_camera, needs=needs)
        if dataset.skipped:
            message = f"{dataset.name}: {len(dataset.skipped)} file(s) left out: no image suffix"
            print(f"{message}: {first_few(dataset.skipped)}", file=sys.stderr)
        return dataset
