"""Compare arms across the published studies, where one study alone does not hold both or has few seeds.

    python -m tools.checks.verdicts.across_studies --out docs/figures/studies/across.json

It reads the scores in docs/figures/studies and writes a JSON file with a table beside it. Everything here was looked at
after the runs, so it is exploratory.
"""

import argparse
import csv
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdep.files import write_text
from kdep_benchmarks.studies.file import load_study
from kdep_benchmarks.studies.stats import paired_difference, pooled
from kdep_benchmarks.verdicts.intervals import half_width, mean

STUDIES = Path("docs/figures/studies")
STUDY_FILES = Path("configs/studies")
CONDITIONS = ("ablation_small", "convergence_small", "data_efficiency_small", "residual_small", "sgd_small")
# Of two studies the first raised the question and the second asked it again. Study: value of its axis.
FINE_TUNED = {"finetune_fresh_small": "", "projector_small": ""}
LONG = {"budget_small": "6", "queue_long": ""}  # queue_long has the runs of projector_long too
LONG_PAIRS = (
    ("1x1 conv as published", "SVD x 2"),
    ("LightlyTrain v1", "SVD x 2"),
    ("SVD, queue KL", "SVD x 2"),
    ("SVD, queue KL", "LightlyTrain v1"),
)
ABOUT = (
    "Exploratory: these comparisons were chosen after the runs. Means of three linear probes, or of two fine-tunings."
)

Scores = dict[tuple[str, str], dict[int, tuple[float, str]]]  # (arm, value): seed -> (mean of the probes, run)


def main() -> None:
    """Write the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    found = {
        "about": ABOUT,
        "conv_minus_pts": conv_minus_pts(),
        "x2_minus_published_conv": x2_minus_published_conv(),
        "published_conv_minus_x2_fine_tuned": minus("1x1 conv as published", "SVD x 2", FINE_TUNED),
        "long": [{"arm": arm, "other": other, **minus(arm, other, LONG)} for arm, other in LONG_PAIRS],
        "lead_lost_with_views": lead_lost_with_views(),
    }
    write_text(out, json.dumps(found, indent=1) + "\n")
    write_text(out.with_suffix(".md"), table(found))


def read_scores(study: str) -> Scores:
    """Read the mean score over the probes of each run of a study, by arm and value."""
    scores: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    runs: dict[tuple[str, str, int], str] = {}
    with (STUDIES / f"{study}.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            key = row["arm"], row["value"], int(row["seed"])
            scores[key].append(float(row["score"]))
            runs[key] = row["run"]
    found: Scores = defaultdict(dict)
    for (arm, value, seed), probes in scores.items():
        found[arm, value][seed] = mean(probes), runs[arm, value, seed]
    return found


def conv_minus_pts() -> dict[str, Any]:
    """The learned 1x1 convolution minus SVD + PTS under each condition that studies varied, each pair of runs once.

    The interval takes the conditions as the sample: it is about conditions like these.
    """
    conditions, seen = [], set()
    for study in CONDITIONS:
        scores = read_scores(study)
        for value in sorted({value for arm, value in scores if arm == "1x1 conv"}):
            conv, pts = scores["1x1 conv", value], scores["SVD + PTS", value]
            pairs = {seed: (conv[seed][1], pts[seed][1]) for seed in sorted(set(conv) & set(pts))}
            fresh = [seed for seed, runs in pairs.items() if runs not in seen]
            seen |= set(pairs.values())
            if fresh:
                differences = [round(conv[seed][0] - pts[seed][0], 2) for seed in fresh]
                conditions.append({"study": study, "value": value, "differences": differences})
    every = [one for condition in conditions for one in condition["differences"]]
    means = [mean(condition["differences"]) for condition in conditions]
    return {
        "conditions": conditions,
        "pairs": len(every),
        "above": sum(one > 0 for one in every),
        "mean": round(mean(means), 2),
        "half_width_over_conditions": round(half_width(means), 2),
    }


def x2_minus_published_conv() -> dict[str, Any]:
    """SVD with targets times two (one study) minus the 1x1 convolution as published (another), paired by seed.

    The spread is pooled over the arms that the two studies train: that of untrained networks is not of pretraining.
    """
    plain = {}
    for name in ("ablation_small", "beyond_small"):
        study = load_study(STUDY_FILES / f"{name}.yaml")
        for (arm, _), by_seed in read_scores(name).items():
            if study.trains(arm) and len(by_seed) > 1:
                plain[arm] = {seed: score for seed, (score, _) in by_seed.items()}
    noise = pooled(plain)
    found = paired_difference(plain["SVD x 2"], plain["1x1 conv as published"], noise)
    return {
        "seeds": len(plain["SVD x 2"]),
        "arms_pooled": len(plain) if noise else 0,
        **{name: round(getattr(found, name), 2) for name in ("value", "low", "high")},
    }


def minus(arm: str, other: str, studies: Mapping[str, str]) -> dict[str, Any]:
    """One arm minus another, by seeds of two studies.

    Where the first study raised the question and the second asked it again, the lead of the first may be luck in part.
    """
    first: dict[int, float] = {}
    second: dict[int, float] = {}
    for study, value in studies.items():
        scores = read_scores(study)
        for name, own in ((arm, first), (other, second)):
            own.update({seed: score for seed, (score, _) in scores[name, value].items()})
    shared = sorted(first.keys() & second.keys())
    found = paired_difference(first, second)
    return {
        "seeds": len(shared),
        "above": sum(first[seed] > second[seed] for seed in shared),
        **{name: round(getattr(found, name), 2) for name in ("value", "low", "high")},
    }


def lead_lost_with_views() -> dict[str, Any]:
    """How much the lead of SVD with targets times two over each rival shrinks from one epoch to six, paired by seed."""
    scores = read_scores("budget_small")
    found = {}
    for rival in ("SVD + PTS x 4", "1x1 conv as published", "LightlyTrain v1", "supervised"):
        pairs = [(scores["SVD x 2", value], scores[rival, value]) for value in ("1", "6")]
        first, last = [
            {seed: own[seed][0] - other[seed][0] for seed in own.keys() & other.keys()} for own, other in pairs
        ]
        lost = paired_difference(first, last)
        found[rival] = {
            "seeds": len(first.keys() & last.keys()),
            "at_1": round(mean(list(first.values())), 2),
            "at_6": round(mean(list(last.values())), 2),
            **{name: round(getattr(lost, name), 2) for name in ("value", "low", "high")},
        }
    return found


def table(found: dict[str, Any]) -> str:
    """Write the comparisons as Markdown."""
    conv, double = found["conv_minus_pts"], found["x2_minus_published_conv"]
    tuned, long = found["published_conv_minus_x2_fine_tuned"], found["long"]
    rows = [
        f"| {c['study']} | {c['value'] or '-'} | {', '.join(map(str, c['differences']))} |" for c in conv["conditions"]
    ]
    return "\n".join(
        [
            found["about"],
            "",
            f"A learned 1x1 convolution minus SVD + PTS: above in {conv['above']} of {conv['pairs']} pairs of runs, by "
            f"{conv['mean']} ± {conv['half_width_over_conditions']} points (95 % interval over the conditions).",
            "",
            "| study | value of its axis | differences by seed |",
            "|---|---|---|",
            *rows,
            "",
            f"SVD with targets times 2 minus the 1x1 convolution as published: {double['value']:+.2f} "
            f"[{double['low']:+.2f}, {double['high']:+.2f}] over {double['seeds']} seeds, the spread pooled over "
            f"{double['arms_pooled']} trained arms.",
            "",
            "After fine-tuning, the 1x1 convolution as published minus SVD with targets times 2: above in "
            f"{tuned['above']} of {tuned['seeds']} seeds of {' and '.join(FINE_TUNED)}, by {tuned['value']:+.2f} "
            f"[{tuned['low']:+.2f}, {tuned['high']:+.2f}]. The first of these studies raised the question, so its lead "
            "may be luck in part.",
            "",
            f"In linear probes after 119,808 views, over the seeds of {' and '.join(LONG)}. The first of these studies "
            "raised the question of the convolution and of LightlyTrain v1 against SVD x 2, tuning_small that of SVD, "
            "queue KL:",
            "",
            "| arm | minus | above | difference |",
            "|---|---|---|---|",
            *(
                f"| {one['arm']} | {one['other']} | {one['above']} of {one['seeds']} | {one['value']:+.2f} "
                f"[{one['low']:+.2f}, {one['high']:+.2f}] |"
                for one in long
            ),
            "",
            "The lead of SVD with targets times 2 in linear probes after 19,968 and 119,808 views (budget_small), and "
            "how much of it is lost, over the seeds of both:",
            "",
            "| rival | seeds | after 19,968 | after 119,808 | lost |",
            "|---|---|---|---|---|",
            *(
                f"| {rival} | {one['seeds']} | {one['at_1']:+.2f} | {one['at_6']:+.2f} | {one['value']:+.2f} "
                f"[{one['low']:+.2f}, {one['high']:+.2f}] |"
                for rival, one in found["lead_lost_with_views"].items()
            ),
            "",
        ]
    )


if __name__ == "__main__":
    main()
