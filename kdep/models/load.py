"""Load a checkpoint as a module with its preprocessing, for use in other programs."""

from functools import partial

import torch
from PIL import Image
from torchvision.transforms import v2

from kdep.data.decoding.opening import as_rgb
from kdep.models.backbones.backbone import Backbone, build_backbone
from kdep.models.weights import open_checkpoint


def load(spec: str, *, arch: str | None = None, tap: str | None = None) -> Backbone:
    """Load a checkpoint completely, in eval mode, with its preprocessing.

    The module maps RGB images (B, 3, H, W) in [0, 1] to features (B, module.dim). It normalises them itself with
    `module.mean` and `module.std`. `module.preprocess(image)` turns a PIL image into such a tensor (3, S, S) with
    S = `module.size`.

        student = kdep.load("student.pth")
        features = student(student.preprocess(image)[None])

    Args:
        spec: a student.pth, or anything else that `kdep.models.weights.open_checkpoint` takes.
        arch: timm's name of the network in a plain state dict.
        tap: where features are taken, see `kdep.models.backbones.taps`; None for the checkpoint's own.

    Raises:
        ValueError: there is no such checkpoint or tap.
        LoadError: the weights do not load completely.
    """
    checkpoint = open_checkpoint(str(spec), arch=arch)
    backbone = build_backbone(checkpoint, tap=tap).eval()
    backbone.size = backbone.resample or checkpoint.size
    backbone.preprocess = partial(preprocess, size=backbone.size)
    return backbone


def preprocess(image: Image.Image, *, size: int) -> torch.Tensor:
    """Resize the shorter side to `size`, crop the centre: (3, size, size), RGB in [0, 1]."""
    steps = [
        v2.Resize(size),
        v2.CenterCrop(size),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.ToPureTensor(),
    ]
    return v2.Compose(steps)(as_rgb(image))
