"""Open the bank of a run: found, or made by `kdep.bank.write`, complete, and compared with the live teacher."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np

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
from kdep.bank.write import Writer
from kdep.config import Config
from kdep.data.training import data_identity, make_pixels, open_views
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
    """Make, or complete, the bank that a configuration asks for, and return its folder.

    Raises:
        ValueError: the configuration has no bank, the disk has no room, or the bank there is another's.
    """
    if config.bank is None:
        raise ValueError("the configuration has no bank: add bank.path=FOLDER")
    process = join(config.device)
    with process.first_alone():
        views = open_views(config, show=process.is_first)
    return open_bank(config, open_student(config), views, process).path


def open_bank(config: Config, student: Backbone, views: Views, process: Process) -> Bank:
    """Open the bank of a run: found or made, complete, and compared with the live teacher if that is at hand.

    A finished bank serves without its teacher. It is only read, without a lock: runs share it, and it may lie in a
    folder that cannot be written.

    Raises:
        ValueError: it is the bank of another teacher or of other views, another process is making it, or an entry is
            not what the teacher gives now.
    """
    assert config.bank is not None
    path, count = config.bank.path, config.bank.views or config.optim.epochs
    # As the first process sees it: all must go the same way.
    whole = (path / "bank.pt").exists() and not missing(Bank(path).description, path, range(count))
    finished = process.gather(whole)[0]
    try:
        teacher = open_teacher(config)
    except LoadError:
        raise
    except ValueError as error:
        if not finished:
            raise
        logger.warning("the bank %s is used without its teacher, which cannot be opened: %s", path, error)
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
    """Open the bank, after computing what is missing in it; one process at a time may do that."""
    assert config.bank is not None
    path, count = config.bank.path, config.bank.views or config.optim.epochs
    if finished:
        bank = Bank(path)
        refuse_another(bank.description, vars(wanted), path)
        return bank
    path.mkdir(parents=True, exist_ok=True)
    lock = take_lock(path, "wait for it, or take another bank.path") if process.is_first else None
    bank = fill(config, wanted, teacher, views, process, views_wanted=count)
    if lock is not None:
        lock.close()
    return bank


def check_axes(config: Config, student: Backbone, bank: Bank) -> None:
    """Check that a bank holds the axes and the map that a run reads.

    Raises:
        ValueError: it does not.
    """
    about, grid = bank.description, map_side(config, student)
    dim = axes_read(config, student.dim) or len(bank.statistics.mean)
    if about.axes < dim or (grid and about.grid != grid):
        raise ValueError(
            f"{bank.path}: keeps {about.axes} axes and a map of side {about.grid}; this run reads {dim} axes and a map "
            f"of side {grid}. Take another bank.path, or remove {bank.path}"
        )


def asked_teacher(config: Config) -> dict[str, Any]:
    """What a configuration says of the teacher; a bank's features are float32 whatever teacher.precision says."""
    asked = config.teacher.model_dump(mode="json", exclude={"precision"})
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
