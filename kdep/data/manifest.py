"""Write and read a manifest: the images of a folder or of tar shards, listed and hashed once, in a Parquet file.

A run that has a manifest neither lists a folder nor asks for the size of every file. The fingerprint of the images is
the same with and without a manifest, so banks and runs stay valid.

    name     path below the folder, or SHARD.tar/MEMBER
    bytes    size of the encoded image
    mtime    folder: time of the last change in nanoseconds
    hash     folder: BLAKE2b-128 of the bytes
    offset   shards: where the image begins in its shard
    label    shards: the class number in the member .cls; null without one

The metadata say how many images there are, their fingerprint, and with which folders or shards they were found.
"""

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from kdep.data.contents import hash_file
from kdep.data.names import SUFFIXES, Names, encoded, list_images
from kdep.files import write_atomically

FORMAT = 1
FILE = "kdep-manifest.parquet"  # its name in the folder that it describes, where it is found by itself
KEY = b"kdep"
ROWS = 65_536  # of a row group: a few MB
SAMPLED = 64  # files, and folders, that are compared with the disk when a manifest is opened
FOLDER = {"name": "large_binary", "bytes": "int64", "mtime": "int64", "hash": "binary"}
SHARDS = {"name": "large_binary", "bytes": "int64", "offset": "int64", "label": "int64"}


@dataclass(frozen=True)
class Manifest:
    """An opened manifest: its metadata, its names, and its file for the other columns."""

    about: dict[str, Any]
    names: Names
    file: Any

    def column(self, name: str) -> np.ndarray:
        """Read a column of numbers, (N,) int64."""
        out, at = np.empty(self.about["images"], np.int64), 0
        for batch in self.file.iter_batches(ROWS, columns=[name]):
            out[at : at + batch.num_rows] = batch.column(0).to_numpy(zero_copy_only=False)
            at += batch.num_rows
        return out


def parquet() -> Any:
    """Import pyarrow.parquet.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError("manifests and shards need pyarrow: pip install '.[wds]'") from error
    return pyarrow.parquet


class Fingerprint:
    """Hash names and contents of images, in their order; of images in shards, names and sizes."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, name: str, content: bytes | int) -> None:
        """Add an image with the hash of its bytes, see `kdep.data.contents`, or with its size."""
        self._digest.update(encoded(f"{name}|{content.hex() if isinstance(content, bytes) else content}\n"))

    def text(self) -> str:
        """Return the hash as text."""
        return self._digest.hexdigest()


def write_manifest(
    out: Path, columns: dict[str, str], rows: Iterable[tuple[Any, ...]], about: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Write the rows, then the metadata: `about`, called after the last row, the counts and the fingerprint."""
    pq = parquet()
    import pyarrow as pa

    schema = pa.schema([(name, getattr(pa, kind)()) for name, kind in columns.items()])
    counts, print_ = {"images": 0, "name_bytes": 0}, Fingerprint()
    found: dict[str, Any] = {}
    mark = list(columns).index("hash" if "hash" in columns else "bytes")

    def write(part: Path) -> None:
        with pq.ParquetWriter(part, schema, compression="zstd", use_dictionary=False) as writer:
            for block in blocks(rows, ROWS):
                for row in block:
                    print_.add(row[0], row[mark])
                coded = [(encoded(name), *rest) for name, *rest in block]
                counts["images"] += len(block)
                counts["name_bytes"] += sum(len(row[0]) for row in coded)
                arrays = [
                    pa.array(column, kind.type) for column, kind in zip(zip(*coded, strict=True), schema, strict=True)
                ]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            found.update({"format": FORMAT, **counts, "fingerprint": print_.text(), **about()})
            writer.add_key_value_metadata({KEY: json.dumps(found)})

    write_atomically(out, write)
    return found


def blocks(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Cut rows into lists of `size`."""
    block: list[Any] = []
    for row in rows:
        block.append(row)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block


def make_manifest(folder: Path, out: Path, *, show: bool = True) -> dict[str, Any]:
    """Read every image of a folder once and write its manifest; return the metadata.

    Raises:
        ValueError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    parquet()
    names = list_images(folder)
    # Before the files are read: what is added meanwhile makes the manifest stale.
    folders = {name: [(folder / name).stat().st_mtime_ns, count_entries(folder / name)] for name in parents(names)}

    def read(name: str) -> tuple[str, int, int, bytes]:
        size, mtime, digest = describe(folder / name)
        return name, size, mtime, digest

    def rows() -> Iterator[tuple[str, int, int, bytes]]:
        with ThreadPoolExecutor() as pool, tqdm(total=len(names), desc="manifest", unit="img", disable=not show) as bar:
            for block in blocks(names, 1024):
                yield from pool.map(read, block)
                bar.update(len(block))

    about = {"kind": "folder", "folder": str(folder.absolute()), "folders": folders}
    return write_manifest(out, FOLDER, rows(), lambda: about)


def parents(names: Iterable[str]) -> list[str]:
    """List the folders of these paths and all above them; the topmost is the empty path."""
    found = {""}
    for name in names:
        while (name := name.rpartition("/")[0]) not in found:
            found.add(name)
    return sorted(found)


def count_entries(folder: Path) -> int:
    """Count the images and the folders directly in a folder."""
    with os.scandir(folder) as entries:
        return sum(entry.is_dir() or os.path.splitext(entry.name)[1].lower() in SUFFIXES for entry in entries)  # noqa: PTH122


def describe(file: Path) -> tuple[int, int, bytes]:
    """Return the size of a file, the time of its last change and the hash of its bytes."""
    with file.open("rb") as opened:
        status = os.fstat(opened.fileno())
        return status.st_size, status.st_mtime_ns, hash_file(opened, os.fsencode(file))


def open_manifest(file: Path | BinaryIO, shown: str) -> Manifest:
    """Read the metadata and the names; `shown` is what errors call the file.

    Raises:
        ValueError: the file is no manifest, or one of another format.
    """
    pq = parquet()
    try:
        opened = pq.ParquetFile(file)
        about = json.loads((opened.metadata.metadata or {}).get(KEY, b"null"))
    except (OSError, ValueError) as error:  # pyarrow's errors are of these types
        raise ValueError(
            f"{shown}: not a manifest, or a damaged one ({error}); make it again: kdep data manifest"
        ) from error
    if about is None or about.get("format") != FORMAT:
        found = "a Parquet file of another kind" if about is None else f"format {about.get('format')}"
        raise ValueError(f"{shown}: {found}, expected a manifest of format {FORMAT}; make it again: kdep data manifest")
    buffer, ends = np.empty(about["name_bytes"], np.uint8), np.empty(about["images"], np.int64)
    row = at = 0
    for batch in opened.iter_batches(ROWS, columns=["name"]):
        names = batch.column(0)
        _, offsets, data = names.buffers()
        edges = np.frombuffer(offsets, np.int64)[names.offset : names.offset + len(names) + 1]
        size = int(edges[-1] - edges[0])
        buffer[at : at + size] = np.frombuffer(data, np.uint8)[edges[0] : edges[-1]]
        ends[row : row + len(names)] = edges[1:] - edges[0] + at
        row, at = row + len(names), at + size
    return Manifest(about, Names.of(buffer, ends), opened)


def check_folder(manifest: Manifest, folder: Path, shown: str) -> None:
    """Compare a sample of the manifest with the disk.

    A folder whose time has changed is counted, and a file whose time has changed is hashed: a copy of the images on
    another disk is not stale.

    Raises:
        ValueError: images were added, removed or changed since the manifest was made.
    """
    remedy = f"make it again: kdep data manifest {folder}, or remove it"
    draw, folders = random.Random(), manifest.about["folders"]
    for name in {"", *draw.sample(sorted(folders), min(SAMPLED, len(folders)))}:
        mtime, count = folders[name]
        path = folder / name
        if not path.is_dir():
            raise ValueError(f"{shown}: stale, {path} is missing; {remedy}")
        if path.stat().st_mtime_ns != mtime and (found := count_entries(path)) != count:
            raise ValueError(
                f"{shown}: stale, {path} has {found} images and folders, {count} when it was made; {remedy}"
            )
    group = draw.randrange(manifest.file.num_row_groups)
    table = manifest.file.read_row_group(group, columns=list(FOLDER))
    for at in draw.sample(range(table.num_rows), min(SAMPLED, table.num_rows)):
        name, size, mtime, digest = (table.column(column)[at].as_py() for column in FOLDER)
        path = folder / name.decode("utf-8", "surrogateescape")
        if not path.is_file():
            raise ValueError(f"{shown}: stale, {path} is missing; {remedy}")
        status = path.stat()
        if status.st_size != size or (status.st_mtime_ns != mtime and describe(path)[2] != digest):
            raise ValueError(f"{shown}: stale, {path} has changed; {remedy}")
