"""Read and write lists of image paths, one per line."""

import json
from pathlib import Path


def read_list(path: Path) -> list[str]:
    """Read a list of paths, one per line.

    A line that begins with # is a comment. Space around a path is dropped. A path in double quotes is JSON: the form
    of paths that begin with # or a space, or hold a line break or bytes that are not UTF-8.

    Raises:
        ValueError: a line in quotes is not JSON.
    """
    names = []
    for number, line in enumerate(path.read_text("utf-8", "surrogateescape").split("\n"), start=1):
        name = line.strip(" \t\r")
        if name.startswith('"'):
            try:
                name = json.loads(name)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"{path}, line {number}: a path in double quotes must be a JSON string ({error.msg}); write a "
                    'quote in a path as \\"'
                ) from error
            names.append(name)
        elif name and not line.startswith("#"):
            names.append(name)
    return names


def list_line(name: str) -> str:
    """Return the line of a list from which `read_list` reads this path."""
    plain = name.isprintable() and name == name.strip() and not name.startswith(("#", '"'))
    return name if plain else json.dumps(name)
