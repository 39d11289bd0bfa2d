"""What a check finds in a data set, and how it is shown or refused."""

import dataclasses
from collections.abc import Iterable, Sequence

from kdep.guard import printable

SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing about a data set.

    Attributes:
        kind: findings of one kind are listed together.
        where: file, with the line, annotation or object in it.
        what: what is wrong, and what would be right.
        defect: must be repaired; the others are warnings and notes.
        warning: comes before the notes.
    """

    kind: str
    where: str
    what: str
    defect: bool = True
    warning: bool = False

    @property
    def grade(self) -> str:
        """defect, warning or note."""
        return "defect" if self.defect else "warning" if self.warning else "note"


def finding_lines(findings: Sequence[Finding], *, shown: int = SHOWN) -> list[str]:
    """One line per finding, grouped by kind, defects first; of each kind the first few and the number of the rest."""
    text = []
    for grade in ("defect", "warning", "note"):
        kinds = dict.fromkeys(finding.kind for finding in findings if finding.grade == grade)
        for kind in kinds:
            group = [finding for finding in findings if finding.grade == grade and finding.kind == kind]
            text.append(f"{grade}: {kind} ({len(group)})")
            text += [f"  {printable(finding.where)}: {printable(finding.what)}" for finding in group[:shown]]
            if len(group) > shown:
                text.append(f"  and {len(group) - shown} more")
    return text


def refuse_defects(findings: Iterable[Finding], what: str) -> None:
    """Stop at the first defect.

    Raises:
        ValueError: names `what`, the place, and what is wrong.
    """
    for finding in findings:
        if finding.defect:
            where, found = printable(finding.where), printable(finding.what)
            raise ValueError(f"{what}: {where}: {finding.kind}: {found}; kdep data check lists all defects")
