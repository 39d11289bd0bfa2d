"""Format a number of seconds for people."""


def duration(seconds: float) -> str:
    """Return `42 s`, `24 min` or `3.1 h`."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.{int(unit == 'h')}f} {unit}"
    return f"{seconds:.0f} s"
