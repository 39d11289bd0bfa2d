"""Read log.jsonl, the log of a run: one line per logging step."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from kdep.settings import Stored, mistakes

AtLeastZero = Annotated[float, Field(ge=0)]


class LogRecord(Stored):
    """What is read of a line; it may have more."""

    step: Annotated[int, Field(ge=0, lt=2**63)]
    images: Annotated[int, Field(ge=0, lt=2**63)]
    loss: float
    lr: AtLeastZero
    images_per_second: Annotated[float, Field(gt=0)]


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the records of a log, without a last line that is incomplete after a kill; none where there is no file.

    Raises:
        ValueError: another line is damaged; names it.
    """
    if not path.exists():
        return []
    *lines, last = path.read_bytes().split(b"\n")  # empty behind the last whole line
    records = []
    for number, line in enumerate([*lines, last], start=1):
        try:
            record = json.loads(line)
            LogRecord.model_validate(record)
        except (ValueError, RecursionError) as error:
            if number > len(lines):
                break
            reason = "; ".join(mistakes(error, LogRecord, None)) if isinstance(error, ValidationError) else str(error)
            raise ValueError(
                f"{path}, line {number}: not a line of a run's log ({reason}); remove the line, or the file: the run "
                "goes on without it"
            ) from error
        records.append(record)
    return records
