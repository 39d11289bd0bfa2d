import pytest
import torch

from kdep.cli import main
from kdep.models.checkpoints.checkpoint import write_student
from kdep.models.weights import open_checkpoint


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A student, a file of two networks and a folder of timm's, below the present folder; exports only note names."""
    student, other = open_checkpoint("random:test_resnet"), open_checkpoint("random:test_resnet#1")
    write_student(student, tmp_path / "runs" / "student.pth")
    both = {"encoder_q": student.weights, "encoder_k": other.weights}
    torch.save({f"m.{name}.{key}": t for name, own in both.items() for key, t in own.items()}, tmp_path / "moco.pth")
    monkeypatch.chdir(tmp_path)
    assert main(["export", "runs/student.pth", "--to", "timm", "--out", "hub/resnet.a1_in1k"]) == 0
    monkeypatch.setattr("kdep_benchmarks.verbs.audit.audit_target", lambda *_: "")
    monkeypatch.setattr("kdep.export.write.write_export", lambda checkpoint, target, path: "")
    return tmp_path


def test_an_export_lies_beside_its_checkpoint_and_no_two_checkpoints_share_a_name(folder, capsys):
    places = {
        "runs/student.pth": "runs/student.timm",
        "./runs/student.pth@128": "runs/student@128.timm",
        "moco.pth#m.encoder_q": "moco#m.encoder_q.timm",
        "moco.pth#m.encoder_k": "moco#m.encoder_k.timm",
        "hub/resnet.a1_in1k/": "hub/resnet.a1_in1k.timm",
        "random:test_resnet": "random_test_resnet.timm",
        "random:test_resnet#1": "random_test_resnet#1.timm",
        "random:test_resnet@64": "random_test_resnet@64.timm",
    }
    for spec, place in places.items():
        capsys.readouterr()
        assert main(["export", spec, "--arch", "test_resnet", "--to", "timm"]) == 0
        assert capsys.readouterr().out.strip() == place


def test_an_audit_without_openmmlab_goes_on_with_the_other_libraries(folder, capsys, monkeypatch):
    monkeypatch.setattr("kdep_benchmarks.verbs.audit.audit_target", lambda checkpoint, target: f"{target} compared")
    monkeypatch.setattr("kdep_benchmarks.verbs.audit.find_spec", lambda name: None)
    assert main(["audit", "random:resnet18"]) == 0
    said = {line.split()[0]: line.partition(" ")[2].strip() for line in capsys.readouterr().out.splitlines()}
    missing = "not compared: pip install '.[openmmlab]'"
    assert said == dict.fromkeys(("timm", "torchvision", "detectron2"), "compared") | {
        "mmseg": missing,
        "mmdet": missing,
    }


@pytest.mark.parametrize("verb", ["export", "audit"])
def test_an_unknown_library_is_refused_with_those_that_there_are(verb, capsys):
    assert main([verb, "random:test_resnet", "--to", "tensorflow"]) == 2
    assert "--to tensorflow: there are timm, torchvision, mmseg, mmdet" in capsys.readouterr().err


def test_an_export_does_not_replace_its_checkpoint(folder, capsys):
    (folder / "hub" / "resnet.a1_in1k").rename(folder / "hub" / "resnet.timm")
    for spec in ("hub/resnet.timm", "hub/resnet.timm@64"):
        assert main(["export", spec, "--to", "timm", "--out", "hub/resnet.timm"]) == 2
        assert "is the checkpoint itself" in capsys.readouterr().err
