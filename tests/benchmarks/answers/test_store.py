import io
import zipfile

import numpy as np
import pytest

from kdep.guard import RefusedError
from kdep_benchmarks.answers.store import Answers, class_answers, from_bytes


def test_a_file_of_answers_that_expands_too_far_is_refused_before_it_is_read(monkeypatch):
    content = class_answers(np.zeros(100_000, int), np.zeros(100_000, int)).to_bytes()
    assert from_bytes(content, "a.npz").images == 100_000
    monkeypatch.setenv("KDEP_MAX_EXPANDED", "100000")
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    with pytest.raises(RefusedError, match=r"a.npz: [\d,]+ bytes would expand to 200,\d+; KDEP_MAX_EXPANDED allows"):
        from_bytes(content, "a.npz")


def test_an_array_of_an_impossible_size_is_no_file_of_answers():
    content = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (2**50,)}
    with zipfile.ZipFile(content, "w") as archive, archive.open("form.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(ValueError, match="a.npz: not a file of answers"):
        from_bytes(content.getvalue(), "a.npz")


CLASSES = {"predicted": np.zeros((1, 4), np.uint8), "truth": np.zeros(4, np.uint8)}
DETECTED = {"image": np.zeros(3, np.uint32), "label": np.zeros(3, np.uint16), "score": np.ones(3, np.float32)}
DETECTED |= {"matched": np.zeros(3, np.uint16), "ignored": np.zeros(3, np.uint16)}
BOXES = {"boxes": np.zeros((2, 5), np.uint32), **DETECTED}
AREAS = {"areas": np.zeros((4, 3, 5), np.uint32)}


def test_answers_of_every_form_come_back():
    for form, arrays in (("classes", CLASSES), ("areas", AREAS), ("boxes", BOXES)):
        assert from_bytes(Answers(form, arrays).to_bytes(), "a.npz").sha256 == Answers(form, arrays).sha256
    none = {name: array[:0] for name, array in DETECTED.items()}
    assert from_bytes(Answers("boxes", BOXES | none).to_bytes(), "a.npz").images == 2


@pytest.mark.parametrize(
    ("form", "arrays", "reason"),
    [
        ("classes", {**CLASSES, "truth": np.zeros(5, np.uint8)}, "of shapes"),
        ("classes", {**CLASSES, "truth": np.zeros((4, 1), np.uint8)}, "truth: uint8 of shape"),
        ("classes", {**CLASSES, "truth": np.full(4, -1)}, "truth: -1 to -1, expected 0 or more"),
        ("classes", {**CLASSES, "truth": np.full(4, 2**40)}, "truth: 1099511627776"),
        ("classes", {**CLASSES, "predicted": np.zeros((1, 4))}, "predicted: float64"),
        ("classes", {"predicted": np.zeros((0, 4), int), "truth": np.zeros(4, int)}, "of shapes"),
        ("areas", {"areas": np.zeros((4, 2, 5), np.uint32)}, "areas of shape"),
        ("areas", {"areas": np.zeros((0, 3, 5), np.uint32)}, "areas of shape"),
        ("boxes", {**BOXES, "image": np.full(3, 2)}, "image: 2 to 2, expected 0 or more and less than 2"),
        ("boxes", {**BOXES, "label": np.full(3, 5)}, "label: 5 to 5"),
        ("boxes", {**BOXES, "score": np.full(3, np.nan)}, "score: expected finite"),
        ("boxes", {**BOXES, "matched": np.zeros(2, np.uint16)}, "do not fit each other"),
    ],
)
def test_answers_of_which_no_metric_can_be_computed_are_refused(form, arrays, reason):
    with pytest.raises(ValueError, match=f"a.npz: not a file of answers .*{reason}"):
        from_bytes(Answers(form, arrays).to_bytes(), "a.npz")
