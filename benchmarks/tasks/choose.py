"""Choose what to measure: tasks of a suite, tasks by name, or tasks on a folder of images."""

import re
from collections.abc import Sequence
from pathlib import Path

from kdep import shipped
from kdep.names import plain_name
from kdep_benchmarks.data.cards import Dataset, class_folders, folders_in
from kdep_benchmarks.data.readers.classification import images_of
from kdep_benchmarks.tasks.settings import check_settings
from kdep_benchmarks.tasks.task import Task, load_suite, load_task

# Names of splits that are no class in any case; those that are read are written in small letters.
VAL_NAMES = ("val", "valid", "validation")
SPLITS = {"train", "training", "test", "testing", *VAL_NAMES}
FOLDER_KINDS = ("knn", "linear", "finetune")  # kinds that need no settings
USUAL_KINDS = ("knn", "linear")


def choose_tasks(
    suite: str | None, names: Sequence[str], data_root: Path, *, protocol: str | None = None, budget: str = "full"
) -> list[Task]:
    """Load the tasks of a suite, or those of them that are named; without a suite, shipped tasks by name.

    Raises:
        ValueError: nothing was named, a task is not in the suite, or a file has a mistake.
    """
    if suite is not None:
        return of_suite(suite, load_suite(suite, data_root, protocol=protocol), names, budget=budget)
    if not names:
        raise ValueError("say what to measure: --suite NAME, --tasks A,B or --data FOLDER")
    for name in names:
        if name not in shipped.names("transfer") and (
            suites := [s for s in shipped.names("suites") if name in task_names(s)]
        ):
            raise ValueError(f"--tasks {name}: a task of the suite {suites[0]}; add --suite {suites[0]}")
    return [checked(load_task(name, data_root, protocol=protocol), "--tasks").at(budget) for name in names]


def task_names(suite: str) -> list[str]:
    """Names of all tasks of a suite."""
    return [task.name for task in load_suite(suite, Path())]


def of_suite(suite: str, tasks: Sequence[Task], names: Sequence[str], *, budget: str = "full") -> list[Task]:
    """Those tasks of a suite that are named; all where none is.

    Raises:
        ValueError: a name is not in the suite, or a task has a mistake.
    """
    if unknown := [name for name in names if name not in [task.name for task in tasks]]:
        raise ValueError(f"--tasks {unknown[0]}: suite {suite} has {', '.join(task.name for task in tasks)}")
    return [checked(task, f"suite {suite}").at(budget) for task in tasks if not names or task.name in names]


def checked(task: Task, source: str) -> Task:
    """Return the task after reading its settings as its cell will read them.

    Raises:
        ValueError: names the task's source, the task, the key, and what would be right.
    """
    try:
        check_settings(task)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    return task


def folder_tasks(
    folder: Path, kinds: Sequence[str], *, budget: str = "full", size: int | None = None
) -> tuple[list[Task], frozenset[str], str]:
    """Tasks on a folder of images, the names of all such tasks, and a sentence that says how the folder is split.

    The folder holds train and test (or val) with class folders in each, or the class folders themselves.

    Args:
        folder: the images.
        kinds: of tasks; none for knn and linear.
        budget: share of the schedule of finetune.
        size: side of the images in pixels, which the tasks are then named after; None for the kinds' own.

    Raises:
        ValueError: another kind, too small a size, or a folder that holds neither.
    """
    kinds = kinds or USUAL_KINDS
    if unknown := [kind for kind in kinds if kind not in FOLDER_KINDS]:
        raise ValueError(
            f"--tasks {unknown[0]}: with --data, tasks are {', '.join(FOLDER_KINDS)}; for others write a suite file"
        )
    folder = folder.resolve()
    files, said = split_folder(folder)
    dataset = Dataset(_dataset_name(folder), "imagefolder", folder, files)
    settings = {} if size is None else {"size": size}
    names = {kind: folder_task(folder, kind, size) for kind in FOLDER_KINDS}
    try:
        for name in names.values():
            plain_name(name)
    except ValueError as error:
        raise ValueError(
            f"{folder}: the tasks would be called after it: {error}; give the folder another name"
        ) from error
    tasks = [Task(names[kind], kind, dataset, settings=settings).at(budget) for kind in kinds]
    return [checked(task, "--size") for task in tasks], frozenset(names.values()), said


def folder_task(folder: Path, kind: str, size: int | None) -> str:
    """The name of a task on a folder of images, such as `photos-knn`, or `photos-knn-64px` at a size of its own."""
    return f"{_dataset_name(folder.resolve())}-{kind}" + ("" if size is None else f"-{size}px")


def _dataset_name(folder: Path) -> str:
    return re.sub(r"[^\w.+]+", "_", folder.name)


def split_folder(folder: Path) -> tuple[dict[str, str], str]:
    """The splits of a folder of images, as a data set's `files`, and a sentence about them.

    Raises:
        ValueError: it is not a folder, or has no class folders where they are needed.
    """
    expected = "expected train/CLASS/*.jpg and test/CLASS/*.jpg (or val/), or only CLASS/*.jpg"
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; {expected}")
    if other := sorted(
        path.name
        for path in folder.iterdir()
        if path.name.lower() in SPLITS and path.name not in ("train", *VAL_NAMES, "test")
    ):
        raise ValueError(f"{folder}: has {other[0]}; {expected}, with these names in small letters")
    there = [split for split in ("train", *VAL_NAMES, "test") if (folder / split).is_dir()]
    val = [split for split in there if split in VAL_NAMES]
    if len(val) > 1:
        raise ValueError(f"{folder}: has {' and '.join(val)}; keep one of them")
    if "train" in there and len(there) > 1:
        if "test" in there:
            files = {"val" if split in val else split: split for split in there}
            chosen = val[0] if val else "a fifth of train"
            return files, f"{folder}: settings are chosen on {chosen}, scores are of test"
        said = f"{folder}: there is no test folder, so scores are of {val[0]}; settings are chosen on a fifth of train"
        return {"train": "train", "test": val[0]}, said
    if there:
        raise ValueError(f"{folder}: has {' and '.join(there)} only; {expected}")
    try:
        classes = class_folders(Dataset(folder.name, "imagefolder", folder, {"train": ".", "test": "."}), ".")
    except ValueError as error:
        raise ValueError(f"{folder}: has no class folders; {expected}") from error
    _refuse_data_sets(folder, classes)
    inner = [set(folders_in(folder / name)) for name in classes]
    if all(own and {name.lower() for name in own} <= SPLITS for own in inner):
        splits, more = sorted(inner[0]), f" and {len(classes) - 3} more" if len(classes) > 3 else ""
        raise ValueError(
            f"{folder}: {' and '.join(classes[:3])}{more} hold {' and '.join(splits)}, as data for segmentation and "
            "detection do; describe those in a suite file, with the layout voc, ade20k, cityscapes or coco. If the "
            f"folders are classes, {expected}: move {classes[0]}/{splits[0]} to {splits[0].lower()}/{classes[0]}, and "
            "so on"
        )
    if few := [(name, len(images)) for name, images in images_of(folder, classes)[0].items() if len(images) < 3]:
        name, number = few[0]
        raise ValueError(
            f"--data {folder}: class {name} has fewer than three images, one each for train, val and test: {number} "
            f"in {folder / name} ({len(few)} of {len(classes)} classes have too few); add images, move the folder "
            "away, or make train and test folders"
        )
    said = f"{folder}: there is no train folder, so a fifth of each class is test and the rest train (seed 0)"
    return {"train": ".:train", "test": ".:test"}, said


def _refuse_data_sets(folder: Path, names: Sequence[str]) -> None:
    """Refuse folders that are data sets, not classes: their splits have class folders in common.

    Raises:
        ValueError: names the folders, and says to name one of them.
    """
    found = [name for name in names if _is_data_set(folder / name)]
    if found:
        shown = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        raise ValueError(
            f"{folder}: not one data set: {shown} hold splits with class folders of their own. Name one of them, such "
            f"as --data {folder / found[0]}, or describe them in a suite file, which data for segmentation and "
            "detection need in any case"
        )


def _is_data_set(folder: Path) -> bool:
    classes = [set(folders_in(folder / name)) for name in folders_in(folder) if name.lower() in SPLITS]
    return len(classes) > 1 and bool(set.intersection(*classes))
