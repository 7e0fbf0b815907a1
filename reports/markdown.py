"""Markdown tables."""

from collections.abc import Iterable, Sequence


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table.

    Args:
        heads: headings of the columns.
        rows: texts of the table cells, as many in each row as there are headings. Each | is escaped.
    """
    lines = [_line(heads), "|---" * len(heads) + "|"]
    return lines + [_line(row) for row in rows]


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(text.replace('|', '&#124;') for text in texts)} |"
