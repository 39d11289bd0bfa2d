"""Compare CPU and device in float32, and half precision with float32 on the device."""

from typing import Any

import torch
from torch import nn

from kdep.config import Config
from kdep.method.loss import distill_loss, make_criterion
from kdep.method.statistics import Moments, finish
from kdep.method.target import make_target
from kdep.models.student import open_student
from kdep.models.teacher import fastest_form, open_teacher
from kdep.run.device import choose_precision, choose_teacher_precision, computing_in, exactly, without_tf32
from kdep.run.optim import make_optimizer
from tools.gpu.cases import R50, case_of, check, config_of, distance, random_images, setting_of

STEPS = 20
# Relative errors. float32 has 7 digits; a ResNet-50 loses two of them, the cube root of Power Temperature Scaling more
# near zero, and 20 steps amplify what is left. float16 has 3 digits, bfloat16 2.
FEATURES, TARGETS, FIRST, LAST = 1e-4, 1e-2, 1e-4, 2e-2
HALF = {"float16": {"features": 5e-3, "targets": 0.1, "losses": 0.05}, "bfloat16": {"features": 4e-2, "losses": 0.1}}


def agree(asked: dict[str, Any]) -> dict[str, Any]:
    """Features, targets and the losses of 20 steps in float32, without TF32."""
    setting = setting_of(asked)
    case = case_of(setting, R50)
    small = 2 if setting.quick else 16  # images of a batch: the CPU computes them too
    config = config_of(setting, case, name="agree")
    images = [part[:small] for part in random_images(case, STEPS)]
    cpu, device = torch.device("cpu"), setting.device
    features = {where: teacher_features(config, images, where, torch.float32) for where in (cpu, device)}
    target = target_of(config, features[cpu])
    targets = {where: target(features[where]) for where in features}
    losses = {where: student_losses(config, images, targets[cpu], where, torch.float32) for where in (cpu, device)}
    gaps = [abs(a - b) / abs(b) for a, b in zip(losses[device], losses[cpu], strict=True)]
    return {
        "figures": {"images": small * STEPS, "first loss": losses[cpu][0], "last loss": losses[cpu][-1]},
        "checks": [
            check("teacher's features, float32", distance(features[device], features[cpu]), FEATURES),
            check("targets, float32", distance(targets[device], targets[cpu]), TARGETS),
            check("loss of step 1, float32", gaps[0], FIRST),
            check(f"largest of {STEPS} losses, float32", max(gaps), LAST),
        ],
    }


def precision(asked: dict[str, Any]) -> dict[str, Any]:
    """Teacher and student in half precision against float32, on the device; the teacher's default is not bfloat16."""
    setting = setting_of(asked)
    case = case_of(setting, R50)
    config, images = config_of(setting, case, name="precision"), random_images(case, STEPS)
    exact = teacher_features(config, images, setting.device, torch.float32)
    target = target_of(config, exact)
    wanted = target(exact)
    losses = student_losses(config, images, wanted, setting.device, torch.float32)
    chosen = choose_teacher_precision("auto", setting.device)
    checks = [check("teacher.precision auto is bfloat16 (1) or not (0)", float(chosen == torch.bfloat16), 0)]
    for name, limits in HALF.items():
        if name == "float16" and setting.device.type == "cpu":
            continue  # refused there
        if name == "bfloat16" and choose_precision("auto", setting.device) == torch.float16:
            continue  # the GPU has no units for it
        dtype = getattr(torch, name)
        features = teacher_features(config, images, setting.device, dtype)
        checks.append(check(f"teacher's features, {name}", distance(features, exact), limits["features"]))
        if "targets" in limits:  # the teacher's default must keep them; bfloat16 is only by request
            checks.append(check(f"targets, {name}", distance(target(features), wanted), limits["targets"]))
        half = student_losses(config, images, wanted, setting.device, dtype)
        gap = abs(sum(half) - sum(losses)) / sum(losses)  # single steps differ by more, in both directions
        checks.append(check(f"mean loss of {STEPS} steps, student in {name}", gap, limits["losses"]))
    return {"figures": {"teacher.precision auto": str(chosen)}, "checks": checks}


def teacher_features(
    config: Config, images: list[torch.Tensor], device: torch.device, dtype: torch.dtype
) -> torch.Tensor:
    """Features (B, D) of the frozen teacher in the form that a run uses, as float32 on the CPU."""
    teacher = fastest_form(open_teacher(config), config.data.size, device)
    with exactly(device), computing_in(dtype, device):
        return torch.cat([teacher(part.to(device)).float().cpu() for part in images])


def target_of(config: Config, features: torch.Tensor) -> nn.Module:
    """The paper's target from the statistics of these features."""
    moments = Moments(features.shape[1])
    moments.add(features)
    statistics = finish(moments, teacher="gpu", data="gpu")
    width = open_student(config).dim
    target, _ = make_target(config, statistics, width)
    return lambda rows: target(rows[:, None])


def student_losses(
    config: Config, images: list[torch.Tensor], targets: torch.Tensor, device: torch.device, dtype: torch.dtype
) -> list[float]:
    """Losses of one step per batch, from the same weights and on the same targets (N, 1, D)."""
    student = open_student(config).to(device, memory_format=torch.channels_last).train()
    optimizer, gradients = (
        make_optimizer(student, config.optim),
        torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
    )
    criterion = make_criterion(config.loss, targets.shape[2], lambda rows: rows)
    found = []
    with without_tf32():
        for part, wanted in zip(images, targets.split(len(images[0])), strict=True):
            with computing_in(dtype, device):
                loss = distill_loss(student, wanted.to(device), part.to(device), config.loss, criterion)
            optimizer.zero_grad(set_to_none=True)
            gradients.scale(loss).backward()
            gradients.step(optimizer)
            gradients.update()
            found.append(float(loss.detach()))
    return found
