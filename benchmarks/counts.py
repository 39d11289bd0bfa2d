"""Format a number of things for people."""


def counted(number: int, noun: str) -> str:
    """Return `1 run`, `2 runs` or `2,328 runs`; the noun takes an s."""
    return f"{number:,} {noun}" + "s" * (number != 1)
