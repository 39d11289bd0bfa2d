import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdep.config import Loss
from kdep.method.loss import make_criterion
from kdep.method.rivals import PROJECTORS, Learner, QueueKL, make_head
from kdep.method.statistics import Moments, finish


def alone(rows):
    """The rows of all processes, of which there is one."""
    return rows


A = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
B = torch.tensor([[3.0, 4.0], [0.0, 2.0]])


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("mse", {}, (1 + 4) / 4),
        ("cosine", {}, (0 + 2) / 2),  # equal directions: 0, orthogonal ones: 2
        ("log_sum", {}, math.log(1 + 16)),
        ("smooth_l1", {"beta": 1.0}, (0.5 + 1.5) / 4),
        ("smooth_l1", {"beta": 4.0}, (1 / 8 + 4 / 8) / 4),
    ],
)
def test_a_loss_gives_the_number_worked_out_by_hand(name, options, expected):
    assert float(make_criterion(Loss(name=name, **options), 2, alone)(A, B)) == pytest.approx(expected)


def test_labels_are_compared_by_cross_entropy_by_hand():
    predicted = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]])
    # Shares 3/4 of the right class, then 1/2.
    value = float(make_criterion(Loss(name="labels"), 2, alone)(predicted, torch.tensor([0, 1])))
    assert value == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)


def test_logits_are_softened_and_weighted_by_the_square_of_the_temperature_by_hand():
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[4 * math.log(3), 0.0]])
    # At T = 4 the teacher says 3/4 and 1/4, the student 1/2 each.
    by_hand = 16 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))
    loss = make_criterion(Loss(name="logits"), 2, alone)
    assert float(loss(student, teacher)) == pytest.approx(by_hand)
    assert float(loss(torch.cat([student, teacher]), torch.cat([teacher] * 2))) == pytest.approx(by_hand / 2)  # a mean
    assert float(
        make_criterion(Loss(name="logits", temperature=1), 2, alone)(teacher / 4, teacher / 4)
    ) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("size", [8, 6, 3])  # a multiple of the batch, no multiple, and less than a batch
def test_a_queue_compares_distributions_over_the_newest_teacher_features_by_a_slow_formula(size):
    loss, generator = QueueKL(3, size, 0.5, alone), torch.Generator().manual_seed(0)
    kept = torch.empty(0, 3)
    for _ in range(4):
        student, teacher = (torch.randn(4, 3, generator=generator) for _ in range(2))
        value = loss(student, teacher)
        kept = torch.cat([F.normalize(teacher, dim=1), kept])[:size]
        assert torch.equal(loss.queue[: len(kept)], kept)
        total = 0.0
        for s, t in zip(F.normalize(student, dim=1), F.normalize(teacher, dim=1), strict=True):
            p, q = ((x @ kept.T / 0.5).softmax(0) for x in (t, s))
            total += float((p * (p / q).log()).sum())
        assert float(value) == pytest.approx(total / 4, rel=1e-5)
    assert set(loss.state_dict()) == {"queue", "filled"} and int(loss.filled) == size


def test_a_queue_computes_in_float32_under_autocast():
    student = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    teacher = student + 0.02 * torch.randn(64, 32, generator=torch.Generator().manual_seed(1))
    expected = float(QueueKL(32, 64, 0.07, alone)(student, teacher))
    with torch.autocast("cpu", torch.bfloat16):
        assert float(QueueKL(32, 64, 0.07, alone)(student, teacher)) == expected > 0
        half = QueueKL(32, 64, 0.07, alone)(student.bfloat16(), teacher)  # as an autocast head gives it
    assert half.dtype == torch.float32


def test_a_queue_has_the_size_and_temperature_of_the_configuration_or_those_of_its_authors():
    assert make_criterion(Loss(name="queue_kl"), 3, alone).temperature == 0.07
    given = make_criterion(Loss(name="queue_kl", temperature=0.2, queue=16), 3, alone)
    assert given.temperature == 0.2 and given.queue.shape == (16, 3)
    assert make_criterion(Loss(name="logits", temperature=2), 3, alone).keywords == {"temperature": 2}


def test_a_queue_gives_the_student_a_gradient_and_the_teacher_none():
    loss = QueueKL(3, 6, 0.5, alone)
    student, teacher = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    loss(student, teacher).backward()
    assert bool(student.grad.isfinite().all()) and float(student.grad.abs().sum()) > 0
    assert teacher.grad is None


def test_projectors_compute_what_is_worked_out_from_their_weights():
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))

    def normed(value):
        return (value - value.mean(0)) / (value.var(0, correction=0) + 1e-5).sqrt()

    for name in PROJECTORS:
        head = PROJECTORS[name](4, 7).train()
        linear = [(m.weight, m.bias) for m in head.modules() if isinstance(m, nn.Linear)]
        found = x
        for number, (weight, bias) in enumerate(linear):
            assert (bias is None) == (name == "orthogonal")
            found = found @ weight.T + (0 if bias is None else bias)
            if name.startswith("linear_") or number < len(linear) - 1:
                found = normed(found)
            if number < len(linear) - 1:
                found = found.relu()
        assert len(linear) == (4 if name == "mlp" else 1) and found.shape == (5, 7)
        assert torch.allclose(head(x), found, atol=1e-5), name
    learned = {name for name, _ in PROJECTORS["linear_norm"](4, 7).named_parameters()}
    assert learned == {"0.weight", "0.bias"}  # SRD's BatchNorm has neither gain nor offset


def test_an_orthogonal_projector_stays_an_isometry_as_it_learns():
    torch.manual_seed(0)  # some draws move the weights by less than is asked below
    x = torch.randn(5, 4)
    head = PROJECTORS["orthogonal"](4, 7)
    optimizer, before = torch.optim.SGD(head.parameters(), lr=1), head.weight.detach().clone()
    for _ in range(3):
        assert torch.allclose(head(x).norm(dim=1), x.norm(dim=1), atol=1e-5)
        optimizer.zero_grad()
        (head(x) - 1).square().mean().backward()
        optimizer.step()
    assert float((head.weight.detach() - before).abs().max()) > 0.1  # it has learned, and stayed what it is
    assert torch.allclose(head.weight.T @ head.weight, torch.eye(4), atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(head(x).float().norm(dim=1), x.norm(dim=1), rtol=0.05)


def test_an_orthogonal_projector_takes_no_longer_than_the_student():
    # Reflections, torch's own choice here, would go through the columns one by one: a step would be all theirs.
    (given,) = PROJECTORS["orthogonal"](4, 7).parametrizations.weight
    assert given.orthogonal_map.name == "cayley"


def test_a_head_is_the_same_whatever_was_drawn_before(tiny):
    config = tiny("align.name=none", "project=mlp")
    first = make_head(config, 4, 7)
    torch.rand(100)
    second = make_head(config, 4, 7)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert make_head(tiny(), 4, 4) is None
    for name in ("logits", "labels"):
        classifier = make_head(tiny(f"loss.name={name}"), 4, 10)
        assert isinstance(classifier, nn.Linear) and classifier.weight.shape == (10, 4)
        assert classifier.bias.shape == (10,)


def test_a_projector_that_starts_at_the_axes_begins_with_the_loss_of_the_svd_and_the_variance_beyond(tiny):
    features = torch.randn(50, 7, dtype=torch.float64) * torch.arange(1, 8)
    moments = Moments(7)
    moments.add(features)
    statistics = finish(moments, teacher="t", data="d")
    head = make_head(tiny("align.name=none", "project=svd"), 4, 7, statistics).double()
    centred, student = features - features.mean(0), torch.randn(50, 4, dtype=torch.float64)
    axes = torch.linalg.svd(centred, full_matrices=False).Vh.T
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()  # the sign that the statistics choose
    svd = (student - centred @ axes[:, :4]).square().sum()
    beyond = (centred @ axes[:, 4:]).square().sum()
    assert torch.allclose((head(student) - centred).square().sum(), svd + beyond, rtol=1e-6)
    assert head.weight.requires_grad and head.bias.requires_grad
    with pytest.raises(ValueError, match="the student has 8 channels, the teacher's features 7 principal axes"):
        make_head(tiny("align.name=none", "project=svd"), 8, 7, statistics)


def test_a_learner_projects_pooled_features_and_leaves_weight_decay_to_the_architecture():
    class Student(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = nn.Linear(1, 1)
            self.network.no_weight_decay = lambda: {"pos_embed"}

        def forward(self, images):
            return images

    learner = Learner(Student(), nn.Linear(2, 3))
    assert learner(torch.randn(4, 2)).shape == (4, 3)
    assert learner.no_weight_decay() == {"student.network.pos_embed"}
