import re
from pathlib import Path
from typing import get_args

import pytest
import timm

from kdep.config import NEUTRAL, Align, Config, Loss, differences, flatten, load_config, read_config
from kdep.method.align import ALIGNERS
from kdep.method.rivals import PROJECTORS
from kdep.method.scale import make_scaler
from kdep.models.backbones.backbone import create_network

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "pretrain").glob("*.yaml"))
FOR_YOUR_IMAGES = ("default", "default_224", "paper", "similarities")  # recipes without images of their own


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_names_a_network_an_aligner_and_a_scaler_that_exist(path):
    config = load_config(path, ["data.source=photos"] if path.stem in FOR_YOUR_IMAGES else [])
    assert config.name == path.stem
    assert timm.is_model(config.student.arch) and config.align.name in ALIGNERS
    create_network(config.student.arch)
    make_scaler(config.scale.name, config.scale.options)
    if config.teacher.arch is not None:
        assert timm.is_model(config.teacher.arch)


@pytest.mark.parametrize("name", FOR_YOUR_IMAGES)
def test_a_recipe_without_images_says_how_to_give_them(name):
    with pytest.raises(ValueError, match=rf"{name}.yaml: data.source is missing: .*data.source=FOLDER"):
        load_config(CONFIGS[0].with_name(f"{name}.yaml"))


def test_a_folder_in_the_place_of_a_recipe_says_how_to_give_images(tmp_path):
    with pytest.raises(ValueError, match=f"there are default, .*; a folder of images is data.source={tmp_path}$"):
        read_config(str(tmp_path), [])


@pytest.mark.parametrize("name", [path.stem for path in CONFIGS if path.stem.startswith(("msr50", "spr50"))])
def test_a_recipe_of_the_paper_says_all_of_its_loss_and_nothing_else(name):
    config = load_config(CONFIGS[0].with_name(f"{name}.yaml"))
    assert config.scale.name == "pts" and config.scale.options == {"temperature": 0.1, "exponent": 3}
    assert (config.align.name, config.project, config.student.weights) == ("svd", None, None)
    assert (config.teacher.tap, config.student.tap) == ("pre", "pre")
    # One mean squared error, and neither logits nor a dense term beside it.
    assert config.loss == Loss(name="mse", weight=20 if name.startswith("spr50") else 3)
    assert config.optim.lr == (0.1 if "mobilenetv2" in name else 0.3) and config.optim.batch_size == 512
    assert (config.optim.name, config.optim.schedule, config.optim.lr_step_epochs) == ("sgd", "step", 30)


def test_overrides_reach_nested_keys_and_win_over_the_file(tiny):
    config = tiny("data.crop_scale=[0.5, 1.0]", "scale.exponent=2", "student.tap=post", "name=other", "optim.lr=5e-4")
    assert config.data.crop_scale == (0.5, 1.0) and config.scale.options == {"exponent": 2}
    assert config.student.tap == "post" and config.name == "other" and config.optim.lr == 0.0005
    assert tiny("log.trackers=[tensorboard,wandb]").log.trackers == ("tensorboard", "wandb")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "optim.epoch=1",
            "unknown key optim.epoch (did you mean epochs?); there are name, epochs, steps, batch_size, lr",
        ),
        ("optimizer.lr=1", "unknown key optimizer (did you mean optim?); there are name, seed, teacher, student"),
        ("bank={path: x, bits: 8}", "unknown key bank.bits; there are path, views"),
        ("optim.lr=lr", "optim.lr must be a number, got 'lr'"),
        ("optim.lr='0.1'", "optim.lr must be a number, got '0.1'"),
        ("optim.lr=yes", "optim.lr must be a number, got True (YAML reads yes, no, on and off as true or false)"),
        ("log.trackers=wandb", "log.trackers must be a list, got 'wandb'; a list of one is written ['wandb']"),
        ("optim.lr=.inf", "optim.lr must be a finite number, got inf"),
        ("optim.epochs=2.5", "optim.epochs must be a whole number, got 2.5"),
        ("align.name=pca", "align.name must be 'svd', 'top_variance', 'random_channels', 'random', 'phi_s', 'nearest'"),
        (
            "project=conv",
            "project must be 'linear', 'linear_bn', 'linear_norm', 'mlp', 'orthogonal' or 'svd', got 'conv'",
        ),
        ("optim.schedule=linear", "optim.schedule must be 'step' or 'cosine', got 'linear'"),
        ("data.crop_scale=[0.9, 0.1]", "data.crop_scale: expected 0 < low <= high <= 1"),
        ("data.crop_scale=['0.5', 1]", "data.crop_scale.0 must be a number, got '0.5'"),
        ("data.workers=-1", "data.workers must be greater than or equal to 0 or 'auto', got -1"),
        ("data.workers=many", "data.workers must be a whole number or 'auto', got 'many'"),
        ("teacher.source=[1]", "teacher.source.0 must be text, got 1"),
        ("teacher=resnet50", "teacher must be a mapping of keys, got 'resnet50'"),
        ("data.root=3", "data.root must be a path, got 3"),
        ("optim.warmup_epochs=2", "optim.warmup_epochs 2 leaves nothing of epochs 2"),
        ("loss.beta=2", "loss.beta 2.0 is for name smooth_l1, not for mse"),
        ("name=a/b", "name: expected a name of one part, without slashes, got"),
        ("name=..", "name: expected a name of one part, without slashes, got"),
        ("name=a b", "name must match pattern"),
    ],
)
def test_a_wrong_value_is_refused_with_the_key_and_what_would_be_right(tiny, override, message):
    with pytest.raises(ValueError, match="tiny.yaml: " + re.escape(message)) as error:
        tiny(override)
    assert "\n" not in str(error.value)


def test_every_mistake_of_a_file_has_a_line(tmp_path):
    (tmp_path / "c.yaml").write_text("name: 3\nteacher: {source: x}\nstudent: {arch: y}\ndata: {source: z, sise: 3}\n")
    with pytest.raises(ValueError, match="c.yaml: name must be text") as error:
        load_config(tmp_path / "c.yaml")
    said = str(error.value)
    assert said.count("\n") == 2 and "c.yaml: optim is missing" in said and "data.sise (did you mean size?)" in said


def test_differences_name_what_matters_for_the_result_and_nothing_else(tiny):
    one = tiny().model_dump(mode="json")
    other = tiny("optim.lr=1", "scale.exponent=2", "log.every=1", "data.workers=3", "runs=elsewhere")
    assert differences(one, other.model_dump(mode="json")) == [
        "optim.lr: 0.002 in the run, 1.0 now",
        "scale.exponent: None in the run, 2 now",
    ]
    assert set(NEUTRAL) <= set(flatten(tiny("bank.path=x").model_dump()))


def test_a_resolved_configuration_reads_back_as_itself(tiny):
    config = tiny("data.size=64")
    assert Config.model_validate(config.model_dump(mode="json")) == config


def test_a_recipe_may_name_every_aligner_and_projector_and_no_other():
    assert get_args(Align.model_fields["name"].annotation) == tuple(ALIGNERS)
    assert get_args(get_args(Config.model_fields["project"].annotation)[0]) == tuple(PROJECTORS)
