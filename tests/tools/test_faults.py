"""A short part of the random edits; the long one, with runs, banks and caches, is made by hand."""

from tools.checks.faults import edits


def test_every_edit_of_a_file_is_read_or_refused_by_name(tmp_path):
    found = edits.run(27, 7, minutes=2, folder=tmp_path, groups=("results", "settings"))
    assert found["escapes"] == [] and found["edits"] == 27
    assert "27 edits, 0 escaped" in edits.table(found)
