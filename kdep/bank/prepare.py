"""Open the target bank of a run: compute what is missing, and compare entries with the live teacher."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from kdep.bank.hashes import seal
from kdep.bank.read import (
    FORMAT,
    PRECISION,
    Bank,
    Description,
    described,
    is_complete,
    missing,
    project,
    refuse_another,
)
from kdep.bank.write import Writer
from kdep.config import Config
from kdep.data.training import data_identity, make_pixels, open_views, sample_for_statistics
from kdep.data.views import Views, load
from kdep.files import save, write_atomically
from kdep.method.target import axes_read
from kdep.models.backbone import Backbone
from kdep.models.checkpoint import LoadError
from kdep.models.maps import map_side
from kdep.models.student import open_student
from kdep.models.teacher import fastest_form, open_teacher, teacher_arch, teacher_identity
from kdep.run.checks import check_fit
from kdep.run.device import Process, exactly, join
from kdep.run.folder import take_lock

logger = logging.getLogger("kdep")


def build(config: Config) -> Path:
    """Make or complete the bank of a configuration, and return its folder.

    Raises:
        ValueError: the configuration has no bank, the disk is too small, or the folder has a bank of another teacher or
            of other views.
    """
    if config.bank is None:
        raise ValueError("the configuration has no bank; add bank.path=FOLDER")
    process = join(config.device)
    with process.first_alone():
        views = open_views(config, show=process.is_first)
    config = sample_for_statistics(config, views.source)
    return open_bank(config, open_student(config), views, process).path


def open_bank(config: Config, student: Backbone, views: Views, process: Process) -> Bank:
    """Open the bank of a run, make or complete it if needed, and compare it with the teacher if that can be opened.

    A finished bank does not need its teacher. It is read without a lock: runs share it, and the folder may be
    read-only.

    Raises:
        ValueError: the bank is of another teacher or of other views, another process is making it, or an entry differs
            from the teacher's present features.
    """
    assert config.bank is not None
    path, count = config.bank.path, config.bank.views or config.optim.epochs
    # The first process decides, so that all take the same branch.
    finished = process.gather(is_complete(path, count))[0]
    try:
        teacher = open_teacher(config)
    except LoadError:
        raise
    except ValueError as error:
        if not finished:
            raise
        logger.warning("bank %s is used without its teacher, which cannot be opened: %s", path, error)
        bank = Bank(path)
        known = {"teacher": asked_teacher(config), "data": describe_data(config, views)}
        refuse_another(bank.description, {**known, "code": config.bank.code, "precision": PRECISION}, path)
    else:
        check_fit(config, student, teacher, len(views.source.names))
        wanted = describe(config, teacher, views, dim=axes_read(config, student.dim), grid=map_side(config, student))
        teacher = fastest_form(teacher, config.data.size, process.device)
        bank = complete_bank(config, wanted, teacher, views, process, finished=finished)
        check(bank, teacher, views, process, count=config.bank.check, views_used=count)
    check_axes(config, student, bank)
    return bank


def complete_bank(
    config: Config, wanted: Description, teacher: Backbone, views: Views, process: Process, *, finished: bool
) -> Bank:
    """Open the bank; compute its missing files first, under a lock."""
    assert config.bank is not None
    path, count = config.bank.path, config.bank.views or config.optim.epochs
    if finished:
        bank = Bank(path)
        refuse_another(bank.description, vars(wanted), path)
        return bank
    path.mkdir(parents=True, exist_ok=True)
    lock = take_lock(path, "wait for it, or use another bank.path") if process.is_first else None
    bank = fill(config, wanted, teacher, views, process, views_wanted=count)
    if lock is not None:
        lock.release()
    return bank


def check_axes(config: Config, student: Backbone, bank: Bank) -> None:
    """Raise a ValueError if a bank lacks axes or the map that a run reads."""
    about, grid = bank.description, map_side(config, student)
    dim = axes_read(config, student.dim) or len(bank.statistics.mean)
    if about.axes < dim or (grid and about.grid != grid):
        raise ValueError(
            f"{bank.path}: has {about.axes} axes and a map of side {about.grid}; this run reads {dim} axes and a map "
            f"of side {grid}. Use another bank.path, or remove {bank.path}"
        )


def asked_teacher(config: Config) -> dict[str, Any]:
    """Return the configuration of the teacher, without its precision: a bank's features are always float32."""
    asked = config.teacher.model_dump(mode="json", exclude={"precision"})
    return {"source": asked.pop("source"), "asked": asked}


def describe_data(config: Config, views: Views) -> dict[str, Any]:
    """Describe the images, their views, and the number of images for the statistics."""
    return {
        "images": len(views.source.names),
        "identity": data_identity(views),
        "images_for_axes": config.align.images,
    }


def describe(config: Config, teacher: Backbone, views: Views, *, dim: int | None, grid: int) -> Description:
    """Describe the bank that a configuration asks for."""
    assert config.bank is not None
    dim = dim or teacher.dim
    axes = config.bank.axes or dim
    if not dim <= axes <= teacher.dim:
        raise ValueError(
            f"bank.axes {axes}: expected at least the {dim} that this run reads and at most the teacher's {teacher.dim}"
        )
    if grid and config.bank.code != "float16":
        raise ValueError(f"bank.code {config.bank.code}: feature maps (loss.dense) need bank.code=float16")
    own = {"arch": teacher_arch(teacher), "tap": teacher.tap, "sha256": teacher_identity(teacher)}
    identity = {**asked_teacher(config), **own}
    return Description(FORMAT, identity, describe_data(config, views), axes, grid, config.bank.code)


def fill(
    config: Config, wanted: Description, teacher: Backbone, views: Views, process: Process, *, views_wanted: int
) -> Bank:
    """Compute the missing files; each of several processes takes its share."""
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
        # With a grid, raw maps of all images would fill the disk. Raw pooled features are stored only for the images
        # that determine the axes, and the teacher sees the first view of these images twice.
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
        seal(path)
    process.wait()
    return Bank(path)


def check(bank: Bank, teacher: Backbone, views: Views, process: Process, *, count: int, views_used: int) -> None:
    """Compute random entries again with the teacher, and compare.

    Raises:
        ValueError: an entry differs by more than rounding; names the image and the view.
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
                f"{bank.path}: view {number} of {views.source.names[index]} is stored {100 * error:.1f} % off the "
                "teacher's present features (the images changed, or the file is damaged); remove the bank to rebuild it"
            )
