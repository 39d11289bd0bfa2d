"""Where a difference of means comes from: task by task, and without the task that adds the most to it."""

from collections.abc import Sequence
from typing import Any

from kdep_benchmarks.studies.claims import Comparison, Scores, compared, over_tasks, without_noise
from kdep_benchmarks.studies.file import Study
from kdep_benchmarks.table_line import table_line

TITLE = "Task by task, and the mean without the task that adds the most to it (exploratory, by the pair's own spread):"


def task_table(study: Study, scores: Scores, value: Any) -> list[str]:
    """A row for each pair that is claimed by its mean or asked for, once both arms have all scores."""
    if len(study.tasks) < 2:
        return []
    claimed = [tuple(claim.arms) for claim in study.claims if claim.metric == "mean"]
    pairs = dict.fromkeys([*claimed, *map(tuple, study.pairs)])
    rows = [_row(study, scores, value, *pair) for pair in pairs if _is_complete(study, scores, value, pair)]
    if not rows:
        return []
    head = [table_line(["first", "second", *study.tasks, "mean", "without"]), "|---" * (len(study.tasks) + 4) + "|"]
    return [TITLE, "", *head, *rows, ""]


def _is_complete(study: Study, scores: Scores, value: Any, arms: Sequence[str]) -> bool:
    cells = [scores.get((arm, value, task), {}) for arm in arms for task in study.tasks]
    return all(set(cell) == set(study.seeds) for cell in cells)


def _row(study: Study, scores: Scores, value: Any, arm: str, other: str) -> str:
    def minus(tasks: Sequence[str]) -> Comparison:
        own = {name: over_tasks(study, scores, name, value, tasks) for name in (arm, other)}
        return compared(arm, other, without_noise(own, scores.networks_of(own, value)))

    found, over_all = {task: minus([task]) for task in study.tasks}, minus(study.tasks)
    sign = 1 if over_all.value > 0 else -1
    most = max(study.tasks, key=lambda task: sign * found[task].value)
    rest = [task for task in study.tasks if task != most]
    shown = [one.text for one in [*found.values(), over_all]]
    return table_line([arm, other, *shown, f"{most}: {minus(rest).text}"])
