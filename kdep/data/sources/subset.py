"""Choose a seeded part of the images in class folders and write their list."""

from pathlib import Path

import numpy as np

from kdep.data.sources.lists import list_line
from kdep.data.sources.source import open_source
from kdep.files import write_text
from kdep.guard import printable


def write_subset(folder: Path, out: Path, *, per_class: int | None, fraction: float | None, seed: int) -> int:
    """Write a list of randomly chosen image paths relative to `folder`; the first folder of a path is its class.

    Returns:
        The number of images listed.

    Raises:
        ValueError: fewer than one image of a class, images in no class folder, or a fraction of less than one image.
    """
    if per_class is not None and per_class < 1:
        raise ValueError(f"--per-class {per_class}: expected 1 or more")
    source = open_source(str(folder))
    classes: dict[str, list[str]] = {}
    for name in source.names:
        classes.setdefault(Path(name).parts[0], []).append(name)
    if loose := [name for name in source.names if len(Path(name).parts) == 1]:
        raise ValueError(f"{folder}: {len(loose)} images are in no class folder (first {loose[0]}); move them into one")
    if per_class is None and round(len(source.names) * float(fraction or 1.0)) < 1:
        raise ValueError(f"--fraction {fraction}: leaves no image of the {len(source.names)} in {folder}")
    draw = np.random.Generator(np.random.Philox(seed))
    chosen: list[str] = []
    for label in sorted(classes):
        names = classes[label]
        count = per_class if per_class is not None else max(1, round(len(names) * float(fraction or 1.0)))
        chosen += [names[i] for i in sorted(draw.permutation(len(names))[:count])]
    where = printable(Path(folder).name)
    header = f"# {len(chosen)} of {len(source.names)} images of {where}, seed {seed}, relative to that folder\n"
    write_text(out, header + "".join(f"{list_line(name)}\n" for name in chosen))
    return len(chosen)
