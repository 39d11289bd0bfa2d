"""The embedded data set: generated scenes in the on-disk formats of the real ones.

    kdep data prepare scenes

A scene is textured ground with objects of 12 classes on it, told apart by outline and surface, never by colour. The
readers of ImageFolder, VOC, ADE20K and COCO open these trees as they are, so a machine without data sets runs every
task for real.
"""

import hashlib
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from kdep.files import rename_durably
from kdep_benchmarks.data.scenes import drawing as scenes_drawing
from kdep_benchmarks.data.scenes.formats import Picture, write_ade20k, write_coco, write_voc
from kdep_benchmarks.data.scenes.render import Scene, render

CLASSES: tuple[str, ...] = tuple(scenes_drawing.CLASSES)
STUFF: tuple[str, ...] = tuple(scenes_drawing.STUFF)

MARKER = "scenes.json"
# Raise it when a change to the drawing changes pixels: a folder of another version is not the data set asked for.
VERSION = 1

# Radius of the objects in units of the image's side: one that fills the image, or several that share it.
LARGE = (0.32, 0.42)
SMALL = (0.13, 0.24)
MOST_OBJECTS = 4
# One dense scene in so many is ground alone: readers and metrics must bear an image with nothing to find.
EMPTY_EVERY = 10

# A scene is a function of (seed, stream, number) alone: a larger split begins with the smaller one, and no two splits
# share a scene.
STREAMS = {"pool": 0, "train": 1, "test": 2, "dense_train": 3, "dense_val": 4}


def write_scenes(
    root: Path,
    *,
    seed: int = 0,
    size: int = 96,
    dense_size: int = 128,
    pool: int = 1600,
    train_per_class: int = 60,
    test_per_class: int = 40,
    dense_train: int = 120,
    dense_val: int = 60,
) -> None:
    """Write all trees under root, or return at once when root already holds exactly these.

    root appears complete or not at all; a killed run leaves a hidden .partial folder beside it, safe to delete. What is
    there under other parameters is never overwritten.

    Args:
        root: folder to create: images/, classification/, VOC2012/, ade20k/, coco/ and scenes.json.
        seed: another one draws other scenes.
        size: side of pool and classification images, pixels.
        dense_size: side of the images with boxes and masks, pixels.
        pool: unlabelled images for pretraining.
        train_per_class: classification images of each class to fit on.
        test_per_class: classification images of each class to score on.
        dense_train: images of the VOC, ADE20K and COCO trees to fit on; the same images in all three.
        dense_val: images of the three trees to score on.

    Raises:
        ValueError: root holds something else.
    """
    parameters = {
        "version": VERSION,
        "seed": seed,
        "size": size,
        "dense_size": dense_size,
        "pool": pool,
        "train_per_class": train_per_class,
        "test_per_class": test_per_class,
        "dense_train": dense_train,
        "dense_val": dense_val,
    }
    root = Path(root)
    if _already_there(root, parameters):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}.", suffix=".partial", dir=root.parent) as neighbour:
        partial = Path(neighbour) / root.name
        partial.mkdir()
        _write_trees(partial, parameters)
        _write_marker(partial, parameters)
        _move_into_place(partial, root, parameters)


def _already_there(root: Path, parameters: dict[str, int]) -> bool:
    """Whether root is complete with these parameters; an absent or empty root is not.

    Raises:
        ValueError: root holds something else.
    """
    marker = root / MARKER
    if marker.is_file():
        found = json.loads(marker.read_text())["parameters"]
        if found == parameters:
            return True
        differing = ", ".join(f"{k}={found.get(k)} instead of {v}" for k, v in parameters.items() if found.get(k) != v)
        raise ValueError(f"{root} holds scenes written with {differing}; delete it, or name another folder")
    if root.is_dir() and not any(root.iterdir()):
        return False
    if root.exists():
        raise ValueError(f"{root} exists and is not a folder of scenes (no {MARKER}); name a new or an empty folder")
    return False


def _move_into_place(partial: Path, root: Path, parameters: dict[str, int]) -> None:
    try:
        rename_durably(partial, root)
    except OSError:
        # Another process may have finished the same trees first; theirs are as good as ours.
        if not _already_there(root, parameters):
            raise


def _write_trees(root: Path, parameters: dict[str, int]) -> None:
    seed, size, dense_size = parameters["seed"], parameters["size"], parameters["dense_size"]
    (root / "images").mkdir()
    for index in range(parameters["pool"]):
        scene = _pool_scene(_generator(seed, "pool", index), size=size, index=index)
        (root / "images" / f"{index:06d}.jpg").write_bytes(_encode(scene))
    for split in ("train", "test"):
        _write_classification(root / "classification" / split, seed, split, size, parameters[f"{split}_per_class"])
    for split, ade20k_split in (("train", "training"), ("val", "validation")):
        pictures = list(_pictures(seed, split, dense_size, parameters[f"dense_{split}"]))
        write_voc(root / "VOC2012", pictures, split=split, classes=CLASSES)
        write_ade20k(root / "ade20k", pictures, split=ade20k_split, things=len(CLASSES))
        write_coco(root / "coco", pictures, split=split, classes=CLASSES)


def _generator(seed: int, stream: str, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, STREAMS[stream], index])


def _pool_scene(rng: np.random.Generator, *, size: int, index: int) -> Scene:
    """Every other image shows one object, the rest several: pretraining sees what both kinds of task will show."""
    if index % 2 == 0:
        return render(rng, size=size, labels=[int(rng.integers(len(CLASSES)))], radius=LARGE)
    labels = rng.integers(len(CLASSES), size=rng.integers(2, MOST_OBJECTS + 1)).tolist()
    return render(rng, size=size, labels=labels, radius=SMALL)


def _write_classification(folder: Path, seed: int, split: str, size: int, per_class: int) -> None:
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            index = number * len(CLASSES) + label
            scene = render(_generator(seed, split, index), size=size, labels=[label], radius=LARGE)
            (folder / name / f"{number:05d}.jpg").write_bytes(_encode(scene))


def _pictures(seed: int, split: str, size: int, count: int) -> Iterator[Picture]:
    for index in range(count):
        rng = _generator(seed, f"dense_{split}", index)
        # The front object goes through the classes in turn, so that each is there often enough to be scored.
        more = rng.integers(len(CLASSES), size=rng.integers(0, MOST_OBJECTS)).tolist()
        labels = [] if index % EMPTY_EVERY == EMPTY_EVERY - 1 else [*more, index % len(CLASSES)]
        scene = render(rng, size=size, labels=labels, radius=SMALL)
        yield Picture(f"{split}_{index + 1:06d}", _encode(scene), scene)


def _encode(scene: Scene) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(scene.image).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def _write_marker(root: Path, parameters: dict[str, int]) -> None:
    """Record what was asked for and a fingerprint of what was written: sha256 over all paths and bytes."""
    digest = hashlib.sha256()
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    for path in paths:
        digest.update(f"{path.relative_to(root).as_posix()} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    marker = {
        "parameters": parameters,
        "classes": CLASSES,
        "stuff": STUFF,
        "files": len(paths),
        "sha256": digest.hexdigest(),
        # JPEG encoders and random streams may change between releases, and the fingerprint with them.
        "written_with": {"numpy": np.__version__, "pillow": PIL.__version__},
    }
    (root / MARKER).write_text(json.dumps(marker, indent=2) + "\n")
