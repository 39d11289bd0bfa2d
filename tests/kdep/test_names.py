"""Names stay in their folder and in their row."""

import json

import pytest

from kdep.guard import printable
from kdep.names import plain_name

LEAD_OUT = ["..", ".", "", "/etc/x", "../x", "a/../../x", "a\\b", "x" * 151]
WRITE_ROWS = ["a\nb", "a\rb", "\x1b[2Jx", "a\u2028b", "a\x00b", "a\u202eb", "\ud800"]


@pytest.mark.parametrize("name", LEAD_OUT + WRITE_ROWS)
def test_a_name_is_one_printable_part_of_a_path(name):
    with pytest.raises(ValueError, match="expected"):
        plain_name(name)


@pytest.mark.parametrize("name", ["demo", "random:resnet18#1", "Straße 7", "a..b", "...", "ViT-B@128", "x" * 150])
def test_usual_names_stay_as_they_are(name):
    assert plain_name(name) == name


def test_what_is_not_printable_is_shown_as_an_escape():
    assert printable("a\x1b[2J\nb") == "a\\x1b[2J\\nb"
    assert printable("a\x1b\nb", keep="\n") == "a\\x1b\nb"
    assert printable(json.loads('"\\udcff"')) == "\\udcff"
