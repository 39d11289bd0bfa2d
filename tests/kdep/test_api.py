"""The calls of Python users: kdep.pretrain, kdep.load; kdep.transfer is tested where it is defined."""

import subprocess
import sys

import pytest
import torch
import yaml

import kdep
from kdep import cli
from kdep.config import in_quotes, read_config
from kdep.models.weights import open_checkpoint
from kdep.run.dry import problems
from kdep.shipped import FOLDER
from tests.conftest import draw

OPTIM = {"epochs": 1, "batch_size": 8, "warmup_epochs": 0}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(48):
        draw(folder / f"{number}.jpg", number)
    return folder


def test_pretrain_is_a_call_and_load_gives_the_student_with_its_preprocessing(images, tmp_path):
    given = {"teacher": {"source": "random:resnet18", "tap": "post", "size": None}, "align": {"name": "linear"}}
    data = {"source": str(images), "size": 32, "workers": 0}
    student = kdep.pretrain(data=data, student="test_resnet", runs=str(tmp_path), optim=OPTIM, **given)
    assert student == tmp_path / f"test_resnet-{images.name}" / "student.pth"
    network = kdep.load(student)
    weights = open_checkpoint(str(student)).weights
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.network.state_dict().items())
    from PIL import Image

    pixels = network.preprocess(Image.open(images / "0.jpg"))
    with torch.no_grad():
        assert network(pixels[None]).shape == (1, network.dim)


@pytest.mark.parametrize("name", ["café", "写真", "😀", "my photos", "photos #2", "2024", 'say "cheese"'])
def test_a_folder_may_have_any_name(images, tmp_path, name, capsys):
    (tmp_path / name).symlink_to(images)
    data = f"data.source={in_quotes(str(tmp_path / name))}"
    config = read_config(None, [data])
    assert config.data.source == str(tmp_path / name) and config.name.startswith("resnet18-")
    for given in (["--data", str(tmp_path / name)], ["--data", name]):
        assert cli.main(["pretrain", *given, "--dry-run", "align.images=20", "optim.batch_size=8"]) in (0, 2)
        said = capsys.readouterr().out
        assert yaml.safe_load(said.partition("\n\n")[0])["data"]["source"] == given[1]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["default"], "resnet18-photos"),
        (["similarities"], "resnet18-photos-similarities"),
        (["default_224", "student.arch=resnet34"], "resnet34-photos-default_224"),
        (["similarities", "name=mine"], "mine"),
        (["lite0_r18_tiny"], "lite0_r18_tiny"),  # has images of its own
    ],
)
def test_runs_of_two_recipes_on_the_same_images_have_two_names(words, name, tmp_path):
    recipe, *changes = words
    assert read_config(recipe, ["data.source=a/photos", *changes]).name == name
    (tmp_path / "similarities.yaml").write_text((FOLDER / "pretrain" / "similarities.yaml").read_text())
    assert read_config(str(tmp_path / "similarities.yaml"), ["data.source=a/photos"]).name == "similarities"


def test_a_file_in_place_of_an_architecture_is_named_as_such():
    with pytest.raises(ValueError, match=r"student.arch: a/b.pth is a file; .* give student.weights=a/b.pth too"):
        read_config(None, ["data.source=photos", "student.arch=a/b.pth"])


def test_importing_kdep_takes_no_time_and_an_unknown_name_lists_what_is_there():
    code = "import kdep, sys; assert not {'torch', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="there are pretrain, transfer, compare, load"):
        _ = kdep.distill


def test_a_dry_run_lists_every_problem_at_once(tmp_path):
    changes = ["name=x", "data.source=/nowhere", "student.arch=resnet18x", "teacher.source=missing.pth"]
    said = problems(read_config("default", [*changes, "log.trackers=[]"]))
    assert len(said) == 3 and "/nowhere" in said[0] and "resnet18x" in said[1] and "missing.pth" in said[2]


def test_a_dry_run_finds_what_would_stop_a_run_late(images):
    common = [f"data.source={images}", "optim.batch_size=8", "teacher.source=random:resnet50", "log.trackers=[]"]
    changes = ["optim.epochs=null", "optim.steps=5", "optim.warmup_epochs=3", "precision=float16", "device=cpu"]
    said = problems(read_config(None, [*common, *changes]))
    assert len(said) == 3 and "precision float16 is for GPUs" in said[0] and "needs at least 513 images" in said[2]
    assert "optim.warmup_epochs 3 is 18 steps, which leaves nothing of optim.steps 5" in said[1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["timm:vit_tiny_patch16_224", "teacher.size=40"], "multiples of 16 pixels, not 40: show images at 32 or 48"),
        (["timm:vit_tiny_patch16_224@40", "teacher.size=null"], "multiples of 16 pixels, not 40"),
        (["timm:vit_tiny_patch16_224@48"], "teacher.size is 128, and @48 stands behind a teacher's name"),
        (["timm:vit_tiny_patch16_224@48", "teacher.size=null"], None),
    ],
)
def test_a_dry_run_looks_at_the_size_that_the_teacher_sees(images, given, said):
    source, *others = given
    small = [
        "student.arch=test_resnet",
        "optim.batch_size=8",
        "align.name=none",
        "project=linear",
        "scale={name: none}",
    ]
    changes = [f"data.source={images}", f"teacher.source={source}", "teacher.tap=null", *small, *others]
    found = problems(read_config(None, changes))
    assert (said in found[0] and len(found) == 1) if said else found == []


def test_a_scaler_that_is_named_from_python_replaces_the_recipes(images, monkeypatch):
    monkeypatch.setattr("kdep.pretrain.pretrain", lambda config: config.scale)
    given = {"data": str(images), "student": "test_resnet"}
    assert kdep.pretrain(**given).options == {"factor": 2}
    assert kdep.pretrain(**given, scale={"factor": 3}).options == {"factor": 3}
    found = kdep.pretrain(**given, scale={"name": "pts", "temperature": 0.2})
    assert found.name == "pts" and found.options == {"temperature": 0.2}


def test_another_source_alone_keeps_the_recipes_tap_and_size_and_says_so(images, caplog):
    changes = [f"data.source={images}", "teacher.source=timm:resnet50"]
    assert read_config("default", changes).teacher.tap == "post"
    said = (
        "teacher.tap=post and teacher.size=128: kept from the recipe; 'teacher={source: timm:resnet50}' takes neither"
    )
    assert caplog.messages == [said]
    read_config("default", [*changes, "teacher.tap=null", "teacher.size=null"])
    read_config("default", [f"data.source={images}", "teacher={source: timm:resnet50}"])
    assert caplog.messages == [said]


def test_the_recipes_rate_for_another_student_is_said(images, caplog):
    of_mobile = [f"data.source={images}", "student.arch=mobilenetv2_100"]
    assert read_config("default", of_mobile).optim.lr == 0.002
    said = "optim.lr=0.002 is the recipe's, whose student is resnet18; mobilenetv2_100 may need another"
    assert caplog.messages == [f"{said}, see docs/quickstart.md"]
    read_config("default", [*of_mobile, "optim.lr=0.032"])
    read_config("default", [*of_mobile, "optim={lr: 0.032, epochs: 1, batch_size: 8}"])
    read_config("default", [f"data.source={images}", "student.arch=resnet18"])
    assert len(caplog.messages) == 1


def test_a_teacher_that_is_named_from_python_brings_its_own_tap_and_size(images, monkeypatch):
    monkeypatch.setattr("kdep.pretrain.pretrain", lambda config: config.teacher)
    own = kdep.pretrain(data=str(images), teacher={"source": "timm:resnet50"})
    assert (own.source, own.tap, own.size) == ("timm:resnet50", None, None)
    recipe = kdep.pretrain(data=str(images), teacher={"precision": "float32"})
    assert (recipe.tap, recipe.size, recipe.precision) == ("post", 128, "float32")


def test_a_dry_run_says_that_images_are_too_few_for_a_batch_and_for_the_student(images):
    first, second = problems(read_config("default", [f"data.source={images}", "name=x", "optim.batch_size=4096"]))
    assert "do not fill optim.batch_size=4096" in first and "needs at least 513 images" in second


def test_a_dry_run_counts_the_images_that_a_student_needs(images):
    changes = ["teacher.source=timm:resnet50", "teacher.tap=pre", "optim.batch_size=8", f"data.source={images}"]
    (said,) = problems(read_config(None, changes))
    assert "at least 513 images" in said and "48" in said
