import numpy as np
import pytest
import torch

from kdep_benchmarks.data.cards import Dataset
from kdep_benchmarks.jobs import memory
from kdep_benchmarks.jobs.memory import halve, is_out_of_memory, oom_kills
from kdep_benchmarks.tasks.task import Task


def allocate(make):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        make()
    return caught.value


def test_which_errors_are_out_of_memory(monkeypatch, tmp_path):
    wrapped = ValueError("could not score")
    wrapped.__cause__ = MemoryError()
    cuda = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    ours = [allocate(lambda: torch.empty(1 << 50)), allocate(lambda: np.empty(1 << 50)), cuda, wrapped]
    ours += [
        RuntimeError(text)
        for text in (
            "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
            "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
            "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
            "GET was unable to find an engine to execute this computation",
        )
    ]
    others = [
        ValueError("no room: can't allocate memory"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
    ]
    (tmp_path / "events").write_text("low 0\noom 2\noom_kill 5\n")
    monkeypatch.setattr(memory, "counters", lambda: [tmp_path / "events", tmp_path / "absent"])
    assert oom_kills() == 5
    assert all(is_out_of_memory(error, kills_before=5) for error in ours)
    assert not any(is_out_of_memory(error, kills_before=5) for error in others)
    assert is_out_of_memory(others[-1], kills_before=4)  # the kernel has counted it


@pytest.mark.parametrize(
    ("kind", "given", "changed"),
    [
        ("knn", {}, {"batch_size": 32}),
        ("fewshot", {"share": 0.1, "batch_size": 5}, {"batch_size": 2}),
        ("finetune", {"batch_size": 32, "accumulate": 4}, {"accumulate": 8}),
    ],
)
def test_half_as_many_images_at_once(kind, given, changed, tmp_path):
    task = Task("a-b", kind, Dataset("a", "imagefolder", tmp_path, {"train": "a", "test": "b"}), settings=given)
    assert halve(task)[0].settings == {**given, **changed}


def test_one_image_cannot_be_halved(tmp_path):
    dataset = Dataset("a", "imagefolder", tmp_path, {"train": "a", "test": "b"})
    for kind, given in (("knn", {"batch_size": 1}), ("finetune", {"batch_size": 2, "accumulate": 2})):
        with pytest.raises(ValueError, match="batch of one image; it cannot be halved"):
            halve(Task("a-b", kind, dataset, settings=given))
