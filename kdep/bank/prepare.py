"""Open the target bank of a run: compute what is missing, and compare entries with the live teacher."""

import hashlib
import json
import logging
import shutil
import socket
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from kdep.bank.file import FORMAT, PRECISION, Description, read_bank_file
from kdep.bank.hashes import seal
from kdep.bank.read import Bank, is_complete, missing, project, refuse_another
from kdep.bank.write import Writer
from kdep.config import Config, flatten
from kdep.data.loading.training import data_identity, make_pixels, open_views, sample_for_statistics
from kdep.data.loading.views import Views, load
from kdep.files import save, write_text
from kdep.method.target import axes_read
from kdep.models.backbones.backbone import Backbone
from kdep.models.backbones.maps import map_side
from kdep.models.checkpoints.checkpoint import LoadError
from kdep.models.student import open_student
from kdep.models.teacher import fastest_form, open_teacher, teacher_arch, teacher_identity
from kdep.run.checks import check_batch_size, check_fit
from kdep.run.device import exactly
from kdep.run.distributed.processes import Process, join
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
    process.agree({"kind of device": process.device.type, **flatten(config.model_dump(mode="json"))})
    check_batch_size(config, process)
    views = process.per_machine(lambda: open_views(config, show=process.local == 0))
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
    finished = is_finished(path, count, process)
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
        process.alone(lambda: check(bank, teacher, views, process, count=config.bank.check, views_used=count))
    check_axes(config, student, bank)
    return bank


def is_finished(path: Path, count: int, process: Process) -> bool:
    """Whether the bank has all files of `count` views and their hashes; the answer is the same in every process.

    Raises:
        ValueError: machines have different banks in their folders.
    """
    whole = is_complete(path, count)
    everyone = process.gather((socket.gethostname(), whole))
    if len({there for _, there in everyone}) > 1:
        have, lack = (sorted({host for host, there in everyone if there == wanted}) for wanted in (True, False))
        raise ValueError(
            f"bank.path {path}: complete on {', '.join(have)}, not on {', '.join(lack)}. Take a folder that all "
            "machines share, or copy the bank to each"
        )
    if whole:
        process.agree({f"the bank in {path}": hashlib.sha256((path / "bank.pt").read_bytes()).hexdigest()})
    return whole


def check_shared(path: Path, process: Process) -> None:
    """Raise a ValueError if a file of the first process is not there for another one, on another machine."""
    token = path / f".{process.told(lambda: uuid.uuid4().hex)}.part"
    process.alone(token.touch)
    there = process.gather((socket.gethostname(), token.exists()))
    process.alone(token.unlink)
    alone = sorted({host for host, seen in there if not seen})
    if alone:
        raise ValueError(
            f"bank.path {path}: {', '.join(alone)} does not see what {there[0][0]} writes there, and each process "
            "reads all files. Take a folder that all machines share, or make the bank on one machine (`kdep targets`) "
            "and copy it to each"
        )


def complete_bank(
    config: Config, wanted: Description, teacher: Backbone, views: Views, process: Process, *, finished: bool
) -> Bank:
    """Open the bank; compute its missing files first, under a lock."""
    assert config.bank is not None
    path, count = config.bank.path, config.bank.views or config.optim.epochs
    if finished:
        bank = Bank(path)
        refuse_another(bank.description, wanted.asked, path)
        return bank
    process.alone(lambda: path.mkdir(parents=True, exist_ok=True))
    lock = process.alone(lambda: take_lock(path, "wait for it, or use another bank.path"))
    if process.world > 1:
        check_shared(path, process)
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
    stored = {"axes": axes, "grid": grid, "code": config.bank.code, "precision": PRECISION}
    return Description(format=FORMAT, teacher=identity, data=describe_data(config, views), **stored)


def fill(
    config: Config, wanted: Description, teacher: Backbone, views: Views, process: Process, *, views_wanted: int
) -> Bank:
    """Compute the missing files; each of several processes takes its share."""
    assert config.bank is not None
    path, file = config.bank.path, config.bank.path / "bank.json"

    def describe_or_refuse() -> Description:
        if not file.exists():
            write_text(file, json.dumps(wanted.asked, indent=1) + "\n")
            return wanted
        found = read_bank_file(file)
        refuse_another(found, wanted.asked, path)
        return found

    wanted = process.told(describe_or_refuse)
    writer = Writer(config, wanted, teacher, views, process)
    if not process.told((path / "bank.pt").exists):
        # With a grid, raw maps of all images would fill the disk. Raw pooled features are stored only for the images
        # that determine the axes, and the teacher sees the first view of these images twice.
        raw = process.told(writer.raw_files)
        later = range(0 if wanted.grid else 1, views_wanted)
        process.alone(lambda: writer.announce([*raw, *missing(wanted, path, later)]))
        writer.run(raw, projection=None)
        statistics, peaks = writer.statistics()
        process.alone(lambda: save({"statistics": statistics.as_dict(), "peaks": peaks}, path / "bank.pt"))
    else:
        process.alone(lambda: writer.announce(missing(wanted, path, range(views_wanted))))
    bank = process.together(lambda: Bank(path))
    process.together(lambda: writer.project_raw(bank))
    writer.run(process.told(lambda: missing(wanted, path, range(views_wanted))), projection=bank)
    process.alone(lambda: shutil.rmtree(path / "raw", ignore_errors=True))
    process.alone(lambda: seal(path))
    return process.together(lambda: Bank(path))


def check(bank: Bank, teacher: Backbone, views: Views, process: Process, *, count: int, views_used: int) -> None:
    """Compute random entries again with the teacher, and compare.

    Raises:
        ValueError: an entry differs by more than rounding; names the image and the view.
    """
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
