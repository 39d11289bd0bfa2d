"""Networks and images of the steps, and how a check is recorded."""

from pathlib import Path
from typing import Any

import torch

from kdep.config import Config
from tools.speed.pretraining.runs import Case, configure
from tools.speed.row import Setting

R50 = Case("random:resnet50", "resnet18", 224, batch=128, images=8192, live=8192, precision="auto")
VIT = Case("random:vit_base_patch16_224", "resnet18", 224, batch=128, images=4096, live=4096, precision="auto")
TINY = Case("random:test_efficientnet", "test_resnet", 32, batch=8, images=128, live=128)


def setting_of(asked: dict[str, Any]) -> Setting:
    """The setting of the speed measurements for a step's request."""
    from kdep.run.device import find_device

    work = Path(asked["work"])
    return Setting(work, torch.device(find_device(asked["device"])), repeats=1, quick=asked["tiny"])


def case_of(setting: Setting, case: Case = R50) -> Case:
    """The case, or the tiny one."""
    return TINY if setting.quick else case


def config_of(setting: Setting, case: Case, *, name: str, **options: Any) -> Config:
    """A run's configuration without a bank, unless asked for."""
    return configure(case, setting, name=name, **{"bank": False, **options})


def random_images(case: Case, batches: int) -> list[torch.Tensor]:
    """Batches of smooth random images (B, 3, S, S) in [0, 1]; uniform noise would have no statistics to speak of."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(batches, case.batch, 3, 8, 8, generator=draw)
    return [
        torch.nn.functional.interpolate(part, (case.size, case.size), mode="bicubic").clamp(0, 1) for part in coarse
    ]


def check(what: str, value: float, limit: float) -> dict[str, Any]:
    """Record a value that must not exceed a limit; NaN exceeds every limit."""
    return {"what": what, "value": float(value), "limit": float(limit), "holds": bool(value <= limit)}


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Norm of the difference relative to the norm of what is wanted."""
    found, wanted = found.double().cpu(), wanted.double().cpu()
    return float((found - wanted).norm() / wanted.norm())
