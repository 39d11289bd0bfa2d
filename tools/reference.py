"""Write docs/reference from the code: keys of a recipe, settings of every kind of task, help of every command.

python -m tools.reference
"""

import argparse
import importlib
import re
from pathlib import Path

from kdep.cli import VERBS
from kdep.config import Config
from kdep.settings import Settings
from kdep_benchmarks.table_line import table_line
from kdep_benchmarks.tasks.settings import SETTINGS
from tools.keys import reference

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
WIDTH = 100  # of the help texts, whatever the terminal


def table(model: type[Settings]) -> str:
    """A Markdown table of the keys of a settings model."""
    lines = ["| key | type | default | what |", "|---|---|---|---|"]
    for key in reference(model):
        lines.append(table_line((f"`{key.name}`", key.type, f"`{key.default}`", " ".join(key.description.split()))))
    return "\n".join(lines) + "\n"


def recipes() -> str:
    """Every key of a recipe."""
    return f"""# Recipe keys

Change any key on the command line: `kdep pretrain RECIPE optim.lr=0.1`. The column *default* holds where a recipe does
not set the key. The recipe `default` sets many; `kdep pretrain --data FOLDER --dry-run` prints them all.

{table(Config)}"""


def tasks() -> str:
    """Every setting of every kind of task."""
    parts = ["# Task settings\n\nThe keys of `settings:` in a task, by its `kind:`.\n"]
    parts += [f"## {kind}\n\n{table(model)}" for kind, model in SETTINGS.items()]
    return "\n".join(parts)


def commands() -> str:
    """The help of every verb of `kdep`."""
    codes = "0 done, 1 something failed, 2 wrong usage, 3 weights did not load, 130 interrupted"
    parts = [f"# Commands\n\nExit codes: {codes}.\n"]
    for name in VERBS:
        parser = parser_of(name)
        help_ = re.sub(r"\[\S*/data\]", "[data]", parser.format_help())
        parts.append(f"## kdep {name}\n\n```text\n{help_.rstrip()}\n```\n")
        for own, sub in actions_of(parser).items():
            parts.append(f"### kdep {name} {own}\n\n```text\n{sub.format_help().rstrip()}\n```\n")
    return "\n".join(parts)


def parser_of(verb: str) -> argparse.ArgumentParser:
    """The parser of a verb of `kdep`."""
    parser = argparse.ArgumentParser(f"kdep {verb}", formatter_class=formatter)
    importlib.import_module(VERBS[verb][0]).add_arguments(parser)
    return parser


def actions_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of the actions of a verb, such as `check` of `kdep data`; none for most verbs."""
    for action in parser._actions:  # argparse has no public way to its subcommands
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                sub.formatter_class = formatter
            return dict(action.choices)
    return {}


def formatter(prog: str) -> argparse.HelpFormatter:
    """A help formatter that keeps paragraphs and has the same width everywhere."""
    return argparse.RawDescriptionHelpFormatter(prog, width=WIDTH)


PAGES = {"recipes": recipes, "tasks": tasks, "commands": commands}


def main() -> None:
    """Write the pages."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (FOLDER / f"{name}.md").write_text(page())


if __name__ == "__main__":
    main()
