"""Every command in a block of a page of docs: its options, recipe, suite, tasks; the cheap ones also run."""

import re
from pathlib import Path

import numpy as np
import pytest

from kdep import cli
from kdep.config import load_config, read_config
from kdep.export.write import TARGETS
from kdep.shipped import find
from kdep_benchmarks.answers.store import area_answers, class_answers
from kdep_benchmarks.data.cards import known
from kdep_benchmarks.data.scenes.make import write_scenes
from kdep_benchmarks.jobs.engines.choose import parse_options
from kdep_benchmarks.results import write_result
from kdep_benchmarks.studies.file import load_study
from kdep_benchmarks.tasks.choose import FOLDER_KINDS, choose_tasks
from kdep_benchmarks.tasks.task import suite_tasks
from tests.helpers.made_results import result
from tests.helpers.shell import commands_of
from tests.test_commands import SCRIPTS, options_of
from tools.reference import parser_of

ROOT = Path(__file__).parents[1]
OTHERS = ("pip", "python", "ray", "scp")
TOOLS = [f"tools/{path.name}" for path in (ROOT / "tools").glob("*.sh")]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
BLOCKS = [
    pytest.param(page.name, text, id=f"{page.stem}: {text.splitlines()[0]}")
    for page in sorted((ROOT / "docs").glob("*.md"))
    for language, text in BLOCK.findall(page.read_text())
    if language == "bash" or re.match(r"(kdep|tools/|python|pip|GPUS)\b", text)
]


def check_config(args):
    overrides = [
        f"{key}={value}" for key, value in (("data.source", args.data), ("student.arch", args.student)) if value
    ]
    read_config(args.config, [*args.overrides, *overrides])


def check_transfer(args):
    tasks = [name for name in args.tasks.split(",") if name]
    if args.data:
        assert {*tasks} <= {*FOLDER_KINDS}
    else:
        assert choose_tasks(args.suite, tasks, args.data_root, protocol=args.protocol, budget=args.budget)
    parse_options(args.engine_options)


# What the words of a command must name beside options.
CHECKS = {
    "pretrain": check_config,
    "targets": lambda args: load_config(find("pretrain", args.config), args.overrides),
    "transfer": check_transfer,
    "export": lambda args: TARGETS.index(args.to),
    "study": lambda args: load_study(find("studies", args.study)),
    "data": lambda args: known(args.name, Path()) if args.action in ("check", "prepare") else None,
    "leaderboard": lambda args: args.suite and suite_tasks(args.suite),
}


def verb_of(words):
    """Words of a command of `kdep` from its verb on, also where a script of tools runs it; None for other commands."""
    script = words[0].removeprefix("tools/")
    if words[0] == "kdep":
        return words[1:]
    return [SCRIPTS[script], *words[1:]] if SCRIPTS.get(script) in cli.VERBS else None


def check(words):
    """Check the options of one command, and what else it names.

    Raises:
        SystemExit, ValueError, KeyError: there is no such thing.
    """
    if own := verb_of(words):
        if any(word.startswith("[") for word in own):
            raise ValueError(f"{own}: a synopsis, not a command")
        args = cli.parse(parser_of(own[0]), own[1:])
        CHECKS.get(own[0], lambda args: None)(args)
    elif words[:2] == ["python", "-m"] and words[2].startswith("tools."):
        assert {word for word in words if word.startswith("--")} <= options_of(words[2])


def test_the_pages_have_the_blocks_that_people_come_for():
    pages = {block.values[0] for block in BLOCKS}
    wanted = (
        "checkpoints",
        "data",
        "machines",
        "measurements",
        "quickstart",
        "reproduction",
        "studies",
        "teachers",
        "verdicts",
    )
    assert pages == {f"{name}.md" for name in wanted} and len(BLOCKS) > 20


@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_every_command_of_a_page_is_understood(page, block, tmp_path):
    commands = commands_of(block, tmp_path / "stubs", ["kdep", *OTHERS, *TOOLS])
    assert commands
    for words in commands:
        check(words)


@pytest.mark.parametrize(
    "command",
    [
        "kdep study bank_views --shared other.csv",
        "kdep study no_such_study",
        "kdep transfer x.pth --suite photograph",
        "tools/transfer.sh x.pth --suite demo --tasks flowers5-linear",
        "kdep pretrain demo optim.lrate=1",
        "kdep targets demo bank.file=x",
        "kdep data check scene",
        "kdep data pack scenes",
        "kdep statistics npm:resnet50 --images photos --seed 1",
        "kdep statistics npm:resnet50 --images photos [--labels]",
        'for a in 1 2; do ssh gpu1 "cd x && kdep export s.pth --to tensorflow > $a.log"; done',
    ],
)
def test_a_command_that_no_longer_exists_is_found(command, tmp_path):
    for words in commands_of(command, tmp_path / "stubs", ["kdep", *OTHERS, *TOOLS]):
        with pytest.raises((SystemExit, ValueError, KeyError)):
            check(words)


def test_every_suite_of_a_page_loads(tmp_path):
    suites = re.findall(r"```yaml\n(tasks:.*?)```", (ROOT / "docs" / "data.md").read_text(), re.DOTALL)
    for number, text in enumerate(suites):
        (tmp_path / f"{number}.yaml").write_text(text)
        assert choose_tasks(str(tmp_path / f"{number}.yaml"), [], tmp_path)
    assert len(suites) == 3


def test_the_study_of_a_rate_on_the_quickstart_plans_its_runs(tmp_path, monkeypatch, capsys):
    """With scenes as the labelled images; the plan asks nothing of the photographs."""
    (text,) = re.findall(r"```yaml\n(name:.*?)```", (ROOT / "docs" / "quickstart.md").read_text(), re.DOTALL)
    write_scenes(tmp_path / "scenes", pool=20, train_per_class=4, test_per_class=2, dense_train=20, dense_val=10)
    (tmp_path / "labelled").symlink_to(tmp_path / "scenes" / "classification")
    (tmp_path / "rate.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["study", "rate.yaml", "--dry-run"]) == 0
    assert "6 runs: 0 done, 0 to score, 6 to train" in capsys.readouterr().out


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a few scenes of the demo, and made results where the pages have theirs."""
    folder = tmp_path_factory.mktemp("pages")
    few = {"pool": 20, "train_per_class": 43, "test_per_class": 5, "dense_train": 20, "dense_val": 10}
    write_scenes(folder / "demo" / "scenes", **few)
    for name, share in zip(
        ("demo", "random:resnet18", "resnet18-photos", "a", "b", "c"), np.linspace(0.2, 0.9, 6), strict=True
    ):
        right = np.arange(200) < share * 200
        classes = class_answers(1 - right, np.zeros(200, int))
        areas = area_answers(np.stack([right, right, np.ones(200)], axis=1)[:, :, None])  # one pixel of one class
        for task in ("scenes-knn", "flowers5-knn", "flowers5-finetune", "facade-segment"):
            one = result(name, task, 0, 100 * float(right.mean()))
            for results in ("demo/results", "results", "one" if name == "demo" else "two"):
                write_result(one, folder / results, answers=areas if task.endswith("segment") else classes)
    return folder


VERDICTS = ("compare", "fidelity", "leaderboard")
CHEAP = [
    block
    for block in BLOCKS
    if block.values[0] == "data.md" or re.search(rf"kdep ({'|'.join(VERDICTS)})", block.values[1])
]


@pytest.mark.parametrize(("page", "block"), CHEAP)
def test_every_cheap_command_of_a_page_works(page, block, place, tmp_path, monkeypatch, capfd):
    """In the order of the page; `kdep transfer` shows its plan."""
    monkeypatch.chdir(place)
    own = [verb_of(words) for words in commands_of(block, tmp_path / "stubs", ["kdep", *OTHERS, *TOOLS])]
    cheap = [words for words in own if words and (words[0] in VERDICTS or page == "data.md")]
    assert cheap
    for words in cheap:
        assert cli.main([*words, *["--dry-run"] * (words[0] == "transfer")]) == 0, capfd.readouterr().err
