"""Hostile files at the doors: what is opened, what is refused, and in which words."""

import io
import os
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image, ImageFile

from kdep.data.decoding import opening
from kdep.data.decoding.opening import as_rgb, open_image, read_image
from kdep.data.sources.lists import list_line, read_list
from kdep.data.sources.names import list_images
from kdep.data.sources.source import labels_of, open_source
from kdep.data.sources.subset import write_subset
from kdep.files import read
from kdep.guard import RefusedError, printable, read_regular, walk
from kdep.models.checkpoints.foreign import read_weights
from kdep.yaml_file import read_mapping
from tests.conftest import draw

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
ODD = ("#first", " space", "line\nbreak", "u2028\u2028", '"quoted"', b"latin\xe9".decode("utf-8", "surrogateescape"))


def folder_of(root, *classes, count=2):
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(count):
            draw(root / name / f"{number}.jpg", number)
    return root


def encoded(image, kind="PNG"):
    memory = io.BytesIO()
    image.save(memory, kind)
    return memory.getvalue()


def forbid(monkeypatch, owner, name):
    def called(*_, **__):
        raise AssertionError(f"{name} was called")

    monkeypatch.setattr(owner, name, called)


def test_postscript_behind_the_name_of_a_photograph_starts_no_ghostscript(tmp_path, monkeypatch):
    forbid(monkeypatch, EpsImagePlugin, "Ghostscript")
    (tmp_path / "photo.jpg").write_bytes(POSTSCRIPT)
    source = open_source(str(tmp_path))
    for opened in (source.read, source.open):
        with pytest.raises(OSError, match="in another format than JPEG, PNG"):
            opened(0)


def test_every_ending_of_an_image_is_read_and_one_line_counts_the_others(tmp_path, caplog):
    others = ("b.heic", "c.HEIC", "d.avif", "notes.txt", "labels.json", "README", "Thumbs.db", ".hidden.heic")
    images = ("0.jfif", "1.JFIF", "2.jpe", "3.TIFF", "4.apng", "5.jpg")
    for name in (*images, *others):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / name).touch()
    assert list_images(tmp_path) == [f"a/{name}" for name in images]
    (line,) = caplog.messages
    assert line.startswith(f"{tmp_path}: not read: 1 .avif, 2 .heic; convert such images")


def test_what_a_notebook_or_a_mac_hides_beside_images_is_read_by_no_source(tmp_path):
    folder_of(tmp_path, "a", "b")
    before = open_source(str(tmp_path))
    known = before.fingerprint
    hidden = (
        ".ipynb_checkpoints/0-checkpoint.jpg",
        "a/.ipynb_checkpoints/0-checkpoint.jpg",
        "b/._0.jpg",
        ".cache/c/0.jpg",
    )
    for name in hidden:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "a" / "0.jpg", tmp_path / name)
    after = open_source(str(tmp_path))
    assert after.names == before.names and after.fingerprint == known and labels_of(after).tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="no image in this folder or below .*begin with a dot do not count"):
        open_source(str(folder_of(tmp_path / "c", ".ipynb_checkpoints")))


def test_pipes_and_devices_are_skipped_by_name_and_never_waited_for(tmp_path, caplog):
    folder_of(tmp_path, "a")
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    (tmp_path / "a" / "endless.png").symlink_to("/dev/zero")
    source = open_source(str(tmp_path))
    assert list(source.names) == ["a/0.jpg", "a/1.jpg"]
    assert "skipped 2" in caplog.text and "pipe.jpg: not a regular file" in caplog.text
    for name in ("pipe.jpg", "endless.png"):  # a list may still name them
        with pytest.raises(RefusedError, match="not a regular file"):
            read_regular(tmp_path / "a" / name)


def test_links_in_a_circle_are_entered_once_and_named(tmp_path):
    folder_of(tmp_path / "set", "a", "b")
    (tmp_path / "set" / "a" / "up").symlink_to("..")
    (tmp_path / "set" / "a" / "self").symlink_to("self")
    (tmp_path / "set" / "a" / "out").symlink_to("../..")
    for name in ("one", "two"):
        (tmp_path / "set" / name).symlink_to(".")
    tree = walk(tmp_path / "set")
    assert list_images(tmp_path / "set") == ["a/0.jpg", "a/1.jpg", "b/0.jpg", "b/1.jpg"]
    assert {path.name for path, _ in tree.skipped} == {"up", "self", "out", "one", "two"}


def test_a_link_to_a_folder_elsewhere_is_followed_and_one_to_a_folder_of_the_set_takes_nothing_away(tmp_path):
    folder_of(tmp_path / "set", "b")
    folder_of(tmp_path, "elsewhere")
    (tmp_path / "set" / "a").symlink_to("b")  # comes before b by name
    (tmp_path / "set" / "c").symlink_to(tmp_path / "elsewhere")
    assert list(open_source(str(tmp_path / "set")).names) == ["b/0.jpg", "b/1.jpg", "c/0.jpg", "c/1.jpg"]


def test_16_bit_grey_is_scaled_and_what_has_no_white_is_refused():
    values = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    for kind in ("PNG", "TIFF"):
        image = as_rgb(open_image(encoded(Image.fromarray(values), kind)))
        assert np.asarray(image)[0].tolist() == [[v] * 3 for v in (0, 1, 128, 255)]
    for dtype in (np.float32, np.int32):
        with pytest.raises(RefusedError, match="convert the image to 8 or 16 bits"):
            as_rgb(open_image(encoded(Image.fromarray(np.ones((2, 2), dtype)), "TIFF")))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded_and_the_limit_can_be_set(
    tmp_path, monkeypatch, kind
):
    (tmp_path / "big.jpg").write_bytes(encoded(Image.new("L", (9000, 9000)), kind))
    source = open_source(str(tmp_path))

    forbid(monkeypatch, ImageFile.ImageFile, "load")
    monkeypatch.setattr("kdep.data.decoding.decode._simplejpeg", None)
    for opened in (source.read, lambda index: source.open(index).crop((0, 0, 9000, 9000), (8, 8))):
        with pytest.raises(RefusedError, match="9000 x 9000 pixels; KDEP_MAX_PIXELS allows 67,108,864"):
            opened(0)
    monkeypatch.setenv("KDEP_MAX_PIXELS", "81000000")
    assert source.open(0).size == (9000, 9000)
    monkeypatch.setenv("KDEP_MAX_PIXELS", "many")
    with pytest.raises(ValueError, match="KDEP_MAX_PIXELS='many': expected a whole number"):
        source.open(0)


def test_an_image_above_pillows_own_limit_names_our_setting(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setattr(opening, "max_pixels", lambda: 90)
    with pytest.raises(RefusedError, match="KDEP_MAX_PIXELS allows 90"):
        open_image(encoded(Image.new("L", (20, 20))))


def test_a_file_of_a_terabyte_that_holds_nothing_is_not_read(tmp_path):
    with (tmp_path / "hole.png").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(RefusedError, match="KDEP_MAX_EXPANDED allows 536,870,912"):
        read_image(tmp_path / "hole.png")


def bomb(path, name, size):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(name, "w", force_zip64=True) as file:
        for _ in range(size // 2**20):
            file.write(bytes(2**20))
    return path


@pytest.mark.parametrize("name", ["weights.pth", "run.pth", "pack.npz"])
def test_an_archive_that_expands_a_thousandfold_is_refused_by_its_directory(tmp_path, monkeypatch, name):
    monkeypatch.setenv("KDEP_MAX_EXPANDED", str(2**24))
    path = bomb(tmp_path / name, "archive/data.pkl" if name.endswith("pth") else "train_blob.npy", 2**26)
    opened = {"weights.pth": read_weights, "run.pth": read}.get(name, lambda path: open_source(f"{path}:train"))

    forbid(monkeypatch, zipfile.ZipFile, "open")
    forbid(monkeypatch, torch, "load")
    with pytest.raises(
        RefusedError, match="would expand to 67,108,864; KDEP_MAX_EXPANDED allows a growth of 16,777,216"
    ):
        opened(path)


def test_a_tensor_that_repeats_one_value_a_billion_times_is_refused(tmp_path):
    torch.save({"w": torch.zeros(1).expand(10**9)}, tmp_path / "w.pth")
    with pytest.raises(RefusedError, match="would expand to 4,000,000,000"):
        read_weights(tmp_path / "w.pth")


def test_a_stored_archive_of_any_size_passes(tmp_path, monkeypatch):
    monkeypatch.setenv("KDEP_MAX_EXPANDED", "1000")
    torch.save({"w": torch.zeros(10_000)}, tmp_path / "w.pth")
    assert read_weights(tmp_path / "w.pth")["w"].shape == (10_000,)


@pytest.mark.parametrize("form", ["sequence", "merge", "circle", "depth"])
def test_runaway_yaml_is_refused_before_anything_is_built(tmp_path, form):
    levels = range(1, 40)
    text = {
        "sequence": "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in levels),
        "merge": "a0: &a0 {k: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in levels),
        "circle": "a: &a [*a]\n",
        "depth": "a: " + "[" * 5000,
    }[form]
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"a.yaml: not YAML .*(100,000 values|nested too deeply)"):
        read_mapping(tmp_path / "a.yaml", "config", "keys")


def test_a_few_anchors_still_work(tmp_path):
    (tmp_path / "a.yaml").write_text("base: &b {x: 1}\nother: {<<: *b, y: 2}\n")
    assert read_mapping(tmp_path / "a.yaml", "config", "keys")["other"] == {"x": 1, "y": 2}


def test_a_subset_lists_odd_names_so_that_they_read_back(tmp_path):
    for name in ODD:
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(2):
            draw(tmp_path / "set" / name / f"{number}.jpg", number)
    write_subset(tmp_path / "set", tmp_path / "list.txt", per_class=2, fraction=None, seed=0)
    folder = open_source(str(tmp_path / "set"))
    listed = open_source(str(tmp_path / "list.txt"), root=tmp_path / "set")
    assert list(listed.names) == list(folder.names) and len(listed.names) == 12
    assert listed.fingerprint == folder.fingerprint and listed.read(0).size == (48, 40)


def test_a_list_keeps_its_plain_form_and_names_a_line_in_quotes_that_is_not_json(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"# comment\n a/b c.jpg \r\n\nlatin\xe9.jpg\n")
    assert read_list(tmp_path / "list.txt") == ["a/b c.jpg", "latin\udce9.jpg"]
    assert list_line("a/b c.jpg") == "a/b c.jpg"
    (tmp_path / "list.txt").write_text('a.jpg\n"b.jpg\n')
    with pytest.raises(ValueError, match="list.txt, line 2: a path in double quotes must be a JSON string"):
        read_list(tmp_path / "list.txt")


def test_odd_names_are_shown_in_one_printable_line():
    assert printable("a\x1b[31m\n\u2028\udce9 é") == "a\\x1b[31m\\n\\u2028\\udce9 é"
