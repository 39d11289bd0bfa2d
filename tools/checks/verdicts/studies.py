"""List the shipped studies and their claims: what was found of what was planned and of what was claimed beforehand.

    python -m tools.checks.verdicts.studies --out docs/figures/studies/studies.md

It reads the study files and the published scores in docs/figures/studies, and draws the claims in claims.png beside the
list.
"""

import argparse
import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from kdep.files import write_atomically, write_text
from kdep_benchmarks.studies.answer import explored
from kdep_benchmarks.studies.claims import Comparison, by_cell, named
from kdep_benchmarks.studies.file import Study, load_study
from kdep_benchmarks.studies.rows import collect, read_known
from kdep_benchmarks.studies.tuning import tuned
from kdep_benchmarks.verdicts.difference import Interval

SHIPPED = Path("configs/studies")
PUBLISHED = Path("docs/figures/studies")
COLOURS = {"better": "#059669", "worse": "#dc2626"}  # of a verdict; grey for the others
ABOUT = """Claims are comparisons that a study file names before these can be made; their verdicts are after Holm's
correction among the claims of the study. All other comparisons are exploratory, in every study. Hours are the training
alone, without banks of targets and probes, on one or two threads of machines that differ. A student counts once, in the
first study that trained it, even where a second trained it again. `-`: the scores do not say, as those of checkpoints
that other studies made."""
DEFAULT = "SVD x 2"  # the recipe `default`
RIVALS = (
    *("supervised", "SVD + PTS", "SVD + PTS x 4", "1x1 conv as published", "1x1 conv x 2", "LightlyTrain v1"),
    "SVD, queue KL",
)
# See ABOUT_DEFAULT.
FRESH = (
    *("confirm_small", "budget_small", "dense_small", "finetune_fresh_small", "projector_small", "projector_long"),
    *("finetune_long", "dense_long", "queue_long", "queue_finetune", "queue_dense"),
    *("queue_small", "queue_finetune_small", "queue_dense_small"),
)
KINDS = {
    "linear": "linear probes",
    "dense-linear": "frozen dense tasks",
    "box": "frozen dense tasks",
    "finetune": "fine-tuned",
}
ABOUT_DEFAULT = """The recipe `default`, which is `SVD x 2`, minus each rival, in points of the mean over the tasks, on
seeds that had no part in the choice of the default. Verdicts are after Holm's correction: of a comparison that was
claimed beforehand among the claims of its study, of another among the study's exploratory ones."""
LOSS, MEASURES = "SVD, queue KL", ("linear probes", "fine-tuned", "frozen dense")
# The runs, the arm that LOSS is compared with, and the study of each measure.
LOSS_STUDIES: Sequence[tuple[str, str, Sequence[str]]] = (
    ("ResNet-18, 19,968 views", f"`{DEFAULT}`, optim.epochs = 1", ("budget_small",)),
    ("ResNet-18, 23,936 views", f"`{DEFAULT}`", ("queue_small", "queue_finetune_small", "queue_dense_small")),
    ("ResNet-18, 119,808 views", f"`{DEFAULT}`", ("queue_long", "queue_finetune", "queue_dense")),
    ("ResNet-18, 119,808 views, other seeds", f"`{DEFAULT}`, optim.epochs = 6", ("budget_small",)),
    (
        "ResNet-18, 119,808 views, both at the rate 0.004",
        "`SVD x 2 at 0.004`",
        ("queue_rate", "queue_rate_finetune", "queue_rate_dense"),
    ),
    (
        "ResNet-18, 119,808 views against 139,776",
        "`SVD x 2 for 7 epochs`",
        ("queue_time", "queue_time_finetune", "queue_time_dense"),
    ),
    ("MobileNetV2, 119,808 views", f"`{DEFAULT}`", ("queue_mobile", "queue_mobile_finetune", "queue_mobile_dense")),
    ("ConvNeXt-Atto, 119,808 views", f"`{DEFAULT}`", ("queue_atto", "queue_atto_finetune", "queue_atto_dense")),
    ("ResNet-18, 119,808 views of 1,024 images", "`SVD x 2 of 1024`", ("queue_few",)),
    ("ResNet-18 of a ResNet-50, 24,000 views", f"`{DEFAULT}`", ("queue_residual",)),
)
ABOUT_LOSS = """The loss of similarities on the SVD's features, `SVD, queue KL`, minus `SVD x 2`, in points of the mean
over the tasks. Each is a claim, with its verdict after Holm's correction among the claims of its study."""
ABOUT_CLAIMS = """Each is about the mean over the tasks of its study, first arm minus second, in points, with the 95 %
interval over the seeds of the pair ([picture](claims.png))."""


def main() -> None:
    """Write the list and draw the claims."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out, studies = parser.parse_args().out, shipped()
    write_text(out, table(studies))
    found = [(study, claims(study, published(study))) for study in studies]
    write_atomically(out.with_name("claims.png"), lambda part: draw(found, part))


def shipped() -> list[Study]:
    """Read the shipped study files, in the order of their names."""
    return [load_study(path) for path in sorted(SHIPPED.glob("*.yaml"))]


def table(studies: Sequence[Study]) -> str:
    """Write a row per study that has scores, a line per study that has none, and a row per claim that was scored."""
    scored = {study.name: rows for study in studies if (rows := published(study))}
    claimed_by = {study.name: claims(study, scored.get(study.name, [])) for study in studies}
    seen: set[str] = set()
    lines = ["# The studies", "", ABOUT, "", "| study | scores | seeds | images seen by a run | hours | claims |"]
    lines.append("|---" * 6 + "|")
    total = 0.0
    for study in studies:
        if rows := scored.get(study.name):
            hours = hours_of(rows, seen)
            total += hours
            planned = len(study.runs) * len(study.tasks)
            done = f"{planned:,}" if len(rows) == planned else f"{len(rows):,} of {planned:,}"
            cells = [f"[{study.name}]({study.name}.md)", done, str(len(study.seeds)), images_of(rows)]
            cells += [f"{hours:.1f}" if hours else "-", verdicts(claimed_by[study.name])]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"{total:.0f} hours for all of these students.", "", "Not run:", ""]
    for study in studies:
        if study.name not in scored:
            runs = sum(run.checkpoint is None for run in study.runs) or "no"
            own = claimed_by[study.name]
            lines.append(f"- {study.name}: {runs} runs of its own" + (f", claims: {len(own)}" if own else ""))
    lines += ["", "## The claims", "", ABOUT_CLAIMS, "", "| study | tasks | claim | seeds | difference | verdict |"]
    lines.append("|---" * 6 + "|")
    for study in studies:
        for one in claimed_by[study.name]:
            if one.seeds:
                cells = [study.name, ", ".join(study.tasks), f"{one.arm} minus {one.other}", str(one.seeds), one.text]
                lines.append(f"| {' | '.join([*cells, verdict(one)])} |")
    lines += ["", "## The default against its rivals", "", ABOUT_DEFAULT, "", *default_table(studies)]
    lines += ["", "## The loss of similarities against MSE", "", ABOUT_LOSS, "", *loss_table(studies)]
    return "\n".join(lines) + "\n"


def loss_table(studies: Sequence[Study]) -> list[str]:
    """Write a row for every kind of runs on which the two losses were compared, with a column per measure."""
    by_name = {study.name: study for study in studies}
    lines = [f"| runs | seeds | {' | '.join(MEASURES)} |", "|---" * (2 + len(MEASURES)) + "|"]
    for runs, other, names in LOSS_STUDIES:
        found = [loss_claim(by_name[name], other) for name in names]
        told = [f"{one.text}, {verdict(one)}" if one.interval else verdict(one) for one in found]
        told += ["-"] * (len(MEASURES) - len(told))
        lines.append(f"| {runs} | {max(one.seeds for one in found)} | {' | '.join(told)} |")
    return lines


def loss_claim(study: Study, other: str) -> Comparison:
    """The claim of a study about the loss of similarities and another arm."""
    found = claims(study, published(study))
    (one,) = (claim for claim in found if claim.arm.startswith(f"`{LOSS}") and claim.other == other)
    return one


def default_table(studies: Sequence[Study]) -> list[str]:
    """Write a row for every comparison of the default with a rival on fresh seeds, by rival and number of images.

    One that a later study takes over from another stands once, as the first study has it.
    """
    by_name = {study.name: study for study in studies}
    seen: Counter[str] = Counter()  # a study of students that another trained does not say what they saw
    for study in studies:
        for row in published(study):
            seen[row["checkpoint"]] = max(seen[row["checkpoint"]], int(row["images_seen"]))
    found: dict[tuple[int, str, float], tuple[int, Comparison, list[str]]] = {}
    for images, one, cells in (row for name in FRESH for row in default_against(by_name[name], seen)):
        found.setdefault((images, one.other, round(one.value, 4)), (images, one, cells))
    lines = ["| rival | views | tasks | seeds | difference | verdict | claimed | study |", "|---" * 8 + "|"]
    for rival in RIVALS:
        own = [(images, cells) for images, one, cells in found.values() if one.other == f"`{rival}`"]
        for images, cells in sorted(own, key=lambda pair: pair[0]):
            lines.append(f"| {rival} | {images:,} | {' | '.join(cells)} |")
    return lines


def default_against(study: Study, seen: Mapping[str, int]) -> list[tuple[int, Comparison, list[str]]]:
    """A study's comparisons of the default with rivals: images seen, comparison, the other cells of its row."""
    rows = collect(study, PUBLISHED, [], read_known([PUBLISHED / f"{study.name}.csv"], study))
    scores, val = by_cell(rows), by_cell(rows, "val")
    compared = [(value, one, "yes") for value, one in named(study, scores)]
    for value, groups in explored(study, scores, val, tuned(study, scores, val))[0].items():
        compared += [(value, one, "no") for _, _, group in groups for one in group]
    kinds = dict.fromkeys(KINDS[task.partition("-")[2]] for task in study.tasks)
    tasks, found = f"{len(study.tasks)} {' and '.join(kinds)}", []
    for value, one, beforehand in compared:
        one = turned(one) if one.other == f"`{DEFAULT}`" else one
        if one.arm == f"`{DEFAULT}`" and one.interval and not one.awaited:
            images = max(seen[row["checkpoint"]] for row in rows if (row["arm"], row["value"]) == (DEFAULT, value))
            found.append((images, one, [tasks, str(one.seeds), one.text, verdict(one), beforehand, study.name]))
    return found


def turned(one: Comparison) -> Comparison:
    """The same comparison, of the second arm with the first."""
    own = one.interval
    interval = Interval(-own.value, -own.high, -own.low, own.p) if own else None
    return replace(one, arm=one.other, other=one.arm, value=-one.value, interval=interval)


def published(study: Study) -> list[dict[str, str]]:
    """Read a study's published scores; none, where it has not been run."""
    path = PUBLISHED / f"{study.name}.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def hours_of(rows: list[dict[str, str]], seen: set[str]) -> float:
    """Hours of training of the students that are not in `seen`, to which they are added."""
    trained = {row["checkpoint"]: float(row["pretrain_seconds"]) for row in rows if float(row["pretrain_seconds"])}
    new = {student: seconds for student, seconds in trained.items() if student not in seen}
    seen |= set(new)
    return sum(new.values()) / 3600


def images_of(rows: list[dict[str, str]]) -> str:
    """The fewest and the most images that a trained student has seen; `-` where none is known to have seen any."""
    counts = {int(row["images_seen"]) for row in rows} - {0}
    if not counts:
        return "-"
    return " to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)}))


def claims(study: Study, rows: Sequence[Mapping[str, str]]) -> list[Comparison]:
    """The claims of a study, at every value of its axis, after Holm's correction."""
    planned = {run.key: run.place for run in study.runs}
    own = [planned[row["arm"], row["value"], row["seed"]] for row in rows]
    typed = [
        place | {"task": row["task"], "score": float(row["score"]), "checkpoint": row["checkpoint"]}
        for place, row in zip(own, rows, strict=True)
    ]
    scores = by_cell(typed)
    found = named(study, scores)
    if not study.axis:
        return [one for _, one in found]
    return [replace(one, other=f"{one.other}, {study.axis.key} = {value}") for value, one in found]


def verdicts(found: Sequence[Comparison]) -> str:
    """Count claims by their verdict."""
    counts = Counter(verdict(one) for one in found)
    return ", ".join(f"{count} {what}" for what, count in counts.items()) or "-"


def verdict(claim: Comparison) -> str:
    """Say what became of a claim."""
    if claim.awaited:
        return "to come"
    if claim.interval is None:
        return "no verdict"
    return claim.interval.verdict if claim.holds or claim.interval.verdict == "no difference" else "not after Holm"


def draw(found: Sequence[tuple[Study, Sequence[Comparison]]], path: Path) -> None:
    """Draw the interval of every claim that has one, by study, as a PNG file."""
    from matplotlib.figure import Figure

    shown = [(study, [one for one in own if one.interval and not one.awaited]) for study, own in found]
    shown = [(study, own) for study, own in shown if own]
    heights = [0.5 + 0.3 * len(own) for _, own in shown]
    figure = Figure(figsize=(8, 0.8 + sum(heights)), layout="constrained")
    panels = figure.subplots(len(shown), 1, squeeze=False, sharex=True, height_ratios=heights).flat
    for (study, own), axes in zip(shown, panels, strict=True):
        for place, one in enumerate(own):
            reach = [[one.value - one.interval.low], [one.interval.high - one.value]]
            axes.errorbar(
                [one.value], [place], xerr=reach, fmt="o", capsize=3, color=COLOURS.get(verdict(one), "#64748b")
            )
        axes.axvline(0, color="black", linewidth=0.8)
        kinds = ", ".join(dict.fromkeys(task.partition("-")[2] for task in study.tasks))
        axes.set_title(
            f"{study.name}: {len(study.tasks)} tasks ({kinds}), {own[0].seeds} seeds", fontsize=9, loc="left"
        )
        names = [f"{one.arm} minus {one.other}".replace("`", "") for one in own]
        axes.set_yticks(range(len(own)), names, fontsize=8)
        axes.set_ylim(len(own) - 0.5, -0.5)
        axes.grid(axis="x", alpha=0.25)
        axes.tick_params(axis="x", labelsize=8)
        axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel(
        "points in the mean over tasks, 95 % interval\n"
        "green: better, red: worse, grey: not shown after Holm's correction",
        fontsize=8,
    )
    figure.savefig(path, dpi=130, format="png")


if __name__ == "__main__":
    main()
