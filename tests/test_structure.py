import ast
import collections
import functools
import graphlib
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = sorted(path for folder in ("kdep", "benchmarks", "tools", "tests") for path in (ROOT / folder).rglob("*.py"))
OURS = [path for path in PYTHON if path.relative_to(ROOT).parts[0] in ("kdep", "benchmarks")]
SCRIPTS = sorted((ROOT / "tools").glob("*.sh"))
PACKAGES = ("kdep", "kdep_benchmarks")
OPENMMLAB = {"mmengine", "mmcv", "mmdet", "mmseg"}
# Arrows between folders and single modules: what each may import of ours beside itself.
EVERYWHERE = {
    "kdep.config",
    "kdep.cores",
    "kdep.files",
    "kdep.guard",
    "kdep.json_file",
    "kdep.names",
    "kdep.settings",
    "kdep.shipped",
    "kdep.yaml_file",
}
# All of the benchmarks may import kdep.
RESULTS = {
    "kdep",
    "kdep_benchmarks.answers",
    "kdep_benchmarks.result",
    "kdep_benchmarks.results",
    "kdep_benchmarks.counts",
    "kdep_benchmarks.durations",
    "kdep_benchmarks.kinds",
    "kdep_benchmarks.table_line",
}
BOARD = {"kdep_benchmarks.verdicts", "kdep_benchmarks.board"}
LABELLED = {"kdep_benchmarks.data.cards", "kdep_benchmarks.data.findings", "kdep_benchmarks.data.pictures"}
TASKS = RESULTS | {"kdep_benchmarks.data", "kdep_benchmarks.tasks"}
ARROWS = {
    "kdep.cores": set(),
    "kdep.guard": set(),
    "kdep.interrupts": set(),
    "kdep.files": {"kdep.guard"},
    "kdep.json_file": {"kdep.guard"},
    "kdep.names": set(),
    "kdep.settings": {"kdep.names"},
    "kdep.shipped": set(),
    "kdep.yaml_file": {"kdep.guard"},
    "kdep.config": {"kdep.settings", "kdep.shipped", "kdep.yaml_file"},
    "kdep.data": EVERYWHERE,
    "kdep.data.decoding": {"kdep.guard"},
    "kdep.data.sources": {"kdep.cores", "kdep.files", "kdep.guard", "kdep.settings", "kdep.data.decoding"},
    "kdep.data.loading": {"kdep.config", "kdep.cores", "kdep.data.decoding", "kdep.data.sources"},
    "kdep.method": {"kdep.config", "kdep.settings"},
    "kdep.models": EVERYWHERE | {"kdep.data.decoding"},
    "kdep.models.checkpoints": {"kdep.files", "kdep.guard", "kdep.names", "kdep.settings"},
    "kdep.models.backbones": {"kdep.config", "kdep.models.checkpoints"},
    "kdep.export": EVERYWHERE | {"kdep.models"},
    "kdep.run.device": {"kdep.config"},
    "kdep.run.distributed": {"kdep.config", "kdep.data.loading", "kdep.run.device"},
    "kdep.run": EVERYWHERE | {"kdep.data", "kdep.method", "kdep.models"},
    "kdep.probe": EVERYWHERE | {"kdep.data", "kdep.models", "kdep.run"},
    "kdep.bank": EVERYWHERE | {"kdep.data", "kdep.method", "kdep.models", "kdep.run"},
    "kdep.features": EVERYWHERE | {"kdep.data", "kdep.method", "kdep.models", "kdep.run", "kdep.bank"},
    "kdep.pretrain": EVERYWHERE
    | {"kdep.data", "kdep.method", "kdep.models", "kdep.run", "kdep.probe", "kdep.features"},
    "kdep_benchmarks.counts": set(),
    "kdep_benchmarks.durations": set(),
    "kdep_benchmarks.kinds": set(),
    "kdep_benchmarks.table_line": set(),
    "kdep_benchmarks.answers": {"kdep.guard"},
    "kdep_benchmarks.result": {"kdep.settings", "kdep_benchmarks.answers"},
    "kdep_benchmarks.results": {
        "kdep.files",
        "kdep.json_file",
        "kdep.settings",
        "kdep_benchmarks.answers",
        "kdep_benchmarks.result",
    },
    "kdep_benchmarks.data": RESULTS,
    "kdep_benchmarks.data.readers": {
        "kdep.data",
        "kdep.guard",
        "kdep.settings",
        *LABELLED,
        "kdep_benchmarks.data.splits",
    },
    "kdep_benchmarks.data.scenes": {"kdep.files"},
    "kdep_benchmarks.data.checks": RESULTS | LABELLED | {"kdep_benchmarks.data.readers"},
    "kdep_benchmarks.data.preparation": {
        "kdep.data",
        "kdep.files",
        "kdep.guard",
        "kdep_benchmarks.data.cards",
        "kdep_benchmarks.data.pictures",
        "kdep_benchmarks.data.readers",
        "kdep_benchmarks.data.scenes",
    },
    "kdep_benchmarks.tasks": RESULTS | {"kdep_benchmarks.data"},
    "kdep_benchmarks.openmmlab": TASKS,
    "kdep_benchmarks.openmmlab.tasks": TASKS
    | {"kdep_benchmarks.openmmlab.backbones", "kdep_benchmarks.openmmlab.runner"},
    "kdep_benchmarks.teachers": TASKS,
    "kdep_benchmarks.jobs.engines": {
        "kdep.cores",
        "kdep.files",
        "kdep.interrupts",
        "kdep.run.device",
        "kdep_benchmarks.durations",
    },
    "kdep_benchmarks.jobs": TASKS | {"kdep_benchmarks.openmmlab"},
    "kdep_benchmarks.verdicts": RESULTS,
    "kdep_benchmarks.board": RESULTS | {"kdep_benchmarks.verdicts"},
    "kdep_benchmarks.page": RESULTS | BOARD,
    "kdep_benchmarks.fidelity": RESULTS | BOARD | {"kdep_benchmarks.page"},
    "kdep_benchmarks.transfer": TASKS | BOARD | {"kdep_benchmarks.jobs", "kdep_benchmarks.page"},
    "kdep_benchmarks.studies": TASKS | {"kdep_benchmarks.jobs", "kdep_benchmarks.verdicts"},
    "kdep_benchmarks.tasks.settings": {"kdep.settings", "kdep.shipped", "kdep_benchmarks.tasks.task"},
}


@functools.cache
def tree_of(path):
    return ast.parse(path.read_text())


@functools.cache
def all_of(path):
    return list(ast.walk(tree_of(path)))


@functools.cache
def imported(path):
    """Modules that a file imports, at its top or inside a function."""
    found = set()
    for node in all_of(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def roots(path):
    return {module.partition(".")[0] for module in imported(path)}


def ids(path):
    return str(path.relative_to(ROOT))


def test_the_method_imports_neither_the_benchmarks_nor_openmmlab():
    strangers = {"kdep_benchmarks", "tools", "tests", *OPENMMLAB}
    assert [ids(path) for path in (ROOT / "kdep").rglob("*.py") if roots(path) & strangers] == []


def test_only_the_openmmlab_folder_imports_openmmlab():
    others = [path for path in OURS if ROOT / "benchmarks" / "openmmlab" not in path.parents]
    assert [ids(path) for path in others if roots(path) & OPENMMLAB] == []


@pytest.mark.parametrize("source", ARROWS)
def test_imports_go_one_way_between_folders(source):
    place = ROOT / source.replace("kdep_benchmarks", "benchmarks").replace(".", "/")
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    for path in files:
        ours = {name for name in imported(path) if name.partition(".")[0] in PACKAGES}
        allowed = [*ARROWS[source], source]
        strange = {name for name in ours - {"kdep"} if not any(f"{name}.".startswith(f"{a}.") for a in allowed)}
        assert not strange, f"{ids(path)} imports {', '.join(sorted(strange))}"


@pytest.mark.parametrize(("folder", "package"), [("kdep", "kdep"), ("benchmarks", "kdep_benchmarks")])
def test_every_folder_has_its_arrows_but_the_commands_which_may_import_all(folder, package):
    found = {path.stem for path in (ROOT / folder).iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert {f"{package}.{name}" for name in found - {"__init__", "cli", "verbs"}} <= {*ARROWS}


def test_folders_import_only_those_above_them_in_the_table():
    order = list(ARROWS)
    for source, targets in ARROWS.items():  # so there is no circle
        assert all(order.index(target) < order.index(source) for target in targets if target in ARROWS)


@pytest.mark.parametrize(
    "room", sorted({path.parents[1] for path in OURS if path.name == "__init__.py"} - {ROOT}), ids=ids
)
def test_the_parts_of_a_folder_import_each_other_in_no_circle(room):
    """Its parts are its sub-folders and its own files; files of a folder without sub-folders may lean on each other."""
    parts = [p for p in room.iterdir() if (p / "__init__.py").exists() or (p.suffix == ".py" and p.stem != "__init__")]
    name = ids(room).replace("benchmarks", "kdep_benchmarks").replace("/", ".")
    used = {}
    for part in parts:
        files = part.rglob("*.py") if part.is_dir() else [part]
        inside = {module for file in files for module in imported(file) if module.startswith(f"{name}.")}
        used[part.stem] = {module.removeprefix(f"{name}.").partition(".")[0] for module in inside} - {part.stem}
    try:
        graphlib.TopologicalSorter(used).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"{ids(room)}/: {' <- '.join(error.args[1])}; cut where one of them needs the other")


def test_a_folder_holds_at_most_thirteen_files():
    files = collections.defaultdict(list)
    for path in OURS:
        if path.name != "__init__.py":
            files[ids(path.parent)].append(path.stem)
    for folder, stems in files.items():
        few = f"{folder}/ holds {len(stems)} Python files, more than 13: {', '.join(stems)}; divide it into sub-folders"
        assert len(stems) <= 13, few


def test_aligners_and_scalers_know_only_statistics():
    for name, allowed in (("align", {"kdep.method.statistics"}), ("scale", set())):
        tree = ast.parse((ROOT / "kdep" / "method" / f"{name}.py").read_text())
        modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert {module for module in modules if module.startswith("kdep")} == allowed


def nodes(*types):
    """Every such node of the packages, with where it stands."""
    for path in OURS:
        for node in all_of(path):
            if isinstance(node, types):
                yield f"{ids(path)}:{node.lineno}", node


def test_weights_are_never_loaded_partly_and_no_error_is_swallowed():
    for place, node in nodes(ast.ExceptHandler):
        assert node.type is not None, f"{place}: bare except"
    for place, node in nodes(ast.Call):
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        strict = given.get("strict")
        partly = isinstance(strict, ast.Constant) and strict.value is False and "load" in ast.unparse(node.func)
        assert not partly, f"{place}: {ast.unparse(node)}"
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        assert called not in {"cuda", "breakpoint"}, f"{place}: {called}()"


def test_only_a_main_function_or_a_child_process_prints():
    speakers = [node for _, node in nodes(ast.FunctionDef) if node.name in ("main", "run_child")]
    spoken = {id(node) for function in speakers for node in ast.walk(function)}
    prints = [(place, node) for place, node in nodes(ast.Call) if getattr(node.func, "id", "") == "print"]
    assert [place for place, node in prints if id(node) not in spoken] == []


def test_no_debugging_or_unfinished_work_is_left():
    words = re.compile(r"\b(ipdb|pdb|TODO|FIXME|XXX)\b")
    lines = [(ids(path), line) for path in OURS for line in path.read_text().splitlines()]
    assert [(name, line) for name, line in lines if words.search(line)] == []


def test_every_module_says_its_job_and_every_public_function_is_typed():
    assert [ids(path) for path in OURS if not ast.get_docstring(tree_of(path))] == []
    for place, node in nodes(ast.FunctionDef, ast.AsyncFunctionDef):
        given = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        typed = all(a.annotation for a in given if a.arg not in ("self", "cls"))
        assert typed and node.returns is not None, f"{place}: {node.name}"


def test_a_package_file_holds_only_a_docstring():
    packages = [path for path in OURS if path.name == "__init__.py" and path.parent.name != "kdep"]
    assert [ids(path) for path in packages if len(tree_of(path).body) != 1] == []


def test_every_page_installs_extras_that_exist():
    setup = ast.parse((ROOT / "setup.py").read_text())
    extras = next(n.value for n in setup.body if isinstance(n, ast.Assign) and n.targets[0].id == "EXTRAS")
    names = "|".join(key.value for key in extras.keys)
    right = re.compile(rf"pip install ('\.\[({names}|{{\w+}})(,({names}))*\]'|mmcv==)|lightly")
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "configs").rglob("*.yaml"), *OURS]
    lines = [(ids(p), line) for p in pages for line in p.read_text().splitlines() if "pip install" in line]
    assert len(lines) > 5 and [(page, line) for page, line in lines if not right.search(line)] == []


def test_every_test_that_a_page_names_is_there():
    named = [
        (path.name, *name)
        for path in (ROOT / "docs").glob("*.md")
        for name in re.findall(r"`(test_\w+)::(test_\w+)`", path.read_text())
    ]
    assert len(named) > 20
    for page, module, function in named:
        files = list((ROOT / "tests").rglob(f"{module}.py"))
        assert len(files) == 1, f"{page}: {module}"
        (file,) = files
        assert f"\ndef {function}(" in file.read_text(), f"{page}: {module}::{function}"


@pytest.mark.parametrize("path", SCRIPTS, ids=ids)
def test_a_script_is_short_strict_and_parses(path):
    code = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(code) < 20 and code[0] == "set -euo pipefail"
    assert path.read_text().startswith("#!/usr/bin/env bash\n# ")
    subprocess.run(["bash", "-n", path], check=True)


def test_a_script_can_be_executed():
    closed = [path.name for path in SCRIPTS if not path.stat().st_mode & 0o111]
    assert set(closed) <= {"venv.sh"}  # the others source it


def test_a_recipe_opens_with_its_command_its_cost_and_what_to_expect():
    for path in (ROOT / "configs" / "pretrain").glob("*.yaml"):
        header = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
        assert re.search(rf"pretrain(\.sh)? {path.stem}\b", header), path.name
        assert "Cost:" in header and "Expected:" in header, path.name
