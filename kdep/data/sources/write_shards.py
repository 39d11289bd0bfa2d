"""Write the images of a folder as tar shards in WebDataset's format, in a random order, with their manifest."""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from kdep.cores import cores
from kdep.data.sources.manifest import FILE
from kdep.data.sources.shards import find_shards, index_shards
from kdep.data.sources.source import Files, labels_of, open_source
from kdep.files import write_atomically
from kdep.guard import read_regular

Sample = dict[str, str | bytes]


def write_shards(folder: Path, out: Path, *, per_shard: int, seed: int, show: bool = True) -> int:
    """Write NAME-000000.tar and so on, and their manifest, all or none; return the number of shards.

    The order is random, because neighbours in a shard meet in the same batches. If every image is in a class folder,
    its class number is in the member .cls.

    Raises:
        ValueError: there is no such folder, no image in it, or `out` already has shards.
    """
    try:
        from webdataset import TarWriter
    except ImportError as error:
        raise ValueError("tar shards need webdataset: pip install '.[wds]'") from error
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    if any(out.glob("*.tar")):
        raise ValueError(f"{out}: has tar files already; take another folder, or remove them")
    source = open_source(str(folder))
    assert isinstance(source, Files)
    classes = labels_of(source) if all("/" in name for name in source.names) else None
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(source.names))

    def sample(number: int) -> Sample:
        index = int(order[number])
        path = folder / source.names[index]
        own = {"__key__": f"{number:09d}", path.suffix[1:].lower(): read_regular(path)}
        return own if classes is None else {**own, "cls": str(classes[index]).encode()}

    starts = range(0, len(order), per_shard)
    # Not in `out` before all are there: a run from a part of the shards would not know that the others are missing.
    staged = out / ".partial"
    shutil.rmtree(staged, ignore_errors=True)  # of a killed command
    try:
        with tqdm(total=len(order), desc="shards", unit="img", disable=not show) as bar:
            for shard, start in enumerate(starts):

                def write(part: Path, start: int = start) -> None:
                    # Without a time, the same images give the same bytes.
                    with part.open("wb") as file, TarWriter(file, encoder=False, mtime=0) as tar:
                        for member in _ahead(sample, range(start, min(start + per_shard, len(order)))):
                            tar.write(member)
                            bar.update()

                write_atomically(staged / f"{folder.absolute().name}-{shard:06d}.tar", write)
        system, shards = find_shards(str(staged.absolute()))
        index_shards(system, shards, staged / FILE, show=False)
        for path in (*sorted(staged.glob("*.tar")), staged / FILE):
            path.rename(out / path.name)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return len(starts)


def _ahead(sample: Callable[[int], Sample], numbers: range) -> Iterator[Sample]:
    """Read files in threads, 256 at a time, and yield them in order."""
    with ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(numbers), 256):
            yield from pool.map(sample, numbers[start : start + 256])
