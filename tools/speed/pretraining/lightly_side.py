"""Run LightlyTrain in its own Python environment; imports nothing of kdep.

python lightly_side.py '{"data": FOLDER, "out": FOLDER, "size": 224, "batch": 16, "epochs": 1, "device": "cpu"}'
"""

import json
import sys
import time
from importlib.metadata import version


def run_child(data: str, out: str, size: int, batch: int, epochs: int, device: str) -> None:
    """Distil a ResNet-50 into a ResNet-18 with LightlyTrain's own defaults; print seconds as JSON on the last line.

    The teacher is torchvision's network with random weights, given as a module: the package takes one as it is and
    downloads nothing. Its default method ("distillation") is version 3 of its distillation.
    """
    import lightly_train
    import torch
    import torchvision

    torch.manual_seed(0)
    began = time.perf_counter()
    lightly_train.pretrain(
        out=out,
        data=data,
        model=torchvision.models.resnet18(weights=None),
        method="distillation",
        method_args={"teacher": torchvision.models.resnet50(weights=None)},
        transform_args={"image_size": (size, size)},
        batch_size=batch,
        epochs=epochs,
        accelerator="gpu" if device.startswith("cuda") else "cpu",
        devices=1,
        overwrite=True,
    )
    seconds = time.perf_counter() - began
    versions = {name: version(name) for name in ("lightly-train", "torch", "torchvision", "pytorch-lightning")}
    print(json.dumps({"seconds": seconds, "versions": versions}))  # noqa: T201 - the answer to the parent process


if __name__ == "__main__":
    run_child(**json.loads(sys.argv[1]))
