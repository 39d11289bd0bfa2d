"""Answers of made-up models that are equally good, correlated as answers of real ones are.

All models find the same images hard. A model has its own opinion of each image, which its runs share, and every run
adds noise of its own. Runs also differ as a whole: `SHIFT` moves a run's top-1 by about a point.
"""

from collections.abc import Callable

import numpy as np
from scipy.special import expit

from kdep_benchmarks.answers.store import Answers, area_answers, class_answers

SHARED, OWN, NOISE = 0.6, 0.25, 0.15  # of the variance of what decides an answer: image, model and image, run and image
SHIFT = 0.03
Models = tuple[list[Answers], list[Answers]]


def _latent(random: np.random.Generator, runs: int, shape: tuple[int, ...]) -> np.ndarray:
    """What decides the answers of two equal models (2, runs, *shape); the last run effect is the same for all images.

    A single run is judged as the weights it is: two equal ones have the same shift.
    """
    shared = random.standard_normal(shape)
    own = random.standard_normal((2, 1, *shape))
    noise = random.standard_normal((2, runs, *shape))
    shift = SHIFT * random.standard_normal((2, runs, *(1 for _ in shape))) * (runs > 1)
    return SHARED**0.5 * shared + OWN**0.5 * own + NOISE**0.5 * noise + shift


def classes(random: np.random.Generator, images: int, runs: int) -> Models:
    """A classifier of ten classes that is right on 69 of 100 images."""
    truth = random.integers(10, size=images)
    right = _latent(random, runs, (images,)) < 0.5
    predicted = np.where(right, truth, (truth + 1) % 10)
    return tuple([class_answers(run, truth) for run in model] for model in predicted)


def probe_classes(random: np.random.Generator, images: int, runs: int) -> Models:
    """The same of a probe, whose runs are the same weights and differ in the chosen penalty only."""
    truth = random.integers(10, size=images)
    shared, own = random.standard_normal(images), random.standard_normal((2, 1, images))
    chosen = 0.15 * random.standard_normal((2, runs, 1))  # what the run's penalty does, to each image another thing
    latent = SHARED**0.5 * shared + (1 - SHARED) ** 0.5 * own + chosen * random.standard_normal((2, 1, images))
    # Of variance one whatever was chosen: else the runs would not be equally good.
    predicted = np.where(latent / np.sqrt(1 + chosen**2) < 0.5, truth, (truth + 1) % 10)
    return tuple([class_answers(run, truth) for run in model] for model in predicted)


def drawn_classes(random: np.random.Generator, images: int, runs: int) -> Models:
    """The same of few-shot probes: five draws of train images a run, good or bad ones for both models."""
    truth, draws = random.integers(10, size=images), 5
    latent = _latent(random, runs * draws, (images,)) + 0.1 * random.standard_normal((runs * draws, 1))
    predicted = np.where(latent < 0.5, truth, (truth + 1) % 10).reshape(2, runs, draws, images)
    return tuple([class_answers(run, truth) for run in model] for model in predicted)


def areas(random: np.random.Generator, images: int, runs: int) -> Models:
    """A segmentation of six classes, from one that is nearly everywhere to one in every tenth image."""
    present = random.random((images, 6)) < np.array([0.95, 0.5, 0.4, 0.3, 0.2, 0.1])
    present[:, 0] |= ~present.any(axis=1)
    share = present * random.lognormal([1.5, 0, 0, 0, 0, 0], 0.7, (images, 6))
    label = np.round(10_000 * share / share.sum(axis=1, keepdims=True))
    skill = np.array([2.5, 0.5, 0.0, 0.0, -0.5, -0.5])
    found = np.round(label * expit(skill - 1.5 * _latent(random, runs, (images, 6))))
    # What is missed goes to the other classes of the image, and a little to all.
    claims = present + 0.05
    missed = (label - found)[..., None] * (claims[:, None, :] * (1 - np.eye(6)))
    missed = np.nan_to_num(missed / (claims[:, None, :] * (1 - np.eye(6))).sum(axis=-1, keepdims=True))
    predicted = found + np.round(missed.sum(axis=-2))
    both = np.stack([found, predicted, np.broadcast_to(label, found.shape)], axis=-2)
    return tuple([area_answers(run) for run in model] for model in both)


def boxes(random: np.random.Generator, images: int, runs: int) -> Models:
    """A detector of five classes, a few boxes an image; scores and overlaps follow how well a box is seen."""
    counts = random.poisson([1.5, 0.8, 0.5, 0.3, 0.2], (images, 5))
    counts[0] = np.maximum(counts[0], 1)
    image, label = (np.repeat(part.ravel(), counts.ravel()) for part in np.indices(counts.shape))
    seen = _latent(random, runs, (images,))[..., image] * 0.7 + _latent(random, runs, (len(image),)) * 0.7
    models = []
    for model in range(2):
        models.append([_detections(random, counts, image, label, seen[model, run]) for run in range(runs)])
    return tuple(models)


def _detections(
    random: np.random.Generator, counts: np.ndarray, image: np.ndarray, label: np.ndarray, seen: np.ndarray
) -> Answers:
    overlap = 0.7 + 0.15 * seen + 0.05 * random.standard_normal(len(seen))
    reached = np.clip(np.floor((overlap - 0.45) / 0.05), 0, 10).astype(np.int64)
    scores = expit(2 * seen + random.standard_normal(len(seen)))
    false = random.poisson(0.8, counts.shape)
    false_image, false_label = (np.repeat(part.ravel(), false.ravel()) for part in np.indices(counts.shape))
    false_scores = expit(-1.5 + 1.2 * random.standard_normal(len(false_image)))
    joined = {
        "image": np.concatenate([image, false_image]).astype(np.uint32),
        "label": np.concatenate([label, false_label]).astype(np.uint16),
        "score": np.concatenate([scores, false_scores]).astype(np.float32),
        "matched": np.concatenate([(1 << reached) - 1, np.zeros_like(false_image)]).astype(np.uint16),
    }
    ignored = np.zeros(len(joined["image"]), np.uint16)
    return Answers("boxes", {"boxes": counts.astype(np.uint32), **joined, "ignored": ignored})


# What is simulated: the kind of task, its metric and how its answers are made.
MADE: dict[str, tuple[str, str, Callable[[np.random.Generator, int, int], Models]]] = {
    "probe": ("linear", "top1", probe_classes),
    "few-shot": ("fewshot", "top1", drawn_classes),
    "fine-tuning": ("finetune", "top1", classes),
    "segmentation": ("segment", "mIoU", areas),
    "detection": ("detect", "AP", boxes),
}


def exchange(first: list[Answers], second: list[Answers], swapped: np.ndarray) -> Models:
    """Give the answers on some images to the other model, in all runs."""
    pairs = [_exchanged(a, b, swapped) for a, b in zip(first, second, strict=True)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _exchanged(first: Answers, second: Answers, swapped: np.ndarray) -> tuple[Answers, Answers]:
    if first.form == "boxes":
        sides = [first.arrays, second.arrays]
        made = []
        for own, other in (sides, sides[::-1]):
            masks = ~swapped[own["image"]], swapped[other["image"]]
            names = ("image", "label", "score", "matched", "ignored")
            joined = {name: np.concatenate([own[name][masks[0]], other[name][masks[1]]]) for name in names}
            made.append(Answers("boxes", {"boxes": own["boxes"], **joined}))
        return made[0], made[1]
    name, axis = ("predicted", 1) if first.form == "classes" else ("areas", 0)
    mask = swapped[None] if axis else swapped[:, None, None]
    a, b = first.arrays[name], second.arrays[name]
    own, other = np.where(mask, b, a), np.where(mask, a, b)
    return Answers(first.form, {**first.arrays, name: own}), Answers(first.form, {**second.arrays, name: other})
