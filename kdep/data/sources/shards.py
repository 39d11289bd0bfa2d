"""Read images from tar shards in WebDataset's format, on a disk or behind any URL of fsspec.

The headers of every shard are read once. An image is then a range of bytes, so every rule of the other sources holds:
view v of image i is a function of (seed, i, v), a run is resumed at any step, and the order does not depend on the
number of loading processes. `kdep.data.loading.order` reads shard after shard, so ranges follow each other.

Shards on a disk are read where they lie. Of others, blocks of 4 MB are fetched and kept until the order has left them.
"""

import bisect
import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import get_worker_info
from tqdm import tqdm

from kdep.data.decoding.decode import Encoded, Picture
from kdep.data.sources.contents import cache_folder
from kdep.data.sources.disk import retried
from kdep.data.sources.manifest import AGAIN, FILE, SHARDS, Manifest, open_manifest, write_manifest
from kdep.data.sources.names import SUFFIXES
from kdep.data.sources.root import located
from kdep.guard import RefusedError, max_expanded

BLOCK = 4 << 20  # bytes that are fetched at once from a URL
KEPT = 400  # blocks in the memory of all loading processes of a process together: 1.6 GB
LONGEST_LABEL = 100  # bytes of a member .cls that are read
AT_ONCE = 16  # shards whose headers are read at the same time


class ShardError(RuntimeError):
    """A shard changed or cannot be read. No ValueError: an image that is undecodable is skipped, this stops the run."""


@dataclass(frozen=True)
class Shard:
    """A tar file: its path in a file system of fsspec, its bytes, and what changes with its content (time or tag)."""

    path: str
    size: int
    version: str

    @property
    def name(self) -> str:
        """Its name without folders, the same on every disk."""
        return self.path.rpartition("/")[2]


def find_shards(pattern: str) -> tuple[Any, list[Shard]]:
    """Expand braces ({000..099}) and wildcards; return the file system and the shards, in order.

    Raises:
        ValueError: the library is missing, or a shard is.
    """
    try:
        from braceexpand import braceexpand
    except ImportError as error:
        raise ValueError("tar shards need webdataset: pip install '.[wds]'") from error
    from fsspec.core import url_to_fs

    if "://" not in pattern:
        pattern = str(_located(pattern))
    try:
        system, path = url_to_fs(pattern)
    except (ImportError, ValueError) as error:  # such as s3fs for s3://
        raise ValueError(f"wds:{pattern}: {error}") from error
    plain = not set("*?[{") & set(path)
    found: list[str] = []
    if (plain or _local(system)) and system.isdir(path):  # whatever its name: on a disk it may hold brackets
        found += sorted(name for name in system.ls(path, detail=False) if name.endswith(".tar"))
    else:
        for part in braceexpand(path):
            found += sorted(system.glob(part)) if set("*?[") & set(part) else [part]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        shards = list(pool.map(lambda name: _shard(system, name), found))
    missing = [name for name, shard in zip(found, shards, strict=True) if shard is None]
    if missing or not found:
        what = f"{len(missing)} of {len(found)} shards are missing, first {missing[0]}" if missing else "no shard there"
        raise ValueError(f"wds:{pattern}: {what}; expected tar files such as wds:FOLDER/train-{{000..099}}.tar")
    if len({name.rpartition("/")[2] for name in found}) < len(found):
        raise ValueError(f"wds:{pattern}: two shards have the same name; give every tar file a name of its own")
    return system, shards


def _located(pattern: str) -> Path:
    """Find a local folder or pattern in the current folder or below the data root.

    A pattern is looked for by its part before the first wildcard.
    """
    if (folder := located(Path(pattern))).is_dir():
        return folder
    parts = Path(pattern).parts
    plain = next((at for at, part in enumerate(parts) if set("*?[{") & set(part)), len(parts))
    return located(Path(*parts[:plain])).joinpath(*parts[plain:])


def _shard(system: Any, path: str) -> Shard | None:
    try:
        about = system.info(path)
    except FileNotFoundError:
        return None
    return Shard(path, about["size"], str(about.get("ETag") or about.get("mtime") or about.get("created")))


def members(system: Any, shard: Shard) -> Iterator[tuple[str, int, int, int | None]]:
    """Yield (SHARD.tar/MEMBER, bytes, offset, label) of every image of a shard.

    A sample of WebDataset is the members with one key, the part of a name before its first dot. Of several images in
    a sample the one counts whose ending has one part: x.jpg beside x.mask.png.

    Raises:
        ValueError: the shard is truncated, compressed, no tar file, or holds no image; names the shard and the member.
    """
    from webdataset.tariterators import base_plus_ext

    where, images, labels, last = f"{shard.path}", {}, {}, None
    with system.open(shard.path, "rb", **({} if _local(system) else {"block_size": BLOCK})) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for last in tar:
                    if last.offset_data + last.size > shard.size:
                        raise tarfile.ReadError("unexpected end of data")
                    key, ending = base_plus_ext(last.name)  # as the library groups members, endings in lower case
                    if not last.isreg() or key is None or key.startswith("__"):
                        continue
                    ending = ending.lower()
                    if ending == "cls":
                        labels[key] = _class_number(tar.extractfile(last).read(LONGEST_LABEL))
                    elif f".{ending.rpartition('.')[2]}" in SUFFIXES and (
                        key not in images or ending.count(".") < images[key][0].count(".")
                    ):
                        images[key] = (ending, last.name, last.size, last.offset_data)
        except tarfile.TarError as error:
            at = f"in or after member {last.name}" if last else "before its first member"
            kind = "" if last else "; compressed shards must be unpacked, images are compressed already"
            raise ValueError(f"{where}: damaged or truncated {at} ({error}){kind}; copy the shard again") from error
        except ValueError as error:  # of int
            raise ValueError(f"{where}: {last.name} is no class number ({error})") from error
    if last is None or not images:
        raise ValueError(f"{where}: no image in this shard; take it out of the pattern")
    if shard.size < last.offset_data + -(-last.size // 512) * 512 + 512:
        raise ValueError(f"{where}: truncated after member {last.name}, tar's end is missing; copy the shard again")
    for key, (_, name, size, offset) in images.items():
        yield f"{shard.name}/{name}", size, offset, labels.get(key)


def _class_number(text: bytes) -> int:
    if not 0 <= (number := int(text)) < 2**31:
        raise ValueError(f"got {number}")
    return number


def _local(system: Any) -> bool:
    return "file" in (system.protocol if isinstance(system.protocol, tuple) else (system.protocol,))


def index_shards(system: Any, shards: list[Shard], out: Path, *, show: bool = True) -> dict[str, Any]:
    """Read the headers of all shards once and write their manifest; return its metadata."""
    counts: list[int] = []
    unlabelled = 0

    def rows() -> Iterator[tuple[str, int, int, int | None]]:
        nonlocal unlabelled
        with ThreadPoolExecutor(AT_ONCE) as pool, tqdm(total=len(shards), desc="shards", disable=not show) as bar:
            for start in range(0, len(shards), AT_ONCE):
                for found in pool.map(lambda shard: list(members(system, shard)), shards[start : start + AT_ONCE]):
                    counts.append(len(found))
                    unlabelled += sum(row[3] is None for row in found)
                    yield from found
                    bar.update()

    def about() -> dict[str, Any]:
        known = [(shard.name, shard.size, count) for shard, count in zip(shards, counts, strict=True)]
        return {"shards": known, "labelled": unlabelled == 0}

    return write_manifest(out, SHARDS, rows(), about)


def open_shards(pattern: str, *, show: bool = True) -> "Shards":
    """Open shards with the manifest beside them if it is theirs, else with an index in the user's cache folder.

    Raises:
        ValueError: no shards there, a damaged one, or a store behind a URL that does not answer.
    """
    try:
        return _opened(pattern, show=show)
    except ValueError:
        raise
    except Exception as error:  # the clients of stores raise errors of their own
        if "://" not in pattern:
            raise
        raise ValueError(f"wds:{pattern}: {type(error).__name__}: {error}") from error


def _opened(pattern: str, *, show: bool) -> "Shards":
    system, shards = find_shards(pattern)
    beside = shards[0].path.rpartition("/")[0] + "/" + FILE
    if system.exists(beside):
        manifest = open_manifest(system.open(beside, "rb"), beside)
        if _describes(manifest, shards):
            return Shards(system, shards, manifest)
    file = index_path(shards)
    if not file.exists():
        index_shards(system, shards, file, show=show)
    return Shards(system, shards, open_manifest(file, str(file)))


def _describes(manifest: Manifest, shards: list[Shard]) -> bool:
    known = [tuple(row[:2]) for row in manifest.about["shards"]]
    return known == [(shard.name, shard.size) for shard in shards]


def index_path(shards: list[Shard]) -> Path:
    """Return where the index of shards is kept, by their paths, sizes and versions: a changed shard has another."""
    named = "".join(f"{shard.path}|{shard.size}|{shard.version}\n" for shard in shards)
    return cache_folder("shards") / f"{hashlib.sha256(named.encode()).hexdigest()[:32]}.parquet"


class Shards:
    """The images of tar shards, in the order of the shards and of their members.

    `starts` (shards + 1,) has the first image of every shard, and the number of images.
    """

    def __init__(self, system: Any, shards: list[Shard], manifest: Manifest) -> None:
        self.names, self.fingerprint = manifest.names, manifest.about["fingerprint"]
        self.starts = np.cumsum([0, *(count for _, _, count in manifest.about["shards"])])
        self._edges = self.starts.tolist()
        self._offsets, self._sizes = manifest.column("offset"), manifest.column("bytes")
        self.labels = manifest.column("label") if manifest.about["labelled"] else None
        ends = np.repeat([shard.size for shard in shards], np.diff(self.starts)) if len(self.starts) > 1 else []
        whole = len(ends) == len(self.names) and min(self._offsets.min(), self._sizes.min()) >= 0
        if not whole or (self._offsets > ends - self._sizes).any():
            raise ValueError(f"{manifest.shown}: damaged, it lists images that the shards do not hold; {AGAIN}")
        self._shards, self._local = shards, _local(system)
        self._protocol = system.protocol if isinstance(system.protocol, str) else system.protocol[0]
        self._options = dict(system.storage_options)
        self._client: tuple[int, Any] | None = None

    @property
    def is_remote(self) -> bool:
        """Whether the shards are behind a URL."""
        return not self._local

    def read(self, index: int) -> Image.Image:
        """Decode image `index` to RGB."""
        return Image.fromarray(self.open(index).whole().permute(1, 2, 0).numpy())

    def open(self, index: int) -> Picture:
        """Open image `index` without decoding it.

        Raises:
            RefusedError: more bytes than `kdep.guard.max_expanded`.
            ShardError: the shard is shorter than it was, or cannot be read.
        """
        shard = self._shards[bisect.bisect_right(self._edges, index) - 1]
        start, size = int(self._offsets[index]), int(self._sizes[index])
        if size > (most := max_expanded()):
            raise RefusedError(f"{size:,} bytes; KDEP_MAX_EXPANDED allows {most:,}")
        try:
            if self._local:
                data = retried(lambda: _from_disk(shard.path, start, size), shard.path)
            else:
                data = self._fetch(shard, start, size)
        except Exception as error:  # the clients of stores raise errors of their own
            if self._local and not isinstance(error, OSError):
                raise
            raise ShardError(f"{shard.path}: {error}, at {self.names[index]}; start again to go on") from error
        if len(data) != size:
            raise ShardError(
                f"{shard.path}: ends in {self.names[index]}, after {len(data)} of its {size} bytes; the shard changed "
                "since it was indexed, copy it again"
            )
        return Encoded(data)

    def _fetch(self, shard: Shard, start: int, size: int) -> bytes:
        """Read a range through blocks that stay in memory, with a client of this process: none survives a fork."""
        if self._client is None or self._client[0] != os.getpid():
            self._client = os.getpid(), make_client(self._protocol, self._options)
        first, last = start // BLOCK, (start + size - 1) // BLOCK
        data = b"".join(self._client[1](shard, number) for number in range(first, last + 1))
        return data[start - first * BLOCK :][:size]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None}


def _from_disk(path: str, start: int, size: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, size, start)
    finally:
        os.close(descriptor)


def make_client(protocol: str, options: dict[str, Any]) -> Callable[[Shard, int], bytes]:
    """Make the function that fetches a block of a shard, and remembers blocks."""
    import fsspec

    system, worker = fsspec.filesystem(protocol, **options), get_worker_info()

    @lru_cache(maxsize=max(8, KEPT // (worker.num_workers if worker else 1)))
    def block(shard: Shard, number: int) -> bytes:
        return system.cat_file(shard.path, start=number * BLOCK, end=min(shard.size, (number + 1) * BLOCK))

    return block
