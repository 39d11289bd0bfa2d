"""Measure what grows with the data: start from a manifest, the files of a bank, tar shards against image files.

    python -m tools.speed.scale                      # into docs/figures/scale.json and .md
    python -m tools.speed.scale --only manifest      # some of it: manifest, bank, shards, memory
    python -m tools.speed.scale --quick --out x.json # tiny sizes; the figures have no meaning

Time is CPU time (user and system), which other work on the machine disturbs little. Contenders take turns. Shards are
read from an S3 server on loopback too where `moto[server]` and `s3fs` are installed.
"""

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdep.files import write_text
from tools.speed.clock import in_child, interleave, peak_mb, processor_seconds, resident_mb, threads
from tools.speed.photographs import photographs
from tools.speed.row import describe_device

OUT = Path("docs/figures/scale.json")
ROWS, IMAGENET = 10_000_000, 1_281_167
# In float32 without bfloat16 units as fast as a ResNet-18 in bfloat16 with them: 300 images/s at 64 px on two cores
# (docs/figures/speed.json, row bank-64-auto).
FAST = "regnetx_004_tv"
PHOTOGRAPHS, SIZE, BATCH, EPOCHS = 240, 224, 32, 2


def synthetic(file: Path, rows: int) -> None:
    """Write a manifest like ImageNet's: a thousand class folders, names such as n00000012/n00000012_00123456.JPEG."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from kdep.data.sources.manifest import FOLDER, FORMAT, KEY
    from kdep.data.sources.manifest import ROWS as GROUP

    schema = pa.schema([(name, getattr(pa, kind)()) for name, kind in FOLDER.items()])
    template = np.frombuffer(b"n00000000/n00000000_00000000.JPEG", np.uint8)
    places = 10 ** np.arange(7, -1, -1)
    about = {"format": FORMAT, "images": rows, "name_bytes": rows * len(template), "fingerprint": "0" * 64}
    with pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=False) as writer:
        for start in range(0, rows, GROUP):
            numbers = np.arange(start, min(start + GROUP, rows))
            names = np.tile(template, (len(numbers), 1))
            folders = (numbers * 1000 // rows)[:, None] // places % 10
            names[:, 1:9] += folders.astype(np.uint8)
            names[:, 11:19] += folders.astype(np.uint8)
            names[:, 20:28] += (numbers[:, None] // places % 10).astype(np.uint8)
            offsets = np.arange(len(numbers) + 1) * len(template)
            buffers = [None, pa.py_buffer(offsets.astype(np.int64)), pa.py_buffer(names.tobytes())]
            column = pa.Array.from_buffers(pa.large_binary(), len(numbers), buffers)
            hashes = pa.array([number.to_bytes(16, "little") for number in numbers.tolist()], pa.binary())
            sizes = pa.array(np.full(len(numbers), 110_000))
            writer.write_table(pa.Table.from_arrays([column, sizes, sizes, hashes], schema=schema))
        writer.add_key_value_metadata({KEY: json.dumps({**about, "folders": {}})})


def start(file: str) -> dict[str, float]:
    """Open a manifest as a run does and draw the first batch of an epoch; in a child process of its own."""
    from kdep.data.loading.order import Order, once
    from kdep.data.sources.manifest import open_manifest
    from kdep.data.sources.source import Files

    began = processor_seconds()  # of the imports

    def work() -> Files:
        manifest = open_manifest(Path(file), file)
        source = Files(Path(file).parent, manifest.names, manifest.about["fingerprint"])
        count = len(source.names)
        next(iter(Order(count, 1024, 1, seed=0)))
        next(iter(once(count, 1024, count=min(50_000, count), seed=0)))
        return source

    source, rise = peak_mb(work)
    found = {
        "cpu_seconds": processor_seconds() - began,
        "imports_cpu_seconds": began,
        "rise_mb": rise,
        "peak_mb": resident_mb("VmHWM"),
    }
    return {**found, "rows": len(source.names)}


def manifest(*, quick: bool) -> dict[str, Any]:
    """Start from a manifest of ten million rows: CPU seconds and peak memory of a process."""
    rows = 20_000 if quick else ROWS
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "rows.parquet"
        synthetic(file, rows)
        found = in_child("tools.speed.scale:start", file=str(file))
        size = file.stat().st_size
    return {**found, "file_mb": size / 1e6, "target": "10 s, 2048 MB"}


def bank(*, quick: bool) -> dict[str, Any]:
    """Files of a bank of ImageNet's size, and the time to open it; its files are empty, opening reads none of them."""
    from kdep.bank.file import FORMAT, Description
    from kdep.bank.read import is_complete, shard_path

    images, found = 10_000 if quick else IMAGENET, {}
    teacher = {"source": "x", "asked": {}, "arch": "x", "tap": "post", "sha256": "0" * 64}
    for views in (1, 5, 90):
        with tempfile.TemporaryDirectory() as temporary:
            bank, hashes = Path(temporary), {"bank.pt": "0" * 64}
            data = {"images": images, "identity": "x", "images_for_axes": None}
            stored = {"axes": 512, "grid": 0, "code": "float16", "precision": "float32"}
            about = Description(format=FORMAT, teacher=teacher, data=data, **stored)
            for view in range(views):
                for shard in range(about.shards):
                    path = Path(shard_path(bank, view, shard))
                    path.parent.mkdir(exist_ok=True)
                    path.touch()
                    hashes[f"{path.parent.name}/{path.name}"] = "0" * 64
            (bank / "bank.pt").touch()
            (bank / "bank.json").write_text(json.dumps({**about.asked, "hashes": hashes}))
            began = time.perf_counter()
            assert is_complete(bank, views)
            seconds = time.perf_counter() - began
        size = images * views * about.axes * 2
        found[f"{views} views"] = {"files": views * about.shards, "open_seconds": seconds, "gb": size / 1e9}
    return {**found, "target": "hundreds of files, 1 s"}


@contextlib.contextmanager
def bucket(folder: Path) -> Iterator[str]:
    """Serve the files of a folder as an S3 bucket of moto on loopback, in a process of its own; yields its address."""
    import s3fs

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ.update(own, AWS_ENDPOINT_URL_S3=f"http://127.0.0.1:{port}")
    command = [sys.executable, "-m", "moto.server", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port)
        system = s3fs.S3FileSystem()
        system.mkdir("scale")
        for path in folder.iterdir():
            system.put_file(str(path), f"scale/{path.name}")
        yield "s3://scale"
    finally:
        server.kill()
        server.wait()


def wait_for_port(port: int) -> None:
    """Wait until a server answers.

    Raises:
        TimeoutError: none does within a minute.
    """
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.2)
    raise TimeoutError(f"no server on port {port} after a minute")


def shards(*, quick: bool) -> dict[str, Any]:
    """Images per CPU second from tar shards against files: on a disk, from memory://, and from S3 if moto is there."""
    import fsspec

    from kdep.data.sources.source import open_source
    from kdep.data.sources.write_shards import write_shards

    count, size = (32, 32) if quick else (PHOTOGRAPHS, SIZE)
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        work = Path(temporary)
        folder = photographs(work, count, sides=(120, 90) if quick else (500, 375))
        write_shards(folder, work / "tar", per_shard=max(8, count // 8), seed=0, show=False)
        system = fsspec.filesystem("memory")
        for path in (work / "tar").iterdir():
            system.pipe(f"/scale/{path.name}", path.read_bytes())
        addresses = {"files": str(folder), "tar": f"wds:{work / 'tar'}", "tar behind a URL": "wds:memory://scale"}
        if find_spec("moto") and find_spec("s3fs"):
            addresses["tar from S3"] = f"wds:{stack.enter_context(bucket(work / 'tar'))}"
        sources = {name: open_source(address) for name, address in addresses.items()}
        rates = interleave({name: lambda s=source: rate(s, size, count) for name, source in sources.items()}, 3)
    middle = {name: statistics.median(values) for name, values in rates.items()}
    ratios = {f"{name} / files": middle[name] / middle["files"] for name in list(middle)[1:]}
    return {"images_per_cpu_second": middle, "all": rates, **ratios, "target": "0.95 of files"}


def rate(source: Any, size: int, count: int) -> float:
    """Views per CPU second over two epochs, on one thread."""
    from kdep.data.loading.order import Order
    from kdep.data.loading.views import Augmentation, Views, load

    batch = min(BATCH, count // 2)
    order = Order(count, batch, EPOCHS, seed=0, starts=getattr(source, "starts", None))
    began = processor_seconds()
    with threads(1):
        seen = sum(len(part.images) for part in load(Views(source, Augmentation(size), 0), order, workers=0))
    return seen / (processor_seconds() - began)


def memory(*, quick: bool) -> dict[str, Any]:
    """Training from a bank on one core, with decoded images in memory and without, as a share of the student's ceiling.

    On a CPU the same core decodes and trains, so the share is step / (step + load), in CPU seconds per image.
    """
    from kdep.data.loading.keep import keep
    from kdep.data.sources.source import open_source
    from tools.gpu.cases import TINY
    from tools.speed.pretraining.ceilings import CASES
    from tools.speed.pretraining.runs import configure, student_step
    from tools.speed.row import Setting

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        work, count = Path(temporary), 16 if quick else 64
        source = open_source(str(photographs(work, count, sides=(120, 90) if quick else (500, 375))))
        kept = keep(source, 0.25, show=False)
        assert kept is not source
        cases = {
            f"{case.size} px, {case.student}": case for case in (*CASES.values(), replace(CASES[64], student=FAST))
        }
        for label, case in {"32 px": TINY}.items() if quick else cases.items():
            size = case.size
            case = replace(case, images=count, live=count)
            config = configure(case, Setting(work, torch.device("cpu"), quick=quick), name="memory", bank=False)
            images = torch.rand(case.batch, 3, size, size)
            step = student_step(config, images)
            load_seconds(kept, size)  # fills the memory
            taken = interleave(
                {
                    "step": lambda step=step, case=case: cpu_seconds(step) / case.batch,
                    "load": lambda size=size: load_seconds(source, size),
                    "load from memory": lambda size=size: load_seconds(kept, size),
                },
                3,
            )
            middle = {name: statistics.median(values) for name, values in taken.items()}
            shares = {name: middle["step"] / (middle["step"] + middle[name]) for name in ("load", "load from memory")}
            milliseconds = {f"{name}, ms per image": 1000 * value for name, value in middle.items()}
            found[label] = {
                **milliseconds,
                "share of the ceiling, from files": shares["load"],
                "share of the ceiling, from memory": shares["load from memory"],
            }
    return {**found, "precision": "float32", "target": "0.95 of the ceiling"}


def cpu_seconds(work: Any) -> float:
    """CPU seconds of a call on one thread, after one to warm up."""
    with threads(1):
        work()
        began = processor_seconds()
        work()
        return processor_seconds() - began


def load_seconds(source: Any, size: int) -> float:
    """CPU seconds per image of one epoch of coloured views, on one thread."""
    from kdep.data.loading.order import Order
    from kdep.data.loading.training import make_pixels
    from kdep.data.loading.views import Augmentation, Views, load

    augmentation = Augmentation(size, jitter=0.1, lighting=0.05)
    pixels, count = make_pixels(augmentation, torch.device("cpu")), len(source.names)
    order = Order(count, 16, 2, seed=0)
    began = processor_seconds()
    with threads(1):
        for batch in load(Views(source, augmentation, 0), order, workers=0):
            pixels(batch)
    return (processor_seconds() - began) / (16 * len(order))


MEASUREMENTS = {"manifest": manifest, "bank": bank, "shards": shards, "memory": memory}


def markdown(document: dict[str, Any]) -> str:
    """Format the figures as a table."""
    device = document["device"]
    lines = [f"{device['cpu']}, torch {device['torch']}, one thread, load average {document['load_average']:.0f}"]
    lines += ["Quick sizes: the figures have no meaning." if document["quick"] else "Time is CPU time.", ""]
    lines += ["| measurement | figure | value |", "|---|---|---|"]
    for name in MEASUREMENTS:
        for key, value in flat(document.get(name, {})):
            shown = f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
            lines.append(f"| {name} | {key} | {shown} |")
    return "\n".join(lines) + "\n"


def flat(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """List nested figures; lists are left to the JSON."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}, ")
        elif not isinstance(value, list):
            yield prefix + key, value


def main(arguments: list[str] | None = None) -> int:
    """Command line; a figure is written as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(MEASUREMENTS), help="comma-separated [all]")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--out", type=Path, default=OUT, help=f"[{OUT}]")
    args = parser.parse_args(arguments)
    unknown = set(args.only.split(",")) - set(MEASUREMENTS)
    if unknown:
        sys.exit(f"scale: no {', '.join(sorted(unknown))}; there are {', '.join(MEASUREMENTS)}")
    document = json.loads(args.out.read_text()) if args.out.exists() else {}
    device = describe_device(torch.device("cpu"))
    document |= {"device": device, "load_average": os.getloadavg()[0], "quick": args.quick}
    for name in args.only.split(","):
        document[name] = MEASUREMENTS[name](quick=args.quick)
        write_text(args.out, json.dumps(document, indent=1) + "\n")
        write_text(args.out.with_suffix(".md"), markdown(document))
        print(name, json.dumps(document[name]), flush=True)  # noqa: T201 - the answer
    return 0


if __name__ == "__main__":
    sys.exit(main())
