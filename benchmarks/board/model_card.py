"""A README.md as Hugging Face shows it, beside an exported student: what it is, how to load it, what it scores.

Scores are those of the results given, means over all finished runs of a task; a task with a failed run is left out.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from kdep_benchmarks.board.leaderboard import compact, score_text
from kdep_benchmarks.board.report import markdown_text
from kdep_benchmarks.board.table import Board, Cell, Column, Row, boards
from kdep_benchmarks.results import Result, write_text

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

    from kdep.models.checkpoint import Checkpoint

TAG = "kdep"  # in the metadata of our cards: only those are written over
NO_LICENCE = "unknown"  # the hub's word
TASK_TYPES = {
    "classification": "image-classification",
    "segmentation": "image-segmentation",
    "detection": "object-detection",
}
METRIC_TYPES = {"top1": "accuracy", "mIoU": "mean_iou", "AP": "mean_average_precision"}
KINDS = {
    "knn": "nearest neighbours",
    "linear": "linear probe",
    "fewshot": "few-shot linear probe",
    "finetune": "fine-tuning",
    "segment": "segmentation",
    "detect": "detection",
}


def write_card(
    checkpoint: "Checkpoint", results: Iterable[Result], path: Path, *, snippet: str, licence: str | None = None
) -> None:
    """Write a card, and read it back before it takes its place.

    Args:
        checkpoint: what was exported.
        results: any results; those of this checkpoint and the baselines beside it are used.
        path: the README.md.
        snippet: code that loads the export.
        licence: the hub's name of a licence, such as apache-2.0; the card says where nobody named one.

    Raises:
        ValueError: `path` holds a text that is no card of ours, or the licence is none that a card can hold.
    """
    from huggingface_hub import ModelCard

    check_place(path, licence)
    every = boards(results)
    found = [(board, row) for board in every for row in board.rows if row.checkpoint.sha256 == checkpoint.identity]
    data = card_data(checkpoint, found, licence=licence)
    text = f"---\n{data.to_yaml()}\n---\n\n{_body(checkpoint, found, snippet, licence)}"
    read = ModelCard(text, ignore_metadata_errors=False).data
    if read.to_dict() != data.to_dict():
        raise ValueError(f"{path}: the card's metadata does not read back as written; name {checkpoint.name!r}?")
    write_text(path, text)


def check_place(path: Path, licence: str | None) -> None:
    """Refuse what `write_card` would refuse, before anything is exported.

    Raises:
        ValueError: see `write_card`.
    """
    if path.is_file() and not _is_ours(path.read_text(encoding="utf-8")):
        raise ValueError(
            f"{path}: there is a README.md already that is no model card of kdep; move it, or change --out"
        )
    if licence is not None and not re.fullmatch(r"[a-z0-9.\-]+", licence):
        raise ValueError(f"--license {licence!r}: the hub's names are like apache-2.0, mit, cc-by-nc-4.0")


def card_data(
    checkpoint: "Checkpoint", found: list[tuple[Board, Row]], *, licence: str | None = None
) -> "ModelCardData":
    """The metadata: licence, library, tags, data sets, and the scores as a model index."""
    from huggingface_hub import ModelCardData

    scores = [
        _eval_result(board, column, cell)
        for board, row in found
        for column, cell in zip(board.columns, row.cells, strict=True)
        if cell.n and not cell.failed
    ]
    source = checkpoint.provenance.get("data", {}).get("source")
    return ModelCardData(
        license=licence or NO_LICENCE,
        library_name="timm",
        pipeline_tag="image-feature-extraction",
        tags=[TAG, "timm", "backbone", "feature-extraction", checkpoint.arch],
        datasets=[data_name(source)] if source else None,
        model_name=checkpoint.name,
        eval_results=scores or None,
    )


def data_name(source: str) -> str:
    """A name for a card from a pretraining source: no folders of the machine it lay on.

    `torchvision:CIFAR10` -> cifar10, `/data/tiny_imagenet.npz:train` -> tiny_imagenet, `lists/tenth.txt` -> tenth.
    """
    if source.startswith("torchvision:"):
        return source.partition(":")[2].lower()
    file, _, split = source.rpartition(":")
    path = Path(file if file.endswith(".npz") and split else source)
    name = path.parent.name if path.name in ("train", "images") and path.parent.name else path.stem
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "images"


def _eval_result(board: Board, column: Column, cell: Cell) -> "EvalResult":
    from huggingface_hub import EvalResult

    protocol = str(board.protocol)
    spread = {} if cell.std is None else {"std": round(cell.std, 4), "interval95": round(cell.ci95, 4)}
    return EvalResult(
        task_type=TASK_TYPES[column.task.family],
        dataset_type=column.task.dataset,
        dataset_name=column.task.dataset,
        metric_type=METRIC_TYPES.get(column.metric, column.metric),
        metric_value=round(cell.mean, 4),
        metric_name=f"{column.metric}, {KINDS.get(column.task.kind, column.task.kind)}, {column.label}, {protocol}",
        dataset_revision=column.data_fingerprint[:16],  # the hub keeps entries apart by it
        metric_args={"protocol": protocol, "runs": cell.n, **spread},
    )


def _body(checkpoint: "Checkpoint", found: list[tuple[Board, Row]], snippet: str, licence: str | None) -> str:
    parts = [f"# {markdown_text(checkpoint.name)}", _what(checkpoint)]
    if licence is None:
        parts.append("No licence was named for these weights; those of the teacher and of its data may bind them.")
    parts += ["## Use", f"```python\n{snippet.strip()}\n```", "## Scores"]
    for board, row in found:
        parts += [f"### Protocol {markdown_text(str(board.protocol))}", _scores(board, row)]
    if not found:
        parts.append(
            "Not measured yet: `kdep transfer` measures it, and the next export with `--card` says the scores."
        )
    else:
        parts.append(
            "Percent, mean ± standard deviation (runs) over seeds, on splits that were touched once. Scores of "
            "different protocols are not comparable; `-` was not measured."
        )
    parts += ["## Provenance", _provenance(checkpoint)]
    return "\n\n".join(parts) + "\n"


def _what(checkpoint: "Checkpoint") -> str:
    source = checkpoint.provenance
    teacher = source.get("teacher", {})
    text = f"`{checkpoint.arch}` without a classifier"
    text += " at its random initialisation" if source.get("kind") == "random" else f", trained at {checkpoint.size} px"
    if source.get("kind") == "student" and isinstance(teacher, dict):
        text += f": distilled without labels from `{_basename(str(teacher.get('source')))}`"
        data = source.get("data", {})
        if data.get("source"):
            text += f" on {data.get('images', 0):,} images of {data_name(data['source'])}"
        if source.get("images_seen"):
            text += f", {compact(source['images_seen'])} seen in all"
    return (
        f"{text}. Input: RGB in [0, 1], mean {_listed(checkpoint.mean)}, standard deviation {_listed(checkpoint.std)}."
    )


def _scores(board: Board, row: Row) -> str:
    """Scores of the row beside its baselines."""
    baselines = [board.baseline(row, role) for role in ("random", "supervised")]
    shown = [row, *(one for one in baselines if one is not None and one is not row)]
    head = ["task", "metric", *(markdown_text(one.checkpoint.name) for one in shown)]
    lines = [head, ["---", "---", *["---:"] * len(shown)]]
    for i, column in enumerate(board.columns):
        lines.append([markdown_text(column.label), column.metric, *(score_text(one.cells[i]) for one in shown)])
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    if row.overlap and row.overlap.shared:
        shared = f"{row.overlap.shared:,} of the {row.overlap.images:,} test images"
        text += f"\n\nIn its pretraining data also stand {shared} ({row.overlap.percent:.2f} %)."
    return text


def _provenance(checkpoint: "Checkpoint") -> str:
    source = checkpoint.provenance
    facts = {
        "sha256 of the weights": checkpoint.sha256,
        "method": source.get("method"),
        "seed": source.get("config", {}).get("seed"),
        "code": source.get("commit"),
        "torch": source.get("torch"),
        "timm": source.get("timm"),
    }
    return "\n".join(f"- {name}: {markdown_text(str(value))}" for name, value in facts.items() if value is not None)


def _is_ours(text: str) -> bool:
    metadata = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    return bool(metadata and re.search(rf"^- {TAG}$", metadata[1], re.MULTILINE))


def _basename(source: str) -> str:
    return Path(source).name if "/" in source else source


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
