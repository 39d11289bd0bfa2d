"""The bank of targets of a run: found, or made by `kdep.bank.write`, complete, and held against the live teacher."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdep.bank.read import (
    FORMAT,
    PRECISION,
    Bank,
    Description,
    described,
    missing,
    project,
    refuse_another,
)
from kdep.bank.write import Writer, exactly
from kdep.config import Config
from kdep.data.views import Views, load
from kdep.files import save, write_atomically
from kdep.method.align import LEADING
from kdep.models.backbone import Backbone
from kdep.models.checkpoint import LoadError
from kdep.parts import (
    data_identity,
    make_pixels,
    open_student,
    open_teacher,
    open_views,
    refuse_impossible,
    refuse_without_map,
    teacher_arch,
    teacher_identity,
)
from kdep.run.device import Process, join
from kdep.run.folder import take_lock

logger = logging.getLogger("kdep")


def build(config: Config) -> Path:
    """Make, or complete, the bank that a configuration asks for, and return its folder.

    Raises:
        ValueError: the configuration has no bank, the disk has no room, or the bank there is another's.
    """
    if config.bank is None:
        raise ValueError("the configuration has no bank: add bank.path=FOLDER")
    process = join(config.device)
    views, student = open_views(config, process), open_student(config)
    return ready(config, student, views, process).path


def width_of(config: Config, student: Backbone) -> int | None:
    """Leading axes that a run reads: the student's width, or all (None) for heads and aligners that mix them all."""
    return student.dim if config.align.name in LEADING and config.loss.name != "logits" else None


def grid_of(config: Config, student: Backbone) -> int:
    """Side of the student's feature map where the dense term asks for it, else 0.

    Raises:
        ValueError: the student has no map.
    """
    if config.loss.dense == 0:
        return 0
    refuse_without_map("student", config.student.arch, student)
    with torch.no_grad():
        side = config.data.size
        return student.eval().feature_map(torch.zeros(1, 3, side, side, device=student.mean.device)).shape[-1]


def ready(config: Config, student: Backbone, views: Views, process: Process) -> Bank:
    """The bank of a run: found or made, complete, and compared with the live teacher where there is one.

    A finished bank serves without its teacher. It is only read, without a lock: runs share it, and it may lie in a
    folder that cannot be written.

    Raises:
        ValueError: it is the bank of another teacher or of other views, another process is making it, or an entry is
            not what the teacher says.
    """
    assert config.bank is not None
    dim, grid = width_of(config, student), grid_of(config, student)
    path, count = config.bank.path, config.bank.views or config.optim.epochs
    # As the first process sees it: all must go the same way.
    whole = (path / "bank.pt").exists() and not missing(Bank(path).description, path, range(count))
    finished = process.gather(whole)[0]
    try:
        teacher = open_teacher(config).to(process.device, memory_format=torch.channels_last)
    except LoadError:
        raise
    except ValueError as error:
        if not finished:
            raise
        logger.warning("the bank %s is used without its teacher, which is not at hand: %s", path, error)
        teacher = None
    if teacher is None:
        bank, data = Bank(path), describe_data(config, views)
        known = {"teacher": asked_teacher(config), "data": data, "code": config.bank.code, "precision": PRECISION}
        refuse_another(bank.description, known, path)
    else:
        refuse_impossible(config, student, teacher, len(views.source.names))
        wanted = describe(config, teacher, views, dim=dim, grid=grid)
        if finished:
            bank = Bank(path)
            refuse_another(bank.description, vars(wanted), path)
        else:
            path.mkdir(parents=True, exist_ok=True)
            lock = take_lock(path, "wait for it, or take another bank.path") if process.is_first else None
            bank = fill(config, wanted, teacher, views, process, views_wanted=count)
            if lock is not None:
                lock.close()
        check(bank, teacher, views, process, count=config.bank.check, views_used=count)
    dim = dim or len(bank.statistics.mean)
    if bank.description.axes < dim or (grid and bank.description.grid != grid):
        raise ValueError(
            f"{path}: keeps {bank.description.axes} axes and a map of side {bank.description.grid}; this run reads "
            f"{dim} axes and a map of side {grid}. Take another bank.path, or remove {path}"
        )
    return bank


def asked_teacher(config: Config) -> dict[str, Any]:
    """What a configuration says of the teacher: all that is known of one that is not at hand."""
    asked = config.teacher.model_dump(mode="json")
    return {"source": asked.pop("source"), "asked": asked}


def describe_data(config: Config, views: Views) -> dict[str, Any]:
    """The images, their views, and which of them gave the statistics."""
    return {
        "images": len(views.source.names),
        "identity": data_identity(views),
        "images_for_axes": config.align.images,
    }


def describe(config: Config, teacher: Backbone, views: Views, *, dim: int | None, grid: int) -> Description:
    """The bank that a configuration asks for."""
    assert config.bank is not None
    dim = dim or teacher.dim
    axes = config.bank.axes or dim
    if not dim <= axes <= teacher.dim:
        raise ValueError(
            f"bank.axes {axes}: expected at least {dim}, which this run reads, and at most the teacher's {teacher.dim}"
        )
    if grid and config.bank.code != "float16":
        raise ValueError(f"bank.code {config.bank.code}: feature maps (loss.dense) are kept in float16 only")
    own = {"arch": teacher_arch(teacher), "tap": teacher.tap, "sha256": teacher_identity(teacher)}
    identity = {**asked_teacher(config), **own}
    return Description(FORMAT, identity, describe_data(config, views), axes, grid, config.bank.code)


def fill(
    config: Config, wanted: Description, teacher: Backbone, views: Views, process: Process, *, views_wanted: int
) -> Bank:
    """Compute what is missing; with several processes each takes its share of the files."""
    assert config.bank is not None
    path, file = config.bank.path, config.bank.path / "bank.json"
    if file.exists():
        found = described(file)
        refuse_another(found, vars(wanted), path)
        wanted = found
    elif process.is_first:
        write_atomically(file, lambda part: part.write_text(json.dumps(vars(wanted), indent=1) + "\n"))
    writer = Writer(config, wanted, teacher, views, process)
    if not (path / "bank.pt").exists():
        # Under a grid the maps of all images as they come would fill any disk: the first views of those that the axes
        # need are seen twice, and no others are kept raw.
        raw = writer.raw_files()
        writer.announce([*raw, *missing(wanted, path, range(0 if wanted.grid else 1, views_wanted))])
        writer.run(raw, projection=None)
        statistics, peaks = writer.statistics()
        process.wait()
        if process.is_first:
            save({"statistics": statistics.as_dict(), "peaks": peaks}, path / "bank.pt")
        process.wait()
    else:
        writer.announce(missing(wanted, path, range(views_wanted)))
    bank = Bank(path)
    process.wait()
    writer.project_raw(bank)
    process.wait()
    writer.run(missing(wanted, path, range(views_wanted)), projection=bank)
    process.wait()
    if process.is_first:
        shutil.rmtree(path / "raw", ignore_errors=True)
    return bank


def check(bank: Bank, teacher: Backbone, views: Views, process: Process, *, count: int, views_used: int) -> None:
    """Compute random entries again with the live teacher, and stop where they differ by more than rounding.

    Raises:
        ValueError: names the image and the view.
    """
    if count == 0 or not process.is_first:
        return
    draw = np.random.Generator(np.random.Philox())
    at = [(int(draw.integers(bank.description.images)), int(draw.integers(views_used))) for _ in range(count)]
    pixels, limit = make_pixels(views.augmentation, process.device), 0.05 if bank.description.code == "float16" else 0.2
    for (index, number), batch in zip(at, load(views, [[entry] for entry in at], workers=0), strict=True):
        stored = bank.read(index, number)
        if stored is None or batch.images is None:
            continue
        with exactly(process.device):
            live = project(teacher(pixels(batch)), bank)[0].cpu()
        error = float((bank.decode(stored[0]) - live).norm() / live.norm())
        if not error <= limit:
            raise ValueError(
                f"{bank.path}: view {number} of {views.source.names[index]} is stored {100 * error:.1f} % off what "
                "the teacher says now (images changed, or the file is damaged); remove the bank to make it anew"
            )
