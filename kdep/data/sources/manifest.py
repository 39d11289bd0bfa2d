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

import contextlib
import hashlib
import json
import os
import random
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np
from pydantic import Field
from tqdm import tqdm

from kdep.data.sources.contents import hash_content
from kdep.data.sources.names import Names, encoded, is_image_name, list_images
from kdep.files import write_atomically
from kdep.settings import Stored, validate
from kdep.settings import shown as shown_value

FORMAT = 1
FILE = "kdep-manifest.parquet"  # its name in the folder that it describes, where it is found by itself
KEY = b"kdep"
AGAIN = "make it again with kdep data manifest, or remove it"
ROWS = 65_536  # of a row group: a few MB
SAMPLED = 64  # files, and folders, that are compared with the disk when a manifest is opened
FOLDER = {"name": "large_binary", "bytes": "int64", "mtime": "int64", "hash": "binary"}
SHARDS = {"name": "large_binary", "bytes": "int64", "offset": "int64", "label": "int64"}


Count = Annotated[int, Field(ge=0, lt=2**40)]
Change = Annotated[tuple[int, Count], Field(strict=False)]  # of a folder: its time, and its images and folders
ShardFacts = Annotated[tuple[str, Count, Count], Field(strict=False)]  # name, bytes, images


class About(Stored):
    """The metadata."""

    format: int
    images: Annotated[Count, Field(ge=1)]
    name_bytes: Count
    fingerprint: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    folder: str = ""
    folders: dict[str, Change] = {}
    shards: list[ShardFacts] = []
    labelled: bool = False


@dataclass(frozen=True)
class Manifest:
    """An opened manifest: its metadata, its names, its file for the other columns, and what errors call it."""

    about: dict[str, Any]
    names: Names
    file: Any
    shown: str

    def column(self, name: str) -> np.ndarray:
        """Read a column of numbers, (N,) int64.

        Raises:
            ValueError: the manifest is damaged.
        """
        out, at = np.empty(self.about["images"], np.int64), 0
        with reading(self.shown):
            for batch in self.file.iter_batches(ROWS, columns=[name]):
                if batch.column(0).null_count:
                    raise ValueError(f"{name} lacks values")
                out[at : at + batch.num_rows] = batch.column(0).to_numpy(zero_copy_only=False)
                at += batch.num_rows
        return out


@contextlib.contextmanager
def reading(shown: str) -> Iterator[None]:
    """Name the manifest in errors of pyarrow, and in those of content that its metadata do not describe."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, NotImplementedError, MemoryError, RecursionError) as error:
        reason = " ".join(f"{error}".split())
        raise ValueError(f"{shown}: not a manifest, or a damaged one ({reason}); {AGAIN}") from error


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
        """Add an image with the hash of its bytes, see `kdep.data.sources.contents`, or with its size."""
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

    about = {"folder": str(folder.absolute()), "folders": folders}
    return write_manifest(out, FOLDER, rows(), lambda: about)


def parents(names: Iterable[str]) -> list[str]:
    """List the folders of these paths and all above them; the topmost is the empty path."""
    found = {""}
    for name in names:
        while (name := name.rpartition("/")[0]) not in found:
            found.add(name)
    return sorted(found)


def count_entries(folder: Path) -> int:
    """Count the images and the folders directly in a folder, without hidden ones."""
    with os.scandir(folder) as entries:
        return sum(not e.name.startswith(".") and (e.is_dir() or is_image_name(e.name)) for e in entries)


def describe(file: Path) -> tuple[int, int, bytes]:
    """Return the size of a file, the time of its last change and the hash of its bytes."""
    with file.open("rb") as opened:
        status = os.fstat(opened.fileno())
        return status.st_size, status.st_mtime_ns, hash_content(opened, os.fsencode(file))


def open_manifest(file: Path | BinaryIO, shown: str) -> Manifest:
    """Read the metadata and the names; `shown` is what errors call the file.

    Raises:
        ValueError: the file is no manifest, or one of another format.
    """
    pq = parquet()
    with reading(shown):
        opened = pq.ParquetFile(file)
        content = json.loads((opened.metadata.metadata or {}).get(KEY, b"null"))
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = f"format {shown_value(content.get('format'))}" if isinstance(content, dict) else "another Parquet file"
        raise ValueError(f"{shown}: {found}, expected a manifest of format {FORMAT}; {AGAIN}")
    about = validate(About, content, shown, remedy=f"a damaged manifest; {AGAIN}")
    with reading(shown):
        return Manifest(dict(about), _names(opened, about), opened, shown)


def _names(opened: Any, about: About) -> Names:
    size = sum(opened.metadata.row_group(group).total_byte_size for group in range(opened.metadata.num_row_groups))
    if opened.metadata.num_rows != about.images or about.name_bytes > size:
        raise ValueError(
            f"{opened.metadata.num_rows} rows for {about.images} images, {about.name_bytes} bytes of names"
        )
    buffer, ends = np.empty(about.name_bytes, np.uint8), np.empty(about.images, np.int64)
    row = at = 0
    for batch in opened.iter_batches(ROWS, columns=["name"]):
        names = batch.column(0)
        _, offsets, data = names.buffers()
        edges = np.frombuffer(offsets, np.int64)[names.offset : names.offset + len(names) + 1]
        size = int(edges[-1] - edges[0])
        buffer[at : at + size] = np.frombuffer(data, np.uint8)[edges[0] : edges[-1]]
        ends[row : row + len(names)] = edges[1:] - edges[0] + at
        row, at = row + len(names), at + size
    if at != about.name_bytes:
        raise ValueError(f"{at} bytes of names, expected {about.name_bytes}")
    return Names.of(buffer, ends)


def check_folder(manifest: Manifest, folder: Path, shown: str) -> None:
    """Compare a sample of the manifest with the disk.

    A folder whose time has changed is counted, and a file whose time has changed is hashed: a copy of the images on
    another disk is not stale.

    Raises:
        ValueError: images were added, removed or changed since the manifest was made.
    """
    remedy = f"make it again: kdep data manifest {folder}, or remove it"
    draw, folders = random.Random(), manifest.about["folders"]
    if "" not in folders:
        raise ValueError(f"{shown}: it does not describe a folder; {remedy}")
    for name in {"", *draw.sample(sorted(folders), min(SAMPLED, len(folders)))}:
        mtime, count = folders[name]
        path = folder / name
        if not path.is_dir():
            raise ValueError(f"{shown}: stale, {path} is missing; {remedy}")
        if path.stat().st_mtime_ns != mtime and (found := count_entries(path)) != count:
            raise ValueError(
                f"{shown}: stale, {path} has {found} images and folders, {count} when it was made; {remedy}"
            )
    with reading(shown):
        group = draw.randrange(manifest.file.num_row_groups)
        table = manifest.file.read_row_group(group, columns=list(FOLDER))
        rows = draw.sample(range(table.num_rows), min(SAMPLED, table.num_rows))
        sampled = [[table.column(column)[at].as_py() for column in FOLDER] for at in rows]
        paths = [folder / name.decode("utf-8", "surrogateescape") for name, *_ in sampled]
    for path, (_, size, mtime, digest) in zip(paths, sampled, strict=True):
        if not path.is_file():
            raise ValueError(f"{shown}: stale, {path} is missing; {remedy}")
        status = path.stat()
        if status.st_size != size or (status.st_mtime_ns != mtime and describe(path)[2] != digest):
            raise ValueError(f"{shown}: stale, {path} has changed; {remedy}")
