"""Rivals of the method: other criteria, and heads that are trained with the student.

A head (projector or classifier) is trained with the student and is not part of student.pth. The method itself needs no
head (paper, section 3.2).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from kdep.config import Config
from kdep.method.statistics import Statistics

Gather = Callable[[torch.Tensor], torch.Tensor]


def cosine(predicted: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Squared distance of the normalised vectors: 2 - 2 cos, mean over images (SimReg, Navaneet et al. 2021)."""
    return (2 - 2 * F.cosine_similarity(predicted, wanted, dim=-1)).mean()


def log_sum(predicted: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Logarithm of the sum of fourth powers of the differences (SRD, Miles & Mikolajczyk 2024)."""
    return (predicted - wanted).abs().pow(4).sum().log()


def softened_logits(predicted: torch.Tensor, wanted: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """T^2 KL(softmax(teacher / T), softmax(student / T)), mean over images (Hinton et al. 2015)."""
    student, teacher = ((x / temperature).log_softmax(1) for x in (predicted, wanted))
    return temperature**2 * F.kl_div(student, teacher, log_target=True, reduction="batchmean")


class QueueKL(nn.Module):
    """KL divergence between teacher and student similarities to a queue of the teacher's recent features.

    As in LightlyTrain's first distillation method: normalised features, softmax over the queue at a temperature. The
    queue is saved in the run checkpoint.

    Args:
        dim: width of the features.
        size: length of the queue.
        temperature: of both softmaxes.
        gather: collects the rows of all processes, so that each has the same queue.
    """

    def __init__(self, dim: int, size: int, temperature: float, gather: Gather) -> None:
        super().__init__()
        self.temperature, self._gather = temperature, gather
        self.register_buffer("queue", torch.zeros(size, dim))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))

    def forward(self, predicted: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """(B, D), (B, D) -> scalar, in float32 also under autocast: half precision is coarser than the divergence."""
        with torch.autocast(predicted.device.type, enabled=False):
            return self._divergence(predicted.float(), wanted.float())

    def _divergence(self, predicted: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        predicted, wanted = F.normalize(predicted, dim=1), F.normalize(wanted.detach(), dim=1)
        with torch.no_grad():
            # The queue holds the features of this step too: the first step needs something to compare with.
            newest = self._gather(wanted)
            self.queue.copy_(torch.cat([newest, self.queue])[: len(self.queue)])
            self.filled.add_(len(newest)).clamp_(max=len(self.queue))
            empty = torch.arange(len(self.queue), device=predicted.device) >= self.filled
        student, teacher = (
            (x @ self.queue.T / self.temperature).masked_fill(empty, -torch.inf) for x in (predicted, wanted)
        )
        log_student, share = student.log_softmax(1).masked_fill(empty, 0), teacher.softmax(1)
        return (share * (teacher.log_softmax(1).masked_fill(empty, 0) - log_student)).sum(1).mean()


def linear(student: int, teacher: int) -> nn.Module:
    """A linear layer: a 1x1 convolution on pooled features."""
    return nn.Linear(student, teacher)


def linear_bn(student: int, teacher: int) -> nn.Module:
    """A linear layer and BatchNorm, the 1x1 baseline of the authors' code."""
    return nn.Sequential(nn.Linear(student, teacher), nn.BatchNorm1d(teacher))


def linear_norm(student: int, teacher: int) -> nn.Module:
    """A linear layer and BatchNorm without gain and offset (SRD, whose targets are normalised by scale.name sn)."""
    return nn.Sequential(nn.Linear(student, teacher), nn.BatchNorm1d(teacher, affine=False))


def mlp(student: int, teacher: int) -> nn.Module:
    """Four linear layers with BatchNorm and ReLU between them (SimReg)."""
    layers: list[nn.Module] = []
    for width in (student, teacher, teacher):
        layers += [nn.Linear(width, teacher), nn.BatchNorm1d(teacher), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(teacher, teacher))


def orthogonal(student: int, teacher: int) -> nn.Module:
    """A learned isometry, kept orthonormal (VkD, Miles et al. 2024)."""
    # torch's default for matrices that are not square takes 20 times as long: 4.6 s per step from 512 to 1280 channels.
    return parametrizations.orthogonal(nn.Linear(student, teacher, bias=False), orthogonal_map="cayley")


PROJECTORS: dict[str, Callable[[int, int], nn.Module]] = {
    "linear": linear,
    "linear_bn": linear_bn,
    "linear_norm": linear_norm,
    "mlp": mlp,
    "orthogonal": orthogonal,
    "svd": linear,  # whose weight starts at the principal axes: make_head
}


class Learner(nn.Module):
    """The student and the head that is trained with it; only the student is saved.

    Shape:
        (B, 3, S, S) -> (B, width of the head, or of the student if there is no head).
    """

    def __init__(self, student: nn.Module, head: nn.Module | None) -> None:
        super().__init__()
        self.student, self.head = student, head

    def forward(self, images: torch.Tensor, *, with_map: bool = False) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Compute features, projected by the head if there is one; maps are never projected."""
        if with_map:
            return self.student(images, with_map=True)
        features = self.student(images)
        return features if self.head is None else self.head(features)

    def no_weight_decay(self) -> set[str]:
        """Name the parameters that the student's architecture exempts from weight decay; timm calls this."""
        exempt = getattr(self.student.network, "no_weight_decay", set)()
        return {f"student.network.{name}" for name in exempt}


def make_head(config: Config, student: int, wanted: int, statistics: Statistics | None = None) -> nn.Module | None:
    """Make the projector or classifier from the student's width to the target's; None if the student needs none.

    Args:
        config: names the loss and the projector.
        student: width of the student.
        wanted: width of the target.
        statistics: of the teacher's features; project=svd starts at their leading axes.

    Raises:
        ValueError: the student is wider than the teacher's features have axes.
    """
    torch.manual_seed(config.weight_seed)  # the head must not depend on random numbers drawn before
    if config.loss.classifies:
        return nn.Linear(student, wanted)
    if config.project is None:
        return None
    head = PROJECTORS[config.project](student, wanted)
    if config.project == "svd":
        start_at_axes(head, statistics, student)
    return head


@torch.no_grad()
def start_at_axes(head: nn.Linear, statistics: Statistics, student: int) -> None:
    """Let a linear projector begin as the SVD: student channel i is the coordinate on the i-th principal axis.

    At the start its loss is that of the SVD's targets plus the variance beyond their axes. Then it learns.
    """
    check_axes(student, statistics.axes.shape[1])
    head.weight.copy_(statistics.axes[:, :student])
    head.bias.zero_()


def check_axes(student: int, axes: int) -> None:
    """Raise a ValueError if a teacher has fewer axes than project=svd starts at: one for each student channel."""
    if axes < student:
        raise ValueError(
            f"project svd: the student has {student} channels, the teacher's features {axes} principal axes; "
            "take project=linear, which starts at random"
        )
