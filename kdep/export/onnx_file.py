"""Export a student to ONNX, and run such a file to compare it with the student."""

import importlib.util
import io

import torch

from kdep.models.backbones.backbone import build_backbone
from kdep.models.checkpoints.checkpoint import Checkpoint


def onnx_bytes(checkpoint: Checkpoint) -> bytes:
    """Export the student with its input normalisation: `images` (B, 3, S, S) RGB in [0, 1] -> `features` (B, D).

    The batch size is free. The side S is the one that the student was trained at.

    Raises:
        ValueError: onnx, onnxscript or onnxruntime, which runs the file for the audit, is not installed.
    """
    _require("onnx", "onnxscript", "onnxruntime")
    backbone = build_backbone(checkpoint).eval()
    images = torch.zeros(2, 3, checkpoint.size, checkpoint.size)
    program = torch.onnx.export(
        backbone,
        (images,),
        input_names=["images"],
        output_names=["features"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    file = io.BytesIO()
    program.save(file, external_data=False)
    return file.getvalue()


def run_onnx(content: bytes, images: torch.Tensor) -> torch.Tensor:
    """Compute the features with onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (features,) = session.run(None, {"images": images.numpy()})
    return torch.from_numpy(features)


def _require(*packages: str) -> None:
    missing = [name for name in packages if not importlib.util.find_spec(name)]
    if missing:
        raise ValueError(f"{', '.join(missing)} not installed: pip install '.[onnx]'")
