"""Distil with LightlyTrain in its own Python environment; imports nothing of kdep.

python lightly_side.py '{"data": FOLDER, "out": FOLDER, "teacher": FILE, "size": 64, "steps": 100, "seed": 0, ...}'
"""

import json
import sys
from importlib.metadata import version
from typing import Any

import torch
import torchvision
from torch import nn


class Renormalised(nn.Module):
    """Bring pixels from LightlyTrain's normalisation (ImageNet's) to the one that the teacher was trained with."""

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        own_mean, own_std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        self.register_buffer("factor", (own_std / torch.tensor(std)).view(3, 1, 1))
        self.register_buffer("shift", ((own_mean - torch.tensor(mean)) / torch.tensor(std)).view(3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) -> (B, 3, S, S)."""
        return pixels * self.factor + self.shift


def build_teacher(stored: dict[str, Any], *, caffe: bool, mean: list[float], std: list[float]) -> nn.Module:
    """Build torchvision's ResNet with the teacher's weights, strides and normalisation.

    Args:
        stored: {"arch", "weights"} in torchvision's names.
        caffe: the blocks have their stride in the first convolution, as in the first release of ResNet.
        mean: of the teacher's normalisation, per channel in [0, 1].
        std: of the same.
    """
    network = torchvision.models.get_model(stored["arch"], weights=None)
    missing, unexpected = network.load_state_dict(stored["weights"], strict=False)
    if unexpected or any(not name.startswith("fc.") for name in missing):
        raise SystemExit(f"the teacher did not load: missing {missing}, unexpected {unexpected}")
    if caffe:
        for block in (network.layer2[0], network.layer3[0], network.layer4[0]):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)
    network.conv1 = nn.Sequential(Renormalised(mean, std), network.conv1)
    return network.eval()


def run_side(
    *,
    data: str,
    out: str,
    teacher: str,
    student: str,
    size: int,
    batch: int,
    steps: int,
    epochs: int,
    seed: int,
    settings: dict[str, Any],
    caffe: bool,
    mean: list[float],
    std: list[float],
) -> None:
    """Distil with the package's default method; print versions and the student's file as JSON.

    Its default settings hold, but for those that the race sets and `settings`.

    Args:
        data: folder of images.
        out: folder of the run.
        teacher: file with {"arch", "weights"} in torchvision's names.
        student: torchvision's name of the student.
        size: side of the views in pixels, for teacher and student alike.
        batch: images of a step.
        steps: of the optimizer; the schedule of the learning rate ends with them.
        epochs: that the steps begin. LightlyTrain warms up for a tenth of them, at most ten, counted in steps.
        seed: of the student, the order and the crops.
        settings: further arguments of lightly_train.pretrain.
        caffe: the teacher's blocks have their stride in the first convolution, as in the first release of ResNet.
        mean: of the teacher's normalisation, per channel in [0, 1].
        std: of the same.
    """
    import lightly_train

    torch.manual_seed(seed)
    lightly_train.pretrain(
        out=out,
        data=data,
        model=torchvision.models.get_model(student, weights=None),
        method="distillation",
        method_args={"teacher": build_teacher(torch.load(teacher, weights_only=True), caffe=caffe, mean=mean, std=std)},
        transform_args={"image_size": (size, size)},
        batch_size=batch,
        epochs=epochs,
        trainer_args={"max_steps": steps},
        seed=seed,
        accelerator="cpu" if not torch.cuda.is_available() else "gpu",
        devices=1,
        overwrite=True,
        **settings,
    )
    versions = {name: version(name) for name in ("lightly-train", "torch", "torchvision", "pytorch-lightning")}
    print(json.dumps({"versions": versions, "student": f"{out}/exported_models/exported_last.pt"}))  # noqa: T201 - the answer


if __name__ == "__main__":
    run_side(**json.loads(sys.argv[1]))
