"""kdep doctor ends with an error where something that is there, or must be there, does not work."""

import argparse

import pytest

from kdep_benchmarks.verbs import doctor


@pytest.mark.parametrize(
    ("missing", "works", "code"),
    [((), True, 0), ((), False, 1), (("mmdet",), False, 0), (("timm",), True, 1)],
)
def test_openmmlab_may_be_absent_but_not_broken(missing, works, code, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(doctor, "installed", lambda names: None if names[0] in missing else "1.0")
    monkeypatch.setattr(doctor, "try_openmmlab", lambda: (works, "those of torchvision"))
    assert doctor.run(argparse.Namespace(data_root=tmp_path)) == code
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "missing" in line] == list(missing)
