"""What a study has found: a CSV of its rows, means with intervals and the sentences they allow, a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdep.files import alone_with, write_atomically, write_text
from kdep_benchmarks.studies.by_task import task_table
from kdep_benchmarks.studies.claims import (
    Comparison,
    Scores,
    adjusted,
    against_all_images,
    against_baseline,
    asked_for,
    by_cell,
    chosen_on_val,
    named,
    over_tasks,
)
from kdep_benchmarks.studies.file import Study
from kdep_benchmarks.studies.learned import VAL, learned
from kdep_benchmarks.studies.learned import sentences as learned_sentences
from kdep_benchmarks.studies.rows import AnswerRow, write_rows
from kdep_benchmarks.studies.savings import Measure, measures, savings, spent
from kdep_benchmarks.studies.stats import BySeed, pooled
from kdep_benchmarks.studies.tuning import HOW, SAME_VALUE, Tuned, at_their_best, tuned, tuning_table, val_table
from kdep_benchmarks.table_line import table_line
from kdep_benchmarks.verdicts.intervals import half_width, mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEAN = "mean"
TWO_SEEDS = "An interval over two seeds is wide because there are only two; it says little of how much an arm varies."
MARKERS = ("o", "s", "^")  # a further one for every eight arms
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#db2777", "#4b5563")
# What a seed draws, by the configuration's name for the number that decides it.
DRAWN = {
    "weight_seed": "the student's weights",
    "order_seed": "the order of the images",
    "view_seed": "crops, which images a share has",
}


def answer(study: Study, rows: Sequence[AnswerRow], out: Path) -> str:
    """Write NAME.csv, NAME.md and NAME.png of at least one row below `out`, and return the text of NAME.md."""
    text, names = as_markdown(study, rows), [f"{study.name}.{ending}" for ending in ("csv", "md", "png")]
    with alone_with(out, names):
        table, page, picture = (out / name for name in names)
        write_rows(rows, table)
        write_text(page, text)
        draw(study, rows, picture)
    return text


def as_markdown(study: Study, rows: Sequence[AnswerRow]) -> str:
    """What the seeds draw, the claim, then tables of means and a sentence per comparison."""
    taught = learned(study)
    scores, val = by_cell(rows), by_cell(rows, "val").without(key for key, by_role in taught.items() if by_role[VAL])
    lines = [f"# {study.question}", "", *what_it_covers(study), ""]
    shown = [one for value in study.values for arms in columns(study, scores, value).values() for one in arms.values()]
    lines += [TWO_SEEDS, ""] if any(one.lacks_seeds for one in shown) else []
    lines += _listed("", learned_sentences(study, taught))
    missing = len(study.runs) * len(study.tasks) - len(rows)
    if missing:
        begun = {row["arm"] for row in rows}
        absent = ", ".join(f"`{arm}`" for arm in study.arms if arm not in begun)
        lines += [f"Unfinished: {missing} of {missing + len(rows)} scores are still to come."]
        lines += [*([f"Nothing yet of: {absent}."] if absent else []), ""]
    lines += _claims([one for _, one in named(study, scores)])
    own_values = tuned(study, scores, val)
    own, shares, at_best = explored(study, scores, val, own_values)
    for value, groups in own.items():
        if study.axis:
            lines += [f"## {study.axis.key} = {value}", ""]
        lines += [*table(study, scores, value), ""]
        for title, said, found in groups:
            lines += _listed(title, [*([said] if said else []), *(one.sentence for one in found)])
        lines += task_table(study, scores, value)
    if on_val := val_table(study, val):
        lines += [f"## Every {study.axis.key} on val", "", "Means over tasks and seeds.", "", *on_val, ""]
    if own_values:
        lines += [f"## Each arm at its own {study.axis.key}, chosen on val", "", HOW, ""]
        lines += [*tuning_table(study, own_values), "", SAME_VALUE, ""]
        lines += _listed("", [one.sentence for one in at_best])
    if shares:
        lines += [f"## Along {study.axis.key}: what fewer images cost", ""]
        lines += _listed("", [one.sentence for one in shares])
    for measure in measures(study):
        if sentences := savings(study, scores, rows, measure):
            lines += [f"## Along {study.axis.key}: {measure.what}", ""]
            lines += [*([measure.note, ""] if measure.note else []), *_listed("", sentences)]
    return "\n".join(lines)


Group = tuple[str, str, list[Comparison]]  # title, a sentence that comes first, comparisons


def explored(
    study: Study, scores: Scores, val: Scores, own_values: Tuned | None
) -> tuple[dict[Any, list[Group]], list[Comparison], list[Comparison]]:
    """Exploratory comparisons, after Holm's correction among all: by value, between shares, of arms at their best."""
    begun = {value for _, value, _ in scores}
    own = {value: _own_comparisons(study, scores, val, value) for value in study.values if value in begun}
    shares, at_best = against_all_images(study, scores), at_their_best(study, own_values)
    parts = adjusted([*(group for groups in own.values() for _, _, group in groups), shares, at_best])
    found = {value: [(title, said, parts.pop(0)) for title, said, _ in groups] for value, groups in own.items()}
    return found, *parts


def _own_comparisons(study: Study, scores: Scores, val: Scores, value: Any) -> list[Group]:
    """Title, a sentence that comes first, and comparisons, of those that the scores themselves have not picked."""
    on_val, chosen = chosen_on_val(study, scores, val, value)
    return [
        ("", "", against_baseline(study, scores, value)),
        ("Pairs that the study asks for:", "", asked_for(study, scores, value)),
        ("Chosen on val:", on_val, chosen),
    ]


def _listed(title: str, sentences: Sequence[str]) -> list[str]:
    if not sentences:
        return []
    return [*([title, ""] if title else []), *(f"- {sentence}" for sentence in sentences), ""]


def _claims(claims: Sequence[Comparison]) -> list[str]:
    if not claims:
        return ["No claim was named beforehand: every comparison below is exploratory.", ""]
    title, they = ("Claim", "it was") if len(claims) == 1 else ("Claims", "they were")
    title += f" of the study file; kdep does not check that {they} named before the scores:"
    return [*_listed(title, [one.sentence for one in claims]), "Every other comparison is exploratory.", ""]


def what_it_covers(study: Study) -> list[str]:
    """What is drawn anew with every seed, what is the same for all, and what an interval is over."""
    drawn, fixed = [], []
    configs = {arm: study.two_configs(arm) for arm in study.arms if study.trains(arm)}
    trains = bool(configs)
    seeded = [arm for arm, given in study.arms.items() if isinstance(given, str) and "{seed}" in given]
    random = [arm for arm in seeded if str(study.arms[arm]).startswith("random:")]
    for number, what in DRAWN.items() if trains else ():
        same = [arm for arm, (one, other) in configs.items() if getattr(one, number) == getattr(other, number)]
        if len(same) < len(configs) or (number == "weight_seed" and random):
            but = f" (not for {_named(same)})" if same else ""
            drawn.append(what + but)
        else:
            fixed.append(what)
    if random and not trains:
        drawn.append(f"the weights of {_named(random)}")
    if study.score.seeds is None:
        drawn.append("the val splits of the probes")
        fixed.append("the test images")
    else:
        fixed.append(f"the test images, and the val splits of the probes (score seeds {study.score.seeds})")
    of_runs = [] if trains else [arm for arm in seeded if arm not in random]
    whose = "The arms" if len(of_runs) == len(study.arms) else f"The networks of {_named(of_runs)}"
    others = f" {whose} are students of other runs, which say what a seed drew there." if of_runs else ""
    pooling = (
        "The spread over seeds is pooled over the arms that are trained (Student's t); it is the pair's own where "
        "Bartlett's test finds that arms spread differently, for claims, and between shares of the images."
        if trains
        else "The spread over seeds is the pair's own (Student's t)."
    )
    return [
        f"Seeds {study.seeds}; each draws {', '.join(drawn) or 'nothing'} anew. The same for all: {', '.join(fixed)}."
        + others,
        "Scores are means ± half the 95 % interval over seeds, differences are means over the seeds of both arms with "
        f"their 95 % interval. {pooling} No interval covers other test images.",
    ]


def _named(arms: Sequence[str]) -> str:
    return ", ".join(f"`{arm}`" for arm in arms)


@dataclass(frozen=True)
class Scored:
    """Scores of an arm, and half the 95 % interval of their mean, by the pooled spread where the arm is trained.

    Attributes:
        values: the scores by seed.
        half_width: None for a single value, and for networks that count twice.
        freedom: degrees of freedom of the spread.
    """

    values: list[float]
    half_width: float | None
    freedom: int

    @property
    def text(self) -> str:
        """`65.4 ± 1.2`; a single value or equal ones have no interval."""
        if not self.values:
            return "-"
        return f"{mean(self.values):.2f}" + (f" ± {self.half_width:.2f}" if self.half_width else "")

    @property
    def lacks_seeds(self) -> bool:
        """Whether its interval is over two seeds and as wide as it is mostly because they are two."""
        return bool(self.half_width) and len(self.values) == 2 and self.freedom <= 2


Panel = dict[tuple[str, Any], Scored]  # by arm and value of the axis


def columns(study: Study, scores: Scores, value: Any) -> dict[str, dict[str, Scored]]:
    """Scores of each arm on each task, and their mean over tasks: column -> arm -> scores."""
    by_column = {task: {arm: scores.get((arm, value, task), {}) for arm in study.arms} for task in study.tasks}
    by_column[MEAN] = {arm: over_tasks(study, scores, arm, value) for arm in study.arms}
    found = {name: _with_intervals(study, by_arm) for name, by_arm in by_column.items()}
    # A network at several seeds has a spread, that of the val splits, which says nothing of other runs.
    owned = scores.networks_of(study.arms, value)
    copies = [arm for arm, networks in owned.items() if len(set(networks.values())) < len(networks)]
    for by_arm in found.values():
        by_arm |= {arm: replace(by_arm[arm], half_width=None) for arm in copies}
    return found


def _with_intervals(study: Study, by_arm: Mapping[str, BySeed]) -> dict[str, Scored]:
    noise, found = pooled({arm: scores for arm, scores in by_arm.items() if study.trains(arm)}), {}
    for arm, values in ((arm, list(scores.values())) for arm, scores in by_arm.items()):
        if noise and values and study.trains(arm):
            found[arm] = Scored(values, noise.half_width(len(values)), noise.within_freedom)
        else:
            found[arm] = Scored(values, half_width(values), len(values) - 1)
    return found


def table(study: Study, scores: Scores, value: Any) -> list[str]:
    """A row per arm that has a score: its score on each task, and their mean."""
    found = columns(study, scores, value)
    lines = [table_line(["arm", *found]), "|---" * (len(found) + 1) + "|"]
    scored = [arm for arm in study.arms if any(by_arm[arm].values for by_arm in found.values())]
    return lines + [table_line([arm, *(by_arm[arm].text for by_arm in found.values())]) for arm in scored]


def draw(study: Study, rows: Sequence[AnswerRow], path: Path) -> None:
    """A panel per task and one of their mean: dots per arm, or curves over what the axis spends.

    Error bars are the intervals of the table. Along a number of epochs there is a row of panels over the images seen,
    and one over the seconds of training.
    """
    from matplotlib.figure import Figure

    scores = by_cell(rows)
    panels: dict[str, Panel] = {}
    for value in study.values:
        for name, by_arm in columns(study, scores, value).items():
            found = {(arm, value): scored for arm, scored in by_arm.items() if scored.values}
            panels.setdefault("mean over tasks" if name == MEAN else name, {}).update(found)
    if len(study.tasks) == 1:
        del panels["mean over tasks"]
    counted = [measure for measure in measures(study) if measure.column] or [None]
    size = (4 * len(panels) + 1, (0.35 * len(study.arms) + 2.4) * len(counted))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(counted), len(panels), squeeze=False)
    for line, measure in zip(grid, counted, strict=True):
        places = places_of(study, rows, measure)
        for axes, (title, found) in zip(line, panels.items(), strict=True):
            for number, arm in enumerate(study.arms):
                if study.axis:
                    draw_line(axes, study, number, arm, found, places)
                else:
                    draw_dot(axes, study, number, arm, found)
            axes.set_title(title)
            axes.grid(alpha=0.3)
            if study.axis:
                axes.set_xlabel(measure.what if measure else study.axis.key)
                if all(isinstance(place, int | float) and place > 0 for place in places.values()):
                    axes.set_xscale("log")
                    ticks = ticks_of(study, places)
                    axes.set_xticks(ticks, [f"{tick:,.0f}" if tick >= 100 else f"{tick:.3g}" for tick in ticks])
                    axes.set_xticks([], minor=True)
            else:
                axes.set_yticks(
                    range(len(study.arms)), list(study.arms) if axes is figure.axes[0] else [""] * len(study.arms)
                )
                axes.set_ylim(len(study.arms) - 0.5, -0.5)
    if study.axis:
        drawn = {
            label: handle
            for axes in figure.axes
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(drawn.values(), drawn, loc="outside right upper")
    figure.suptitle(study.question)
    write_atomically(path, lambda part: figure.savefig(part, dpi=120, format="png"))


def ticks_of(study: Study, places: Mapping[tuple[str, Any], float]) -> list[float]:
    """Where the baseline stands at each value, or the first arm that is there."""
    by_value = [
        [places[point] for arm in (study.baseline, *study.arms) if (point := (arm, value)) in places]
        for value in study.values
    ]
    return [there[0] for there in by_value if there]


def places_of(study: Study, rows: Sequence[AnswerRow], measure: Measure | None) -> dict[tuple[str, Any], Any]:
    """Where each arm and value stands on the horizontal axis: at what it spent, mean over seeds, or at the value."""
    if measure is None:
        numbers = all(isinstance(value, int | float) for value in study.values)
        own = {value: value if numbers else str(value) for value in study.values}
        return {(arm, value): place for arm in study.arms for value, place in own.items()}
    found: dict[tuple[str, Any], list[float]] = {}
    for (arm, value, _), amount in spent(rows, measure).items():
        found.setdefault((arm, value), []).append(amount)
    return {key: mean(amounts) for key, amounts in found.items()}


def draw_line(
    axes: "Axes",
    study: Study,
    number: int,
    arm: str,
    found: Panel,
    places: dict[tuple[str, Any], Any],
) -> None:
    """An arm's means along the axis; a checkpoint's, which has spent nothing, as a level."""
    scored = [(arm, value) for value in study.values if (arm, value) in found]
    points = [point for point in scored if point in places]
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number // len(COLOURS) % len(MARKERS)]
    if not points:
        if scored:
            axes.axhline(mean(found[scored[0]].values), label=arm, color=colour, linestyle="--")
        return
    if not any(isinstance(places[point], str) for point in points):
        points.sort(key=places.__getitem__)  # a study may try its values in another order
    reach = [found[point].half_width or 0 for point in points]
    means = [mean(found[point].values) for point in points]
    axes.errorbar([places[p] for p in points], means, reach, label=arm, color=colour, marker=marker, capsize=3)


def draw_dot(axes: "Axes", study: Study, number: int, arm: str, found: Panel) -> None:
    """An arm's mean, with a tick per run; the baseline's is also a line to hold the others against."""
    scored, is_baseline = found.get((arm, None)), arm == study.baseline
    if scored:
        colour, centre = COLOURS[0] if is_baseline else COLOURS[-1], mean(scored.values)
        if is_baseline:
            axes.axvline(centre, color=colour, linestyle="--", linewidth=1, alpha=0.6, zorder=0)
        axes.errorbar([centre], [number], xerr=[scored.half_width or 0], color=colour, marker="o", capsize=3)
        axes.plot(scored.values, [number] * len(scored.values), "|", color=colour, alpha=0.6)
