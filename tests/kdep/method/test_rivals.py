"""Runs of the method's rivals and of what goes beyond the paper, each end to end on a few pictures."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from kdep.data.loading.training import make_pixels, open_images, open_views
from kdep.data.loading.views import load, mix
from kdep.data.sources.source import labels_of
from kdep.files import read
from kdep.models.backbones.backbone import Teachers, build_backbone, create_network
from kdep.models.checkpoints.checkpoint import fingerprint
from kdep.models.checkpoints.layouts import Layout
from kdep.models.classifier import open_classifier
from kdep.models.student import open_student
from kdep.models.teacher import open_teacher, teacher_identity
from kdep.models.weights import open_checkpoint
from kdep.pretrain import match_scale, pretrain
from kdep.run.distributed.processes import Process


def losses(config):
    log = (config.runs / config.name / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in log]


@pytest.fixture(scope="module")
def classified(tmp_path_factory):
    """A teacher file with its classifier, and the network itself."""
    return classifying("test_efficientnet", tmp_path_factory.mktemp("teacher"))


def classifying(arch, folder):
    """A file of random weights with a classifier, and the network itself."""
    torch.manual_seed(0)
    network = timm.create_model(arch, num_classes=10).eval()
    nn.init.normal_(network.get_classifier().weight, std=0.5)
    torch.save(network.state_dict(), folder / f"{arch}.pth")
    return folder / f"{arch}.pth", network


LABELS = ("loss.name=labels", "student.tap=post", "loss.weight=1")
RIVALS = [
    ("project=linear_bn", "align.name=none", "scale.name=sn", "teacher.tap=post"),
    ("project=mlp", "align.name=none", "loss.name=cosine"),
    ("project=svd", "align.name=none", "scale.name=unit"),
    ("project=orthogonal", "align.name=none", "scale.name=layernorm", "loss.name=smooth_l1", "loss.beta=2"),
    ("project=linear", "align.name=none", "loss.name=queue_kl", "loss.queue=64", "scale.name=none"),
    ("loss.name=queue_kl", "loss.queue=64", "scale.name=none"),  # on the SVD's features: the recipe `similarities`
    ("loss.name=log_sum", "scale.name=unit"),
    ("align.name=area", "scale.name=sm", "data.mixup=true"),
    ('teacher.source=["random:test_efficientnet", "random:test_resnet@40"]', "teacher.tap=null", "scale.name=unit"),
]


@pytest.mark.parametrize("overrides", RIVALS, ids=lambda overrides: " ".join(overrides)[:60])
def test_a_rival_trains_on_the_same_loop_and_leaves_a_plain_student(tiny, overrides):
    config = tiny(*overrides)
    content = read(pretrain(config))
    assert losses(config)[-1] < losses(config)[0]
    network = open_student(config).network
    assert set(content["state_dict"]) == set(network.state_dict())  # no head, no queue, no classifier


# A head with BatchNorm, a queue, mixed images and an average: each has a state that a resumed run restores.
STATEFUL = ("optim.ema=0.9", "project=mlp", "align.name=none", "scale.name=none", "data.mixup=true", *RIVALS[4][2:4])


@pytest.mark.parametrize("overrides", [STATEFUL, LABELS], ids=["mlp queue mixup ema", "labels"])
def test_a_rival_that_was_interrupted_ends_with_the_same_weights(tiny, overrides, monkeypatch):
    overrides = (*overrides, "optim.epochs=1")  # eight steps, saved at the fourth
    whole = read(pretrain(tiny(*overrides, "name=whole")))["state_dict"]
    from kdep import pretrain as module

    step, left = module.distill_loss, [6]

    def interrupted(*arguments):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(module, "distill_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain(tiny(*overrides, "name=halves"))
    halves = read(pretrain(tiny(*overrides, "name=halves")))["state_dict"]
    assert fingerprint(halves) == fingerprint(whole)


def test_the_supervised_baseline_learns_what_labels_say(tiny, photos, tmp_path):
    for path in sorted(photos.rglob("*.jpg")):
        copy = tmp_path / "photos" / path.parent.name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        dark = path.parent.name == "class0"
        Image.eval(Image.open(path), lambda value, dark=dark: value // 3 if dark else value).save(copy)
    config = tiny(*LABELS, f"data.source={tmp_path / 'photos'}", "optim.epochs=4")
    content = read(pretrain(config))
    assert losses(config)[-1] < 0.5 * losses(config)[0]
    assert content["provenance"]["method"] == "labels" and "teacher" not in content["provenance"]
    assert set(content["state_dict"]) == set(open_student(config).network.state_dict())


@pytest.mark.parametrize("arch", ["test_resnet", "test_efficientnet"])
@pytest.mark.parametrize("loss", ["labels", "logits"])
@pytest.mark.parametrize("tap", ["null", "pre", "post"])
def test_a_classifier_reads_what_the_network_itself_pools_whatever_the_tap(tiny, arch, loss, tap):
    student = open_student(tiny(f"loss.name={loss}", f"student.tap={tap}", f"student.arch={arch}")).eval()
    plain = create_network(arch).eval()
    plain.load_state_dict(student.network.state_dict())
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        by_hand = plain((images - student.mean) / student.std)  # no classifier in it: its pooled features
        assert torch.allclose(student(images), by_hand, atol=1e-5) and student.tap == "post"


def test_a_recipes_weight_is_of_its_method_and_multiplies_no_classification(tiny, classified):
    path, _ = classified
    given = (f"teacher.source={path}", "teacher.arch=test_efficientnet", "loss.name=logits", "optim.name=sgd")
    given = (*given, "optim.epochs=1", "optim.lr=0.01", "log.every=1")
    configs = [tiny(*given, f"loss.weight={weight}", f"name=weight{weight}") for weight in (1, 20)]
    one, other = (read(pretrain(config))["state_dict"] for config in configs)
    assert fingerprint(one) == fingerprint(other) and losses(configs[0]) == losses(configs[1])


def test_labels_give_the_same_student_before_and_after_the_activation(tiny):
    one, other = (
        tiny("loss.name=labels", "optim.epochs=1", f"student.tap={tap}", f"name={tap}") for tap in ("pre", "post")
    )
    one, other = (read(pretrain(config)) for config in (one, other))
    assert fingerprint(one["state_dict"]) == fingerprint(other["state_dict"])
    assert one["tap"] == other["tap"] == "post"
    with pytest.raises(ValueError, match="student.tap before_head: with loss.name labels .* take student.tap=post"):
        open_student(tiny("loss.name=labels", "student.tap=before_head", "student.arch=test_efficientnet"))
    assert open_student(tiny("student.tap=pre")).tap == "pre"  # the method's own losses read where they are told


def test_a_students_features_end_before_a_last_convolution_unless_told_otherwise(tiny):
    taps = {arch: open_student(tiny(f"student.arch={arch}")).tap for arch in ("test_resnet", "test_efficientnet")}
    assert taps == {"test_resnet": "pre", "test_efficientnet": "before_head"}
    assert open_student(tiny("student.arch=test_efficientnet", "student.tap=post")).tap == "post"


@pytest.mark.parametrize(
    ("arch", "tap"), [("test_efficientnet", "null"), ("test_resnet", "post"), ("test_vit", "null")]
)
def test_classical_distillation_learns_the_logits_of_the_teachers_own_classifier(
    tiny, arch, tap, tmp_path, monkeypatch
):
    path, network = classifying(arch, tmp_path)
    seen = []
    from kdep import pretrain as module

    step = module.distill_loss

    def noted(learner, wanted, images, *rest):
        seen.append((wanted[:, 0].clone(), images.clone()))
        return step(learner, wanted, images, *rest)

    monkeypatch.setattr(module, "distill_loss", noted)
    given = (f"teacher.source={path}", f"teacher.arch={arch}", f"teacher.tap={tap}", "loss.name=logits")
    config = tiny(*given, "optim.epochs=2")
    pretrain(config)
    teacher = open_teacher(config)
    wanted, images = seen[0]
    with torch.no_grad():
        by_hand = network((images - teacher.mean) / teacher.std)
    assert wanted.shape == (16, 10) and torch.allclose(wanted, by_hand, atol=1e-4)
    assert losses(config)[-1] < losses(config)[0]


def test_logits_from_a_bank_of_all_axes_are_those_of_the_live_teacher(tiny, classified, tmp_path):
    path, _ = classified
    given = (f"teacher.source={path}", "teacher.arch=test_efficientnet", "loss.name=logits", "optim.epochs=1")
    given = (*given, "optim.lr=1e-6")
    live, stored = tiny(*given, "name=live"), tiny(*given, "name=stored", f"bank.path={tmp_path / 'bank'}")
    pretrain(live), pretrain(stored)
    assert losses(stored) == pytest.approx(losses(live), rel=1e-3)
    with pytest.raises(ValueError, match="bank.axes 96: expected at least the 256"):
        pretrain(tiny(*given, "name=short", f"bank.path={tmp_path / 'other'}", "bank.axes=96"))


def test_a_teacher_without_a_classifier_has_no_logits(tiny, tmp_path):
    with pytest.raises(ValueError, match="random:test_efficientnet: has no trained classifier"):
        pretrain(tiny("loss.name=logits"))
    torch.save(open_checkpoint("random:test_resnet").weights, tmp_path / "bare.pth")
    with pytest.raises(ValueError, match="no linear classifier"):
        open_classifier(str(tmp_path / "bare.pth"), arch="test_resnet")


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("deit_tiny_distilled_patch16_224", "has several classifiers"),
        ("vit_base_patch32_clip_quickgelu_224.openai", "projects to text embeddings and has no classes"),
    ],
)
def test_a_teacher_whose_logits_are_no_classes_of_one_classifier_is_refused(tmp_path, monkeypatch, arch, message):
    torch.save({"head.weight": torch.zeros(8, 4), "head.bias": torch.zeros(8)}, tmp_path / "teacher.pth")
    # Networks of that size are not made for a test; their file is taken apart by other tests.
    heads = Layout({}, "", read(tmp_path / "teacher.pth"), ("head",), {})
    monkeypatch.setattr("kdep.models.classifier.create_network", lambda arch: None)
    monkeypatch.setattr("kdep.models.classifier.take_apart", lambda *arguments: heads)
    with pytest.raises(ValueError, match=message):
        open_classifier(str(tmp_path / "teacher.pth"), arch=arch)
    tuned = "vit_base_patch32_clip_224.openai_ft_in1k"  # fine-tuned on classes
    assert open_classifier(str(tmp_path / "teacher.pth"), arch=tuned)[0].shape == (8, 4)


def test_labels_are_the_first_folder_of_each_path(photos, tiny, tmp_path):
    source, _ = open_images(tiny())
    labels = labels_of(source)
    assert labels.tolist() == [int(name.startswith("class1")) for name in source.names]
    subset, _ = open_images(tiny("data.limit=40"))
    assert labels_of(subset).tolist() == [int(name.startswith("class1")) for name in subset.names]
    with pytest.raises(ValueError, match="needs a folder per class"):
        labels_of(open_images(tiny(f"data.source={photos / 'class0'}"))[0])
    (tmp_path / "absolute.txt").write_text("".join(f"{photos / name}\n" for name in source.names))
    with pytest.raises(ValueError, match="absolute.txt: loss.name labels needs two classes, and all images are of one"):
        open_images(tiny(f"data.source={tmp_path / 'absolute.txt'}", "loss.name=labels", "student.tap=post"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("project=linear",), "project linear learns the alignment: with it, align.name is none, not svd"),
        (("loss.name=logits", "project=linear", "align.name=none"), "has a classifier of its own; leave out project$"),
        (("loss.dense=1", "project=linear", "align.name=none"), "loss.dense compares aligned features"),
        (("data.mixup=true", "bank.path=bank"), "needs a teacher beside the student"),
        (("loss.name=labels", "bank.path=bank"), "uses no teacher"),
        (("loss.dense=1", 'teacher.source=["a", "b"]'), "takes one teacher"),
        (("loss.name=logits", 'teacher.source=["a", "b"]'), "loss.name logits takes one teacher"),
        (("loss.name=logits", "scale.match=student"), "scale.match .* with loss.name logits a learned layer"),
        (("loss.name=labels", "scale.match=student"), "scale.match .* with loss.name labels a learned layer"),
        (
            ("project=linear_norm", "align.name=none", "scale={name: sn, match: student}"),
            "scale.match .* with project linear_norm a learned layer lies between",
        ),
        (
            ("loss.name=queue_kl", "scale.match=student"),
            "scale.match .* loss.name queue_kl reads no scale: it normalises",
        ),
        (("loss.name=cosine", "scale={name: unit, match: student}"), "scale.match .* loss.name cosine reads no scale"),
        (
            ("loss.name=queue_kl", "loss.queue=100000000000"),
            "loss.queue must be less than or equal to 1000000, got 100",
        ),
        (("loss.name=logits", "teacher.tap=pre"), "teacher.tap pre: with loss.name logits .* teacher.tap=post"),
        (("loss.name=logits", "teacher.tap=before_head"), "teacher.tap before_head: with loss.name logits"),
        (("loss.temperature=0.1",), "loss.temperature 0.1 is for name queue_kl or logits, not for mse$"),
        (("loss.name=smooth_l1", "loss.queue=64"), "loss.queue 64 is for name queue_kl, not for smooth_l1$"),
        (("loss.name=cosine", "loss.beta=2"), "loss.beta 2.0 is for name smooth_l1, not for cosine$"),
        (("align.name=phi_s", "scale.name=sm"), "scale.name sm goes by the order .* phi_s makes them all equal"),
        (("optim.warmup_epochs=2",), "optim.warmup_epochs 2 leaves nothing of epochs 2; take fewer$"),
    ],
)
def test_what_does_not_go_together_is_refused_at_once(tiny, overrides, message):
    with pytest.raises(ValueError, match=message):
        tiny(*overrides)


CANNOT_BE = [
    (("align.name=none",), "align.name none: the teacher has 256 channels, the student 96.*.project=linear."),
    (
        ("student.arch=resnet18",),
        "the student has 512 channels, the teacher 256, and align.name svd.*align.name=random.*none project=linear",
    ),
    (
        ("align.images=96",),
        "96 channels needs at least 97 images, and there are 96, .* at most 95 dimensions. Use more images, or",
    ),
    (("teacher.tap=pre",), "span at most 64 of their 256 dimensions.*teacher.tap: post"),
    (("scale.name=sm", "align.name=random", "student.arch=resnet10t"), "sm: the student's 512 .* teacher's 256"),
    (("scale.match=teacher",), "scale.match: expected student, got 'teacher'"),
    (("scale.temperature=match",), "scale.temperature: expected a positive number, got 'match'"),
    (
        ("project=svd", "align.name=none", "student.arch=resnet10t"),
        "project svd: the student has 512 channels, the teacher's features 256 principal axes",
    ),
    (("loss.name=logits",), "random:test_efficientnet: has no trained classifier"),
    (("loss.dense=1", "student.arch=test_vit"), "loss.dense: the student test_vit .VisionTransformer. .* MobileNetV2"),
    (
        ("loss.dense=1", "teacher.source=random:test_convnext"),
        "loss.dense: the teacher random:test_convnext .ConvNeXt. .* Take a teacher that has one .ResNet",
    ),
    (("precision=float16",), "precision float16 is for GPUs"),
]
CAN_BE = [
    ("align.images=97",),
    ("teacher.tap=pre", "align.name=random"),
    ("align.name=phi_s", "scale.name=none"),
    ("scale.name=sm", "align.name=random"),
    ("loss.dense=1",),
    ("loss.dense=1", "loss.name=queue_kl", "scale={name: none, match: student}"),  # the maps are compared in size
    ("align.name=random", "scale.name=unit", "student.arch=resnet10t"),  # wider than its teacher
]


class LookedAtError(Exception):
    """The teacher saw an image."""


@pytest.fixture
def blind(monkeypatch):
    """Teachers that raise at the first image, so that a refusal is known to come before it."""

    def look(*arguments, **options):
        raise LookedAtError

    def opened(config):
        teacher = open_teacher(config)
        teacher.forward = look
        return teacher

    monkeypatch.setattr("kdep.features.open_teacher", opened)
    monkeypatch.setattr("kdep.bank.prepare.open_teacher", opened)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [*CANNOT_BE, ((*CANNOT_BE[1][0], "bank.path={}/bank"), CANNOT_BE[1][1])],
    ids=lambda value: "".join(value)[:40],
)
def test_what_cannot_be_is_refused_before_the_teacher_looks_at_an_image(tiny, tmp_path, blind, overrides, message):
    config = tiny(*(text.replace("{}", str(tmp_path)) for text in overrides))
    with pytest.raises(ValueError, match=message):
        pretrain(config)
    assert not (config.runs / config.name / "config.yaml").exists()


@pytest.mark.parametrize("overrides", [*CAN_BE, ("bank.path={}/bank",)], ids=lambda value: "".join(value)[:40])
def test_what_can_be_is_not_refused(tiny, tmp_path, blind, overrides):
    with pytest.raises(LookedAtError):
        pretrain(tiny(*(text.replace("{}", str(tmp_path)) for text in overrides)))


def test_targets_are_matched_without_a_last_batch_of_one_image(tiny):
    """A student whose last map is 1 x 1 has one value per channel there, of which BatchNorm can make nothing."""
    changes = (
        "data.limit=34",
        "optim.batch_size=11",
        "optim.epochs=1",
        "scale.match=student",
        "student.arch=resnet10t",
    )
    assert pretrain(tiny(*changes, "align.name=linear")).exists()


@pytest.mark.parametrize(("size", "shown"), [(64, 256), (96, 192), (512, 256)])
def test_the_scale_is_matched_on_256_images_at_most_in_whole_batches(tiny, monkeypatch, size, shown):
    def show(views, batches, **others):
        raise LookedAtError(sum(map(len, batches)))

    monkeypatch.setattr("kdep.pretrain.make_pixels", lambda *_: None)
    monkeypatch.setattr("kdep.pretrain.load", show)
    views = SimpleNamespace(source=SimpleNamespace(names=range(1000)), augmentation=None)
    process = Process(torch.device("cpu"))
    with pytest.raises(LookedAtError) as caught:
        match_scale(nn.Identity(), tiny(f"optim.batch_size={size}"), nn.Identity(), None, views, process)
    assert caught.value.args == (shown,)


def test_matched_targets_have_the_root_mean_square_of_the_untrained_student(tiny, monkeypatch):
    seen, students, left = [], [], []
    from kdep import pretrain as module

    step = module.distill_loss

    def opened(config):
        students.append(open_student(config))
        return students[0]

    def looked_at(*arguments):  # BatchNorm would take the images of the measurement into its running means
        match_scale(*arguments)
        left.append(fingerprint(students[0].state_dict()))

    def noted(learner, wanted, images, *rest):
        seen.append(wanted.clone())
        return step(learner, wanted, images, *rest)

    monkeypatch.setattr(module, "distill_loss", noted)
    monkeypatch.setattr(module, "open_student", opened)
    monkeypatch.setattr(module, "match_scale", looked_at)
    config = tiny("scale.match=student", "optim.epochs=1")
    pretrain(config)
    assert left == [fingerprint(open_student(config).state_dict())]
    views, student = open_views(config), open_student(config).train()
    total = []
    for batch in load(views, [[(i, 0) for i in range(start, start + 16)] for start in range(0, 128, 16)], workers=0):
        with torch.no_grad():
            total.append(student(make_pixels(views.augmentation, torch.device("cpu"))(batch)).square().mean())
    own = float(torch.stack(total).mean().sqrt())
    assert float(torch.cat(seen).square().mean().sqrt()) == pytest.approx(own, rel=1e-2)


def test_several_teachers_weigh_the_same_whatever_the_size_of_their_features(tiny):
    sources = '["random:test_efficientnet", "random:test_resnet"]'
    config = tiny(f"teacher.source={sources}", "teacher.tap=null", "optim.epochs=1", "scale.name=unit")
    pretrain(config)
    found = read(config.runs / config.name / "statistics.pt")
    first = 256
    assert float(found["channel_variances"][:first].mean()) == pytest.approx(1)
    assert float(found["channel_variances"][first:].mean()) == pytest.approx(1)
    assert float(found["variances"].sum()) == pytest.approx(len(found["mean"]))
    # The axes are those of the scaled features: their covariance from scratch.
    views, teacher = open_views(config), open_teacher(config)
    (batch,) = load(views, [[(i, 0) for i in range(128)]], workers=0)
    with torch.no_grad():
        f = teacher(make_pixels(views.augmentation, torch.device("cpu"))(batch)).double().numpy()
    f = (f - f.mean(0)) * found["scale"].numpy()
    values = np.linalg.eigvalsh(f.T @ f / 128)[::-1]
    assert np.allclose(values[:50], found["variances"][:50].numpy(), rtol=1e-4)
    assert isinstance(teacher, Teachers) and teacher_identity(teacher).count("+") == 1


def test_several_teachers_fill_a_bank_too(tiny, tmp_path):
    sources = '["random:test_efficientnet", "random:test_resnet"]'
    given = (f"teacher.source={sources}", "teacher.tap=null", "optim.epochs=1", "scale.name=unit", "optim.lr=1e-6")
    live, stored = tiny(*given, "name=live"), tiny(*given, "name=stored", f"bank.path={tmp_path / 'bank'}")
    pretrain(live), pretrain(stored)
    assert losses(stored) == pytest.approx(losses(live), rel=1e-3)


def test_mixup_mixes_pairs_by_one_share_and_is_a_function_of_seed_and_step():
    images = torch.eye(4)[:, :, None, None]
    mixed = mix(images, seed=1, step=2).flatten(1)
    assert torch.allclose(mixed.sum(1), torch.ones(4)) and torch.equal(mixed, mix(images, seed=1, step=2).flatten(1))
    shares = mixed.diagonal()
    assert float(shares.min()) < 1 and len({round(float(s), 5) for s in shares if s < 1}) == 1
    assert not torch.equal(mixed, mix(images, seed=1, step=3).flatten(1))


def test_features_of_several_teachers_stand_side_by_side():
    members = [
        build_backbone(open_checkpoint(f"random:{name}")).eval() for name in ("test_resnet", "test_efficientnet")
    ]
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        together = Teachers(members).eval()(images)
        assert torch.equal(together, torch.cat([member(images) for member in members], 1))
