import json
import os
import shutil

import pytest

from kdep.cli import main
from kdep.data.sources.manifest import FILE, KEY, make_manifest
from kdep.data.sources.source import labels_of, open_source

pytest.importorskip("pyarrow", reason="the extra wds is not installed")


@pytest.fixture
def listed(photos, tmp_path):
    """A copy of the pictures with a manifest in it; one name is not UTF-8."""
    folder = tmp_path / "listed"
    shutil.copytree(photos, folder)
    (folder / "class0" / "000.jpg").rename(folder / "class0" / os.fsdecode(b"caf\xe9.jpg"))
    make_manifest(folder, folder / FILE, show=False)
    return folder


def test_a_manifest_gives_the_images_and_the_fingerprint_of_its_folder(listed, tmp_path, capsys):
    with_it = open_source(str(listed))
    assert main(["data", "manifest", str(listed), "--out", str(tmp_path / "own.parquet")]) == 0
    assert "128 images" in capsys.readouterr().out
    (listed / FILE).unlink()
    without = open_source(str(listed))
    elsewhere = open_source(f"manifest:{tmp_path / 'own.parquet'}")
    for found in (with_it, elsewhere):
        assert found.names == without.names and found.fingerprint == without.fingerprint
        assert labels_of(found).sum() == 64
    assert with_it.open(5).size == (48, 40)


def test_a_start_from_a_manifest_neither_lists_the_folder_nor_asks_for_every_size(listed, monkeypatch):
    asked = []
    status = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **options: asked.append(path) or status(path, **options))
    monkeypatch.setattr(os, "walk", lambda *_: pytest.fail("listed the folder"))
    assert len(open_source(str(listed)).names) == 128 and len(asked) < 300


def add(folder):
    shutil.copy(folder / "class1" / "001.jpg", folder / "class1" / "new.jpg")


def add_folder(folder):
    shutil.copytree(folder / "class1", folder / "class2")


def change_all(folder):
    for path in folder.rglob("*.jpg"):
        content = bytearray(path.read_bytes())  # of the same size
        content[-3] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (add, "class1 has 65 images and folders, 64 when it was made"),
        (add_folder, "listed has 3 images and folders, 2 when it was made"),
        (lambda folder: (folder / "class0" / "002.jpg").unlink(), "class0 has 63 images and folders, 64"),
        (change_all, "has changed"),
    ],
)
def test_a_stale_manifest_is_refused_with_the_remedy(listed, change, said):
    change(listed)
    with pytest.raises(ValueError, match=f"stale, .*{said}.*kdep data manifest"):
        open_source(str(listed))


def test_the_topmost_folder_is_always_looked_at(listed, monkeypatch):
    monkeypatch.setattr("kdep.data.sources.manifest.SAMPLED", 0)
    add_folder(listed)
    with pytest.raises(ValueError, match="listed has 3 images and folders, 2 when it was made"):
        open_source(str(listed))


def test_a_hidden_folder_makes_no_manifest_stale(listed):
    before = open_source(str(listed))
    for folder in (listed, listed / "class0"):
        shutil.copytree(listed / "class1", folder / ".ipynb_checkpoints")
        shutil.copy(listed / "class1" / "001.jpg", folder / "._001.jpg")
    assert open_source(str(listed)).names == before.names


def test_a_copy_of_the_images_with_other_times_is_not_stale(listed, tmp_path):
    shutil.copytree(listed, tmp_path / "copy", copy_function=shutil.copyfile)
    assert open_source(str(tmp_path / "copy")).fingerprint == open_source(str(listed)).fingerprint


def test_a_flipped_bit_anywhere_in_a_manifest_is_read_or_refused_by_name(listed):
    file, refused = listed / FILE, 0
    content = file.read_bytes()
    for at in range(5, len(content) - 5, len(content) // 150):
        changed = bytearray(content)
        changed[at] ^= 1 << at % 8
        file.write_bytes(changed)
        try:
            source = open_source(str(listed))
            source.read(len(source.names) - 1)
        except ValueError as error:
            assert str(error).startswith((f"{file}: ", str(listed))), error
            refused += 1
        except OSError as error:  # of a name that has changed
            assert str(listed) in str(error), error
    assert refused > 20


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": 2**39}, "128 rows for 549755813888 images"),
        ({"images": None}, "images must be a whole number, got None"),
        ({"name_bytes": 2**39}, "549755813888 bytes of names"),
        ({"name_bytes": 5}, "a damaged one"),
        ({"folders": {"": 3}}, "folders. must be a list, got 3"),
        ({"folders": {}}, "it does not describe a folder"),
        ({"fingerprint": "x"}, "fingerprint must match pattern"),
        ({"format": [2]}, r"format \[2\], expected a manifest of format 1"),
    ],
)
def test_metadata_that_do_not_describe_the_file_are_refused_by_name(listed, changes, said):
    from pyarrow import parquet

    file = listed / FILE
    table, about = parquet.read_table(file), json.loads(parquet.ParquetFile(file).metadata.metadata[KEY])
    parquet.write_table(table.replace_schema_metadata({KEY: json.dumps(about | changes)}), file)
    with pytest.raises(ValueError, match=f"{file}: .*{said}"):
        open_source(str(listed))


def test_a_damaged_manifest_is_one_sentence(listed):
    (listed / FILE).write_bytes((listed / FILE).read_bytes()[:-20])
    with pytest.raises(ValueError, match="not a manifest, or a damaged one"):
        open_source(str(listed))
