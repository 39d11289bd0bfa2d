"""The files that a run, a bank of targets and stored features consist of, and what reads them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from kdep.bank.prepare import build
from kdep.bank.read import Bank
from kdep.config import Config, load_config
from kdep.data.loading.order import once
from kdep.data.loading.training import open_views
from kdep.data.loading.views import Augmentation, Views, load
from kdep.data.sources.manifest import FILE, make_manifest
from kdep.data.sources.source import open_source
from kdep.data.sources.write_shards import write_shards
from kdep.export.write import write_export
from kdep.method.target import make_target
from kdep.models.backbones.backbone import build_backbone
from kdep.models.student import open_student
from kdep.models.weights import open_checkpoint
from kdep.pretrain import prepare, pretrain
from kdep.run.curves import draw_loss
from kdep.run.folder import RunFolder
from kdep.run.resume import resume
from kdep_benchmarks.jobs.plan import checkpoint_card
from kdep_benchmarks.studies.rows import cost, student_card
from kdep_benchmarks.tasks.store import stored
from tools.checks.faults import changes
from tools.checks.faults.door import Door


def trained_doors(recipe: Path, root: Path) -> list[Door]:
    """What a run, a checkpoint, a bank and stored features consist of."""
    for number in range(128):
        path = root / "photos" / f"class{number % 2}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.Generator(np.random.Philox(number)).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    config = load_config(recipe)
    student = pretrain(config)
    return [
        *run_doors(config),
        *checkpoint_doors(student, root),
        *bank_doors(load_config(recipe, [f"bank.path={root / 'bank'}", "bank.check=0"])),
        *feature_doors(root / "features" / "abc"),
        *listed_doors(root),
    ]


def run_doors(config: Config) -> list[Door]:
    """Files of a run folder, read as a resumed run reads them."""
    folder = config.runs / config.name
    sources = torch.load(folder / "run.pt", weights_only=True)["sources"]
    student = open_student(config)

    def again() -> None:
        run = RunFolder(config)
        run.refuse_other_sources(sources)
        statistics = run.load_statistics(sources)
        if statistics is not None:
            make_target(config, statistics, student.dim, axes=None, classifier=None, classes=0)
        resume(run, training())
        draw_loss(run)
        cost(folder)

    def training():  # noqa: ANN202 - of kdep.pretrain
        from kdep.method.loss import make_criterion
        from kdep.method.rivals import Learner, make_head
        from kdep.run.distributed.processes import gathered, join

        learner = Learner(student, make_head(config, student.dim, student.dim))
        return prepare(config, learner, make_criterion(config.loss, student.dim, gathered), join("cpu"), sources)

    def logged() -> None:
        again()
        RunFolder(config).last_loss()

    return [
        Door("config.yaml", folder / "config.yaml", changes.edit_yaml, lambda: RunFolder(config)),
        Door("log.jsonl", folder / "log.jsonl", changes.edit_lines, logged),
        Door("statistics.pt", folder / "statistics.pt", changes.edit_torch, again),
        Door("run.pt", folder / "run.pt", changes.edit_torch, again),
    ]


def checkpoint_doors(student: Path, root: Path) -> list[Door]:
    """student.pth, and a folder in timm's format."""
    folder = root / "exported"
    write_export(open_checkpoint(str(student)), "timm", folder)

    def opened(spec: Path) -> Callable[[], object]:
        def use() -> None:
            checkpoint = open_checkpoint(str(spec))
            checkpoint_card(checkpoint)
            build_backbone(checkpoint)
            if spec.is_file():
                student_card(spec, np.random.randint(2**31))

        return use

    return [
        Door("student.pth", student, changes.edit_torch, opened(student)),
        Door("config.json", folder / "config.json", changes.edit_json, opened(folder)),
        Door("model.safetensors", folder / "model.safetensors", changes.edit_bytes, opened(folder)),
    ]


def bank_doors(config: Config) -> list[Door]:
    """Files of a bank of targets."""
    path = build(config)
    student, views = open_student(config), open_views(config, show=False)

    def use() -> None:
        from kdep.bank.prepare import open_bank
        from kdep.run.distributed.processes import join

        bank = open_bank(config, student, views, join("cpu"))
        bank.rows(range(16), 0)

    def read() -> None:
        bank = Bank(path)
        bank.rows(range(16), 1)

    return [
        Door("bank.json", path / "bank.json", changes.edit_json, use),
        Door("bank.pt", path / "bank.pt", changes.edit_torch, read),
        Door("bank shard", path / "view001" / "00000.npy", changes.edit_npy, read),
    ]


def feature_doors(folder: Path) -> list[Door]:
    """Features of a frozen network."""

    def make(place: Path) -> float:
        np.save(place / "post.npy", np.ones((16, 8), np.float32))
        return 1.0

    stored(folder, make)
    return [Door("features", folder / "post.npy", changes.edit_npy, lambda: stored(folder, make))]


def listed_doors(root: Path) -> list[Door]:
    """A manifest of a folder, one of tar shards, and a shard."""
    folder, shards = root / "photos", root / "shards"
    make_manifest(folder, folder / FILE, show=False)
    write_shards(folder, shards, per_shard=64, seed=0, show=False)

    def read(address: str) -> None:
        views = Views(open_source(address), Augmentation(16), 0)
        for batch in load(views, once(len(views.source.names), 8, count=16), workers=0):
            assert batch.images is None or batch.images.numel()

    return [
        Door("manifest", folder / FILE, changes.edit_parquet, lambda: read(str(folder))),
        Door("manifest of shards", shards / FILE, changes.edit_parquet, lambda: read(f"wds:{shards}")),
        Door("shard", next(shards.glob("*.tar")), changes.edit_bytes, lambda: read(f"wds:{shards}")),
    ]
