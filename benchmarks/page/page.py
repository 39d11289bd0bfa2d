"""Write boards as one HTML page that needs no network: sortable tables, plots, example images, notes."""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from kdep.guard import printable
from kdep_benchmarks.board.sheets import data_uri
from kdep_benchmarks.board.table import Board
from kdep_benchmarks.counts import counted
from kdep_benchmarks.page.leaderboard import (
    Table,
    TableCell,
    damage_lines,
    metric_table,
    origin_table,
    row_name,
    tables,
)
from kdep_benchmarks.page.markdown import READING
from kdep_benchmarks.page.panels import mean_panel, score_panels
from kdep_benchmarks.page.verdicts import against_tables
from kdep_benchmarks.result import ROLES

TEMPLATE = Path(__file__).parent / "templates" / "leaderboard.html"
SIGNS = {"student": "●", "random": "○", "supervised": "■", "teacher": "◆", "other": "▲"}
Sheets = Mapping[tuple[str, str], Path]


def html(boards: Sequence[Board], sheets: Sequence[Sheets] = (), damaged: Sequence[str] = ()) -> str:
    """Return the page. `sheets` are those of `find_sheets`, for each board; `damaged` says which files are left out."""
    runs = [result for board in boards for result in board.runs["result"]]
    checkpoints, tasks = len({r.checkpoint.sha256 for r in runs}), len({r.task.name for r in runs})
    summary = f"{counted(checkpoints, 'checkpoint')}, {counted(tasks, 'task')}, {counted(len(runs), 'run')}"
    if runs:
        summary += f", the last of {max(r.started for r in runs)[:10]}"
    roles = {role for board in boards for role in board.rows.role}
    pairs = zip(boards, sheets or [{}] * len(boards), strict=True)
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title="Transfer leaderboard",
        summary=escape(summary),
        roles="".join(f"<span>{_sign(role)}{role}</span>" for role in ROLES if role in roles),
        boards=_damaged(damaged)
        + ("\n".join(_section(board, own) for board, own in pairs) or "<p>No results yet.</p>"),
        footer=re.sub("`(.+?)`", r"<code>\1</code>", escape(READING)),
    )


def _damaged(damaged: Sequence[str]) -> str:
    said, *files = damage_lines(damaged) or [""]
    items = "".join(f"<li>{escape(printable(file))}</li>" for file in files)
    return f"<details open><summary>{said}</summary><ul>{items}</ul></details>" if said else ""


def _section(board: Board, sheets: Sheets) -> str:
    """One protocol: overview, table, plots and sheets of each family, cost and origin."""
    overview, *by_family, cost = tables(board)
    parts = [f"<section><h2>Protocol {escape(str(board.protocol))}</h2>"]
    if board.protocol.budget != "full":
        parts.append(
            f'<p class="soft">Budget {board.protocol.budget}: do not compare with rows of the full budget.</p>'
        )
    parts += ["<h3>Overview</h3>", html_table(board, overview), _notes(board), _panels(mean_panel(board))]
    parts += _verdicts(board)
    for family, table in zip(board.families(), by_family, strict=True):
        parts += [f"<h3>{escape(family)}</h3>", html_table(board, table)]
        if (more := metric_table(board, family)) is not None:
            parts.append(f"<details><summary>Other metrics</summary>{html_table(board, more)}</details>")
        parts += [_panels(score_panels(board, family)), _sheets(board, family, sheets)]
    parts += ["<h3>Cost</h3>", html_table(board, cost), "<h3>Provenance</h3>", html_table(board, origin_table(board))]
    return "\n".join([*parts, "</section>"])


def _verdicts(board: Board) -> list[str]:
    """All rows minus one that the reader chooses; without scripts, minus the first."""
    tables = list(against_tables(board))
    if not tables:
        return []
    names = board.rows.name
    choices = "".join(f'<option value="{one.sha256}">{escape(names[one.sha256])}</option>' for one in tables)
    about = "in points, with 95 % intervals over the same test images and, where there are several, runs."
    choice = f'<label>Each row minus <select class="against" autocomplete="off">{choices}</select></label>'
    parts = ["<h3>Verdicts</h3>", f"<p>{choice}, {about}</p>"]
    for at, one in enumerate(tables):
        hidden = " hidden" * (at > 0)
        marks = f'<p class="soft">{escape(one.marks)}.</p>'
        parts.append(f'<div data-against="{one.sha256}"{hidden}>{html_table(board, one.table)}{marks}</div>')
    return parts


def html_table(board: Board, table: Table) -> str:
    """Return a sortable table whose first column stays in place while the rest scrolls."""
    head = "".join(f'<th scope="col"><button>{_header(name)}</button></th>' for name in table.header)
    lines = []
    for row, cells in zip(board.rows.itertuples(), table.rows, strict=True):
        name = f'<th scope="row" {_attributes(cells[0])}>{_sign(row.role)}{_breakable(cells[0].text)}</th>'
        lines.append(f"<tr {_find(row)}>{name}{''.join(map(_cell, cells[1:]))}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _cell(cell: TableCell) -> str:
    """A number first and its spread smaller behind it; a text as it is."""
    number, _, rest = (cell.text, "", "") if cell.value is None else cell.text.partition(" ")
    text = f"<b>{escape(number)}</b>" if cell.best else escape(number)
    text += f" <small>{escape(rest)}</small>" if rest else ""
    kinds = {"best": cell.best, "absent": cell.value is None, "failed": cell.text.endswith("!")}
    names = " ".join([name for name, applies in kinds.items() if applies] + [cell.tone] * bool(cell.tone))
    return f'<td class="{names}" {_attributes(cell)}>{text}</td>'


def _attributes(cell: TableCell) -> str:
    value = "" if cell.value is None else f'data-value="{escape(str(cell.value))}"'
    return value + (f' title="{escape(cell.detail)}"' if cell.detail else "")


def _find(row: tuple) -> str:
    """The words that the filter of the page searches."""
    words = f"{row_name(row.name, row.role)} {row.arch} {row.role} {row.sha8}"
    return f'data-find="{escape(words.lower())}"'


def _breakable(name: str) -> str:
    """Escape a name and allow line breaks behind its punctuation."""
    return "<wbr>".join(escape(part) for part in re.split(r"(?<=[:_/@-])", name))


def _header(name: str) -> str:
    title, _, metric = name.partition(" (")
    return f"<span>{escape(title)}</span>" + (f"<small>{escape(metric.rstrip(')'))}</small>" if metric else "")


def _panels(panels: Iterable[str]) -> str:
    shown = "".join(panels)
    return f'<div class="panels">{shown}</div>' if shown else ""


def _notes(board: Board) -> str:
    """Notes on columns as text, and the notes about rows folded in."""
    columns = "".join(f'<p class="soft">{escape(note.text)}</p>' for note in board.notes if not note.about)
    rows = [f"<li>{escape(note.text)}</li>" for note in board.notes if note.about]
    title = counted(len(rows), "note")
    return columns + (f"<details><summary>{title}</summary><ul>{''.join(rows)}</ul></details>" if rows else "")


def _sheets(board: Board, family: str, sheets: Sheets) -> str:
    """The sheets of the family's columns, folded in: a picture for each checkpoint that has one."""
    parts = []
    for label in board.columns.index[board.columns.family == family]:
        figures = []
        for row in board.rows.itertuples():
            if (row.Index, label) in sheets:
                name, uri = escape(row_name(row.name, row.role)), data_uri(sheets[row.Index, label])
                picture = f'<img loading="lazy" src="{uri}" alt="images, truth and prediction of {name}">'
                figures.append(f"<figure {_find(row)}><figcaption><b>{name}</b></figcaption>{picture}</figure>")
        if figures:
            title = f"{escape(label)}: image, truth, prediction ({counted(len(figures), 'checkpoint')})"
            parts.append(f'<details><summary>{title}</summary><div class="sheets">{"".join(figures)}</div></details>')
    return "".join(parts)


def _sign(role: str) -> str:
    return f'<i class="sign {role}" aria-hidden="true">{SIGNS[role]}</i>'
