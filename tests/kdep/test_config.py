from pathlib import Path

import pytest
import timm

from kdep.config import Config, Loss, differences, load_config
from kdep.method.align import ALIGNERS
from kdep.method.scale import make_scaler
from kdep.models.backbone import create_network

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "pretrain").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_loads_under_its_own_name(path):
    assert load_config(path).name == path.stem


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_names_a_network_an_aligner_and_a_scaler_that_exist(path):
    config = load_config(path)
    assert timm.is_model(config.student.arch) and config.align.name in ALIGNERS
    create_network(config.student.arch)
    make_scaler(config.scale.name, config.scale.options)
    if config.teacher.arch is not None:
        assert timm.is_model(config.teacher.arch)


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


def test_a_number_that_yaml_reads_as_text_is_a_number(tiny):
    assert tiny("optim.lr=5e-4").optim.lr == 0.0005


def test_overrides_reach_nested_keys_and_win_over_the_file(tiny):
    config = tiny("data.crop_scale=[0.5, 1.0]", "scale.exponent=2", "student.tap=post", "name=other")
    assert config.data.crop_scale == (0.5, 1.0) and config.scale.options == {"exponent": 2}
    assert config.student.tap == "post" and config.name == "other"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.learning_rate=1", "tiny.yaml: unknown key optim.learning_rate; there are name, epochs, batch_size, lr"),
        ("optimizer.lr=1", "tiny.yaml: unknown key optimizer; there are name, seed, teacher, student"),
        ("optim.lr=lr", "tiny.yaml: optim.lr: Input should be a valid number.*got 'lr'"),
        ("optim.lr=yes", "tiny.yaml: optim.lr: expected a number or a name .YAML reads yes.*got True"),
        ("optim.lr=.inf", "tiny.yaml: optim.lr: Input should be a finite number"),
        ("optim.epochs=2.5", "tiny.yaml: optim.epochs: .*got 2.5"),
        ("optim.schedule=linear", "tiny.yaml: optim.schedule: Input should be 'step' or 'cosine', got 'linear'"),
        ("data.crop_scale=[0.9, 0.1]", "tiny.yaml: data.crop_scale: expected 0 < low <= high <= 1"),
        ("data.workers=-1", "tiny.yaml: data.workers: .*greater than or equal to 0"),
        ("tune=often", "tiny.yaml: tune: Input should be 'compile', got 'often'"),
        ("teacher.source=[1]", "tiny.yaml: teacher.source.0: Input should be a valid string, got 1"),
        ("data.workers=many", "tiny.yaml: data.workers: Input should be 'auto', got 'many'"),
        ("name=a/b", "tiny.yaml: name: .*got 'a/b'"),
        ("name.first=a", "override 'name.first=a': name is a value, not a section"),
        ("name=a: b: c", "override 'name=a: b: c': the value is not YAML"),
        ("--lr", "override '--lr': expected key.sub=value, such as optim.lr=0.1"),
    ],
)
def test_a_wrong_value_is_refused_with_the_key_and_what_would_be_right(tiny, override, message):
    with pytest.raises(ValueError, match=message):
        tiny(override)


def test_a_missing_key_is_named(tmp_path):
    (tmp_path / "c.yaml").write_text("name: a\nteacher: {source: x}\nstudent: {arch: y}\ndata: {source: z}\n")
    with pytest.raises(ValueError, match="c.yaml: optim is missing"):
        load_config(tmp_path / "c.yaml")


@pytest.mark.parametrize(("text", "message"), [("[1, 2]", "got a list"), ("a: [", "not YAML")])
def test_a_file_that_is_no_configuration_is_refused(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=f"c.yaml: .*{message}"):
        load_config(tmp_path / "c.yaml")


def test_a_missing_file_is_refused_with_those_beside_it(tmp_path):
    (tmp_path / "other.yaml").write_text("")
    with pytest.raises(ValueError, match="none.yaml: no such config; beside it: other.yaml"):
        load_config(tmp_path / "none.yaml")


def test_differences_name_what_matters_for_the_result_and_nothing_else(tiny):
    one = tiny().model_dump(mode="json")
    other = tiny("optim.lr=1", "scale.exponent=2", "log.every=1", "data.workers=3", "runs=elsewhere")
    assert differences(one, other.model_dump(mode="json")) == [
        "optim.lr: 0.002 in the run, 1.0 now",
        "scale.exponent: None in the run, 2 now",
    ]


def test_a_resolved_configuration_reads_back_as_itself(tiny):
    config = tiny("data.size=64")
    assert Config.model_validate(config.model_dump(mode="json")) == config
