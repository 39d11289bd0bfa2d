"""Time the loader, and pretraining live and from a bank against the reference loop."""

import contextlib
import itertools
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from kdep.data.loading.loader import Loader
from kdep.data.loading.order import Order
from kdep.data.loading.training import open_views
from kdep.data.loading.views import Threaded, load
from tools.gpu.cases import R50, VIT, case_of, config_of, setting_of
from tools.speed.photographs import DISTINCT, draw_one
from tools.speed.pretraining.references import reference_rate, reference_workers
from tools.speed.pretraining.runs import Case, bank_path, ceiling, folder_of, make_bank, run
from tools.speed.row import Setting

EPOCHS = 4  # that the loader may read: 16 processes take 48 batches, and an epoch of the tiny case has 16


def pictures(asked: dict[str, Any]) -> dict[str, Any]:
    """Draw the photographs on all cores: a single one takes a minute."""
    setting = setting_of(asked)
    case = case_of(setting, R50)
    sides = (120, 90) if setting.quick else (500, 375)
    began, count = time.perf_counter(), min(DISTINCT, case.images)
    if not setting.quick:
        with ProcessPoolExecutor() as pool:
            list(pool.map(draw_one, [setting.work] * count, range(count), [sides] * count, chunksize=8))
    folder_of(case, setting)
    return {"figures": {"files": case.images, "distinct": count, "seconds": time.perf_counter() - began}}


def loader(asked: dict[str, Any]) -> dict[str, Any]:
    """Images/s of the loader alone and of the student's step alone: which of them limits training from a bank."""
    setting = setting_of(asked)
    case = case_of(setting, R50)
    config = config_of(setting, case, name="loader")
    views = open_views(config, show=False)
    order = Order(len(views.source.names), case.batch, EPOCHS, seed=0)
    batches = load(views, order, workers="auto", pin=setting.device.type == "cuda")
    loading = loading_rate(batches, 4 if setting.quick else 40)
    step = ceiling(config, 4 if setting.quick else 30)()
    verdict = "the loader" if loading < step else "the student's step"
    return {"figures": {"loader, images/s": loading, "student's step, images/s": step, "limit": verdict}}


def loading_rate(batches: Loader | Threaded, steps: int) -> float:
    """Images/s of at least so many batches.

    Each process loads two batches ahead, the first ones while others still start: these are not timed. Then batches
    come in rounds, one of each process, and only whole rounds are timed.
    """
    workers = max(1, getattr(batches, "num_workers", 1))
    with contextlib.closing(iter(batches)) as source:
        for _ in itertools.islice(source, 2 * workers):
            pass
        began = time.perf_counter()
        seen = sum(len(batch.images) for batch in itertools.islice(source, -(-steps // workers) * workers))
        return seen / (time.perf_counter() - began)


def r50(asked: dict[str, Any]) -> dict[str, Any]:
    """ResNet-50 -> ResNet-18."""
    return against_reference(setting_of(asked), R50, "r50")


def vit(asked: dict[str, Any]) -> dict[str, Any]:
    """ViT-B/16 -> ResNet-18."""
    return against_reference(setting_of(asked), VIT, "vit")


def against_reference(setting: Setting, case: Case, name: str) -> dict[str, Any]:
    """Images/s of the reference loop, of a live teacher and from a bank, one after the other on one device."""
    case = case_of(setting, case)
    reference = reference_rate(case, setting, 0 if setting.quick else reference_workers(), steps=20)
    live = run(config_of(setting, case, name=f"live-{name}"))
    making = make_bank(case, setting)
    stored = run(config_of(setting, case, name=f"bank-{name}", bank=True))
    size = sum(file.stat().st_size for file in bank_path(case, setting).rglob("*.npy"))
    return {
        "figures": {
            "reference, images/s": reference,
            "live teacher, images/s": live.rate,
            "live teacher, wait for data": live.waited,
            "bank, images/s": stored.rate,
            "bank, wait for data": stored.waited,
            "live / reference": live.rate / reference,
            "bank / reference": stored.rate / reference,
            "making the bank, images/s": case.images / making,
            "bank, MB": size / 1e6,
        }
    }
