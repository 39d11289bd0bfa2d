"""Random edits of files, drawn from a generator: bytes, and values inside JSON, YAML, arrays and torch files."""

import io
import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import yaml

Draw = random.Random
NAMES = (
    "../../x",
    "/tmp/kdep_outside",
    "..",
    ".",
    "",
    "a\nb",
    "\x1b[2J\x1b[1;31m",
    "x" * 5000,
    "=cmd()",
    "\u202e",
    "a/b",
)
NUMBERS = (0, -1, 1, 2**31, 2**63, -(2**63), 1e308, -1e308, 1e-308, 10**30, float("nan"), float("inf"), float("-inf"))
SWAPPED: tuple[Any, ...] = (None, True, "text", "7", 7, 0.5, [], {}, [1, "a"], {"a": {"b": 1}}, [[]], "true")


def edit_bytes(content: bytes, draw: Draw) -> bytes:
    """Truncate, flip bits, overwrite, insert, repeat, or empty."""
    at = draw.randrange(len(content) or 1)
    end = min(len(content), at + draw.choice((1, 2, 8, 64, 4096)))
    kind = draw.choice(("truncate", "flip", "flip", "overwrite", "insert", "cut", "repeat", "empty", "zeros"))
    if kind == "flip":
        flipped = bytearray(content or b"\0")
        for _ in range(draw.choice((1, 1, 2, 16))):
            flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
        return bytes(flipped)
    return {
        "truncate": content[:at],
        "overwrite": content[:at] + draw.randbytes(end - at) + content[end:],
        "insert": content[:at] + draw.randbytes(end - at) + content[at:],
        "cut": content[:at] + content[end:],
        "repeat": content + content[at:],
        "empty": b"",
        "zeros": content[:at] + bytes(len(content) - at),
    }[kind]


def edit_value(value: Any, draw: Draw) -> Any:
    """Swap types, delete and rename keys, put in extreme numbers, deep nesting and names that lead out of a folder."""
    places = list(_places(value))
    if not places or draw.random() < 0.01:
        return draw.choice(SWAPPED)
    holder, key = draw.choice(places)
    kind = draw.choice(("swap", "swap", "delete", "number", "number", "name", "name", "nest", "rename", "copy", "grow"))
    if kind == "delete":
        del holder[key]
    elif kind == "rename" and isinstance(holder, dict):
        holder[draw.choice((f"{key}x", *NAMES))] = holder.pop(key)
    elif kind == "copy":
        other, its = draw.choice(places)
        holder[key] = other[its] if not isinstance(other[its], dict | list) else type(other[its])(other[its])
    elif kind == "grow" and isinstance(holder[key], list) and holder[key]:
        holder[key] = holder[key] * draw.choice((2, 100))
    else:
        choices: dict[str, Callable[[], Any]] = {
            "number": lambda: draw.choice(NUMBERS),
            "name": lambda: draw.choice(NAMES),
            "nest": lambda: _nested(draw.choice((3, 40, 400)), draw),
        }
        holder[key] = choices.get(kind, lambda: draw.choice(SWAPPED))()
    return value


def _places(value: Any) -> Any:
    """Every (container, key) below a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield value, key
        yield from _places(part)


def _nested(depth: int, draw: Draw) -> Any:
    value: Any = draw.choice((1, "x", None))
    for _ in range(depth):
        value = [value] if draw.random() < 0.5 else {"a": value}
    return value


def edit_json(content: bytes, draw: Draw) -> bytes:
    """Edit bytes or a value; now and then add nesting and digits that only a text can have."""
    kind = draw.random()
    if kind < 0.25:
        return edit_bytes(content, draw)
    if kind < 0.3:
        text = content.decode()
        deep = draw.choice(("[" * 50_000, '{"a":' * 20_000, "9" * 5000, "1e999", "-NaN", '"\\ud800"', "\x00"))
        at = text.find(":", draw.randrange(len(text))) + 1
        return (text[:at] + deep + text[at:]).encode()
    return json.dumps(edit_value(json.loads(content), draw), indent=draw.choice((None, 1))).encode()


def edit_lines(content: bytes, draw: Draw) -> bytes:
    """Edit bytes, or one line of JSON, or the order and number of lines."""
    lines = content.splitlines()
    if not lines or draw.random() < 0.3:
        return edit_bytes(content, draw)
    at = draw.randrange(len(lines))
    kind = draw.choice(("line", "line", "line", "drop", "double", "blank"))
    changed = {"line": lambda: [edit_json(lines[at], draw)], "double": lambda: [lines[at]] * 2, "blank": lambda: [b""]}
    lines[at : at + 1] = changed.get(kind, list)()
    return b"\n".join(lines) + b"\n" * (draw.random() < 0.8)


def edit_yaml(content: bytes, draw: Draw) -> bytes:
    """Edit bytes or a value; now and then add what only YAML has: tags, anchors, dates."""
    kind = draw.random()
    if kind < 0.25:
        return edit_bytes(content, draw)
    if kind < 0.35:
        odd = draw.choice(
            (
                "!!python/object/apply:os.system [x]",
                "&a [*a]",
                "2001-99-99",
                "0x" + "f" * 5000,
                "9" * 5000,
                "? [1]\n: 2",
            )
            + (
                "!!binary x",
                "!!int x",
                "[" * 3000,
                "<<: [1]",
                "!!timestamp x",
                "- a\nb",
                "\t",
                "*b",
                "1:99999:1",
                ".inf",
            )
        )
        lines = content.decode().splitlines()
        at = draw.randrange(len(lines))
        lines[at] = lines[at].partition(":")[0] + ": " + odd
        return "\n".join(lines).encode()
    value = edit_value(yaml.safe_load(content), draw)
    return yaml.safe_dump(value, sort_keys=False).encode()


def edit_torch(content: bytes, draw: Draw) -> bytes:
    """Edit bytes, a value or a tensor."""
    if draw.random() < 0.35:
        return edit_bytes(content, draw)
    value = torch.load(io.BytesIO(content), weights_only=True)
    places = [(holder, key) for holder, key in _places(value) if isinstance(holder[key], torch.Tensor)]
    if places and draw.random() < 0.4:
        holder, key = draw.choice(places)
        tensor = holder[key]
        holder[key] = draw.choice(
            (
                lambda: tensor.flatten()[: tensor.numel() // 2].clone(),
                lambda: tensor.to(torch.int32),
                lambda: tensor.half(),
                lambda: torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor[None],
                lambda: torch.zeros(0),
                lambda: tensor.expand(2, *tensor.shape).clone(),
                lambda: torch.zeros_like(tensor),
                lambda: tensor.to_sparse() if tensor.ndim else tensor,
                lambda: tensor.tolist(),
            )
        )()
    else:
        value = edit_value(value, draw)
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def edit_npz(content: bytes, draw: Draw) -> bytes:
    """Edit bytes, or one of the arrays."""
    if draw.random() < 0.4:
        return edit_bytes(content, draw)
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    name = draw.choice([*arrays])
    if (kind := draw.random()) < 0.15:
        del arrays[name]
    elif kind < 0.25:
        arrays[draw.choice(("x", "form", "../x"))] = arrays[name]
    else:
        arrays[name] = _edit_array(arrays[name], draw)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def edit_parquet(content: bytes, draw: Draw) -> bytes:
    """Edit bytes, or the metadata of a manifest."""
    import pyarrow as pa
    from pyarrow import parquet

    if draw.random() < 0.5:
        return edit_bytes(content, draw)
    table, file = parquet.read_table(pa.BufferReader(content)), parquet.ParquetFile(pa.BufferReader(content))
    buffer = io.BytesIO()
    parquet.write_table(
        table.replace_schema_metadata({b"kdep": edit_json(file.metadata.metadata[b"kdep"], draw)}), buffer
    )
    return buffer.getvalue()


def edit_npy(content: bytes, draw: Draw) -> bytes:
    """Edit bytes, or the array."""
    if draw.random() < 0.5:
        return edit_bytes(content, draw)
    buffer = io.BytesIO()
    np.save(buffer, _edit_array(np.load(io.BytesIO(content), allow_pickle=False), draw))
    return buffer.getvalue()


def _edit_array(array: np.ndarray, draw: Draw) -> np.ndarray:
    if array.dtype.kind == "U":
        text = str(array)
        if text.startswith("{"):
            return np.array(edit_json(text.encode(), draw).decode(errors="replace"))
        return np.array(draw.choice(("", "classes", "areas", "x", *NAMES)))
    return draw.choice(
        (
            lambda: array[: len(array) // 2] if array.ndim else array,
            lambda: array.astype(np.float32),
            lambda: array.astype(np.int64) - 10,
            lambda: np.full(array.shape, np.nan),
            lambda: array[None],
            lambda: np.zeros(0, array.dtype),
            lambda: array.astype("U8"),
            lambda: np.full(array.shape, 2**40, np.int64),
            lambda: np.asfortranarray(array),
        )
    )()
