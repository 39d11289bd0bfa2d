"""A YAML file of keys, and each way in which it can be something else."""

import re

import pytest

from kdep.yaml_file import dump, override, read_mapping


def read(path):
    return read_mapping(path, "recipe", "keys such as salt:")


def test_the_keys_of_a_file(tmp_path):
    (tmp_path / "a.yaml").write_text("salt: &salt {grams: 3}\npepper: [1, 2]\nmore: {<<: *salt, kind: sea}\n")
    assert read(tmp_path / "a.yaml") == {"salt": {"grams": 3}, "pepper": [1, 2], "more": {"grams": 3, "kind": "sea"}}


@pytest.mark.parametrize("text", ["5e-4", "+5E-4", "0.5e-3", ".5e-3", "5.0e-4", "0.0005"])
def test_a_number_with_an_exponent_is_a_number(tmp_path, text):
    (tmp_path / "a.yaml").write_text(f"a: {text}\nb: '{text}'\nc: x{text}")
    assert read(tmp_path / "a.yaml") == {"a": 0.0005, "b": text, "c": f"x{text}"}


@pytest.mark.parametrize(
    "text", ["1e-3", "5E4", "1.5e3", "0.001", "1_000", "yes", "null", "2026-01-02", "a: b", "é", ""]
)
def test_what_is_dumped_reads_back_as_it_was(tmp_path, text):
    content = {"b": text, "a": {"c": [text, 1e-7, 5, None, True]}}
    (tmp_path / "a.yaml").write_text(dump(content))
    assert read(tmp_path / "a.yaml") == content and list(read(tmp_path / "a.yaml")) == ["b", "a"]


def test_what_was_read_may_be_changed_and_a_file_that_changed_is_read_anew(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("salt: {grams: 3}")
    override(read(file), "salt.grams=5")
    assert read(file) == {"salt": {"grams": 3}}
    file.write_text("salt: {grams: 4}")
    assert read(file) == {"salt": {"grams": 4}}


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


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["salt.grams=5e-1"], {"salt": {"grams": 0.5, "kind": "sea"}}),
        (["salt={grams: 4}"], {"salt": {"grams": 4}}),
        (["salt=null"], {"salt": None}),
        (["salt.kind=[a, 'b=c']", "oil.drops=2"], {"salt": {"grams": 3, "kind": ["a", "b=c"]}, "oil": {"drops": 2}}),
        (["salt.kind=${HOME}"], {"salt": {"grams": 3, "kind": "${HOME}"}}),
        (["salt.kind=random:x#{seed}"], {"salt": {"grams": 3, "kind": "random:x#{seed}"}}),
    ],
)
def test_an_override_replaces_the_value_of_a_key(texts, expected):
    content = {"salt": {"grams": 3, "kind": "sea"}}
    for text in texts:
        override(content, text)
    assert content == expected


def test_a_key_opens_a_section_that_is_null():
    content = {"bank": None}
    override(content, "bank.path=b")
    assert content == {"bank": {"path": "b"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("salt.grams", "expected key.sub=value"),
        ("=3", "expected key.sub=value"),
        ("salt..grams=3", "expected key.sub=value"),
        ("salt.grams.of=3", "grams is a value, not a section"),
        ("salt=a: b: c", "the value is not YAML"),
        ("salt={a: 1, a: 2}", "the value is not YAML"),
    ],
)
def test_an_override_that_is_none_is_refused(text, message):
    with pytest.raises(ValueError, match=re.escape(f"override {text!r}: ") + ".*" + re.escape(message)):
        override({"salt": {"grams": 3}}, text)
