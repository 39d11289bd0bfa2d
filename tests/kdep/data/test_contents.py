import os
from pathlib import Path

from kdep.data import contents
from kdep.data.contents import content_hashes


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
    os.utime(files[1], ns=(before.st_atime_ns, before.st_mtime_ns))
    hashed.clear()
    second = content_hashes(files)
    assert (second[0] == first[0]).all() and (second[1] != first[1]).any()
    assert hashed == ["b", "absent"]
    for path in contents.cache_folder().iterdir():
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
