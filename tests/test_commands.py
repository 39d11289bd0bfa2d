"""Every option and key that a page, a configuration, a help text or a message names is there."""

import ast
import functools
import re
from inspect import signature
from pathlib import Path

import pytest

from kdep.cli import VERBS
from kdep.config import Config
from kdep.method.scale import SCALERS
from tools.keys import reference
from tools.reference import actions_of, parser_of

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("configs/*/*.yaml")]
CODE = [path for folder in ("kdep", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
# Options are looked up where their program is ours; of others, such as `docker run`, nothing is known.
PROGRAM = re.compile(
    r"\bkdep ((?:data )?[a-z]+)|tools/(\w+\.sh)|python -m (tools\.[\w.]+)|"
    r"\b(npm|docker|ray|tensorboard|torchrun) [a-z-]"
)
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
SCRIPTS = {f"{verb}.sh": verb for verb in ("pretrain", "transfer", "leaderboard")} | {"gpu.sh": "tools.gpu.main"}


@functools.cache
def options_of(program):
    """The options of a verb, an action of a verb or a module of tools; of all verbs for ""; None of other programs."""
    program = SCRIPTS.get(program, program)
    if not program:
        return set().union(*map(options_of, VERBS))
    verb, _, action = program.partition(" ")
    if program.startswith("tools."):
        return set(re.findall(r'"(--[\w-]+)"', (ROOT / f"{program.replace('.', '/')}.py").read_text()))
    if verb not in VERBS:
        return None
    parser = parser_of(verb)
    inner = actions_of(parser)
    own = [inner[action]] if action in inner else [parser, *inner.values()]
    return {option for one in own for option in one._option_string_actions}


def programs_in(text):
    return {next(filter(None, names)) for names in PROGRAM.findall(text)}


def unknown_options(text, program=""):
    """Options that no program has which is named in their line, or else in their paragraph, or else last before it."""
    near = {program}
    for paragraph in re.split(r"\n#?\s*\n", text):
        near = {program} if program else programs_in(paragraph) or near
        for line in paragraph.splitlines():
            known = [options_of(name) for name in (not program and programs_in(line)) or near]
            if ours := [options for options in known if options is not None]:
                yield from set(OPTION.findall(line)).difference({"--help", "--version"}, *ours)


def messages(path):
    """The sentences among the strings of a module."""
    strings = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
    return "\n\n".join(text for text in strings if isinstance(text, str) and " " in text)


def pages():
    """Name and text of everything that people read, and the verb that it is about if that is always the same."""
    yield from ((str(path.relative_to(ROOT)), path.read_text(), "") for path in PAGES)
    yield from ((f"kdep {verb} --help", parser_of(verb).format_help(), verb) for verb in VERBS)


def test_every_option_that_a_page_or_a_help_text_names_is_there():
    lost = [f"{name}: {option}" for name, text, program in pages() for option in unknown_options(text, program)]
    assert lost == []


def test_every_option_that_a_message_names_is_there():
    named = {option for path in CODE for option in OPTION.findall(messages(path))}
    of_others = {"--nproc-per-node", "--shm-size", "--format", "--strip-components"}  # torchrun, docker, squeue, tar
    assert named - options_of("") == of_others


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("# kdep study x --jobs 2\n#\n# The runs are those of another: --shared OTHER.csv\n# reuses them.", ""),
        ("--arm does a part first. --shared OTHER.csv takes over runs of `kdep transfer`.", "study"),
        ("npm install --no-save x\nkdep study x --shared OTHER.csv", ""),
    ],
)
def test_an_option_that_was_deleted_is_found(text, program):
    assert list(unknown_options(text, program)) == ["--shared"]


def test_every_recipe_key_that_a_page_names_is_there():
    keys = {key.name for key in reference(Config)}
    keys |= {"scale.match"} | {f"scale.{name}" for scaler in SCALERS.values() for name in signature(scaler).parameters}
    sections = "|".join({key.partition(".")[0] for key in keys if "." in key})
    key = re.compile(rf"(?<![\w./-])(?:{sections})\.[a-z]\w*(?![\w/(-])")
    files = ("json", "jsonl", "md", "png", "pth", "pt", "yaml")
    named = {(name, found) for name, text, _ in pages() for found in key.findall(text)}
    assert len(named) > 50
    assert [(page, found) for page, found in sorted(named) if found not in keys and not found.endswith(files)] == []
