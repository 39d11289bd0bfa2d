"""A YAML file of keys, and each way in which it can be something else."""

import re

import pytest

from kdep.yaml_file import read_mapping


def read(path):
    return read_mapping(path, "recipe", "keys such as salt:")


def test_the_keys_of_a_file(tmp_path):
    (tmp_path / "a.yaml").write_text("salt: {grams: 3}\npepper: [1, 2]\n")
    assert read(tmp_path / "a.yaml") == {"salt": {"grams": 3}, "pepper": [1, 2]}


@pytest.mark.parametrize("text", ["", "# nothing yet\n"])
def test_an_empty_file_has_no_keys(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    assert read(tmp_path / "a.yaml") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "expected keys such as salt:, got a list"),
        ("a word", "got a str"),
        ("a: [", "not YAML ("),
        ("a: 1\nb: {c: 1, c: 2}", "the key 'c' is given twice"),
    ],
)
def test_something_else_is_refused_with_the_file(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}/a.yaml: ") + ".*" + re.escape(message)):
        read(tmp_path / "a.yaml")


def test_a_file_of_weights_is_no_yaml_and_is_named(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"PK\x03\x04\x80")
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}/a.pth: not YAML (")):
        read(tmp_path / "a.pth")


def test_an_absent_file_is_refused_with_its_neighbours(tmp_path):
    with pytest.raises(ValueError, match="b.yaml: no such recipe; beside it: none"):
        read(tmp_path / "folder" / "b.yaml")
    (tmp_path / "a.yaml").write_text("")
    with pytest.raises(ValueError, match=re.escape("b.yaml: no such recipe; beside it: a.yaml")):
        read(tmp_path / "b.yaml")
