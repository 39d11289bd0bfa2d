"""Write a Hugging Face README.md beside an exported student: what it is, how to load it, what it scores.

Scores are means over all finished runs of a task. A task with a failed run is left out.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from kdep.files import write_text
from kdep_benchmarks.board.build import boards
from kdep_benchmarks.board.table import Board, baselines
from kdep_benchmarks.kinds import KINDS
from kdep_benchmarks.page.leaderboard import compact, score_text
from kdep_benchmarks.page.markdown import COVERS, markdown_text
from kdep_benchmarks.result import Result

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

    from kdep.models.checkpoints.checkpoint import Checkpoint

TAG = "kdep"  # in the metadata of our cards: only those are written over
NO_LICENCE = "unknown"  # the hub's word
TASK_TYPES = {
    "classification": "image-classification",
    "segmentation": "image-segmentation",
    "detection": "object-detection",
}
METRIC_TYPES = {"top1": "accuracy", "mIoU": "mean_iou", "AP": "mean_average_precision"}


def write_card(
    checkpoint: "Checkpoint", results: Iterable[Result], path: Path, *, snippet: str, licence: str | None = None
) -> None:
    """Write a model card, after checking that its metadata reads back as written.

    Args:
        checkpoint: what was exported.
        results: any results; those of this checkpoint and the baselines beside it are used.
        path: the README.md.
        snippet: code that loads the export.
        licence: the hub's name of a licence, such as apache-2.0; without one the card says that none was named.

    Raises:
        ValueError: `path` holds another text than a card of kdep, or the licence is not a name that the hub knows.
    """
    from huggingface_hub import ModelCard

    check_place(path, licence)
    found = [board for board in boards(results) if checkpoint.identity in board.rows.index]
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


def card_data(checkpoint: "Checkpoint", found: list[Board], *, licence: str | None = None) -> "ModelCardData":
    """Return the metadata: licence, library, tags, data sets, and the scores as a model index."""
    from huggingface_hub import ModelCardData

    scores = [
        _eval_result(board, label, cell)
        for board in found
        for label, cell in board.cells.loc[checkpoint.identity].unstack(0).reindex(board.columns.index).iterrows()
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


def _eval_result(board: Board, label: str, cell: pd.Series) -> "EvalResult":
    from huggingface_hub import EvalResult

    column, protocol = board.columns.loc[label], str(board.protocol)
    kind = KINDS[column.kind].title if column.kind in KINDS else column.kind
    spread = {
        name: round(float(cell[key]), 4)
        for name, key in (("std", "std"), ("interval95", "ci95"))
        if pd.notna(cell[key])
    }
    return EvalResult(
        task_type=TASK_TYPES[column.family],
        dataset_type=column.dataset,
        dataset_name=column.dataset,
        metric_type=METRIC_TYPES.get(column.metric, column.metric),
        metric_value=round(float(cell["mean"]), 4),
        metric_name=f"{column.metric}, {kind}, {label}, {protocol}",
        dataset_revision=column.data_fingerprint[:16],  # the hub keeps entries apart by it
        metric_args={"protocol": protocol, "runs": int(cell.n), **spread},
    )


def _body(checkpoint: "Checkpoint", found: list[Board], snippet: str, licence: str | None) -> str:
    parts = [f"# {markdown_text(checkpoint.name)}", _what(checkpoint)]
    if licence is None:
        parts.append("No licence was named for these weights. Licences of the teacher and of its data may apply.")
    parts += ["## Use", f"```python\n{snippet.strip()}\n```", "## Scores"]
    for board in found:
        parts += [f"### Protocol {markdown_text(str(board.protocol))}", _scores(board, checkpoint.identity)]
    if not found:
        parts.append("Not measured yet. Measure it with `kdep transfer`, then export with `--card` again.")
    else:
        parts.append(
            f"Percent on the test split: mean ± half its 95 % interval (number of runs). {COVERS} Scores of different "
            "protocols are not comparable. `-` means not measured."
        )
    parts += ["## Provenance", _provenance(checkpoint)]
    return "\n\n".join(parts) + "\n"


def _what(checkpoint: "Checkpoint") -> str:
    source = checkpoint.provenance
    text = f"`{checkpoint.arch}` without a classifier"
    # Of a file of other tools nobody knows at which size it was trained: its size is that of timm's default weights.
    known = {"random": " at its random initialisation", "student": f", trained at {checkpoint.size} px"}
    text += known.get(source.get("kind"), f", for images of {checkpoint.size} px")
    if source.get("kind") == "student":
        teacher, data = source.get("teacher", {}).get("source"), source.get("data", {})
        teachers = [teacher] if isinstance(teacher, str) else teacher or []
        named = " and ".join(f"`{Path(one).name if '/' in one else one}`" for one in teachers)
        text += f": distilled without labels from {named}" if named else ": trained with labels"
        if data.get("source"):
            text += f" on {data.get('images', 0):,} images of {data_name(data['source'])}"
        if source.get("images_seen"):
            text += f", {compact(source['images_seen'])} seen in all"
    return (
        f"{text}. Input: RGB in [0, 1], mean {_listed(checkpoint.mean)}, standard deviation {_listed(checkpoint.std)}."
    )


def _scores(board: Board, checkpoint: str) -> str:
    """Scores of the checkpoint beside its baselines."""
    row = board.rows.loc[checkpoint]
    firsts = [baselines(board.rows, role, row.arch)[:1] for role in ("random", "supervised")]
    shown = list(dict.fromkeys([checkpoint, *(sha256 for first in firsts for sha256 in first)]))
    head = ["task", "metric", *(markdown_text(board.rows["name"][sha256]) for sha256 in shown)]
    lines = [head, ["---", "---", *["---:"] * len(shown)]]
    for label, column in board.columns.iterrows():
        cells = board.cells.loc[shown].xs(label, axis=1, level=1)
        texts = [score_text(*cell) for cell in cells[["mean", "ci95", "n", "failed"]].itertuples(index=False)]
        lines.append([markdown_text(label), column.metric, *texts])
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    if row.overlap_percent > 0:
        images = sum(images for _, images in row.overlap_found.values())
        shared = f"{row.overlap_images:,} of the {images:,} test images"
        text += f"\n\nIts pretraining data also contain {shared} ({row.overlap_percent:.2f} %)."
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


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
