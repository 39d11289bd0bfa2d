"""Time the teacher and the student's step in several forms: memory layout, cudnn.benchmark, torch.compile."""

from collections.abc import Callable
from typing import Any

import torch

from kdep.models.backbones.fold import fold_batchnorm
from kdep.models.teacher import open_teacher
from kdep.run.device import choose_teacher_precision, computing_in
from tools.gpu.cases import R50, case_of, config_of, random_images, setting_of
from tools.speed.clock import seconds
from tools.speed.pretraining.runs import student_step

WARM, TIMED = 3, 20


def forms(asked: dict[str, Any]) -> dict[str, Any]:
    """Images/s of every form."""
    setting = setting_of(asked)
    case = case_of(setting, R50)
    config, device = config_of(setting, case, name="forms"), setting.device
    images = random_images(case, 1)[0].to(device)
    figures: dict[str, Any] = {}
    for layout, benchmark, compiled in chosen_forms(setting.quick):
        torch.backends.cudnn.benchmark = benchmark
        label = f"{'channels last' if layout == torch.channels_last else 'channels first'}"
        label += (", cudnn.benchmark" if benchmark else "") + (", compiled" if compiled else "")
        teacher = fold_batchnorm(open_teacher(config), case.size).to(device, memory_format=layout)
        work = teacher_pass(teacher, images, choose_teacher_precision("auto", device), compiled=compiled)
        figures[f"teacher, {label}, images/s"] = rate(work, case.batch, device)
        work = student_step(config, images, layout, compiled=compiled)
        figures[f"student's step, {label}, images/s"] = rate(work, case.batch, device)
    torch.backends.cudnn.benchmark = False
    return {"figures": figures}


def chosen_forms(tiny: bool) -> list[tuple[torch.memory_format, bool, bool]]:
    """Layout, cudnn.benchmark, compiled; the first is what kdep uses."""
    last, first = torch.channels_last, torch.contiguous_format
    known = [(last, False, False), (first, False, False), (last, True, False), (last, False, True)]
    return known[:2] if tiny else known


def rate(work: Callable[[], Any], batch: int, device: torch.device) -> float:
    """Images/s after a warm-up."""
    for _ in range(WARM):
        work()
    return batch * TIMED / seconds(lambda: [work() for _ in range(TIMED)], device)


def teacher_pass(
    teacher: torch.nn.Module, images: torch.Tensor, dtype: torch.dtype, *, compiled: bool
) -> Callable[[], Any]:
    """A forward pass in the teacher's precision."""
    call = torch.compile(teacher) if compiled else teacher

    def work() -> None:
        with torch.no_grad(), computing_in(dtype, images.device):
            call(images)

    return work
