"""Check a study before its first run starts: configurations, shared banks, students, checkpoints, data."""

import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdep.shipped import names
from kdep_benchmarks.studies.file import Run, Study
from kdep_benchmarks.studies.plan import MISSING, Item
from kdep_benchmarks.studies.rows import identity, load_tasks, student_card, why_missing

if TYPE_CHECKING:
    from kdep.config import Config

# Keys of the data that a bank of targets does not depend on; the seed of the views is looked at by itself.
NOT_OF_A_BANK = (
    "data.workers",
    "data.max_unreadable",
    "data.seed",
    "data.mixup",
    "teacher.precision",
)


def check(study: Study, runs: Path) -> None:
    """Check the configuration of every run, the bank it shares and the student in its folder.

    Raises:
        ValueError: a run is impossible, or a student was trained with another configuration.
    """
    load_tasks(study)
    banks: dict[Path, tuple[Run, dict[str, Any]]] = {}
    arms: dict[str, list[Any]] = {}
    for planned in study.runs:
        own = arms.setdefault(planned.arm, [])
        if planned.checkpoint is not None:
            own.append(planned.checkpoint)
        else:
            config = study.config(planned)
            own.append(identity(config))
            with study.naming(f"arm {planned.arm}"):
                check_names(config)
            if config.bank is not None:
                first = banks.setdefault(config.bank.path, (planned, bank_content(config)))
                with study.naming("bank.path"):
                    refuse_shared(config.bank.path, first, (planned, bank_content(config)))
            refuse_another(config, runs / planned.name / "student.pth")
    with study.naming("arms"):
        refuse_equal_arms(study, arms)


def refuse_equal_arms(study: Study, arms: Mapping[str, Sequence[Any]]) -> None:
    """Raise a ValueError where two arms have the same configuration, which would always compare as equal.

    Args:
        study: has the arms.
        arms: arm -> for each of its runs, everything that decides the result.
    """
    for (one, runs), (other, more) in itertools.combinations(arms.items(), 2):
        if runs == more:
            raise ValueError(
                f"{one} and {other} are one configuration at every value and seed"
                + (f"; perhaps the recipe {study.pretrain} has already what one sets" if study.pretrain else "")
                + ". Change one or leave it out"
            )


def missing_data(study: Study, to_train: Sequence[Run]) -> list[str]:
    """A sentence for each missing data set of the tasks and of the runs to train."""
    from kdep.data.sources.source import absent_address
    from kdep_benchmarks.data.cards import absent

    images = {study.config(run).data.source for run in to_train}
    reasons = [*(absent(task.dataset) for task in load_tasks(study)), *map(absent_address, images)]
    return sorted({reason for reason in reasons if reason is not None})


def missing_checkpoints(study: Study, plan: Sequence[Item]) -> list[str]:
    """Say for each arm which of its checkpoints, of this part of the plan, are not there or do not open."""
    arms: dict[str, dict[str, Run]] = {}
    for run in (item.run for item in plan if item.state == MISSING):
        arms.setdefault(run.arm, {})[str(run.checkpoint)] = run
    said = []
    for arm, runs in arms.items():
        reasons = {path: why_missing(study, run) for path, run in runs.items()}
        absent = {path: run.seed for path, run in runs.items() if reasons[path] is None}
        if absent:
            path, *others = absent
            where = f" for seeds {', '.join(map(str, absent.values()))}" if others else ""
            what = f"{study.arms[arm] if others else path} is not there{where}"
            said.append(f"arm {arm}: {what}; {_remedy(study, path)}")
        if damaged := [path for path in runs if path not in absent]:
            first, *others = damaged
            more = f"; nor do those of other seeds open: {', '.join(str(runs[path].seed) for path in others)}"
            said.append(f"arm {arm}: {reasons[first]}{more if others else ''}")
    return said


def _remedy(study: Study, path: str) -> str:
    """What to do about a checkpoint that is not there: a run's folder begins with the name of its study."""
    folder = Path(path).parent.name
    makers = [name for name in (study.name, *names("studies")) if folder.startswith(f"{name}-")]
    if not makers:
        return "correct the arm or make the file; a text is a checkpoint, overrides are a mapping {key: value}"
    first = "train its arm first, with --arm" if makers[0] == study.name else f"run kdep study {makers[0]} first"
    return f"{first}, or correct the path"


def check_names(config: "Config") -> None:
    """Check names that pretraining looks up late."""
    from kdep.method.scale import make_scaler

    make_scaler(config.scale.name, config.scale.options)
    check_network(config.student.arch)


@functools.cache
def check_network(arch: str) -> None:
    """Check that there is such a network, once for all runs that train it."""
    import torch

    from kdep.models.backbones.backbone import create_network

    with torch.device("meta"):
        create_network(arch)


def bank_content(config: "Config") -> dict[str, Any]:
    """The part of a configuration on which its bank of targets depends."""
    from kdep.config import flatten
    from kdep.method.align import LEADING

    content = config.model_dump(mode="json")
    own = flatten({"teacher": content["teacher"], "data": content["data"]})
    own = {key: value for key, value in own.items() if key not in NOT_OF_A_BANK}
    student = f"as many as {config.student.arch} has channels"
    width = student if config.align.name in LEADING and config.loss.name != "logits" else "all"
    rest = {"seed of the views": config.view_seed, "align.images": config.align.images, "bank.code": config.bank.code}
    maps = f"that of {config.student.arch}" if config.loss.dense else "no"
    return own | rest | {"bank.axes": config.bank.axes or width, "the feature map (loss.dense)": maps}


def refuse_shared(path: Path, first: tuple[Run, dict[str, Any]], second: tuple[Run, dict[str, Any]]) -> None:
    """Raise a ValueError where two runs share a bank but need different ones."""
    (one, content), (other, now) = first, second
    keys = [key for key in content if content[key] != now[key]]
    if keys:
        said = "; ".join(f"{key} is {content[key]!r} and {now[key]!r}" for key in keys)
        raise ValueError(
            f"{one.name} and {other.name} cannot share the bank {path}: {said}. Give them banks of their own ({{seed}} "
            "in bank.path is replaced). Where only the seed differs, data.seed lets all seeds see the same views; "
            "where only the axes do, set bank.axes to the most that one of the runs reads"
        )


def refuse_another(config: "Config", student: Path) -> None:
    """Raise a ValueError where the student in a run's folder was trained with another configuration."""
    if not student.exists():
        return
    from kdep.config import parse_config

    try:
        _, content = student_card(student, student.stat().st_mtime_ns)
    except ValueError:  # damaged: `kdep pretrain` makes it again
        return
    there, now = identity(parse_config(content, str(student))), identity(config)
    keys = sorted(key for key in {**there, **now} if there.get(key) != now.get(key))
    if keys:
        found = ", ".join(f"{key}: {there.get(key)!r} there, {now.get(key)!r} now" for key in keys)
        raise ValueError(
            f"{student}: trained with another configuration than the study's now ({found}; None: the default). Take "
            f"another name for the study, or remove {student.parent} to train it anew"
        )
