import os
import shutil

import pytest

from kdep.files import read
from kdep.models.checkpoints.checkpoint import fingerprint, write_student
from kdep.models.weights import open_checkpoint
from kdep.pretrain import pretrain


@pytest.fixture
def interrupted(tiny, photos, tmp_path):
    """A run that has trained with a teacher from a file on images of its own, and lacks its student."""
    teacher = open_checkpoint("random:test_efficientnet")
    write_student(teacher, tmp_path / "teacher.pth")
    shutil.copytree(photos, tmp_path / "photos")
    config = tiny(f"teacher.source={tmp_path}/teacher.pth", f"data.source={tmp_path}/photos", "optim.epochs=1")
    student = pretrain(config)
    weights = fingerprint(read(student)["state_dict"])
    student.unlink()
    return config, teacher, weights


def exchange(path):
    """Change one byte of a file; its size, its time and its inode stay."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_no_way_leads_to_a_run_of_two_teachers_or_of_two_sets_of_images(interrupted, tmp_path):
    config, teacher, weights = interrupted
    run, image = config.runs / config.name, tmp_path / "photos" / "class0" / "000.jpg"
    kept = image.read_bytes()
    exchange(image)
    with pytest.raises(ValueError, match=r"run.pt: the run began with other images .* or remove .*/tiny to start"):
        pretrain(config)
    image.write_bytes(kept)
    teacher.weights["conv_stem.weight"].mul_(1.5)
    write_student(teacher, tmp_path / "teacher.pth")
    for file in ("statistics.pt", "log.jsonl"):
        (run / file).unlink()
        with pytest.raises(ValueError, match=r"run.pt: the run began with other teacher \(teacher \w{8}, now \w{8}\)"):
            pretrain(config)
    write_student(open_checkpoint("random:test_efficientnet"), tmp_path / "teacher.pth")
    assert fingerprint(read(pretrain(config))["state_dict"]) == weights


def test_a_run_does_not_go_on_from_other_starting_weights(tiny, tmp_path):
    start = tmp_path / "start.pth"
    write_student(open_checkpoint("random:test_resnet#1"), start)
    config = tiny(f"student.weights={start}", "optim.epochs=1")
    student = pretrain(config)
    student.unlink()
    write_student(open_checkpoint("random:test_resnet#2"), start)
    with pytest.raises(ValueError, match=r"run.pt: the run began with other student \(student \w{8}, now \w{8}\)"):
        pretrain(config)


def test_a_damaged_student_is_not_done_and_is_made_again(interrupted, caplog):
    config, _, weights = interrupted
    student = config.runs / config.name / "student.pth"
    for content in (b"", None):
        if content is None:
            pretrain(config)
            content = student.read_bytes()[:-4096]
        student.write_bytes(content)
        assert fingerprint(read(pretrain(config))["state_dict"]) == weights
    assert caplog.text.count("the student is made again, from") == 2


def test_a_student_without_its_configuration_is_not_taken_for_one_of_another(tiny, tmp_path):
    config = tiny("optim.epochs=1", "precision=auto")
    student = pretrain(config)
    (config.runs / config.name / "config.yaml").unlink()
    assert pretrain(config) == student  # as it was asked for: `auto` became a precision when the run began
    with pytest.raises(ValueError, match=r"another configuration.*\n  optim.lr: 0.002 in the run, 0.5 now"):
        pretrain(tiny("optim.epochs=1", "precision=auto", "optim.lr=0.5"))
