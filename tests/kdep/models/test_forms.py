import gc
import json
import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from kdep.files import read
from kdep.models import forms
from kdep.models.backbone import build_backbone
from kdep.models.checkpoint import fingerprint
from kdep.models.weights import open_checkpoint
from kdep.pretrain import distill_loss, pretrain
from kdep.run.device import Process

ALONE = Process(torch.device("cpu"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KDEP_CACHE", str(tmp_path))
    return tmp_path / "forms.json"


def backbone(name, tap=None):
    """A network whose BatchNorm statistics are unlike those of a new one."""
    network = build_backbone(open_checkpoint(f"random:{name}"), tap=tap).eval()
    generator = torch.Generator().manual_seed(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias.data):
                tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))
            for tensor in (module.running_var, module.weight.data):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return network


@pytest.mark.parametrize(
    ("name", "tap"),
    [
        ("resnet10t", "pre"),
        ("test_efficientnet", "post"),
        ("test_efficientnet", "before_head"),
        ("mobilenetv2_035", "pre"),
    ],
)
@pytest.mark.parametrize(("form", "channels_last"), [(forms.folded, True), (forms.folded_contiguous, False)])
def test_a_folded_network_has_no_batchnorm_and_the_same_features(name, tap, form, channels_last):
    network, images = backbone(name, tap), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        before = network(images)
        folded = form(network, images)
        after = folded(images)
    wide = [m.weight for m in folded.modules() if isinstance(m, nn.Conv2d) and min(m.weight.shape[1:]) > 1]
    assert {weight.is_contiguous(memory_format=torch.channels_last) for weight in wide} == {channels_last}
    left = [m for n, m in folded.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(left) == (1 if tap == "before_head" else 0)  # the head's, which is not used
    assert float((after - before).norm() / before.norm()) < forms.TOLERANCE
    assert float(before.std()) > 0.01


def test_a_network_without_batchnorm_stays_as_it_is():
    network = backbone("test_vit").eval()
    before = fingerprint(network.state_dict())
    size = 160
    assert fingerprint(forms.folded(network, torch.rand(1, 3, size, size)).state_dict()) == before


FROZEN = ["channels_last", "contiguous", "folded", "folded_contiguous"]


def choose_teacher(network, images, *, precision="float32", tune=True):
    return forms.choose_frozen("teacher", network, images, precision=precision, tune=tune, process=ALONE)


def choose_student(network, images, *, precision="float32", tune=True):
    return forms.choose_student(network, images, precision=precision, tune=tune, process=ALONE).precision


def counting(monkeypatch, candidates):
    """Forms by name with a number of seconds each, as if measured."""
    measured = []

    def measure(network, offered, tried, run, images):
        names = [forms._name(form, dtype) for dtype in tried for form in offered]
        measured.append(names)
        return {name: seconds for name, seconds in candidates.items() if name in names}

    monkeypatch.setattr(forms, "_measure", measure)
    return measured


def test_the_choice_is_measured_once_per_machine_and_kept(monkeypatch, cache, caplog):
    measured = counting(monkeypatch, {"channels_last": 2.0, "contiguous": 3.0, "folded": 1.0})
    images = torch.rand(2, 3, 64, 64)
    with caplog.at_level(logging.INFO, "kdep"):
        first = choose_teacher(backbone("resnet10t"), images)
    second = choose_teacher(backbone("resnet10t"), images)
    assert measured == [FROZEN]
    assert "folded is taken (images/s: channels_last 1, contiguous 1, folded 2)" in caplog.text
    assert list(json.loads(cache.read_text()).values()) == ["folded"]
    for network in (first, second):
        assert network.precision == torch.float32
        assert not any(isinstance(module, nn.BatchNorm2d) for module in network.network.modules())
    choose_teacher(backbone("resnet10t"), torch.rand(2, 3, 96, 96))
    choose_teacher(backbone("resnet10t"), images, tune="compile")
    assert measured[1:] == [
        FROZEN,
        [*FROZEN, "compiled"],
    ]


@pytest.mark.parametrize(
    ("target", "name", "other"),
    [
        (forms, "describe_cpu", lambda: "x86_64 Xeon avx512_bf16"),
        (torch.backends.cpu, "get_cpu_capability", lambda: "AVX2"),
        (torch, "get_num_threads", lambda: 77),
        (torch, "__version__", "9.9.9+cpu"),
    ],
    ids=["processor", "units in use", "threads", "torch"],
)
def test_another_machine_with_the_same_home_measures_for_itself(monkeypatch, cache, target, name, other):
    measured = counting(monkeypatch, {"channels_last": 2.0, "contiguous": 3.0, "folded": 1.0})
    monkeypatch.setattr(forms, "describe_cpu", lambda: "x86_64 Xeon")
    network, images = backbone("resnet10t"), torch.rand(2, 3, 64, 64)
    choose_teacher(network, images)
    with monkeypatch.context() as there:
        there.setattr(target, name, other)
        choose_teacher(backbone("resnet10t"), images)
    choose_teacher(backbone("resnet10t"), images)
    assert len(measured) == len(json.loads(cache.read_text())) == 2


def test_a_gain_within_the_noise_changes_nothing(monkeypatch, cache):
    counting(monkeypatch, {"channels_last": 1.0, "contiguous": 3.0, "folded": 0.97})
    teacher = choose_teacher(backbone("resnet10t"), torch.rand(2, 3, 64, 64))
    assert any(isinstance(module, nn.BatchNorm2d) for module in teacher.network.modules())


def test_a_form_that_computes_something_else_is_not_a_candidate():
    def slightly_off(network, images):
        network.mean.add_(1e-3)
        return network

    def as_it_is(network, images):
        return network

    seconds = forms._measure(
        backbone("resnet18"),
        {"plain": as_it_is, "off": slightly_off, "folded": forms.folded},
        [torch.float32],
        lambda network: network(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))).detach(),
        torch.rand(2, 3, 64, 64),
    )
    assert set(seconds) == {"plain", "folded"} and min(seconds.values()) > 0


def test_measuring_leaves_the_student_and_the_random_state_as_they_were():
    student, images = backbone("test_resnet").train(), torch.rand(4, 3, 32, 32)
    before, state = fingerprint(student.state_dict()), torch.get_rng_state()
    choose_student(student, images)
    assert fingerprint(student.state_dict()) == before and torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in student.parameters())


def test_without_measuring_the_layout_follows_a_rule():
    for size, channels_last in ((64, False), (128, True)):
        student = backbone("test_resnet")
        choose_student(student, torch.rand(1, 3, size, size), tune=False)
        weight = next(m.weight for m in student.modules() if isinstance(m, nn.Conv2d) and m.kernel_size[0] > 1)
        assert weight.is_contiguous(memory_format=torch.channels_last) is channels_last
    teacher = backbone("test_resnet")
    assert choose_teacher(teacher, torch.rand(1, 3, 32, 32), tune=False).network is teacher


def test_a_choice_that_cannot_be_kept_is_a_warning(monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KDEP_CACHE", str(tmp_path / "file"))
    counting(monkeypatch, {"channels_last": 1.0, "contiguous": 3.0, "folded": 3.0})
    choose_teacher(backbone("test_resnet"), torch.rand(2, 3, 32, 32))
    assert "not kept" in caplog.text


@pytest.mark.parametrize(
    ("half", "taken"), [(0.9, "folded"), (0.6, "folded bfloat16"), (None, "folded")], ids=["small", "large", "absent"]
)
def test_bfloat16_is_taken_on_a_cpu_where_it_gains_enough(monkeypatch, half, taken):
    seconds = {"channels_last": 2.0, "contiguous": 3.0, "folded": 1.0}
    if half:
        seconds |= {"channels_last bfloat16": 5.0, "contiguous bfloat16": 5.0, "folded bfloat16": half}
    measured = counting(monkeypatch, seconds)
    images = torch.rand(2, 3, 64, 64)
    chosen = choose_teacher(backbone("resnet10t"), images, precision="auto" if half else "float32")
    assert forms._name("folded", chosen.precision) == taken
    assert len(measured[0]) == len(FROZEN) * (2 if half else 1)
    with torch.no_grad(), chosen.half(images.device):
        assert chosen.network.network.conv1[0](images).dtype == chosen.precision


def test_without_measuring_a_cpu_computes_in_float32_unless_it_is_told_otherwise():
    images = torch.rand(1, 3, 32, 32)
    for precision, dtype in (("auto", torch.float32), ("bfloat16", torch.bfloat16)):
        assert choose_student(backbone("test_resnet"), images, precision=precision, tune=False) == dtype
        assert choose_teacher(backbone("test_resnet"), images, precision=precision, tune=False).precision == dtype


def test_a_teacher_s_own_precision_holds_within_the_students():
    images = torch.rand(2, 3, 32, 32)
    network = backbone("test_resnet")
    exact, half = forms.Chosen(network, torch.float32), forms.Chosen(network, torch.bfloat16)
    with torch.no_grad():
        plain = network(images)
        with torch.autocast("cpu", torch.bfloat16), exact.half(images.device):
            assert torch.equal(network(images), plain)
        with torch.autocast("cpu", enabled=False), half.half(images.device):
            rounded = network(images)
    assert 1e-4 < float((rounded - plain).norm() / plain.norm()) < 2e-2


def test_measuring_covers_every_form_in_every_precision():
    seconds = forms._measure(
        backbone("test_resnet"),
        forms.STUDENT_FORMS,
        [torch.float32, torch.bfloat16],
        lambda network: network(torch.ones(2, 3, 32, 32)).detach(),
        torch.ones(2, 3, 32, 32),
    )
    assert set(seconds) == {"contiguous", "channels_last", "contiguous bfloat16", "channels_last bfloat16"}


def test_forms_are_compared_in_full_float32_and_timed_as_the_run_computes():
    """A GPU with TF32 rounds each layout's convolutions in its own way; emulated, for there is none on this machine."""
    images, states = torch.rand(2, 3, 32, 32), []

    def run(network):
        states.append((torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()))
        features = network(images).detach()
        last = next(network.parameters()).is_contiguous(memory_format=torch.channels_last)
        return features * (1 + 1e-3 * last) if torch.backends.cudnn.allow_tf32 else features

    torch.set_float32_matmul_precision("high")
    try:
        seconds = forms._measure(backbone("test_resnet"), forms.STUDENT_FORMS, [torch.float32], run, images)
        assert torch.get_float32_matmul_precision() == "high" and torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision("highest")
    assert set(seconds) == {"contiguous", "channels_last"}
    assert states[:2] == [(False, "highest")] * 2 and set(states[2:]) == {(True, "high")}


def test_forms_are_compared_in_float32_within_a_callers_autocast_too():
    images, states = torch.rand(2, 3, 32, 32), []

    def run(network):
        states.append(torch.is_autocast_enabled("cpu"))
        features = network(images).detach()
        states.append(network.network.conv1(images).dtype)
        return features

    offered = {"contiguous": forms.contiguous, "folded": forms.folded}
    with torch.autocast("cpu", torch.bfloat16):
        seconds = forms._measure(backbone("test_resnet"), offered, [torch.float32], run, images)
    assert set(seconds) == {"contiguous", "folded"} and set(states) == {False, torch.float32}


def test_on_a_gpu_the_student_s_plain_form_is_channels_last(monkeypatch):
    offered = []
    monkeypatch.setattr(forms, "_choose", lambda *args: offered.append(args[2]) or forms.Chosen(args[1], torch.float32))
    for device in ("cuda", "cpu"):
        images = SimpleNamespace(device=torch.device(device), shape=(2, 3, 32, 32))
        choose_student(backbone("test_resnet"), images)
    assert [next(iter(names)) for names in offered] == ["channels_last", "contiguous"]


def test_auto_measures_half_precision_against_float32_on_a_gpu_too(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    gpu = torch.device("cuda")
    assert forms._precisions("auto", gpu) == [torch.float32, torch.float16]
    assert forms._precisions("auto", ALONE.device) == [torch.float32, torch.bfloat16]
    assert forms._precisions("float16", gpu) == [torch.float16]


def test_half_precision_that_overflows_is_not_taken_however_fast():
    images = torch.rand(2, 3, 32, 32)

    def run(network):
        features = network(images).detach()
        return features * torch.inf if torch.is_autocast_enabled("cpu") else features

    tried, offered = [torch.float32, torch.bfloat16], {"contiguous": forms.contiguous}
    seconds = forms._measure(backbone("test_resnet"), offered, tried, run, images)
    assert seconds["contiguous bfloat16"] == float("inf") and seconds["contiguous"] < 10
    assert forms._best(seconds, offered, tried) == "contiguous"


def test_an_earlier_choice_is_taken_whatever_would_be_measured_now(monkeypatch, caplog):
    measured = counting(monkeypatch, {"channels_last": 1.0, "contiguous": 2.0, "folded": 3.0})
    images, own = torch.rand(2, 3, 64, 64), {"precision": "auto", "process": ALONE}
    for tune in (True, False):
        teacher = forms.choose_frozen("teacher", backbone("resnet10t"), images, tune=tune, earlier="folded", **own)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in teacher.network.modules())
        assert (teacher.precision, teacher.name) == (torch.float32, "folded")
        student = backbone("test_resnet")
        chosen = forms.choose_student(student, images, tune=tune, earlier="channels_last bfloat16", **own)
        weight = next(m.weight for m in student.modules() if isinstance(m, nn.Conv2d) and m.kernel_size[0] > 1)
        assert weight.is_contiguous(memory_format=torch.channels_last)
        assert (chosen.precision, chosen.name) == (torch.bfloat16, "channels_last bfloat16")
    assert measured == []


@pytest.mark.parametrize("earlier", ["channels_last float16", "a_form_of_another_version"])
def test_an_earlier_choice_that_this_device_cannot_take_is_a_warning(monkeypatch, caplog, earlier):
    measured = counting(monkeypatch, {"contiguous": 1.0, "channels_last": 2.0})
    images = torch.rand(2, 3, 32, 32)
    own = {"precision": "float32", "tune": True, "process": ALONE}
    chosen = forms.choose_student(backbone("test_resnet"), images, earlier=earlier, **own)
    assert chosen.name == "contiguous" and len(measured) == 1 and f"{earlier}, as the run began" in caplog.text


def test_a_resumed_run_computes_in_the_forms_in_which_it_began(tiny, monkeypatch, tmp_path):
    """Even where another machine's measurement, or none that is remembered, would choose others."""

    def prefer(teacher, student, home):
        monkeypatch.setenv("KDEP_CACHE", str(tmp_path / home))

        def measure(network, offered, tried, run, images):
            best = teacher if "folded" in offered else student
            names = [forms._name(form, dtype) for dtype in tried for form in offered]
            return {name: 1.0 if name == best else 2.0 for name in names}

        monkeypatch.setattr(forms, "_measure", measure)

    began = {"teacher": "folded", "student": "channels_last bfloat16"}
    settings = ("precision=auto", "optim.epochs=2")
    prefer(*began.values(), home="first")
    whole = read(pretrain(tiny("name=whole", *settings)))
    config, left = tiny("name=halves", *settings), [9]  # of 16 steps; kept are 8

    def interrupted(*arguments):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return distill_loss(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("kdep.pretrain.distill_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config)
    gc.collect()  # the lock goes with the traceback's frames
    kept = read(config.runs / "halves" / "run.pt")
    assert kept["step"] == 8 and kept["forms"] == began
    prefer("contiguous bfloat16", "contiguous", home="second")
    halves = read(pretrain(config))
    assert halves["provenance"]["forms"] == whole["provenance"]["forms"] == began
    assert fingerprint(halves["state_dict"]) == fingerprint(whole["state_dict"])
    other = read(pretrain(tiny("name=other", *settings)))
    assert other["provenance"]["forms"] == {"teacher": "contiguous bfloat16", "student": "contiguous"}
    assert fingerprint(other["state_dict"]) != fingerprint(whole["state_dict"])
