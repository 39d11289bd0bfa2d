"""The board for people: leaderboard.md, leaderboard.html, and the command that writes all four files."""

import argparse
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from string import Template

from kdep_benchmarks.board.curves import cost_panels, efficiency_panels, path_panels
from kdep_benchmarks.board.leaderboard import (
    Table,
    TableCell,
    csv_text,
    leaderboard_rows,
    metric_table,
    origin_table,
    result_rows,
    row_name,
    tables,
    terminal_table,
)
from kdep_benchmarks.board.plots import mark, mean_panel, rank_panel, score_panels
from kdep_benchmarks.board.table import Board, Row, boards, families, is_on, name_teachers
from kdep_benchmarks.data.overlap import read_overlaps, with_overlap
from kdep_benchmarks.openmmlab.sheets import data_uri, find_sheets, place
from kdep_benchmarks.results import ROLES, Result, read_results, write_text

TEMPLATE = Path(__file__).parent / "templates" / "leaderboard.html"
READING = (
    "Scores are percent: mean ± standard deviation over seeds, number of runs in brackets; - is not measured, ! has "
    "failed runs. Mean is over families of tasks, rank is the average over tasks [95 % interval]; both only for rows "
    "that have every task of their board. Gain share is (score - random) / (supervised - random) with baselines of the "
    "same architecture (of several the first by name), blank where that gain is within its noise. Overlap is the share "
    "of test images that also stand in the checkpoint's pretraining data, where `kdep data overlap` has looked. The "
    "95 % interval of a top-1 score (plots, leaderboard.csv) is over the runs and the choice of the test images, "
    "others over runs alone. The best score of a task is marked, never across protocols; whether a difference is real, "
    "`kdep compare A B` says."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `kdep leaderboard`."""
    help_ = (
        "folders of results [results]; `merge DIR ... --results OUT` brings those of several machines together; "
        "`export [DIR ...] --to wandb|mlflow` makes every row a run there"
    )
    parser.add_argument("folders", nargs="*", type=Path, default=[Path("results")], metavar="DIR", help=help_)
    parser.add_argument("--out", type=Path, help="where to write the four files [the first folder]")
    parser.add_argument("--results", type=Path, metavar="OUT", help="merge: the folder that is to hold all results")
    parser.add_argument("--to", metavar="SERVICE", help="export: wandb or mlflow")


def run(args: argparse.Namespace) -> int:
    """Rebuild the board and show it, after a merge where that was asked for; or export its rows."""
    if args.folders[0] == Path("export"):
        return _run_export(args)
    if args.to is not None:
        raise ValueError(f"--to is for export: kdep leaderboard export [DIR ...] --to {args.to}")
    if args.folders[0] == Path("merge"):
        return _run_merge(args)
    if args.folders[0] == Path("compare"):
        where = ["--results", str(args.results)] if args.results else []
        command = shlex.join(["kdep", "compare", *map(str, args.folders[1:]), *where])
        raise ValueError(f"compare is a verb of its own: {command}")
    if args.results is not None:
        raise ValueError("--results is for merge; the board of DIR is written to --out")
    results = write_leaderboard(args.folders, args.out or args.folders[0])
    sys.stdout.write(terminal_table(results))
    return 0


def _run_merge(args: argparse.Namespace) -> int:
    from kdep_benchmarks.board.merge import merge

    folders = args.folders[1:]
    if not folders or args.results is None:
        raise ValueError("merge needs folders and --results OUT")
    written = merge(folders, args.results)
    results = write_leaderboard(args.results, args.out or args.results)
    sys.stdout.write(f"{terminal_table(results)}\n{args.results}: {_count(len(written), 'file')} new\n")
    return 0


def _run_export(args: argparse.Namespace) -> int:
    from kdep_benchmarks.board.publish import publish

    folders = args.folders[1:] or [Path("results")]
    if args.to is None or args.results is not None or args.out is not None:
        raise ValueError("export needs --to wandb or --to mlflow, and takes folders of results alone")
    found = publish(results_shown(folders), args.to, folders[0])
    sys.stdout.write("".join(f"{args.to}: {entry.name} ({entry.protocol})\n" for entry in found))
    return 0


def results_shown(folders: Iterable[Path]) -> list[Result]:
    """Results as the board shows them: teachers named, overlaps counted."""
    folders = list(folders)
    return with_overlap(name_teachers(read_results(folders)), read_overlaps(folders))


def write_leaderboard(folders: Path | Iterable[Path], out: Path) -> list[Result]:
    """Write leaderboard.csv, results.csv, leaderboard.md and leaderboard.html; return the results they show."""
    folders = [folders] if isinstance(folders, str | Path) else list(folders)
    results = results_shown(folders)
    write_text(Path(out) / "leaderboard.csv", csv_text(*leaderboard_rows(results)))
    write_text(Path(out) / "results.csv", csv_text(*result_rows(results)))
    write_text(Path(out) / "leaderboard.md", markdown(results))
    write_text(Path(out) / "leaderboard.html", html(results, find_sheets(results, folders)))
    return results


def markdown(results: Iterable[Result]) -> str:
    """All boards as GitHub tables."""
    parts = ["# Leaderboard", READING]
    for board in boards(results):
        parts.append(f"## {markdown_text(str(board.protocol))}")
        more = [metric_table(board, family) for family in families(board.columns)]
        for table in [*tables(board), *filter(None, more), origin_table(board)]:
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


def html(results: Iterable[Result], sheets: Mapping[Path, Path] | None = None) -> str:
    """The page: one file that needs no network. `sheets` are those of `find_sheets`."""
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
        boards="\n".join(html_board(board, sheets or {}) for board in every) or "<p>No results yet.</p>",
        footer=re.sub("`(.+?)`", r"<code>\1</code>", escape(READING)),
    )


def html_board(board: Board, sheets: Mapping[Path, Path]) -> str:
    """One protocol: overview and rank, then table, plots and sheets of each family, then the curves and the cost."""
    overview, *by_family, cost = tables(board)
    parts = [f"<section><h2>Protocol {escape(str(board.protocol))}</h2>"]
    if board.protocol.budget != "full":
        parts.append(
            f'<p class="soft">Budget {board.protocol.budget}: shorter schedules; never compare with full rows.</p>'
        )
    parts += ["<h3>Overview</h3>", html_table(board, overview), _panels([mean_panel(board), rank_panel(board)])]
    for family, table in zip(families(board.columns), by_family, strict=True):
        parts += [f"<h3>{escape(family)}</h3>", html_table(board, table)]
        if (more := metric_table(board, family)) is not None:
            parts.append(f"<details><summary>Other metrics</summary>{html_table(board, more)}</details>")
        parts += [_panels([mean_panel(board, family), *score_panels(board, family)]), _sheets(board, family, sheets)]
    for title, panels in (
        ("Linear probe: the regularisation path", path_panels(board)),
        ("Linear probe: fewer labels", efficiency_panels(board)),
        ("Score against pretraining", cost_panels(board)),
    ):
        parts += [f"<h3>{title}</h3>", _panels(panels)] if panels else []
    parts += ["<h3>Cost</h3>", html_table(board, cost), "<h3>Provenance</h3>", html_table(board, origin_table(board))]
    if board.notes:
        notes = "".join(f"<li>{escape(note)}</li>" for note in board.notes)
        parts.append(f"<details><summary>{_count(len(board.notes), 'note')}</summary><ul>{notes}</ul></details>")
    return "\n".join([*parts, "</section>"])


def html_table(board: Board, table: Table) -> str:
    """A sortable table; the first column stays in place while the rest scrolls."""
    head = "".join(f'<th scope="col"><button>{_header(name)}</button></th>' for name in table.header)
    lines = []
    for row, cells in zip(board.rows, table.rows, strict=True):
        name = f'<th scope="row" {_attributes(cells[0])}>{_sign(row.checkpoint.role)}{_breakable(cells[0].text)}</th>'
        lines.append(f"<tr {_find(row)}>{name}{''.join(map(html_cell, cells[1:]))}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def html_cell(cell: TableCell) -> str:
    """A number in front, its spread smaller behind it; a text as it is."""
    number, _, rest = (cell.text, "", "") if cell.value is None else cell.text.partition(" ")
    text = f"<b>{escape(number)}</b>" if cell.best else escape(number)
    text += f" <small>{escape(rest)}</small>" if rest else ""
    kinds = {"best": cell.best, "absent": cell.value is None, "failed": cell.text.endswith("!")}
    names = " ".join(name for name, applies in kinds.items() if applies)
    return f'<td class="{names}" {_attributes(cell)}>{text}</td>'


def _attributes(cell: TableCell) -> str:
    value = "" if cell.value is None else f'data-value="{escape(str(cell.value))}"'
    return value + (f' title="{escape(cell.detail)}"' if cell.detail else "")


def _find(row: Row) -> str:
    """What the page's filter looks in."""
    words = f"{row_name(row)} {row.checkpoint.arch} {row.checkpoint.role} {row.checkpoint.sha256[:8]}"
    return f'data-find="{escape(words.lower())}"'


def _breakable(name: str) -> str:
    """Escaped, with places to break the line where a reader would."""
    return "<wbr>".join(escape(part) for part in re.split(r"(?<=[:_/@-])", name))


def _header(name: str) -> str:
    title, _, metric = name.partition(" (")
    return f"<span>{escape(title)}</span>" + (f"<small>{escape(metric.rstrip(')'))}</small>" if metric else "")


def _panels(panels: list[str]) -> str:
    shown = "".join(panel for panel in panels if panel)
    return f'<div class="panels">{shown}</div>' if shown else ""


def _sheets(board: Board, family: str, sheets: Mapping[Path, Path]) -> str:
    """Sheets of the family's tasks, folded in: a picture for each checkpoint that has one."""
    parts = []
    for column in board.columns:
        if column.task.family != family:
            continue
        figures = []
        for row in board.rows:
            found = [sheets[place(r)] for r in row.results if is_on(r, column) and place(r) in sheets]
            if found:
                name = escape(row_name(row))
                picture = (
                    f'<img loading="lazy" src="{data_uri(found[0])}" alt="images, truth and prediction of {name}">'
                )
                figures.append(f"<figure {_find(row)}><figcaption><b>{name}</b></figcaption>{picture}</figure>")
        if figures:
            title = f"{escape(column.label)}: image, truth, prediction ({_count(len(figures), 'checkpoint')})"
            parts.append(f'<details><summary>{title}</summary><div class="sheets">{"".join(figures)}</div></details>')
    return "".join(parts)


def _sign(role: str) -> str:
    return f'<svg class="sign" viewBox="0 0 16 16" aria-hidden="true">{mark(role, 8, 8)}</svg>'


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)
