"""Settings of every kind of task, as the documentation lists them."""

import pytest

from kdep_benchmarks.kinds import KINDS
from kdep_benchmarks.tasks.settings import SETTINGS, Detect, Finetune, Segment
from tools.keys import reference


def test_every_kind_of_task_has_settings_and_every_setting_a_description():
    assert list(SETTINGS) == list(KINDS)
    for kind, settings in SETTINGS.items():
        keys = list(reference(settings))
        assert [f"{kind} {key.name}" for key in keys if len(key.description) < 5] == [] and len(keys) > 4


@pytest.mark.parametrize(
    ("kind", "name", "shown"),
    [
        (Finetune, "lr", ("list of number > 0", "[0.003, 0.01, 0.03]")),
        (Segment, "crop", ("whole number, >= 32", "required")),
        (Segment, "output_stride", ("8, 16, 32", "8")),
        (Detect, "scale", ("[whole number >= 1, whole number >= 1]", "required")),
        (Detect, "short_sides", ("[whole number >= 1, whole number >= 1] or null", "null")),
    ],
)
def test_a_setting_is_shown_with_its_type_limits_and_default(kind, name, shown):
    (key,) = (key for key in reference(kind) if key.name == name)
    assert (key.type, key.default) == shown
