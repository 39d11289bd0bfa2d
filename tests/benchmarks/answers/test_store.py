import io
import zipfile

import numpy as np
import pytest

from kdep.guard import RefusedError
from kdep_benchmarks.answers.store import class_answers, from_bytes


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
