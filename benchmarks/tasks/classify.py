"""Classify with k nearest neighbours or a linear probe on frozen features, or by fine-tuning the whole network.

All three choose hyper-parameters on val and use test once. The seed draws the val split if the data set has none. In
fine-tuning it also draws the classifier's initial weights, the order of the images and their augmentation. A probe's
train images are fixed and its optimum is unique, so its spread over seeds comes from the choice of hyper-parameters
alone. It does not cover the choice of images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kdep.models.backbones.outline import outline
from kdep.models.checkpoints.checkpoint import Checkpoint
from kdep.probe.knn import vote
from kdep.run.device import choose_precision
from kdep_benchmarks.answers.store import class_answers
from kdep_benchmarks.data.images import Splits, open_splits
from kdep_benchmarks.result import Outcome
from kdep_benchmarks.tasks.features import extract, feature_folder
from kdep_benchmarks.tasks.linear import fit_path, measure, walk_path
from kdep_benchmarks.tasks.logme import logme
from kdep_benchmarks.tasks.settings import Finetune, Knn, Linear, Pixels, read_settings
from kdep_benchmarks.tasks.task import Task

PATIENCE = 3  # the path of a linear probe stops after this many penalties without improvement on val


@dataclass(frozen=True)
class Probed:
    """A probe's result at one tap: its score on val, and its predictions on test after the refit."""

    val_top1: float
    val_loss: float
    predicted: torch.Tensor
    chosen: dict[str, Any]
    curves: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Data:
    """Features and labels at one tap; `train` and `val` are positions in `pool`.

    Features stay in memory or in a memory-mapped file; blocks are copied to `device` for computing.
    """

    pool: torch.Tensor
    labels: torch.Tensor
    train: torch.Tensor
    val: torch.Tensor
    test: torch.Tensor
    classes: int
    device: torch.device = torch.device("cpu")


def run_knn(checkpoint: Checkpoint, task: Task, *, seed: int, work_dir: Path, device: torch.device) -> Outcome:
    """Classify by nearest neighbours of frozen features; choose k, temperature and tap on val.

    Raises:
        ValueError: the settings or the data set are wrong.
        LoadError: the weights do not load completely.
    """
    settings = read_settings(Knn, task)

    def probe(data: Data) -> Probed:
        usable = tuple(k for k in settings.k if k <= len(data.train))
        if not usable:
            raise ValueError(
                f"{task.name}: settings: k: {list(settings.k)}, but train has only {len(data.train)} images"
            )
        return probe_knn(data, ks=usable, temperatures=settings.temperature)

    return _probe(checkpoint, task, settings, probe, seed=seed, work_dir=work_dir, device=device)


def run_linear(checkpoint: Checkpoint, task: Task, *, seed: int, work_dir: Path, device: torch.device) -> Outcome:
    """Fit logistic regression on frozen features; choose penalty and tap on val.

    Raises:
        ValueError: the settings or the data set are wrong.
        LoadError: the weights do not load completely.
    """
    settings = read_settings(Linear, task)

    def probe(data: Data) -> Probed:
        return probe_linear(data, path=settings.path)

    return _probe(checkpoint, task, settings, probe, seed=seed, work_dir=work_dir, device=device)


def run_finetune(checkpoint: Checkpoint, task: Task, *, seed: int, work_dir: Path, device: torch.device) -> Outcome:
    """Fine-tune the whole network with a new classifier; choose learning rate and weight decay on val.

    The last epoch is scored. With a single learning rate and weight decay, val joins the train images; `chosen` flags
    both values as fixed. An interrupted call resumes after its last finished epoch if the arguments are the same.

    Raises:
        ValueError: the settings or the data set are wrong, or the loss diverges at every learning rate.
        LoadError: the weights do not load completely.
    """
    from kdep_benchmarks.tasks.finetune import choose, flagged, going_on, train_and_predict

    settings = read_settings(Finetune, task)
    splits = open_splits(task.dataset, seed=seed)
    grid = [(lr, decay) for lr in settings.lr for decay in settings.weight_decay]
    chosen, curves, counts = flagged(grid[0], settings), {}, splits.counts
    own = {"seed": seed, "device": device}
    with going_on(checkpoint, task, splits, settings, points=len(grid), work_dir=work_dir, **own) as work:
        if len(grid) > 1:
            chosen, curves = choose(checkpoint, splits, settings, grid=grid, work=work, **own)
        else:
            counts = {**counts, "train": len(splits.pool), "val": 0}
        final = (chosen["lr"], chosen["weight_decay"])
        scores, speed = train_and_predict(checkpoint, splits, settings, final, final=True, work=work, **own)
    predicted = scores.argmax(1)
    metrics = accuracy(predicted, torch.from_numpy(splits.test.labels), classes=len(splits.pool.classes))
    answers = class_answers(predicted.numpy(), splits.test.labels)
    chosen["precision"] = str(choose_precision(settings.precision, device)).removeprefix("torch.")
    return Outcome(metrics, counts, chosen, curves, load_report(checkpoint), {"images_per_second": speed}, answers)


def probe_knn(data: Data, *, ks: tuple[int, ...], temperatures: tuple[float, ...]) -> Probed:
    """Choose k and temperature on val, then predict test from train and val; ties go to the first of the grid.

    LogME of train and val stands in the curves, for `kdep fidelity`.
    """
    grid = [(k, temperature) for k in ks for temperature in temperatures]
    labels = data.labels.to(data.device)
    train, val = (data.pool[positions].to(data.device) for positions in (data.train, data.val))
    answers = vote(val, train, labels[data.train.to(data.device)], grid=grid)
    del train, val
    curve = [_share(answer.cpu() == data.labels[data.val]) for answer in answers]
    best = max(range(len(grid)), key=lambda number: curve[number])
    k, temperature = grid[best]
    bank, queries = data.pool.to(data.device), data.test.to(data.device)
    (predicted,) = vote(queries, bank, labels, grid=[grid[best]])
    chosen = {"k": k, "temperature": temperature} | at_edge("temperature", temperature, temperatures)
    chosen["k_at_edge"] = len(ks) > 1 and k == max(ks)  # k cannot be below 1, so its lower end is no edge
    curves = {"k": [k for k, _ in grid], "temperature": [t for _, t in grid], "val_top1": curve}
    curves["logme"] = [logme(data.pool, data.labels)]
    return Probed(curve[best], 0.0, predicted, chosen, curves)


def probe_linear(data: Data, *, path: tuple[float, ...]) -> Probed:
    """Choose the penalty by accuracy on val, ties by cross-entropy, then refit on train and val.

    Penalties are tried from the strongest to the weakest until `gives_up`.
    """
    known = {"classes": data.classes, "device": data.device}
    tried, top1, loss = [], [], []
    for solution in walk_path(data.pool, data.labels, rows=data.train, penalties=path, **known):
        right, entropy = measure(solution, data.pool, data.labels, rows=data.val)
        tried.append(solution.penalty)
        top1.append(right)
        loss.append(entropy)
        if gives_up(top1, loss):
            break
    best = best_on_val(top1, loss)
    (refitted,) = fit_path(data.pool, data.labels, penalties=[tried[best]], **known)
    chosen = {"lambda": tried[best]} | at_edge("lambda", tried[best], path)
    curves = {"lambda": tried[::-1], "val_top1": top1[::-1], "val_loss": loss[::-1]}
    return Probed(top1[best], loss[best], refitted.predict(data.test), chosen, curves)


def best_on_val(top1: Sequence[float], loss: Sequence[float]) -> int:
    """Return the position of the best top-1; ties go to the lowest cross-entropy."""
    return max(range(len(top1)), key=lambda number: (top1[number], -loss[number]))


def gives_up(top1: Sequence[float], loss: Sequence[float]) -> bool:
    """Return whether the last PATIENCE penalties improved neither top-1 nor cross-entropy on val.

    Weaker penalties overfit more, and they take most of the time of the whole path (decision 0014).
    """
    before = len(top1) - PATIENCE
    if before < 1:
        return False
    return max(top1[before:]) <= max(top1[:before]) and min(loss[before:]) >= min(loss[:before])


def open_taps(
    checkpoint: Checkpoint, splits: Splits, pixels: Pixels, *, work_dir: Path, device: torch.device
) -> tuple[dict[str, Data], dict[str, float]]:
    """Open the features of all taps, `pre` before `post`; they are extracted once per checkpoint and images.

    Returns:
        Data by tap, and images_per_second if this call extracted features.
    """
    cache = feature_folder(work_dir, checkpoint)
    parts = (splits.test, splits.pool)  # test first: a damaged image of test is found before train is read
    own = {"pixels": pixels, "cache": cache, "device": device, "work_dir": work_dir}
    found = [extract(checkpoint, images, **own) for images in parts]
    (test, pool), took = (part.taps for part in found), [part.seconds for part in found]
    done = sum(len(images) for images, seconds in zip(parts, took, strict=True) if seconds is not None)
    cost = {"images_per_second": done / sum(filter(None, took))} if done else {}
    labels, train, val = (torch.from_numpy(a) for a in (splits.pool.labels, splits.train, splits.val))
    classes = len(splits.pool.classes)
    taps = {tap: Data(pool[tap], labels, train, val, test[tap], classes, device) for tap in sorted(pool)[::-1]}
    return taps, cost


def _probe(
    checkpoint: Checkpoint,
    task: Task,
    pixels: Pixels,
    probe: Callable[[Data], Probed],
    *,
    seed: int,
    work_dir: Path,
    device: torch.device,
) -> Outcome:
    """Probe every tap and report the one that is best on val, with the top-1 of every tap beside it."""
    splits = open_splits(task.dataset, seed=seed)
    taps, cost = open_taps(checkpoint, splits, pixels, work_dir=work_dir, device=device)
    probed = {tap: probe(data) for tap, data in taps.items()}
    best = max(probed, key=lambda tap: (probed[tap].val_top1, -probed[tap].val_loss))
    truth, classes = torch.from_numpy(splits.test.labels), len(splits.pool.classes)
    scored = {tap: accuracy(result.predicted.cpu(), truth, classes=classes) for tap, result in probed.items()}
    return Outcome(
        metrics=scored[best] | {f"top1_{tap}": scored[tap]["top1"] for tap in scored},
        counts=splits.counts,
        chosen={"tap": best} | probed[best].chosen,
        curves={tap: {"chosen": result.chosen, **result.curves} for tap, result in probed.items()},
        load=load_report(checkpoint),
        cost=cost,
        answers=class_answers(probed[best].predicted.cpu().numpy(), splits.test.labels),
    )


def accuracy(predicted: torch.Tensor, truth: torch.Tensor, *, classes: int) -> dict[str, float]:
    """Return top-1 in percent, over all images and as the mean over classes."""
    images = torch.bincount(truth, minlength=classes)
    correct = torch.bincount(truth[predicted == truth], minlength=classes)
    per_class = correct.double() / images
    return {"top1": 100.0 * int(correct.sum()) / int(images.sum()), "top1_macro": 100.0 * float(per_class.mean())}


def load_report(checkpoint: Checkpoint) -> dict[str, Any]:
    """Report how many tensors were loaded: all, because `build_backbone` raises otherwise."""
    expected = len(outline(checkpoint.arch).state_dict())
    tensors = len(checkpoint.weights)
    return {"tensors": tensors, "expected": expected, "coverage": 100.0 * tensors / expected}


def at_edge(name: str, value: float, grid: tuple[float, ...]) -> dict[str, bool]:
    """Flag a chosen value at an end of its grid: a better one may lie outside."""
    return {f"{name}_at_edge": len(grid) > 1 and value in (min(grid), max(grid))}


def _share(correct: torch.Tensor) -> float:
    return 100.0 * int(correct.sum()) / len(correct)
