"""Any network can be a student: it opens, learns for a step, and its student.pth opens again."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from kdep.models.backbones.backbone import build_backbone, create_network
from kdep.models.backbones.outline import gmacs, parameters
from kdep.models.backbones.own import code_of
from kdep.models.backbones.taps import find_taps, student_tap
from kdep.models.student import open_student
from kdep.models.weights import open_checkpoint
from kdep.pretrain import pretrain

STUDENTS = {
    "mobilenetv3_small_100": "pre",
    "regnety_002": "pre",
    "convnext_atto": "post",
    "vit_tiny_patch16_224": "post",
    "swin_tiny_patch4_window7_224": "post",
}


@pytest.mark.parametrize("arch", STUDENTS)
def test_a_students_tap_is_found_and_pre_is_what_its_activation_turns_into_timms_output(arch):
    network = create_network(arch).eval()
    images, tap = torch.rand(1, 3, 64, 64), student_tap(network)
    assert tap == STUDENTS[arch]
    with torch.device("meta"):
        assert find_taps(create_network(arch)) == find_taps(network)  # where tensors have no values
    with torch.no_grad():
        checkpoint = open_checkpoint(f"random:{arch}")
        network.load_state_dict(checkpoint.weights)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (checkpoint.mean, checkpoint.std))
        expected = network((images - mean) / std)
        found = build_backbone(checkpoint, tap=tap).eval().pooled_taps(images)
    assert torch.allclose(found["post"], expected, atol=1e-5)
    assert tap == "post" or (found["pre"] < found["post"].min()).any()


@pytest.mark.parametrize("arch", ["test_vit", "test_convnext"])
def test_a_student_of_any_architecture_learns_and_opens_again(tiny, arch, caplog):
    caplog.set_level("INFO", "kdep")
    path = pretrain(tiny(f"student.arch={arch}", "student.tap=null", "project=linear", "align.name=none"))
    student = open_checkpoint(str(path))
    assert student.tap == "post" and "no final activation to take off" in caplog.text
    assert any(not torch.equal(t, student.weights[n]) for n, t in create_network(arch).state_dict().items())


MODULE = """
import torch
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU())

def vector():
    return nn.Sequential(*make(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

def needy(width):
    return nn.Linear(width, width)

def number():
    return 7

def dropping():
    rates = [rate.item() for rate in torch.linspace(0, 0.1, 3)]  # as many networks give their blocks
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), *(nn.Dropout(rate) for rate in rates))
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_networks.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "python:own_networks:make"
    sys.modules.pop("own_networks", None)


def test_an_own_module_is_teacher_and_student_and_its_student_opens_again(tiny, own):
    overrides = ["teacher.source=python:own_networks:vector", "teacher.tap=null", "student.tap=null"]
    path = pretrain(tiny(f"student.arch={own}", *overrides))
    student = open_checkpoint(str(path))
    assert (student.arch, student.tap) == (own, "pre")
    network = create_network(own)
    network.load_state_dict(student.weights)
    images = torch.rand(2, 3, 32, 32)
    backbone = build_backbone(student).eval()
    with torch.no_grad():
        expected = network.eval()((images - backbone.mean) / backbone.std).mean((2, 3))
        assert torch.allclose(backbone.pooled_taps(images)["post"], expected, atol=1e-6)
        assert (backbone(images) < 0).any() and isinstance(backbone.network[4], nn.Identity)


def test_a_network_whose_code_needs_values_and_one_of_a_single_size_are_counted(own):
    dropping = own.replace("make", "dropping")
    assert parameters(dropping) == 3 * 8 * 9 + 8 and gmacs(dropping) == pytest.approx(3 * 8 * 9 * 56**2 / 1e9, rel=0.1)
    assert gmacs("beit_base_patch16_384") > gmacs("beit_base_patch16_224") > 10  # at 384 and 224 pixels


def test_a_run_does_not_go_on_with_other_code_of_its_teacher_or_student(tiny, own, tmp_path):
    overrides = ["teacher.source=python:own_networks:vector", "teacher.tap=null", "student.tap=null", "optim.epochs=1"]
    for name, others in (
        ("one", [f"student.arch={own}", *overrides]),
        ("two", [f"student.arch={own}", "optim.epochs=1"]),
    ):
        config = tiny(f"name={name}", *others)
        pretrain(config).unlink()
        (tmp_path / "own_networks.py").write_text(MODULE + f"# {name}")
        with pytest.raises(ValueError, match="the run began with other (teacher|code of the student)"):
            pretrain(config)


@pytest.mark.parametrize("size", [0, 7, 15])
def test_an_input_is_not_resampled_to_less_than_16_pixels(size):
    with pytest.raises(ValueError, match=f"@{size} is the side in pixels .* expected 16 or more"):
        open_checkpoint(f"random:test_resnet@{size}")


def test_an_own_module_is_a_checkpoint_with_the_same_weights_each_time(own):
    one, other = open_checkpoint(own), open_checkpoint(own)
    assert one.sha256 == other.sha256 and one.arch == one.name == own


def test_other_code_of_an_own_network_is_another_checkpoint(own, tmp_path):
    torch.save(create_network(own).state_dict(), tmp_path / "weights.pth")
    before = [open_checkpoint(own), open_checkpoint(str(tmp_path / "weights.pth"), arch=own)]
    code = tmp_path / "own_networks.py"
    code.write_text(code.read_text() + "# the same tensors, perhaps other features\n")
    after = [open_checkpoint(own), open_checkpoint(str(tmp_path / "weights.pth"), arch=own)]
    for one, other in zip(before, after, strict=True):
        assert one.sha256 == other.sha256 and one.identity != other.identity


@pytest.mark.parametrize("package", [False, True])
def test_the_code_that_an_own_network_imports_from_beside_it_counts(package, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    folder, name = (tmp_path / "own_pack", "own_pack.adapter") if package else (tmp_path, "own_adapter")
    folder.mkdir(exist_ok=True)
    parts, dot = "own_parts", "." if package else ""
    if package:
        (folder / "__init__.py").touch()
    adapter = folder / f"{name.rpartition('.')[2]}.py"
    adapter.write_text(f"import torch\nimport kdep.config\nfrom {dot}{parts} import make\n")
    (folder / f"{parts}.py").write_text("import torch\ndef make():\n    return torch.nn.Conv2d(3, 8, 3)\n")
    (folder / "unused.py").write_text("")
    first = code_of(f"python:{name}:make")
    (folder / "unused.py").write_text("# nobody imports it\n")
    assert code_of(f"python:{name}:make") == first
    (folder / f"{parts}.py").write_text((folder / f"{parts}.py").read_text() + "# repaired\n")
    assert code_of(f"python:{name}:make") != first
    for module in [known for known in sys.modules if known.partition(".")[0] in ("own_pack", "own_adapter", parts)]:
        del sys.modules[module]


def test_the_command_finds_an_own_module_on_pythonpath_and_not_in_the_current_folder(tmp_path):
    # As docs/checkpoints.md and docs/teachers.md say.
    kdep = Path(sys.executable).with_name("kdep")
    if not kdep.exists():
        pytest.skip("kdep is not installed in this environment")
    (tmp_path / "own_here.py").write_text("def make():\n    return 'found'\n")
    command = [str(kdep), "transfer", "python:own_here:make", "--tasks", "cifar10-knn"]

    def told(**more):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, **more})
        assert done.returncode == 2
        return done.stderr

    assert "cannot import own_here" in told() and "returned str, expected an nn.Module" in told(PYTHONPATH=".")
    docs = Path(__file__).parents[3] / "docs"
    for page in ("checkpoints.md", "teachers.md"):
        assert "`kdep` does not look in the current folder by itself" in (docs / page).read_text()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("python:no_such_module:make", r"cannot import no_such_module .*PYTHONPATH"),
        ("python:own_networks:missing", "own_networks.py has no function missing"),
        ("python:own_networks:needy", "the function failed without arguments: TypeError: needy.. missing 1 required"),
        ("python:own_networks:number", "returned int, expected an nn.Module"),
        ("python:own_networks", "expected python:package.module:function"),
        ("python:os:abort", "os is part of Python's standard library"),
    ],
)
def test_a_wrong_entry_is_refused(own, spec, message):
    with pytest.raises(ValueError, match=message):
        open_checkpoint(spec)


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        (
            "torn",
            "def make(:\n    pass\n",
            r"the import of torn failed: SyntaxError: invalid syntax \(torn.py, line 1\)",
        ),
        ("zero", "x = 1\ny = x / 0\n", r"the import of zero failed: ZeroDivisionError: .* \(FILE, line 2: y = x / 0\)"),
        (
            "keyless",
            "def width(d):\n    return d['w']\n\ndef make():\n    return width({})\n",
            r"the function failed without arguments: KeyError: 'w' \(FILE, line 2: return d\['w'\]\)",
        ),
        (
            "late",
            "from torch import nn\n\nclass make(nn.Module):\n    def forward(self, x):\n        return x @ self.w\n",
            r"failed on 128 x 128 pixels of noise: AttributeError: .* \(FILE, line 5: return x @ self.w\)",
        ),
    ],
)
def test_an_error_in_a_users_own_code_says_its_file_and_line(tmp_path, monkeypatch, name, code, message):
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=message.replace("FILE", re.escape(str(tmp_path / f"{name}.py")))):
        find_taps(create_network(f"python:{name}:make"))
    sys.modules.pop(name, None)


def test_starting_weights_have_no_input_size(tiny):
    with pytest.raises(ValueError, match=r"x.pth@128: a student sees data.size pixels; leave out @128"):
        open_student(tiny("student.weights=x.pth@128"))
