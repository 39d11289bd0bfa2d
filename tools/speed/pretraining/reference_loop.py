"""Pretraining in the style of the method's published code, the baseline of the speed comparison.

Own writing after a description of that code (docs/method.md): teacher and student in float32, channels first, as they
come; images through torchvision's ImageFolder and its transforms on PIL images, colour noise included, in loading
processes; the teacher's features on the leading axes and through the power function inside its forward pass; mean
squared error times a weight; plain SGD, neither fused nor over many tensors at once; the loss read back at every step.
The networks are the same timm networks that kdep trains, so that only the way of training differs.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from kdep.data.loading.views import LIGHT_AXES, LIGHT_STD

LR, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 5e-4
TEMPERATURE, POWER, WEIGHT = 0.1, 3.0, 3.0  # of the scaling, of the loss


class Lighting:
    """Colour noise along the principal axes of ImageNet's RGB values, one draw per image (3, H, W)."""

    def __init__(self, std: float) -> None:
        self.std = std

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        draw = torch.randn(3) * self.std * torch.tensor(LIGHT_STD)
        return image + (torch.tensor(LIGHT_AXES).T @ draw).view(3, 1, 1)


class AlignedTeacher(nn.Module):
    """A frozen teacher whose forward pass ends in the leading axes and Power Temperature Scaling.

    Shape:
        (B, 3, H, W) RGB in [0, 1] -> (B, D_s).
    """

    def __init__(self, teacher: nn.Module, mean: torch.Tensor, axes: torch.Tensor) -> None:
        super().__init__()
        self.teacher = teacher
        self.mean, self.axes = mean.float(), axes.float()  # plain tensors, moved to the device at every step

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features, centred, projected, scaled."""
        with torch.no_grad():
            features = self.teacher(images)
            aligned = torch.matmul(features - self.mean.to(features.device), self.axes.to(features.device))
            return torch.sign(aligned) * torch.pow(torch.abs(aligned / TEMPERATURE), 1 / POWER)


def make_loader(folder: Path, *, size: int, batch: int, workers: int) -> DataLoader:
    """ImageFolder with the published code's ImageNet transforms."""
    steps = [
        transforms.RandomResizedCrop(size),
        transforms.RandomHorizontalFlip(),
        transforms.ColorJitter(0.1, 0.1, 0.1),
        transforms.ToTensor(),
        Lighting(0.05),
    ]
    images, pin = ImageFolder(str(folder), transforms.Compose(steps)), torch.cuda.is_available()
    return DataLoader(images, batch, shuffle=True, num_workers=workers, drop_last=True, pin_memory=pin)


def loss_of(student: nn.Module, teacher: AlignedTeacher, images: torch.Tensor, weight: float) -> torch.Tensor:
    """Weighted mean squared error of the two networks' features of the same pixels."""
    wanted = teacher(images)
    return weight * F.mse_loss(student(images), wanted)


def steps(
    student: nn.Module, teacher: AlignedTeacher, loader: DataLoader, *, device: torch.device
) -> Iterator[tuple[float, float]]:
    """Train without end; yield (loss, seconds) of every step, with the wait for its images."""
    student.to(device).train()
    teacher.to(device).eval()
    optimizer = torch.optim.SGD(
        student.parameters(), LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, foreach=False, fused=False
    )
    began = time.perf_counter()
    while True:
        for images, _ in loader:
            loss = loss_of(student, teacher, images.to(device), WEIGHT)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            value = loss.item()
            now = time.perf_counter()
            yield value, now - began
            began = now
