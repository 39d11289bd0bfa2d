"""Names of tasks, runs, students and the like, which become parts of paths and rows of tables.

They come from files of other people too. A name with a slash or two dots would lead out of its folder, and one with a
newline or an escape code would write rows of its own on the terminal.
"""

LONGEST = 150  # bytes; a file's name has 255, and `.NAME.json.<32 digits>.part` needs some


def plain_name(text: str) -> str:
    """Return a name that can be one part of a path and one cell of a table.

    Raises:
        ValueError: it is empty, `.` or `..`, too long, or has a slash or a character that is not printable.
    """
    if text in ("", ".", "..") or "/" in text or "\\" in text:
        raise ValueError("expected a name of one part, without slashes")
    if len(one_line(text).encode()) > LONGEST:
        raise ValueError(f"expected a name of at most {LONGEST} bytes")
    return text


def one_line(text: str) -> str:
    """Return a text that can be one cell of a table.

    Raises:
        ValueError: a character is not printable, such as a newline or an escape code.
    """
    if not text.isprintable():
        raise ValueError("expected printable characters on one line")
    return text
