"""Answers per test image: what they hold, their hash, and the compressed file beside a result."""

import hashlib
import io
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdep.guard import RefusedError, read_regular, refuse_bomb

# The arrays of each form. N images, C classes, R draws of the train images, D detections.
FORMS: dict[str, tuple[str, ...]] = {
    "classes": ("predicted", "truth"),  # (R, N) and (N,): class numbers
    "areas": ("areas",),  # (N, 3, C): pixels of intersection, prediction and label
    # (N, C) boxes to find; then (D,) each: image, class, score, and bits of the ten IoU thresholds
    "boxes": ("boxes", "image", "label", "score", "matched", "ignored"),
}


@dataclass(frozen=True)
class Answers:
    """Answers on the test split, in the order of its images; `form` is one of `FORMS`."""

    form: str
    arrays: dict[str, np.ndarray]

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"answers of form {self.form!r}; a form is one of {', '.join(FORMS)}")
        if set(self.arrays) != set(FORMS[self.form]):
            raise ValueError(f"{self.form}: arrays {sorted(self.arrays)}; expected {sorted(FORMS[self.form])}")

    @property
    def images(self) -> int:
        """Number of test images."""
        first = self.arrays[FORMS[self.form][0]]
        return first.shape[1] if self.form == "classes" else first.shape[0]

    @property
    def truth(self) -> np.ndarray:
        """What the right answers are: the same for every checkpoint that answered these images."""
        if self.form == "areas":
            return self.arrays["areas"][:, 2]
        return self.arrays["truth" if self.form == "classes" else "boxes"]

    @property
    def draws(self) -> list["Answers"]:
        """The answers of each draw of the train images by itself; a form other than `classes` has one."""
        if self.form != "classes":
            return [self]
        truth = self.arrays["truth"]
        return [Answers("classes", {"predicted": row[None], "truth": truth}) for row in self.arrays["predicted"]]

    @property
    def sha256(self) -> str:
        """Hash of names, types, shapes and contents; the compression of the file does not change it."""
        digest = hashlib.sha256(self.form.encode())
        for name in FORMS[self.form]:
            array = np.ascontiguousarray(self.arrays[name])
            digest.update(f"|{name}|{array.dtype.str}|{array.shape}|".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()

    def to_bytes(self) -> bytes:
        """Compress to the content of an npz file."""
        content = io.BytesIO()
        np.savez_compressed(content, allow_pickle=False, form=np.array(self.form), **self.arrays)
        return content.getvalue()


MOST_CLASSES = 2**20


def _whole(name: str, array: np.ndarray, dimensions: int, below: int = 2**32) -> None:
    if array.dtype.kind not in "ui" or array.ndim != dimensions:
        raise ValueError(
            f"{name}: {array.dtype} of shape {array.shape}, expected whole numbers in {dimensions} dimensions"
        )
    if array.size and not 0 <= int(array.min()) <= int(array.max()) < below:
        raise ValueError(f"{name}: {array.min()} to {array.max()}, expected 0 or more and less than {below}")


def _check_classes(predicted: np.ndarray, truth: np.ndarray) -> None:
    _whole("predicted", predicted, 2, MOST_CLASSES)
    _whole("truth", truth, 1, MOST_CLASSES)
    if not len(predicted) or not len(truth) or predicted.shape[1] != len(truth):
        raise ValueError(f"predicted and truth of shapes {predicted.shape} and {truth.shape}")


def _check_areas(areas: np.ndarray) -> None:
    _whole("areas", areas, 3)
    if not areas.size or areas.shape[1] != 3:
        raise ValueError(f"areas of shape {areas.shape}, expected (images, 3, classes)")


def _check_boxes(boxes: np.ndarray, **of_detections: np.ndarray) -> None:
    _whole("boxes", boxes, 2)
    if not boxes.size or len({array.shape for array in of_detections.values()}) > 1:
        raise ValueError("arrays that do not fit each other")
    for name, below in (("image", len(boxes)), ("label", boxes.shape[1]), ("matched", 2**16), ("ignored", 2**16)):
        _whole(name, of_detections[name], 1, below)
    score = of_detections["score"]
    if score.dtype.kind != "f" or not np.isfinite(score).all():
        raise ValueError("score: expected finite numbers")


# What a file of somebody else may hold and no metric can be computed of.
CHECKS: dict[str, Callable[..., None]] = {
    "classes": _check_classes,
    "areas": _check_areas,
    "boxes": _check_boxes,
}
# NotImplementedError: a version or a compression that no zip file of ours has; RuntimeError: an encrypted one.
DAMAGED = (ValueError, KeyError, OSError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)


def read_file(path: Path) -> Answers:
    """Read a file of answers.

    Raises:
        ValueError: it is damaged, too large or no regular file; names it.
    """
    try:
        content = read_regular(path)
    except RefusedError as error:
        raise ValueError(f"{path}: not a file of answers ({error})") from error
    return from_bytes(content, str(path))


def from_bytes(content: bytes, where: str) -> Answers:
    """Read what `to_bytes` wrote.

    Raises:
        ValueError: the content is damaged or of another kind; the message names `where`.
    """
    try:
        refuse_bomb(content, where)
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            answers = Answers(str(file["form"]), {name: file[name] for name in file.files if name != "form"})
        CHECKS[answers.form](**answers.arrays)
        return answers
    except RefusedError:
        raise
    except DAMAGED as problem:
        raise ValueError(f"{where}: not a file of answers ({problem})") from problem


def class_answers(predicted: np.ndarray, truth: np.ndarray) -> Answers:
    """Answers of a classifier: predictions (N,), or (R, N) of R draws of the train images, and true classes (N,)."""
    kind = np.min_scalar_type(max(int(np.max(predicted)), int(np.max(truth))))
    return Answers("classes", {"predicted": np.atleast_2d(predicted).astype(kind), "truth": np.asarray(truth, kind)})


def area_answers(areas: np.ndarray) -> Answers:
    """Answers of a segmentation: pixels per image (N, 3, C) of intersection, prediction and label."""
    return Answers("areas", {"areas": np.asarray(areas, np.uint32)})
