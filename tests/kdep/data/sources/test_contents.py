import os
from pathlib import Path

import pytest

from kdep.data.sources import contents
from kdep.data.sources.contents import content_hashes
from kdep.data.sources.manifest import describe

TERABYTE = 10**12


def sparse(path, size=TERABYTE):
    """A file of a terabyte that takes no place."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


@pytest.fixture
def few_bytes(monkeypatch):
    """A BLAKE2b that takes no more bytes than a few files here have."""
    plain = contents.hashlib.blake2b

    class Few:
        def __init__(self, **options):
            self._plain, self.left = plain(**options), 10_000_000

        def update(self, data):
            self.left -= len(data)
            assert self.left > 0, "a file of a terabyte is read"
            self._plain.update(data)

        def digest(self):
            return self._plain.digest()

    monkeypatch.setattr(contents.hashlib, "blake2b", Few)


def test_an_image_that_is_too_large_to_be_opened_is_known_by_its_size_and_not_read(tmp_path, monkeypatch, few_bytes):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(contents, "WORTH", 0)
    monkeypatch.setattr(contents, "RECENT", -1.0)
    files = [sparse(tmp_path / "a.jpg"), sparse(tmp_path / "b.JPG"), sparse(tmp_path / "c.jpg", TERABYTE + 1)]
    first = content_hashes(files)
    assert (first[0] == first[1]).all() and (first[0] != first[2]).any() and first.any(1).all()
    assert describe(files[0])[2] == first[0].tobytes()
    small = sparse(tmp_path / "d.png", 100)
    whole = content_hashes([small])
    monkeypatch.setenv("KDEP_MAX_EXPANDED", "99")  # what was remembered under another limit does not count
    assert (content_hashes([small]) != whole).any()
    monkeypatch.delenv("KDEP_MAX_EXPANDED")
    assert (content_hashes([small]) == whole).all()


def test_a_large_file_that_is_no_image_is_hashed_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("KDEP_MAX_EXPANDED", "1000")
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for file in files:
        file.write_bytes(b"x" * 2000 + file.name.encode())
    first, second = content_hashes(files)
    assert (first != second).any()


def test_hashes_are_remembered_until_a_file_changes_whatever_its_date_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(contents, "WORTH", 0)
    monkeypatch.setattr(contents, "RECENT", -1.0)  # every ctime is settled: nothing here changes twice within one
    files = [tmp_path / name for name in ("a", "b", "absent")]
    for file in files[:2]:
        file.write_bytes(b"content")
    first = content_hashes(files)
    assert (first[0] == first[1]).all() and first[0].any() and not first[2].any()
    read = contents._hash
    hashed = []
    monkeypatch.setattr(contents, "_hash", lambda name: hashed.append(Path(os.fsdecode(name)).name) or read(name))
    assert (content_hashes(files[:2]) == first[:2]).all()  # another list of files has a memory of its own
    assert hashed == ["a", "b"]
    before = files[1].stat()
    files[1].write_bytes(b"CONTENT")
    while files[1].stat().st_ctime_ns == before.st_ctime_ns:  # older kernels count it in ticks of milliseconds
        os.utime(files[1], ns=(before.st_atime_ns, before.st_mtime_ns))
    os.utime(files[1], ns=(before.st_atime_ns, before.st_mtime_ns))
    hashed.clear()
    second = content_hashes(files)
    assert (second[0] == first[0]).all() and (second[1] != first[1]).any()
    assert hashed == ["b", "absent"]
    for path in contents.cache_folder("contents").iterdir():
        path.write_bytes(b"damaged")
    assert (content_hashes(files) == second).all()


def test_a_file_that_changed_just_now_is_hashed_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(contents, "WORTH", 0)
    file = tmp_path / "a"
    file.write_bytes(b"one")
    first = content_hashes([file])
    marks = contents._marks([os.fsencode(file)])
    monkeypatch.setattr(contents, "_marks", lambda _: marks)  # as if the next change fell into the same tick
    file.write_bytes(b"two")
    assert (content_hashes([file]) != first).any()
