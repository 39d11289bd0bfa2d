import dataclasses
import errno
import io
import os
import pickle
import signal
from math import inf, nan
from pathlib import Path

import pytest
import torch
from torch import nn

from kdep.files import read, save, write_atomically
from kdep.interrupts import sigterm_interrupts
from kdep.models.backbones.taps import TAPS
from kdep.models.checkpoints.checkpoint import LoadError, fingerprint, load_exactly, parse_student
from kdep.models.checkpoints.checkpoint import write_student as write
from kdep.models.checkpoints.foreign import read_weights
from kdep.models.weights import open_checkpoint


class Trap:
    """Leaves a file behind if its loading runs code."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, a_full_disk):
    path = tmp_path / "deep" / "run.pt"
    with a_full_disk(50_000), pytest.raises(OSError) as caught:
        save({"weight": torch.zeros(100_000)}, path)
    # As under a quota or a full disk; torch itself speaks of an unexpected position.
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(path)
    assert list(path.parent.iterdir()) == []


def test_an_interrupt_while_torch_writes_stays_an_interrupt_and_keeps_the_old_file(tmp_path, monkeypatch):
    class Interrupted(io.FileIO):
        def write(self, data):
            if self.tell():  # of an interrupt in the first write torch makes nothing else
                os.kill(os.getpid(), signal.SIGTERM)
            return super().write(data)

    path = tmp_path / "run.pt"
    save({"step": 1}, path)
    monkeypatch.setattr(Path, "open", lambda self, mode: Interrupted(self, mode))
    with sigterm_interrupts(), pytest.raises(KeyboardInterrupt):
        save({"weight": torch.zeros(100_000)}, path)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == [path] and read(path) == {"step": 1}


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle-2", "pickle-5"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, how):
    path, trap = tmp_path / "evil.pth", tmp_path / "ran"
    content = {"weight": torch.ones(2), "trap": Trap(trap)}
    if how.startswith("pickle"):
        path.write_bytes(pickle.dumps({"trap": Trap(trap)}, protocol=int(how[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(LoadError, match="evil.pth: refused, ") as caught:
        read_weights(path)
    assert not trap.exists() and "weights_only" not in str(caught.value)


def test_a_refused_object_is_named(tmp_path):
    torch.save({"network": nn.Linear(2, 2)}, tmp_path / "w.pth")
    with pytest.raises(LoadError, match=r"holds torch.nn.modules.linear.Linear.*torch.save\(model.state_dict"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("content", [b"", b"some text\n", b"\x89PNG\r\n\x1a\n"])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: (not a checkpoint|refused, a pickle of more)"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_truncated_checkpoint_is_refused(tmp_path, new_format):
    path = tmp_path / "w.pth"
    torch.save({"weight": torch.ones(1000)}, path, _use_new_zipfile_serialization=new_format)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="w.pth: not a checkpoint, or a damaged one"):
        read_weights(path)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(ValueError, match="none.pth: no such file"):
        read_weights(tmp_path / "none.pth")
    with pytest.raises(ValueError, match="a folder, expected a file of weights"):
        read_weights(tmp_path)
    (tmp_path / "student.pth").write_bytes(b"")
    with pytest.raises(ValueError, match=f"{tmp_path}: the folder of a run; its student is {tmp_path}/student.pth"):
        open_checkpoint(str(tmp_path))


def test_safetensors_open(tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(2)}, tmp_path / "w.safetensors")
    assert torch.equal(read_weights(tmp_path / "w.safetensors")["weight"], torch.ones(2))


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "w.pth"
    save({"step": 1}, path)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save({"step": lambda: 2}, path)
    assert read_weights(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "file.txt"

    def write_slowly(neighbour):
        neighbour.write_text("half")
        assert not path.exists()
        neighbour.write_text("whole")

    write_atomically(path, write_slowly)
    assert path.read_text() == "whole"


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK])
def test_without_hard_links_a_file_is_still_written_once(tmp_path, monkeypatch, number):
    def refuse(part, path):
        raise OSError(number, os.strerror(number), str(part), None, str(path))

    path = tmp_path / "seed0.json"
    monkeypatch.setattr(os, "link", refuse)
    write_atomically(path, lambda part: part.write_text("first"), overwrite=False)
    with pytest.raises(FileExistsError):
        write_atomically(path, lambda part: part.write_text("second"), overwrite=False)
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


def test_another_error_of_a_link_stays_as_it_is(tmp_path, monkeypatch):
    def refuse(part, path):
        raise OSError(errno.EIO, "Input/output error", str(part))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OSError, match="Input/output error") as caught:
        write_atomically(tmp_path / "seed0.json", lambda part: part.write_text("first"), overwrite=False)
    assert caught.value.errno == errno.EIO and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda w: w.pop("bias"), r"1 missing .first \['bias'\]"),
        (lambda w: w.update(scale=torch.ones(1)), r"1 unexpected .first \['scale'\]"),
        (lambda w: w.update(bias=torch.ones(3)), r"1 of another shape .first \['bias'\]"),
    ],
)
def test_weights_load_completely_or_not_at_all(change, expected):
    module, weights = nn.Linear(2, 2), {"weight": torch.ones(2, 2), "bias": torch.ones(2)}
    before = fingerprint(module.state_dict())
    change(weights)
    with pytest.raises(LoadError, match=rf"w.pth does not fit Linear .2 tensors.: {expected}"):
        load_exactly(module, weights, "w.pth")
    assert fingerprint(module.state_dict()) == before


def test_a_fingerprint_ignores_the_order_and_layout_of_tensors():
    x = torch.randn(4, 3, 2, 2)
    one = {"a": x, "b": torch.tensor(7)}
    other = {"b": torch.tensor(7), "a": x.to(memory_format=torch.channels_last)}
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize(
    "other",
    [
        {"b": torch.zeros(4)},
        {"a": torch.zeros(2, 2)},
        {"a": torch.zeros(4, dtype=torch.int32)},
        {"a": torch.tensor([0, 0, 0, 1e-45])},
    ],
)
def test_a_fingerprint_changes_with_name_shape_type_and_every_bit(other):
    assert fingerprint({"a": torch.zeros(4)}) != fingerprint(other)


def test_a_student_file_opens_safely_and_returns_what_was_written(tmp_path):
    checkpoint = open_checkpoint("random:test_resnet")
    write(checkpoint, tmp_path / "student.pth")
    content = torch.load(tmp_path / "student.pth", weights_only=True)
    assert set(content) == {"format", "name", "arch", "tap", "state_dict", "input", "provenance"}
    again = open_checkpoint(str(tmp_path / "student.pth"))
    assert fingerprint(again.weights) == again.sha256 == checkpoint.sha256
    assert (again.arch, again.mean, again.std, again.size, again.tap) == (
        *(checkpoint.arch, checkpoint.mean, checkpoint.std),
        *(checkpoint.size, checkpoint.tap),
    )


@pytest.mark.parametrize("name", ["student.pth", "plain.pth"])
@pytest.mark.parametrize(
    ("tensor", "value"), [("conv1.0.weight", nan), ("conv1.1.bias", inf), ("conv1.1.running_var", nan)]
)
def test_weights_that_are_no_finite_numbers_are_refused_by_name(tmp_path, name, tensor, value):
    checkpoint = open_checkpoint("random:test_resnet")
    checkpoint.weights[tensor].view(-1)[0] = value  # one number, which a feature need not read
    path = tmp_path / name
    if name == "student.pth":
        write(checkpoint, path)
    else:
        torch.save(checkpoint.weights, path)
    with pytest.raises(LoadError, match=rf"{name}: 1 tensors hold values.*'{tensor}'.*earlier checkpoint"):
        open_checkpoint(str(path), arch="test_resnet")


def test_a_student_file_of_another_format_is_refused():
    with pytest.raises(ValueError, match="s.pth: student format 2; this version reads format 1"):
        parse_student({"format": 2, "state_dict": {}}, "s.pth")


def test_an_incomplete_student_file_is_refused_with_the_missing_key():
    with pytest.raises(ValueError, match="s.pth: input is missing\n"):
        parse_student({"format": 1, "state_dict": {}}, "s.pth")


def test_a_score_belongs_to_the_weights_and_to_how_they_are_fed():
    plain = open_checkpoint("random:test_resnet")
    usual = dataclasses.replace(plain, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert usual.identity == usual.sha256
    # A student's file holds what float32 made of the same numbers.
    assert dataclasses.replace(usual, mean=(0.48500001430511475, 0.456, 0.406)).identity == usual.sha256
    others = [
        dataclasses.replace(usual, mean=(0.5, 0.456, 0.406)),
        dataclasses.replace(usual, std=(0.5, 0.224, 0.225)),
        dataclasses.replace(usual, resample=128),
        dataclasses.replace(usual, resample=64),
    ]
    assert len({usual.identity, *(other.identity for other in others)}) == 5
    # Probes look at `pre` and `post` of a network alike, and at neither where its last layers were never trained.
    taps = {tap: dataclasses.replace(usual, tap=tap).identity for tap in TAPS}
    assert taps["pre"] == taps["post"] == usual.sha256 != taps["before_head"]
