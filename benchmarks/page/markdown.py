"""Write boards as GitHub tables."""

import re
from collections.abc import Iterable, Sequence
from html import escape

from kdep.guard import printable
from kdep_benchmarks.board.informative import STANDARD_ERRORS
from kdep_benchmarks.board.table import Board
from kdep_benchmarks.page.leaderboard import Table, damage_lines, metric_table, origin_table, tables
from kdep_benchmarks.page.verdicts import against_tables

COVERS = "The interval covers the choice of test images and, where a training was run several times, its runs."
READING = (
    f"Scores are percent: mean ± half its 95 % interval, with the number of runs in brackets. {COVERS} `-` means not "
    "measured; `!` means that runs failed. The mean is over families of tasks. The rank is the average over tasks "
    "with an interval: how far it moves when scores are drawn anew within theirs. Rows that lack a task have neither. "
    f"A task does not count if its reference is not {STANDARD_ERRORS} standard errors above random initialisation: the "
    "reference is the best supervised network or teacher on the board. The gain share is (score - random) / "
    "(supervised - random) with baselines of the same architecture; it is blank where that gain is within its noise. "
    "Load is the share of the backbone's tensors that loaded. Overlap is the share of test images that are also in the "
    "checkpoint's pretraining data, where `kdep data overlap` has looked. Marked in a column are the best score and "
    "all that are not told from it, after a correction over all pairs of rows: by verdicts on the same test images, of "
    "means by these intervals. Nothing is marked where none is told apart. The verdicts are those of `kdep compare`; "
    "`verdicts.csv` has them of each two rows. A column is one task, data version and set of settings; `@half-batch` "
    "and `@bfloat16` mark scores from half the batch or from lower precision. GMACs are for one image of 224 x 224 "
    "pixels, or of the only size that the network takes; images/s are at the sizes of the tasks."
)


def markdown(boards: Iterable[Board], damaged: Sequence[str] = ()) -> str:
    """Return all boards, and which files are left out, as one Markdown document."""
    parts = ["# Leaderboard", READING]
    if damaged:
        parts.append("\n".join(f"- {markdown_text(line)}" for line in damage_lines(damaged)))
    for board in boards:
        parts.append(f"## {markdown_text(str(board.protocol))}")
        more = [metric_table(board, family) for family in board.families()]
        for table in [*tables(board), *filter(None, more), origin_table(board)]:
            parts += [f"### {markdown_text(table.title)}", markdown_table(table)]
        if against := next(against_tables(board), None):
            title, table, marks = against.table.title, markdown_table(against.table), against.marks
            parts += [f"### verdicts: {markdown_text(title)}", table, markdown_text(f"{marks}.")]
        if board.notes:
            parts.append("\n".join(f"- {markdown_text(note.text)}" for note in board.notes))
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """Return one GitHub table with the best scores in bold."""
    rows = [[f"**{markdown_text(c.text)}**" if c.best else markdown_text(c.text) for c in row] for row in table.rows]
    lines = [[markdown_text(name) for name in table.header], ["---", *["---:"] * (len(table.header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown_text(text: str) -> str:
    """Escape text so that GitHub shows it as it is: no markup, no HTML, no new table cell."""
    flat = printable(" ".join(text.split()))
    return re.sub(r"([\\`*_\[\]|~#@])", r"\\\1", escape(flat, quote=False))
