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
        defect: must be repaired; the others are notes.
    """

    kind: str
    where: str
    what: str
    defect: bool = True


def finding_lines(findings: Sequence[Finding], *, shown: int = SHOWN) -> list[str]:
    """One line per finding, grouped by kind, defects first; of each kind the first few and the number of the rest."""
    text = []
    for defect in (True, False):
        kinds = dict.fromkeys(finding.kind for finding in findings if finding.defect is defect)
        for kind in kinds:
            group = [finding for finding in findings if finding.defect is defect and finding.kind == kind]
            text.append(f"{'defect' if defect else 'note'}: {kind} ({len(group)})")
            text += [f"  {printable(finding.where)}: {printable(finding.what)}" for finding in group[:shown]]
            if len(group) > shown:
                text.append(f"  and {len(group) - shown} more")
    return text


def refuse_defects(findings: Iterable[Finding], what: str, *, allowed: Sequence[str] = ()) -> None:
    """Stop at the first defect of another kind than those allowed.

    Raises:
        ValueError: names `what`, the place, and what is wrong.
    """
    for finding in findings:
        if finding.defect and finding.kind not in allowed:
            where, found = printable(finding.where), printable(finding.what)
            raise ValueError(f"{what}: {where}: {finding.kind}: {found}; kdep data check lists all defects")
