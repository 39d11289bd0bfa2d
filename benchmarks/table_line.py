"""Write a line of a Markdown table."""

from collections.abc import Iterable


def table_line(cells: Iterable[object]) -> str:
    """Return `| a | b |`; a `|` within a cell is escaped, because it would begin another cell."""
    escaped = [str(cell).replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"
