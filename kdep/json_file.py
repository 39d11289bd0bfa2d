"""Read a JSON file that may be damaged or another person's, so that what is read can be shown, averaged and written."""

import json
import math
import re
from pathlib import Path
from typing import Any

from kdep.guard import read_regular

DEEPEST = 32  # mappings and lists inside each other
LARGEST = 1e100  # squares and sums of such numbers are finite
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(path: Path) -> Any:
    """Read the content of a file.

    Raises:
        ValueError: names the file: it is no regular file or too large, is not JSON in UTF-8, nests too deeply, or has a
            number that is not finite or far beyond anything measured, or half a character.
    """
    try:
        text = read_regular(path).decode()
        content = json.loads(text, parse_float=_number, parse_int=_whole, parse_constant=_number)
        if text.count("[") + text.count("{") > DEEPEST:
            _refuse_deep(content)
        if SURROGATE.search(text):
            json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"{path}: not JSON as kdep writes it ({reason})") from error
    return content


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or abs(value) > LARGEST:
        raise ValueError(f"the number {text[:40]}")
    return value


def _whole(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**64:
        raise ValueError(f"the number {text[:40]}")
    return int(text)


def _refuse_deep(content: Any) -> None:
    layer, depth = [content], 0
    while layer:
        layer = [part for whole in layer if isinstance(whole, dict | list) for part in _parts(whole)]
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"nested more than {DEEPEST} deep")


def _parts(whole: dict[str, Any] | list[Any]) -> Any:
    return whole.values() if isinstance(whole, dict) else whole
