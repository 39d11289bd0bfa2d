"""Check early, before the teacher has seen an image, that teacher, student and settings fit together."""

from kdep.config import Config
from kdep.method.rivals import check_axes
from kdep.method.scale import make_scaler
from kdep.method.target import Classifier, check_classifier, check_widths
from kdep.models.backbones.backbone import Backbone, Teachers
from kdep.models.backbones.maps import require_map
from kdep.models.classifier import open_classifier
from kdep.models.teacher import largest_rank
from kdep.run.distributed.processes import Process


def check_batch_size(config: Config, process: Process) -> None:
    """Check that a batch divides among the processes.

    Raises:
        ValueError: it does not.
    """
    if config.optim.batch_size % process.world:
        raise ValueError(
            f"optim.batch_size={config.optim.batch_size} does not divide among {process.world} processes; take a "
            f"multiple of {process.world}"
        )


def open_teachers_classifier(config: Config) -> Classifier | None:
    """Open the teacher's own classifier for loss.name logits; None for other losses.

    Raises:
        ValueError: it has none.
    """
    if config.loss.name != "logits":
        return None
    assert isinstance(config.teacher.source, str)  # checked by Config
    return open_classifier(config.teacher.source, arch=config.teacher.arch)


def check_fit(config: Config, student: Backbone, teacher: Backbone | Teachers, images: int) -> None:
    """Fail early on settings the teacher's features cannot satisfy.

    Raises:
        ValueError: images of a size that a network cannot take; a dense loss without a map of the teacher; logits
            without a classifier of the teacher's features; a width, projector or scaler that does not fit or does not
            exist.
    """
    make_scaler(config.scale.name, config.scale.options)  # refuses unknown names and options
    for network in (student, *(teacher.members if isinstance(teacher, Teachers) else [teacher])):
        network.check_size(config.data.size)
    if config.loss.dense:
        require_map("teacher", str(config.teacher.source), teacher)
    classifier = open_teachers_classifier(config)
    if classifier is not None:
        check_classifier(classifier[0], teacher.dim)
        return
    if config.project == "svd":
        check_axes(student.dim, teacher.dim)
    wanted = student.dim if config.project is None else teacher.dim
    images = min(images, config.align.images or images)
    rank = min(largest_rank(teacher), images - 1)  # one dimension goes to the mean
    check_widths(config.align.name, width=teacher.dim, dim=wanted, rank=rank, images=images)
    if config.scale.name == "sm" and wanted > teacher.dim:
        raise ValueError(
            f"scale.name sm: the student's {wanted} channels cannot take the deviations of the teacher's "
            f"{teacher.dim}; scale.name=unit, sn or pts can scale them"
        )
