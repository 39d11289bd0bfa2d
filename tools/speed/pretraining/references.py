"""Compare kdep, with a live teacher and from the bank, with a loop in the style of the published code."""

import itertools
import os
from dataclasses import replace

import torch

from kdep.models.student import open_student
from kdep.models.teacher import open_teacher
from tools.speed.clock import interleave, medians
from tools.speed.pretraining import reference_loop
from tools.speed.pretraining.ceilings import CASES, by_workers
from tools.speed.pretraining.runs import EDGE, Case, Run, configure, folder_of, growth, make_bank, on_device, run
from tools.speed.row import Row, Setting

VIT = Case("random:vit_base_patch16_224", "resnet18", 224, batch=16, images=544, live=64)
AGAINST = "reference-style loop: float32 eager, channels first, ImageFolder, transforms on PIL, SGD not fused"


def reference_224(setting: Setting) -> list[Row]:
    """R50 to R18, online and from the bank."""
    return compare(setting, CASES[224], "r50-224", {"online": 1.4, "bank": 2.2}, steps=8)


def reference_64(setting: Setting) -> list[Row]:
    """EfficientNet-Lite0 to R18 at 64 px, online and from the bank."""
    return compare(setting, CASES[64], "lite0-64", {"online": 1.4, "bank": 2.2}, steps=10)


def reference_vit(setting: Setting) -> list[Row]:
    """ViT-B/16 to R18 from the bank."""
    return compare(setting, VIT, "vit-224", {"bank": 5.0}, steps=4)


def compare(setting: Setting, case: Case, name: str, targets: dict[str, float], *, steps: int) -> list[Row]:
    """Alternate the modes of kdep with the reference's loop on the same photographs."""
    case = on_device(case, setting)
    making = make_bank(case, setting)
    if setting.device.type != "cuda":  # where auto is what is measured anyway
        targets = {**targets, **{f"{mode}-auto": target for mode, target in targets.items()}}
    runs: dict[str, list[Run]] = {mode: [] for mode in targets}

    def kdep(mode: str, workers: int | str = "auto") -> float:
        taken = replace(case, precision="auto") if mode.endswith("-auto") else case
        bank = mode.startswith("bank")
        runs[mode].append(run(configure(taken, setting, name=f"{mode}-{name}", bank=bank, workers=workers)))
        return runs[mode][-1].rate

    contenders = {mode: lambda mode=mode: kdep(mode) for mode in targets}
    contenders["reference"] = lambda: reference_rate(case, setting, reference_workers(), steps)
    figures = interleave(contenders, setting.repeats)
    middle = medians(figures)
    last = {mode: found[-1] for mode, found in runs.items()}
    usual = reference_workers()
    others = {count: reference_rate(case, setting, count, steps) for count in {1, 2} - {usual}}
    workers = {str(count): rate for count, rate in sorted({usual: middle["reference"], **others}.items())}
    best = max(workers.values())  # the reference with its fastest number of loading processes
    more = {mode: by_workers(lambda count, mode=mode: kdep(mode, count), middle[mode]) for mode in targets}
    detail = {"figures": figures, "reference_by_workers": workers, "bank_seconds": making, "bank_images": case.images}
    return [
        Row(
            f"{mode.removesuffix('-auto')}-{name}" + ("-auto" if mode.endswith("-auto") else ""),
            f"{'live teacher' if mode.startswith('online') else 'from the bank'}, {case.teacher} -> {case.student}"
            + (", precision auto" if mode.endswith("-auto") else ""),
            AGAINST,
            ours=middle[mode],
            theirs=best,
            ratio=middle[mode] / best,
            target=target,
            batch=case.batch,
            resolution=case.size,
            images=case.images * case.epochs if mode.startswith("bank") else case.live * case.epochs,
            growth={
                "images": growth(last[mode]),
                "workers": {"unit": "images/s", **more[mode]},
            },
            note=explain(case, mode, making, middle, best),
            detail=detail | {"data_wait": [round(found.waited, 4) for found in runs[mode][: setting.repeats]]},
        )
        for mode, target in targets.items()
    ]


def reference_workers() -> int:
    """Loading processes for the reference's loop: all cores but one."""
    return min(16, max(1, (os.cpu_count() or 2) - 1))


def explain(case: Case, mode: str, making: float, middle: dict[str, float], best: float) -> str:
    """Say what the bank costs and after how many epochs it saves time, in the precision of the row's runs."""
    if mode.startswith("online"):
        return "steady rate; statistics and the choice (and compilation) of the fastest form come before it, once"
    auto, live = mode.endswith("-auto"), mode.replace("bank", "online")
    # Both rows train from one bank.
    text = f"one view of the bank: {1000 * making / case.images:.0f} ms per image, once, statistics included"
    text += ", made in float32; " if auto else "; "
    rival = middle.get(live, best)
    against = "the live teacher" if live in middle else "the reference"
    saved = case.images * (1 / rival - 1 / middle[mode])
    if saved <= 0:
        return text + f"no gain per epoch over {against}"
    return text + f"paid back against {against} after {making / saved:.1f} epochs"


def reference_rate(case: Case, setting: Setting, workers: int, steps: int) -> float:
    """Images/s of the reference's loop, without its first steps."""
    config = configure(case, setting, name="reference", bank=False)
    teacher, student = open_teacher(config), open_student(config)
    # The values of their basis do not change its cost.
    axes = torch.linalg.qr(torch.randn(teacher.dim, student.dim))[0]
    aligned = reference_loop.AlignedTeacher(teacher, torch.zeros(teacher.dim), axes)
    loader = reference_loop.make_loader(folder_of(case, setting), size=case.size, batch=case.batch, workers=workers)
    timed = reference_loop.steps(student, aligned, loader, device=setting.device)
    times = [seconds for _, seconds in itertools.islice(timed, EDGE, EDGE + (2 if setting.quick else steps))]
    timed.close()
    return case.batch * len(times) / sum(times)
