"""Compare training from the bank with its limit: the student's step alone, without loading and without teacher."""

from collections.abc import Callable
from dataclasses import replace

from tools.speed.clock import interleave, medians
from tools.speed.pretraining.runs import (
    Case,
    Run,
    ceiling,
    configure,
    growth,
    make_bank,
    on_device,
    run,
)
from tools.speed.row import Row, Setting

LITE0, R50 = "random:efficientnet_lite0", "random:resnet50"
CASES = {
    64: Case(LITE0, "resnet18", 64, batch=64, images=576, live=576, epochs=3),
    128: Case(LITE0, "resnet18", 128, batch=32, images=576, live=576),
    224: Case(R50, "resnet18", 224, batch=16, images=544, live=192),
}
SHARE = 0.95
NOTE = (
    "real JPEG files of about 500 x 375; the ceiling leaves nothing to a loader, which needs a share of the same cores"
)


def bank_64(setting: Setting) -> list[Row]:
    """64 px."""
    return precisions(setting, 64)


def bank_128(setting: Setting) -> list[Row]:
    """128 px."""
    return precisions(setting, 128)


def bank_224(setting: Setting) -> list[Row]:
    """224 px."""
    return precisions(setting, 224)


def precisions(setting: Setting, size: int) -> list[Row]:
    """Measure in float32 and in the default precision; a faster step leaves less time to overlap with loading."""
    cases = [CASES[size]] if setting.device.type == "cuda" else [CASES[size], replace(CASES[size], precision="auto")]
    return [against_ceiling(setting, on_device(case, setting)) for case in cases]


def against_ceiling(setting: Setting, case: Case) -> Row:
    """Alternate the student's step alone with pretraining runs from a finished bank."""
    make_bank(case, setting)
    auto = case.precision == "auto"
    name = f"bank-{case.size}" + ("-auto" if auto else "")
    runs: list[Run] = []

    def trained(workers: int | str = "auto") -> float:
        runs.append(run(configure(case, setting, name=name, bank=True, workers=workers)))
        return runs[-1].rate

    steps = 3 if setting.quick else max(6, case.images // case.batch // 3)
    alone = ceiling(configure(case, setting, name=name, bank=True), steps)
    figures = interleave({"ceiling": alone, "bank": trained}, setting.repeats)
    middle = medians(figures)
    timed = runs[-setting.repeats :]
    return Row(
        name,
        f"training from the bank, {case.student}" + (", precision auto" if auto else ""),
        "the student's step on synthetic tensors in memory (the ceiling)",
        ours=middle["bank"],
        theirs=middle["ceiling"],
        ratio=middle["bank"] / middle["ceiling"],
        target=SHARE,
        batch=case.batch,
        resolution=case.size,
        images=case.images * case.epochs,
        growth={"images": growth(timed[-1]), "workers": {"unit": "images/s", **by_workers(trained, middle["bank"])}},
        note=NOTE,
        detail={
            "figures": figures,
            "data_wait": [round(found.waited, 4) for found in timed],
            "start_up_seconds": round(timed[-1].whole - timed[-1].cumulated[-1], 2),
        },
    )


def by_workers(trained: Callable[[int], float], known: float) -> dict[str, float]:
    """Rates with 1 and 2 loading processes, and with `data.workers: auto`; see `kdep.data.loading.views.load`."""
    return {"auto": known, **{str(count): trained(count) for count in (1, 2)}}
