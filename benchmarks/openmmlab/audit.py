"""Check that mmseg's or mmdet's own backbone computes the student's outputs from an export."""

from kdep.export.audit import Audit, complete_audit, fixed_batch, stage_outputs, student_stages
from kdep.models.checkpoints.checkpoint import Checkpoint, StateDict, load_exactly
from kdep.models.checkpoints.names import HEAD, WITHOUT_HEAD, export_weights
from kdep_benchmarks.openmmlab.backbones import backbone_config, build_module, undilated


def audit_openmmlab(checkpoint: Checkpoint, target: str, *, weights: StateDict | None = None) -> Audit:
    """Load an export into a toolbox's backbone and compare the outputs of all its stages with the student's.

    Dilation is removed first. It changes no tensor, but a dilated network computes other outputs.

    Args:
        checkpoint: the student.
        target: mmseg or mmdet.
        weights: what to audit, under the plain names of the backbone; by default what `export_weights` makes.

    Raises:
        LoadError: some tensor does not load, or some stage's output differs.
        ValueError: the library has no such network of its own.
    """
    weights = export_weights(checkpoint.arch, checkpoint.weights, target) if weights is None else weights
    network = build_module(undilated(backbone_config(checkpoint.arch, target)), target)
    load_exactly(network, weights, f"{checkpoint.name} for {target}")
    images = fixed_batch()
    own = student_stages(checkpoint, images)
    if target in WITHOUT_HEAD:
        own = {stage: output for stage, output in own.items() if stage not in HEAD}
    # All modules that the class runs after its stem, not only those whose maps the config reads.
    stages = network.res_layers if hasattr(network, "res_layers") else network.layers
    return complete_audit(target, network, own, stage_outputs(network, images, names=stages))
