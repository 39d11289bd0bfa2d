"""The list of keys that the documentation is generated from."""

import pytest

from kdep.config import Config
from tools.keys import Key, reference


def test_every_key_of_a_recipe_has_a_description():
    keys = list(reference(Config))
    assert [key.name for key in keys if len(key.description) < 5] == []
    assert len(keys) == len({key.name for key in keys}) > 50


@pytest.mark.parametrize(
    ("name", "kind", "default"),
    [
        ("optim.lr", "number, > 0", "required"),
        ("optim.clip", "number or null, > 0", "null"),
        ("data.crop_scale", "[number, number]", "[0.08, 1.0]"),
        ("data.workers", "whole number >= 0 or auto", "auto"),
        ("teacher.source", "text or list of text", "required"),
        ("scale.name", "text", "pts"),
        ("bank", "section or null", "null"),
        ("bank.path", "path", "required"),
        ("log.trackers", "list of tensorboard, wandb, mlflow", "[tensorboard]"),
        ("seed", "whole number, >= 0", "0"),
    ],
)
def test_a_key_is_shown_with_its_type_limits_and_default(name, kind, default):
    key = next(key for key in reference(Config) if key.name == name)
    assert key == Key(name, kind, default, key.description)
