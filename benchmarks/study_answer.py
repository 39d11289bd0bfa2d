"""What a study has found: rows, means with intervals, paired differences to the baseline, a picture."""

import json
from pathlib import Path
from typing import Any

from benchmarks.compare import judge
from benchmarks.intervals import half_width, mean
from benchmarks.results import Result, read_results
from benchmarks.study import Run, Study, write_rows

WORDS = {
    "better": "is better than",
    "worse": "is worse than",
    "no difference": "shows no difference to",
    "not enough": "has not enough runs to be told from",
    "same every run": "scores higher than",
}
Cell = tuple[str, Any, str]  # arm, value of the axis, task


def answer(study: Study, runs: Path, results: Path, out: Path) -> str:
    """Write NAME.csv, NAME.md and NAME.png below `out`, and return the text of NAME.md.

    Raises:
        ValueError: nothing has been scored yet.
    """
    rows = collect(study, runs, read_results([results]))
    if not rows:
        raise ValueError(f"{results}: no score of this study")
    write_rows(rows, out / f"{study.name}.csv")
    scores = by_cell(rows)
    text = as_markdown(study, scores, rows)
    (out / f"{study.name}.md").write_text(text)
    draw(study, scores, out / f"{study.name}.png")
    return text


def collect(study: Study, runs: Path, results: list[Result]) -> list[dict[str, Any]]:
    """A row per run and task: the mean over the tasks' own seeds."""
    rows = []
    for planned in study.runs:
        own = [result for result in results if result.status == "ok" and belongs(result, planned)]
        spent = cost(runs / planned.name)
        for task in study.score["tasks"]:
            scored = [result for result in own if result.task.name == task]
            if scored:
                rows.append(
                    {
                        "arm": planned.arm,
                        "value": planned.value,
                        "seed": planned.seed,
                        "task": task,
                        "metric": scored[0].main_metric,
                        "score": round(mean([result.score for result in scored]), 4),
                        **spent,
                        "checkpoint": scored[0].checkpoint.sha256[:8],
                    }
                )
    return rows


def belongs(result: Result, planned: Run) -> bool:
    """Is this a score of this run's student?"""
    return result.checkpoint.name == planned.name


def cost(folder: Path) -> dict[str, Any]:
    """Images seen and seconds of a run, from its log."""
    log = folder / "log.jsonl"
    images, seconds = 0, 0.0
    for line in log.read_text().splitlines() if log.exists() else []:
        record = json.loads(line)
        seconds += (record["images"] - images) / record["images_per_second"]
        images = record["images"]
    return {"images_seen": images, "pretrain_seconds": round(seconds, 1)}


def by_cell(rows: list[dict[str, Any]]) -> dict[Cell, dict[int, float]]:
    """Score by seed, for every arm, value and task."""
    scores: dict[Cell, dict[int, float]] = {}
    for row in rows:
        scores.setdefault((row["arm"], row["value"], row["task"]), {})[row["seed"]] = row["score"]
    return scores


def as_markdown(study: Study, scores: dict[Cell, dict[int, float]], rows: list[dict[str, Any]]) -> str:
    """Tables of means and a sentence per comparison."""
    tasks = study.score["tasks"]
    lines = [f"# {study.question}", "", f"Seeds {study.seeds}; mean ± half the 95 % interval over seeds.", ""]
    for value in study.axis["values"] if study.axis else [None]:
        if study.axis:
            lines += [f"## {study.axis['key']} = {value}", ""]
        lines += [f"| arm | {' | '.join(tasks)} | mean |", "|---" * (len(tasks) + 2) + "|"]
        for arm in study.arms:
            cells = [scores.get((arm, value, task), {}) for task in tasks]
            shared = set.intersection(*(set(cell) for cell in cells))
            means = [mean([cell[seed] for cell in cells]) for seed in sorted(shared)]
            lines.append(f"| {arm} | {' | '.join(shown(list(cell.values())) for cell in cells)} | {shown(means)} |")
        lines.append("")
        lines += [f"- {sentence}" for sentence in sentences(study, scores, value)] + [""]
    return "\n".join(lines)


def shown(values: list[float]) -> str:
    """`65.4 ± 1.2`, without an interval for a single value or equal ones."""
    if not values:
        return "-"
    half = half_width(values)
    return f"{mean(values):.2f}" + (f" ± {half:.2f}" if half else "")


def sentences(study: Study, scores: dict[Cell, dict[int, float]], value: Any) -> list[str]:
    """Each arm against the baseline, on the mean over tasks, paired by seed."""
    tasks, said = study.score["tasks"], []

    def per_seed(arm: str) -> dict[int, float]:
        cells = [scores.get((arm, value, task), {}) for task in tasks]
        shared = set.intersection(*(set(cell) for cell in cells))
        return {seed: mean([cell[seed] for cell in cells]) for seed in shared}

    base = per_seed(study.baseline)
    for arm in study.arms:
        own = per_seed(arm)
        pairs = [own[seed] - base[seed] for seed in sorted(set(own) & set(base))]
        if arm == study.baseline or not pairs:
            continue
        verdict, half = judge(pairs)
        known = f"{mean(pairs):+.2f}" + (f" ± {half:.2f}" if half is not None else "") + f", n = {len(pairs)}"
        words = WORDS[verdict] if pairs[0] >= 0 or verdict != "same every run" else "scores lower than"
        every = " in every run" if verdict == "same every run" else ""
        said.append(f"`{arm}` {words} `{study.baseline}`{every} ({known}).")
    return said


def draw(study: Study, scores: dict[Cell, dict[int, float]], path: Path) -> None:
    """Curves over the axis, or a dot per arm, with intervals; one panel per task."""
    from matplotlib.figure import Figure

    from kdep.checkpoint import write_atomically

    tasks = study.score["tasks"]
    figure = Figure(figsize=(4 * len(tasks) + 1, 0.35 * len(study.arms) + 2.4), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    colours = ["#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#db2777", "#4b5563"]
    for panel, task in zip(panels, tasks, strict=True):
        for number, arm in enumerate(study.arms):
            colour = colours[number % len(colours)]
            values = study.axis["values"] if study.axis else [None]
            points = [(v, list(scores[arm, v, task].values())) for v in values if (arm, v, task) in scores]
            centre = [mean(found) for _, found in points]
            reach = [half_width(found) or 0 for _, found in points]
            if study.axis:
                panel.errorbar([v for v, _ in points], centre, reach, label=arm, color=colour, marker="o", capsize=3)
            elif points:
                panel.errorbar(centre, [number], xerr=reach, color=colour, marker="o", capsize=3)
                panel.plot(points[0][1], [number] * len(points[0][1]), "|", color=colour, alpha=0.6)
        panel.set_title(task)
        panel.grid(alpha=0.3)
        if study.axis:
            panel.set(xlabel=study.axis["key"], xscale="log")
        else:
            panel.set_yticks(range(len(study.arms)), list(study.arms) if panel is panels[0] else [""] * len(study.arms))
            panel.invert_yaxis()
    if study.axis:
        panels[0].legend()
    figure.suptitle(study.question)
    write_atomically(path, lambda part: figure.savefig(part, dpi=120, format="png"))
