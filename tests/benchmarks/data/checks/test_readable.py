"""Damaged test images stop a cell before it trains."""

import json
import uuid

import numpy as np
import pytest
from PIL import Image

from kdep_benchmarks.data.cards import Dataset
from kdep_benchmarks.data.checks import readable
from kdep_benchmarks.data.checks.readable import refuse_unreadable
from kdep_benchmarks.data.readers.boxes import class_names
from kdep_benchmarks.jobs import measure as measuring
from kdep_benchmarks.jobs.cell import Cell
from kdep_benchmarks.openmmlab.tasks.boxes import write_split
from kdep_benchmarks.result import CheckpointCard
from kdep_benchmarks.tasks.dense.readers import open_boxes
from kdep_benchmarks.tasks.task import Task
from tests.helpers import toolbox_trees as trees

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"


def folders(root):
    for role in ("train", "test"):
        for name in trees.CLASSES:
            for number in range(2):
                trees.save(trees.picture(number)[0], root / role / name / f"{number}.jpg")
    return Dataset("tiny-folders", "imagefolder", root, {"train": "train", "test": "test"})


def pack(root):
    content = [b"not an image", b"nor this"]
    arrays = {"classes": np.array(trees.CLASSES)}
    for role in ("train", "test"):
        arrays |= {f"{role}_blob": np.frombuffer(b"".join(content), np.uint8), f"{role}_offsets": [0, 12, 20]}
        arrays[f"{role}_labels"] = np.array([0, 1])
    np.savez(root / "pack.npz", **arrays)
    return Dataset("tiny-pack", "npz", root, {"train": "pack.npz:train", "test": "pack.npz:test"})


SETS = [
    ("finetune", folders, "test/red/1.jpg"),
    ("detect", trees.coco, "test/5.jpg"),
    ("box", trees.voc, "VOC2012/JPEGImages/test_5.jpg"),
    ("segment", trees.ade20k, "images/test/5.png"),
    ("dense-linear", trees.ade20k, "masks/test/5.png"),
]


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(("kind", "make", "damaged"), SETS)
def test_a_test_image_that_is_cut_off_is_named_before_anything_is_trained(tmp_path, monkeypatch, kind, make, damaged):
    dataset = make(tmp_path / "data")
    cut(tmp_path / "data" / damaged)
    network = trees.student("test_resnet")
    card = CheckpointCard("tiny", network.identity, "test_resnet", 1)
    cell = Cell("tiny", None, card, Task(f"tiny-{kind}", kind, dataset), 0, "cpu", tmp_path / "results")
    monkeypatch.setattr(measuring, "open_checkpoint", lambda *_, **__: network)
    monkeypatch.setattr(measuring, "run_kind", None)  # training would be called
    with pytest.raises(ValueError, match=rf"1 of \d files of test cannot be read: .*{damaged}.*nothing was trained"):
        measuring.measure_cell(cell)


def test_images_of_a_pack_are_decoded_too(tmp_path):
    with pytest.raises(ValueError, match="2 of 2 files of test cannot be read: pack.npz:test:0: Unidentified"):
        refuse_unreadable(Task("x", "finetune", pack(tmp_path)), tmp_path / "known")


@pytest.mark.parametrize("damaged", ["images/train/1.png", "masks/train/1.png"])
def test_training_files_that_mmseg_would_open_by_itself_are_of_known_formats(tmp_path, damaged):
    task = Task("x", "segment", trees.ade20k(tmp_path))
    (tmp_path / damaged).write_bytes(POSTSCRIPT)
    with pytest.raises(ValueError, match=rf"files of train cannot be read: .*{damaged}: .*another format than JPEG"):
        refuse_unreadable(task, tmp_path / "known")


def test_a_second_cell_opens_nothing_until_a_file_changes(tmp_path, monkeypatch):
    task = Task("x", "detect", trees.coco(tmp_path / "data"))
    opened = []
    problem = readable.problem
    monkeypatch.setattr(readable, "problem", lambda entry, **how: opened.append(entry) or problem(entry, **how))
    refuse_unreadable(task, tmp_path / "known")
    assert len(opened) == trees.COUNTS["train"] + trees.COUNTS["test"]
    refuse_unreadable(task, tmp_path / "known")
    assert len(opened) == 7
    Image.new("RGB", (80, 72)).save(tmp_path / "data" / "test" / "4.jpg")
    refuse_unreadable(task, tmp_path / "known")
    assert len(opened) == 7 + trees.COUNTS["test"]


def test_a_kill_while_images_are_noted_as_opened_leaves_no_part(tmp_path, monkeypatch):
    monkeypatch.setattr(uuid, "uuid4", lambda: pytest.fail("a file is written beside its place"))
    refuse_unreadable(Task("x", "detect", trees.coco(tmp_path / "data")), tmp_path / "known")
    assert [path.stat().st_size for path in (tmp_path / "known").iterdir()] == [0, 0]


@pytest.mark.parametrize(
    ("where", "change", "message"),
    [
        ("images", {"width": 8000, "height": 7200}, "says 8000 x 7200, .*4.jpg is 80 x 72"),
        ("images", {"file_name": "/photos/4.jpg"}, "odd name: '/photos/4.jpg'; expected a path below .*/test"),
        ("images", {"width": "80"}, "width '80', height 72; expected a path and two numbers"),
        ("annotations", {"area": float("inf")}, "box larger than its image: says area inf"),
        ("annotations", {"bbox": [0, 0, float("inf"), 5]}, "box without numbers"),
        ("annotations", {"bbox": [0, 0, 0, 5]}, "box without area"),
        ("annotations", {"bbox": [70, 60, 30, 30]}, "box outside its image"),
    ],
)
def test_training_refuses_the_boxes_that_data_check_lists(tmp_path, where, change, message):
    dataset = trees.coco(tmp_path)
    content = json.loads((tmp_path / "test.json").read_text())
    content[where][0].update(change)
    (tmp_path / "test.json").write_text(json.dumps(content))
    for opened in (
        lambda: write_split(dataset, "test", class_names(dataset), tmp_path / "out.json"),
        lambda: open_boxes(dataset, "test"),
    ):
        with pytest.raises(ValueError, match=message):
            opened()
