"""Two processes on a CPU, each with a folder of its own, learn what one process learns."""

import contextlib
import json
import socket

import numpy as np
import pytest
import torch

from kdep.bank import file as bank
from kdep.bank import prepare as targets
from kdep.config import load_config
from kdep.files import read
from kdep.models.checkpoints.checkpoint import fingerprint
from kdep.pretrain import pretrain
from tests.conftest import TINY

# Smooth in its weights: with ReLU or Power Temperature Scaling, rounding alone parts two runs after a few steps.
SMOOTH = ["student.arch=test_efficientnet", "scale.name=none", "optim.name=sgd", "optim.lr=0.05", "log.every=1"]


@contextlib.contextmanager
def free_port():
    """A port that no other program is given meanwhile; a server that reuses addresses, as torch's, can listen there."""
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        yield str(bound.getsockname()[1])


@pytest.fixture(scope="module")
def root(photos, tmp_path_factory, forks):
    """A folder with runs by one process ("alone") and by two ("whole", "halves"), and both processes' last weights."""
    root = tmp_path_factory.mktemp("distributed")
    (root / "tiny.yaml").write_text(TINY.format(photos=photos, runs=root))
    with free_port() as port, contextlib.ExitStack() as open_files:
        logs = [open_files.enter_context((root / f"{rank}.log").open("wb")) for rank in (0, 1)]
        words = ["tests.helpers.two_processes", port, str(root / "tiny.yaml"), str(root), *SMOOTH]
        started = [forks.start([words[0], str(rank), *words[1:]], log) for rank, log in enumerate(logs)]
        codes = [process.wait(1800) for process in started]
    assert codes == [0, 9], "\n".join((root / f"{rank}.log").read_text()[-3000:] for rank in (0, 1))
    pretrain(load_config(root / "tiny.yaml", ["name=alone", *SMOOTH]))
    return root


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_two_processes_learn_what_one_does_with_batchnorm_over_both(root):
    one, two = (losses(folder) for folder in (root / "alone", root / "machine0" / "runs" / "whole"))
    assert len(one) == 16 and one[-1] < 0.8 * one[0]
    np.testing.assert_allclose(two, one, rtol=1e-5)
    weights = [read(folder / "student.pth") for folder in (root / "alone", root / "machine0" / "runs" / "whole")]
    for name, tensor in weights[0]["state_dict"].items():  # running means and variances too
        assert torch.allclose(tensor.float(), weights[1]["state_dict"][name].float(), rtol=1e-3, atol=1e-5), name
    by = weights[1]["provenance"]["processes"]
    assert by == {"world_size": 2, "batch_per_process": 8, "device": "cpu", "precision": "float32"}
    assert weights[1]["provenance"]["images_seen"] == 2 * 128


def test_statistics_of_two_processes_equal_those_of_one(root):
    one, two = (read(folder / "statistics.pt") for folder in (root / "alone", root / "machine0" / "runs" / "whole"))
    assert one["count"] == two["count"] == 128 and one["data"] == two["data"]
    assert torch.allclose(one["mean"], two["mean"], rtol=1e-6, atol=1e-9)
    assert torch.allclose(one["variances"], two["variances"], rtol=0, atol=1e-7 * float(one["variances"][0]))


def test_a_bank_that_two_processes_fill_is_that_of_one(root, monkeypatch):
    monkeypatch.setattr(bank, "SHARD", 40)
    alone = targets.build(load_config(root / "tiny.yaml", [*SMOOTH, f"bank.path={root / 'one'}"]))
    files = sorted(path.relative_to(alone) for path in alone.rglob("*.npy"))
    assert files == sorted(path.relative_to(root / "bank") for path in (root / "bank").rglob("*.npy"))
    assert len(files) == 2 * 4
    for file in files:
        one, two = (torch.from_numpy(np.load(folder / file)).float() for folder in (alone, root / "bank"))
        assert torch.allclose(one, two, rtol=2e-3, atol=1e-3 * float(one.abs().max()))
    assert (root / "machine0" / "runs" / "banked" / "student.pth").exists()


def test_both_processes_end_with_the_same_weights(root):
    first, second = (read(root / f"{rank}.pt")["trained"] for rank in (0, 1))
    assert fingerprint(first) == fingerprint(second)


def test_a_machine_without_the_run_folder_goes_on_where_the_first_one_does(root):
    whole, halves = (read(root / "machine0" / "runs" / name / "run.pt") for name in ("whole", "halves"))
    assert fingerprint(halves["student"]) == fingerprint(whole["student"])
    assert halves["images_seen"] == whole["images_seen"] == 2 * 128
    assert list((root / "machine1").iterdir()) == []
    first, second = (state["cpu"] for state in halves["random"])
    assert not torch.equal(first, second)


def test_another_number_of_processes_is_refused(root):
    here = root / "machine0" / "runs"
    with pytest.raises(ValueError, match=r"\(world_size 2, now 1, .* 8, now 16\).* Resume it with 2 processes on cpu"):
        pretrain(load_config(root / "tiny.yaml", [*SMOOTH, "name=halves", f"runs={here}", "log.checkpoint_every=4"]))


def test_a_queue_holds_the_features_of_both_processes_and_is_the_same_in_each(root):
    first, second = (read(root / f"queue{rank}.pt") for rank in (0, 1))
    by_hand = torch.eye(2)[[0, 0, 1, 0, 0]]  # the second step's three, then two of the first's
    assert torch.equal(first["queue"], by_hand) and torch.equal(second["queue"], by_hand)
    assert int(first["filled"]) == int(second["filled"]) == 5


def test_where_one_process_fails_both_stop_with_a_reason(root):
    first, second = ((root / f"said{rank}.txt").read_text().splitlines() for rank in (0, 1))
    assert first[0] == second[0] and "disagree on optim.lr: 0.1 for rank 0" in first[0]
    for said in (first, second):
        assert "does not see what" in said[1] and "Take a folder that all machines share" in said[1]
        assert "2 of 128 images are unreadable, more than data.max_unreadable=0.01" in said[2]
    assert "invalid literal" in first[3] and second[3].startswith("ValueError: stopped together with rank 0 on ")
    listed = (root / "machine0" / "runs" / "lost" / "unreadable.txt").read_text()
    assert listed == "gone0.jpg\tcut off\ngone1.jpg\tcut off\n"


def test_a_process_that_dies_ends_the_other_with_a_sentence(root):
    said = (root / "lost.txt").read_text()
    assert said.startswith("LostError: rank 0 of 2 on ") and "the same command on every machine resumes the run" in said
