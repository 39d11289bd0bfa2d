"""Read and write results: an immutable JSON file per cell, with the answers per test image in a file beside it."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from kdep.files import write_atomically, write_bytes
from kdep_benchmarks.answers.resample import standard_errors
from kdep_benchmarks.answers.store import Answers, from_bytes

FORMAT = 2
ROLES = ("student", "random", "supervised", "teacher", "other")
BUDGETS = ("full", "short", "smoke")
STATUSES = ("ok", "failed")


@dataclass(frozen=True)
class Outcome:
    """What running one task once has measured.

    Attributes:
        metrics: percent, higher is better; the first is the task's main metric.
        counts: images per role: train, val, test.
        chosen: hyper-parameters chosen on the val split, and flags such as `C_at_edge` and `lr_fixed`.
        curves: e.g. the regularisation path; lists of plain numbers.
        load: tensors, expected, coverage in percent, max_difference of the features.
        cost: images_per_second; see `Result`.
        answers: per test image; None of a kind that keeps none, whose scores then have no interval over images.
    """

    metrics: dict[str, float]
    counts: dict[str, int]
    chosen: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)
    load: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    answers: Answers | None = None


@dataclass(frozen=True)
class CheckpointCard:
    """The checkpoint behind a result. `summary` is its provenance in plain values: role, images_seen, teacher, ..."""

    name: str
    sha256: str
    arch: str
    params: int
    summary: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.sha256) < 8 or not set(self.sha256) <= set("0123456789abcdef"):
            raise ValueError(f"checkpoint {self.name}: sha256 is {self.sha256!r}; 64 lower-case hex digits are right")
        if self.role not in ROLES:
            raise ValueError(f"checkpoint {self.name}: role is {self.role!r}; a role is one of {', '.join(ROLES)}")

    @property
    def role(self) -> str:
        """What the row is for: baselines (random, supervised, teacher) are what students are measured against."""
        return self.summary.get("role") or ("random" if self.name.startswith("random:") else "other")


@dataclass(frozen=True)
class TaskCard:
    """The task behind a result."""

    name: str
    kind: str
    family: str
    dataset: str


@dataclass(frozen=True)
class Protocol:
    """The rules a score was measured by. Scores of different protocols are never compared."""

    name: str
    version: int
    budget: str = "full"

    def __post_init__(self) -> None:
        if self.budget not in BUDGETS:
            raise ValueError(f"protocol {self.name}: budget is {self.budget!r}; it is one of {', '.join(BUDGETS)}")

    def __str__(self) -> str:
        """`fair-v1`, `fair-v1-smoke`: the folder's name, and what the boards print."""
        return f"{self.name}-v{self.version}" + ("" if self.budget == "full" else f"-{self.budget}")


@dataclass(frozen=True)
class CellKey:
    """What a result is a result of. Equal keys mean the same measurement; the fingerprint is not in the path."""

    sha256: str
    task: str
    protocol: str
    data_fingerprint: str
    seed: int

    def path(self, folder: Path, status: str = "ok") -> Path:
        """The cell's file: `<sha8>/<task>/<protocol>/seed<k>.json`, or `.failed.json` for a failure."""
        suffix = ".json" if status == "ok" else ".failed.json"
        return Path(folder) / self.sha256[:8] / self.task / self.protocol / f"seed{self.seed}{suffix}"


@dataclass(frozen=True)
class Result:
    """One cell: scores with everything needed to believe them, or a failure with its last lines.

    Attributes:
        metrics, counts, chosen, curves, load: see `Outcome`; empty when failed.
        cost: seconds, peak_memory_mb, device, params_m, gmacs, images_per_second; what was measured of these. The
            last, decoding included, is of a probe's extraction, where it did it, and of other kinds' training.
        versions: of the libraries, by name.
        commit: of this code.
        settings: the task's, as its file has them, for the full budget.
        started: ISO 8601, UTC.
        error: of a failed cell: exit_code, log (its last lines, as one text).
        errors: metric -> standard error over the choice of the test images, in points; set by `write_result`.
        answers: sha256 of the answers per test image, which `read_answers` reads; set by `write_result`.
    """

    checkpoint: CheckpointCard
    task: TaskCard
    protocol: Protocol
    data_fingerprint: str
    seed: int
    status: str
    started: str
    settings: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    chosen: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)
    load: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    commit: str = ""
    error: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    answers: str = ""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"{self.task.name}: status is {self.status!r}; it is one of {', '.join(STATUSES)}")
        if self.status == "ok" and not self.metrics:
            raise ValueError(f"{self.task.name}: a finished cell has no metrics; the first is the task's main metric")
        if not isinstance(self.error.get("log", ""), str):
            raise ValueError(f"{self.task.name}: the error's log is a {type(self.error['log']).__name__}, not a text")
        for name, value in self.metrics.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{self.task.name}: {name} is {value!r}; a metric is a finite number, in percent")

    @property
    def key(self) -> CellKey:
        """Identity of the cell."""
        seed, protocol = self.seed, str(self.protocol)
        return CellKey(self.checkpoint.sha256, self.task.name, protocol, self.data_fingerprint, seed)

    @property
    def main_metric(self) -> str:
        """Name of the metric that stands on the leaderboard."""
        return next(iter(self.metrics))

    @property
    def score(self) -> float:
        """The main metric, in percent."""
        return self.metrics[self.main_metric]


def write_result(result: Result, folder: Path, *, answers: Answers | None = None, force: bool = False) -> Path:
    """Write one result, its answers beside it, and return its path. A finished result is never overwritten.

    A failure may be overwritten, and goes away when the cell later succeeds. Answers are written first: an interrupted
    writer leaves no result without them.

    Raises:
        FileExistsError: the cell is finished already, and `force` is not set.
    """
    path = result.key.path(folder, result.status)
    if answers is not None:
        result = replace(result, answers=answers.sha256, errors=standard_errors(answers))
        write_bytes(answers_path(result, path), answers.to_bytes())
    text = json.dumps({"format": FORMAT, **asdict(result)}, indent=1, allow_nan=False) + "\n"
    try:
        overwrite = force or result.status == "failed"
        write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"), overwrite=overwrite)
    except FileExistsError:
        raise FileExistsError(f"{path}: finished already; --force measures it again") from None
    if result.status == "ok":
        remove_other_answers(path)
        result.key.path(folder, "failed").unlink(missing_ok=True)
    return path


def answers_path(result: Result, path: Path) -> Path:
    """Where the answers of a result lie whose JSON is at `path`; two sets of answers never share a name."""
    return path.with_name(f"seed{result.seed}.answers-{result.answers[:8]}.npz")


def remove_other_answers(path: Path) -> None:
    """Remove answers beside the result at `path` that are not its own: of one that was replaced, or came second."""
    result = read_result(path)
    for other in path.parent.glob(f"seed{result.seed}.answers-*.npz"):
        if other != answers_path(result, path):
            other.unlink(missing_ok=True)


def read_answers(result: Result, folders: Path | Iterable[Path]) -> Answers:
    """Read the answers per test image of a result that was found below one of these folders.

    Raises:
        ValueError: the result has none, or their file is missing or damaged; names the file.
    """
    what = f"{result.task.name}, seed {result.seed} of {result.checkpoint.name}"
    if not result.answers:
        raise ValueError(f"{what}: the result has no answers per test image; measure it again with --force")
    folders = [Path(folder) for folder in ([folders] if isinstance(folders, str | Path) else folders)]
    places = [answers_path(result, result.key.path(folder)) for folder in folders]
    found = [path for path in places if path.is_file()]
    if not found:
        found = [path for root, place in zip(folders, places, strict=True) for path in _below(root, place)]
    if not found:
        raise ValueError(f"{what}: its answers {places[0]} are missing; measure it again with --force")
    answers = from_bytes(found[0].read_bytes(), str(found[0]))
    if answers.sha256 != result.answers:
        raise ValueError(f"{found[0]}: not the answers of {what}, or damaged; measure it again with --force")
    return answers


def _below(root: Path, place: Path) -> Iterable[Path]:
    """Files of the same relative place anywhere below a folder."""
    return sorted(root.glob(f"**/{place.relative_to(root)}"))


def read_result(path: Path) -> Result:
    """Read one file.

    Raises:
        ValueError: not a result of this format; the message names the file.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            found = content.get("format") if isinstance(content, dict) else type(content).__name__
            raise ValueError(f"format {found!r}; this version reads {FORMAT}")
        parts = {"checkpoint": CheckpointCard, "task": TaskCard, "protocol": Protocol}
        content |= {name: _build(part, content[name]) for name, part in parts.items()}
        return _build(Result, {name: value for name, value in content.items() if name != "format"})
    except (ValueError, TypeError, KeyError, AttributeError) as problem:
        raise ValueError(f"{path}: not a result of this scoreboard: {problem}; move it away") from problem


def read_results(folders: Path | Iterable[Path]) -> list[Result]:
    """Read every result below one or several folders, in a fixed order; a success hides an older failure of its cell.

    Two files of one cell with different settings are two results.

    Raises:
        ValueError: no such folder, a corrupt file, or two files that tell different scores of one cell.
    """
    folders = [folders] if isinstance(folders, str | Path) else list(folders)
    for folder in folders:
        if not Path(folder).is_dir():
            raise ValueError(f"{folder}: no such folder of results")
    paths = {path.resolve(): path for folder in folders for path in result_paths(Path(folder))}
    cells: dict[CellKey, list[tuple[Result, Path]]] = {}
    for path in paths.values():
        result = read_result(path)
        cells.setdefault(result.key, []).append((result, path))
    order = sorted(cells, key=lambda key: (key.sha256, key.task, key.protocol, key.data_fingerprint, key.seed))
    return [result for key in order for result in _distinct(cells[key])]


def _distinct(files: list[tuple[Result, Path]]) -> list[Result]:
    """Results of one cell: one, or one for each of its settings; failures only where nothing succeeded."""
    succeeded = [(result, path) for result, path in files if result.status == "ok"]
    if not succeeded:
        return [files[-1][0]]
    kept: list[tuple[Result, Path]] = []
    for result, path in succeeded:
        same = next((file for file in kept if file[0].settings == result.settings), None)
        if same is None:
            kept.append((result, path))
        elif same[0].metrics != result.metrics:
            raise ValueError(f"{same[1]} and {path}: the same cell with different scores; keep one of them")
    return [result for result, _ in kept]


def result_paths(folder: Path) -> list[Path]:
    """Every file of a result below a folder, sorted."""
    paths = [path.relative_to(folder) for path in folder.glob("**/seed*.json")]
    return [folder / path for path in sorted(paths) if not any(part.endswith(".work") for part in path.parts)]


def _build(kind: type, content: Mapping[str, Any]) -> Any:
    unknown = set(content) - {item.name for item in fields(kind)}
    if unknown:
        raise ValueError(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
    for item in fields(kind):
        expected = {int: int, str: str, dict: dict}.get(getattr(item.type, "__origin__", item.type))
        if item.name in content and expected and type(content[item.name]) is not expected:
            raise ValueError(f"{item.name} is {content[item.name]!r}, not a {expected.__name__}")
    return kind(**content)
