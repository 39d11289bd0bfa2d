"""Stored arrays: a folder appears whole or not at all."""

import numpy as np
import pytest

from kdep_benchmarks.tasks.store import stored


def test_a_full_disk_is_named_and_the_folder_is_made_again_once_there_is_room(tmp_path, a_full_disk):
    def make(part):
        np.save(part / "labels.npy", np.arange(3))
        np.save(part / "image.npy", np.ones(100_000))
        return 1.5

    folder = tmp_path / "cache" / "0123"
    with (
        a_full_disk(20_000),
        pytest.raises(OSError, match="the disk is full .* requested and .* written items") as caught,
    ):
        stored(folder, make)
    assert caught.value.filename == str(folder)
    assert not [path for path in folder.parent.iterdir() if path.is_dir()]
    arrays, seconds = stored(folder, make)
    assert sorted(arrays) == ["image", "labels"] and seconds == 1.5


@pytest.mark.parametrize("size", [1, 50])  # within the header of the file, and before it
def test_a_full_disk_is_named_wherever_in_a_file_it_ends(tmp_path, a_full_disk, size):
    def make(part):
        np.save(part / "image.npy", np.ones(10))
        return 0.0

    with a_full_disk(size), pytest.raises(OSError, match=str(tmp_path / "0123")):
        stored(tmp_path / "0123", make)


def test_another_error_stays_as_it_is(tmp_path):
    def make(part):
        raise OSError("image file is truncated")

    with pytest.raises(OSError, match="^image file is truncated$"):
        stored(tmp_path / "0123", make)
    assert not (tmp_path / ".0123.part").exists()
