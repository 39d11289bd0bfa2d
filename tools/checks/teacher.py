"""Check an ImageNet teacher's accuracy, and the aligner on its features of real photographs; write the figures.

    python -m tools.checks.teacher IMAGENET_PACK.npz OUT.json [--teacher npm:resnet50]

The pack holds ImageNet photographs with labels 0 to 999 and their `wnids`. The teacher, as kdep opens it, gets its
classifier back: a top-1 in the eighties on one photograph per class shows that weights, tap, normalisation and resizing
are right; ImageNet's usual normalisation instead of EfficientNet-Lite0's own costs it many points.
Then the statistics of its features and the targets of 512 channels are compared with a thin SVD and a Power
Temperature Scaling that share no line with kdep's.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from kdep.data.sources.source import Pack
from kdep.files import write_text
from kdep.method.scale import make_scaler
from kdep.method.statistics import Moments, finish, numerical_rank
from kdep.method.target import Target
from kdep.models.backbones.backbone import Backbone, build_backbone
from kdep.models.classifier import open_classifier
from kdep.models.weights import open_checkpoint

RESIZE, SIZE, DIM, TEMPERATURE, EXPONENT = 256, 224, 512, 0.1, 3.0


def centre_crop(image: Image.Image) -> torch.Tensor:
    """RGB image -> (3, SIZE, SIZE) in [0, 1]: short side to RESIZE, then the middle, as ImageNet models are scored."""
    scale = RESIZE / min(image.size)
    image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)
    left, top = (image.width - SIZE) // 2, (image.height - SIZE) // 2
    pixels = np.asarray(image.crop((left, top, left + SIZE, top + SIZE)))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


@torch.no_grad()
def features_of(teacher: Backbone, pack: Pack, batch_size: int = 50) -> torch.Tensor:
    """Features (N, D) of every image of a pack, centre crop."""
    teacher.eval()
    starts = tqdm(range(0, len(pack.names), batch_size), "teacher")
    ends = ((at, min(at + batch_size, len(pack.names))) for at in starts)
    return torch.cat([teacher(torch.stack([centre_crop(pack.read(i)) for i in range(*end)])) for end in ends])


def slow_alignment(features: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Variances (D,) and aligned features (N, dim) by a thin SVD of the centred matrix in float64."""
    centred = features.astype(np.float64) - features.astype(np.float64).mean(0)
    _, singular, rows = np.linalg.svd(centred, full_matrices=False)
    for row in rows:
        row *= np.sign(row[np.argmax(np.abs(row))])
    return singular**2 / len(features), centred @ rows[:dim].T


def slow_pts(aligned: np.ndarray, temperature: float, exponent: float) -> np.ndarray:
    """Power Temperature Scaling, in two cases as the paper writes it."""
    positive = np.where(aligned > 0, aligned, 0.0) / temperature
    negative = np.where(aligned < 0, -aligned, 0.0) / temperature
    return positive ** (1 / exponent) - negative ** (1 / exponent)


def compare_aligner(features: torch.Tensor, dim: int) -> dict[str, float]:
    """Largest differences between kdep's targets and the slow ones, as shares of the largest value of each kind.

    `pts` compares the scaling alone, both sides scaling the same aligned features. `targets` is the whole chain: the
    cube root magnifies the rounding of aligned features next to 0, so it is the coarsest of the four.
    """
    moments = Moments(features.shape[1])
    for batch in features.split(64):
        moments.add(batch)
    statistics = finish(moments, teacher="teacher", data="data")
    scalers = {"none": {}, "pts": {"temperature": TEMPERATURE, "exponent": EXPONENT}}
    aligned, targets = (
        Target(statistics, dim, aligner="svd", scaler=make_scaler(name, options))(features).double().numpy()
        for name, options in scalers.items()
    )
    variances, slow = slow_alignment(features.numpy(), dim)
    difference = {
        "variances": (statistics.variances.numpy()[: len(variances)], variances),
        "aligned": (aligned, slow),
        "pts": (targets, slow_pts(aligned, TEMPERATURE, EXPONENT)),
        "targets": (targets, slow_pts(slow, TEMPERATURE, EXPONENT)),
    }
    return {name: float(np.abs(a - b).max() / np.abs(b).max()) for name, (a, b) in difference.items()} | {
        "numerical_rank": numerical_rank(statistics)
    }


def check(path: Path, spec: str) -> dict[str, object]:
    """Run both checks on a pack."""
    from timm.data import ImageNetInfo

    with np.load(path, allow_pickle=False) as content:
        if content["wnids"].tolist() != ImageNetInfo().label_names():
            raise ValueError(f"{path}: its wnids are not the 1000 of ImageNet-1k in their order")
    pack = Pack(path, "val")
    teacher = build_backbone(open_checkpoint(spec), tap="post")
    features = features_of(teacher, pack)
    weight, bias = open_classifier(spec)
    right = (features @ weight.T + bias).argmax(1) == torch.from_numpy(pack.labels)
    return {
        "teacher": spec,
        "pack": path.name,
        "images": len(right),
        "top1": 100 * right.double().mean().item(),
        "channels": DIM,
        "largest_relative_difference": compare_aligner(features, DIM),
    }


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path, help="imagenet_sample1000_224px.npz")
    parser.add_argument("out", type=Path, help="where to write the figures")
    parser.add_argument("--teacher", default="pypi:efficientnet_lite0", help="trained on ImageNet-1k [%(default)s]")
    args = parser.parse_args()
    text = json.dumps(check(args.pack, args.teacher), indent=2) + "\n"
    write_text(args.out, text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
