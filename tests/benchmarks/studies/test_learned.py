import shutil

import pytest
import yaml

from kdep.cli import main
from kdep_benchmarks.data.cards import Dataset
from kdep_benchmarks.studies.answer import as_markdown
from kdep_benchmarks.studies.file import load_study
from kdep_benchmarks.studies.learned import image_places, learned, overlap, sentences, split_of
from kdep_benchmarks.studies.work import pretrain_command
from tests.helpers.made_studies import rows_of, write_study

LABELS = {"loss.name": "labels", "loss.weight": 1, "student.tap": "post"}
SCORES = {arm: {"photos-knn": values} for arm, values in {"live": [50, 52, 51], "other": [53, 54, 56]}.items()}
SCORES["labels"] = {"photos-knn": [40, 41, 42]}
VAL = {"live": 50.0, "other": 53.0, "labels": 99.0}
NOTE = (
    "`labels` was trained with labels on images of the val split of photos-knn, so its val scores there are of answers "
    "that it learned. It is left out of all that is chosen on val."
)


def of_labels(photos, tmp_path, source="{folder}/set/train", **more):
    """A study of three arms, of which one is trained with labels, by default on the folder that val is drawn from."""
    path = write_study(photos, tmp_path)
    content = yaml.safe_load(path.read_text())
    own = {**LABELS, "data.source": source.format(folder=tmp_path)}
    content |= {"arms": {"live": {}, "other": {"scale.name": "unit"}, "labels": own}, "seeds": [0, 1, 2], **more}
    path.write_text(yaml.safe_dump(content))
    return path


def test_an_arm_that_learned_the_labels_of_val_images_is_not_chosen_on_val(photos, tmp_path):
    text = as_markdown(load_study(of_labels(photos, tmp_path)), rows_of(SCORES, val=VAL))
    assert f"\n- {NOTE}\n" in text
    # labels has 99 on val; the best of the others is chosen.
    assert "On the val split `other` is the best (53.00)." in text and "choose (`other` each time)" in text
    assert "| labels | 41.00 ± " in text and "`labels` is worse than `live`" in text  # test images are others
    elsewhere = as_markdown(load_study(of_labels(photos, tmp_path, str(photos))), rows_of(SCORES, val=VAL))
    assert "On the val split `labels` is the best (99.00)." in elsewhere and "trained with labels" not in elsewhere


def test_a_choice_on_val_waits_for_no_arm_that_is_left_out_and_needs_two_others(photos, tmp_path):
    study = load_study(of_labels(photos, tmp_path))
    others = [row for row in rows_of(SCORES, val=VAL) if row["arm"] != "labels"]
    assert "On the val split `other` is the best (53.00)." in as_markdown(study, others)
    two = study.model_copy(update={"arms": {arm: study.arms[arm] for arm in ("live", "labels")}})
    text = as_markdown(two, [row for row in rows_of(SCORES, val=VAL) if row["arm"] != "other"])
    assert NOTE in text and "On the val split" not in text


def test_no_value_is_chosen_for_an_arm_that_learned_the_labels_of_val_images(photos, tmp_path):
    study = load_study(of_labels(photos, tmp_path, axis={"key": "optim.lr", "values": [0.1, 0.2]}))
    rows = [row for value in (0.1, 0.2) for row in rows_of(SCORES, value=value, val=VAL)]
    text = as_markdown(study, rows)
    assert NOTE in text
    assert "| live | 50.00 | 50.00 |\n| other | 53.00 | 53.00 |\n\n" in text  # every rate on val
    assert "| live | 0.1 | 50.00 | 51.00 |\n| other | 0.1 | 53.00 | 54.33 |\n\n" in text


def test_only_the_values_at_which_an_arm_learned_these_labels_are_named(photos, tmp_path):
    axis = {"key": "data.source", "values": [str(photos), f"{tmp_path}/set/train"]}
    path = of_labels(photos, tmp_path, axis=axis)
    content = yaml.safe_load(path.read_text())
    del content["arms"]["labels"]["data.source"]
    path.write_text(yaml.safe_dump(content))
    study = load_study(path)
    assert list(learned(study)) == [("labels", f"{tmp_path}/set/train")]
    (said,) = sentences(study, learned(study))
    assert said.startswith(
        f"`labels` at data.source = {tmp_path}/set/train was trained with labels on images of the val"
    )


def test_the_plan_says_which_arms_cannot_be_chosen_on_val(photos, tmp_path, capsys):
    command = ["study", str(of_labels(photos, tmp_path)), "--dry-run", "--runs", str(tmp_path / "runs")]
    assert main([*command, "--results", str(tmp_path / "results")]) == 0
    assert f"\n{NOTE}\n" in capsys.readouterr().out


def test_an_arm_that_learned_the_labels_of_test_images_is_named_too(photos, tmp_path):
    # Class folders alone: a fifth of them is test, and the run was trained on all.
    score = {"data": f"{tmp_path}/set/train", "size": 32, "tasks": ["knn"]}
    study = load_study(of_labels(photos, tmp_path, score=score))
    val, test = sentences(study, learned(study))
    assert "val split of train-knn-32px," in val
    assert test == (
        "`labels` was trained with labels on test images of train-knn-32px. Its test scores there say nothing of new "
        "images."
    )


def test_a_student_of_another_study_says_itself_which_labels_it_learned(photos, tmp_path):
    path = of_labels(photos, tmp_path)
    study = load_study(path)
    (labels,) = [run for run in study.runs if run.arm == "labels" and run.seed == 0]
    assert main([*pretrain_command(study, labels, tmp_path / "runs")]) == 0
    shutil.move(tmp_path / "runs" / labels.name / "student.pth", tmp_path / "theirs-0.pth")
    arms = {"live": {}, "theirs": f"{tmp_path}/theirs-{{seed}}.pth", "plain": "random:test_resnet"}
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "arms": arms}))
    study = load_study(path)
    assert learned(study) == {("theirs", None): {"val": ["photos-knn"], "test": []}}
    (tmp_path / "theirs-0.pth").write_bytes(b"damaged")
    assert learned(study) == {}


def dataset(root, layout="imagefolder", **files):
    return Dataset("set", layout, root, files)


@pytest.mark.parametrize(
    ("spec", "role", "same"),
    [
        ("{0}/set/train", "val", True),
        ("{0}/set/train/", "test", False),
        ("{0}/set", "test", True),  # all below it
        ("{0}/set/train/c0", "val", True),
        ("{0}/link", "val", True),
        ("{0}/copy", "val", False),
        ("{0}/some.txt", "val", True),
        ("{0}/some.txt", "test", False),
        ("wds:{0}/set/train/*.tar", "val", False),  # not known
        ("torchvision:CIFAR10", "val", False),
    ],
)
def test_images_are_known_by_their_place(spec, role, same, tmp_path):
    for folder in ("set/train/c0", "set/test/c0", "copy/c0"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "set" / "train")
    (tmp_path / "some.txt").write_text("# of a list\nset/train/c0/1.jpg\nset/train/c0/2.jpg\n")
    split = split_of(dataset(tmp_path / "set", train="train", test="test"), role)
    assert overlap(image_places(spec.format(tmp_path), None), split) == same


def test_images_that_are_not_there_are_looked_for_where_a_run_would(tmp_path, monkeypatch):
    # An answer is made from published rows where neither the images nor the task's data are.
    monkeypatch.setenv("KDEP_DATA", str(tmp_path / "data"))
    split = split_of(dataset(tmp_path / "data" / "set", train="train", test="test"), "val")
    assert overlap(image_places("set/train", None), split) and not overlap(image_places("other/train", None), split)
    (tmp_path / "set" / "train").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert image_places("set/train", None) == {tmp_path / "set" / "train"}


def test_packs_and_torchvision_sets_are_known_by_their_split(tmp_path):
    pack = dataset(tmp_path, "npz", train="a.npz:train", test="a.npz:test")
    assert overlap(image_places(f"{tmp_path}/a.npz:train", None), split_of(pack, "val"))
    assert not overlap(image_places(f"{tmp_path}/a.npz:train", None), split_of(pack, "test"))
    own = dataset(tmp_path, "torchvision", train="DTD:train", val="DTD:val", test="DTD:test")
    assert not overlap(image_places("torchvision:DTD", None), split_of(own, "val"))  # it has a val split of its own
    drawn = dataset(tmp_path, "torchvision", train="CIFAR10:train", test="CIFAR10:test")
    assert overlap(image_places("torchvision:CIFAR10", None), split_of(drawn, "val"))
    masks = dataset(tmp_path, "voc", train="x/y/train.txt", test="x/y/val.txt")
    assert split_of(masks, "val") is None


def test_the_images_of_a_list_are_below_its_root_and_those_of_a_manifest_in_its_folder(tmp_path, photos):
    (tmp_path / "names.txt").write_text("c0/1.jpg\n")
    assert image_places(f"{tmp_path}/names.txt", tmp_path / "set") == {tmp_path / "set" / "c0"}
    pytest.importorskip("pyarrow")
    assert main(["data", "manifest", str(photos), "--out", str(tmp_path / "list.parquet")]) == 0
    assert image_places(f"manifest:{tmp_path}/list.parquet", None) == {photos.resolve()}
    assert image_places(f"manifest:{tmp_path}/list.parquet", tmp_path) == {tmp_path}
    (tmp_path / "list.parquet").write_bytes(b"damaged")
    assert image_places(f"manifest:{tmp_path}/list.parquet", None) == {tmp_path / "list.parquet"}
