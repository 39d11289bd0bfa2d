"""The board for people: leaderboard.md, leaderboard.html, and the command that writes all four files."""

import argparse
import re
import sys
from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template

from benchmarks.board import Board, boards, families, name_teachers
from benchmarks.leaderboard import (
    Table,
    TableCell,
    csv_text,
    leaderboard_rows,
    result_rows,
    tables,
    terminal_table,
)
from benchmarks.plots import mark, mean_panel, path_panels, rank_panel, score_panels
from benchmarks.results import ROLES, Result, read_results, write_text

TEMPLATE = Path(__file__).parent / "templates" / "leaderboard.html"
READING = (
    "Scores are percent: mean ± standard deviation over seeds, number of runs in brackets; - is not measured, ! has "
    "failed runs. Mean is over families of tasks, rank is the average over tasks [95 % interval]; both only for rows "
    "that have every task of their board. Gain share is (score - random) / (supervised - random) with baselines of the "
    "same architecture. The best score of a task is marked, never across protocols; whether a difference is real, "
    "`kdep compare A B` says."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `kdep leaderboard`."""
    parser.add_argument("folders", nargs="*", type=Path, default=[Path("results")], help="folders of results [results]")
    parser.add_argument("--out", type=Path, help="where to write the four files [the first folder]")


def run(args: argparse.Namespace) -> int:
    """Rebuild the board and show it."""
    results = write_leaderboard(args.folders, args.out or args.folders[0])
    sys.stdout.write(terminal_table(results))
    return 0


def write_leaderboard(folders: Path | Iterable[Path], out: Path) -> list[Result]:
    """Write leaderboard.csv, results.csv, leaderboard.md and leaderboard.html; return the results they show."""
    results = name_teachers(read_results(folders))
    write_text(Path(out) / "leaderboard.csv", csv_text(*leaderboard_rows(results)))
    write_text(Path(out) / "results.csv", csv_text(*result_rows(results)))
    write_text(Path(out) / "leaderboard.md", markdown(results))
    write_text(Path(out) / "leaderboard.html", html(results))
    return results


def markdown(results: Iterable[Result]) -> str:
    """All boards as GitHub tables."""
    parts = ["# Leaderboard", READING]
    for board in boards(results):
        parts.append(f"## {markdown_text(str(board.protocol))}")
        for table in tables(board):
            parts += [f"### {markdown_text(table.title)}", markdown_table(table)]
        if board.notes:
            parts.append("\n".join(f"- {markdown_text(note)}" for note in board.notes))
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """One GitHub table, best scores in bold."""
    rows = [[f"**{markdown_text(c.text)}**" if c.best else markdown_text(c.text) for c in row] for row in table.rows]
    lines = [[markdown_text(name) for name in table.header], ["---", *["---:"] * (len(table.header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown_text(text: str) -> str:
    """Text that GitHub shows as it is: no markup, no HTML, no new table cell."""
    flat = " ".join(text.split())
    return re.sub(r"([\\`*_\[\]|~#@])", r"\\\1", escape(flat, quote=False))


def html(results: Iterable[Result]) -> str:
    """The page: one file that needs no network."""
    results = list(results)
    every = boards(results)
    checkpoints, tasks = len({r.checkpoint.sha256 for r in results}), len({r.task.name for r in results})
    summary = f"{_count(checkpoints, 'checkpoint')}, {_count(tasks, 'task')}, {_count(len(results), 'run')}"
    if results:
        summary += f", the last of {max(r.started for r in results)[:10]}"
    present = [role for role in ROLES if any(r.checkpoint.role == role for r in results)]
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title="Transfer leaderboard",
        summary=escape(summary),
        roles="".join(f"<span>{_sign(role)}{role}</span>" for role in present),
        boards="\n".join(map(html_board, every)) or "<p>No results yet.</p>",
        footer=escape(READING).replace("`kdep compare A B`", "<code>kdep compare A B</code>"),
    )


def html_board(board: Board) -> str:
    """One protocol: overview and rank, then plots and table of each family, then the paths."""
    overview, *by_family = tables(board)
    parts = [f"<section><h2>Protocol {escape(str(board.protocol))}</h2>"]
    if board.protocol.budget != "full":
        parts.append(
            f'<p class="soft">Budget {board.protocol.budget}: shorter schedules; never compare with full rows.</p>'
        )
    parts += ["<h3>Overview</h3>", html_table(board, overview), _panels([mean_panel(board), rank_panel(board)])]
    for family, table in zip(families(board.columns), by_family, strict=True):
        parts += [f"<h3>{escape(family)}</h3>", html_table(board, table), _panels(score_panels(board, family))]
    paths = path_panels(board)
    parts += ["<h3>Linear probe: the regularisation path</h3>", _panels(paths)] if paths else []
    if board.notes:
        notes = "".join(f"<li>{escape(note)}</li>" for note in board.notes)
        parts.append(f"<details><summary>{_count(len(board.notes), 'note')}</summary><ul>{notes}</ul></details>")
    return "\n".join([*parts, "</section>"])


def html_table(board: Board, table: Table) -> str:
    """A sortable table; the first column stays in place while the rest scrolls."""
    head = "".join(f'<th scope="col"><button>{_header(name)}</button></th>' for name in table.header)
    lines = []
    for row, cells in zip(board.rows, table.rows, strict=True):
        find = escape(
            f"{cells[0].text} {row.checkpoint.arch} {row.checkpoint.role} {row.checkpoint.sha256[:8]}".lower()
        )
        name = f'<th scope="row" {_attributes(cells[0])}>{_sign(row.checkpoint.role)}{_breakable(cells[0].text)}</th>'
        lines.append(f'<tr data-find="{find}">{name}{"".join(map(html_cell, cells[1:]))}</tr>')
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def html_cell(cell: TableCell) -> str:
    """A number in front, its spread smaller behind it."""
    number, _, rest = cell.text.partition(" ")
    text = f"<b>{escape(number)}</b>" if cell.best else escape(number)
    text += f" <small>{escape(rest)}</small>" if rest else ""
    kinds = {"best": cell.best, "absent": cell.value is None, "failed": cell.text.endswith("!")}
    names = " ".join(name for name, applies in kinds.items() if applies)
    return f'<td class="{names}" {_attributes(cell)}>{text}</td>'


def _attributes(cell: TableCell) -> str:
    value = "" if cell.value is None else f'data-value="{escape(str(cell.value))}"'
    return value + (f' title="{escape(cell.detail)}"' if cell.detail else "")


def _breakable(name: str) -> str:
    """Escaped, with places to break the line where a reader would."""
    return "<wbr>".join(escape(part) for part in re.split(r"(?<=[:_/@-])", name))


def _header(name: str) -> str:
    title, _, metric = name.partition(" (")
    return f"<span>{escape(title)}</span>" + (f"<small>{escape(metric.rstrip(')'))}</small>" if metric else "")


def _panels(panels: list[str]) -> str:
    shown = "".join(panel for panel in panels if panel)
    return f'<div class="panels">{shown}</div>' if shown else ""


def _sign(role: str) -> str:
    return f'<svg class="sign" viewBox="0 0 16 16" aria-hidden="true">{mark(role, 8, 8)}</svg>'


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)
