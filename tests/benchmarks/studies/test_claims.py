import math

import pytest

from kdep_benchmarks.studies.answer import (
    answer,
    as_markdown,
    columns,
    draw_dot,
    draw_line,
    places_of,
    ticks_of,
    what_it_covers,
)
from kdep_benchmarks.studies.claims import (
    adjusted_claims,
    against_all_images,
    against_baseline,
    arms_at,
    asked_for,
    by_cell,
    chosen_on_val,
    claimed,
    over_tasks,
)
from kdep_benchmarks.studies.file import Claim, Score
from kdep_benchmarks.studies.savings import (
    IMAGES,
    IMAGES_SEEN,
    SECONDS,
    best_of,
    in_words,
    measures,
    reached,
    savings,
)
from kdep_benchmarks.studies.stats import paired_difference
from tests.helpers.made_studies import made, rows_of


def sentences(said):
    return [one.sentence for one in said]


def test_arms_are_compared_by_their_mean_over_tasks_paired_by_seed():
    scores = {
        "base": {"a": [10, 12, 14], "b": [20, 20, 20]},
        "better": {"a": [14, 16, 19], "b": [24, 24, 23]},  # +4, +4, +4 on the mean
        "equal": {"a": [10, 13, 14], "b": [20, 19, 20]},
        "short": {"a": [30], "b": [30]},
    }
    study, rows = made(scores), rows_of(scores)
    said = sentences(against_baseline(study, by_cell(rows), None))
    assert said[0] == "`better` against `base`: +4.00, no verdict (n = 3, the same in every run)."
    assert said[1] == "`equal` against `base`: +0.00, no verdict (n = 3, the same in every run)."
    assert said[2] == "`short` against `base`: +15.00, no verdict (n = 1, too few runs for an interval)."
    text = as_markdown(study, rows)
    # Task a: variances 4, 6.33 and 4.33, so 2.4469 (6 degrees of freedom) * sqrt(4.889 / 3). Task b has no spread in
    # one arm, and the mean over tasks none beside the seeds': there each arm has its own.
    assert "| base | 12.00 ± 3.12 | 20.00 | 16.00 ± 2.48 |" in text
    assert "| short | 30.00 ± 5.41 | 30.00 | 30.00 |" in text  # 2.4469 * sqrt(4.889) of a single seed
    assert "Unfinished: 4 of 24 scores are still to come." in text


def test_error_bars_are_the_pooled_intervals_of_the_table():
    from matplotlib.figure import Figure

    scores = {"base": {"a": [10, 12, 14]}, "one": {"a": [14, 16, 19]}, "two": {"a": [10, 13, 14]}, "short": {"a": [30]}}
    study = made(scores, score=Score(suite="made", tasks=["a"]))
    panel = {(arm, None): scored for arm, scored in columns(study, by_cell(rows_of(scores)), None)["a"].items()}
    dots, lines = Figure().subplots(1, 2)
    # 2.4469 * sqrt(4.889 / n), see above; by their own spread base would have 4.3027 * 2 / sqrt(3) = 4.97.
    for arm, half in (("base", 3.1236), ("short", 5.4103)):
        draw_dot(dots, study, 0, arm, panel)
        draw_line(lines, study, 0, arm, panel, {(arm, None): 1})
        for axes, side in ((dots, 0), (lines, 1)):
            ends = axes.containers[-1].lines[2][0].get_segments()[0][:, side]
            assert (ends[1] - ends[0]) / 2 == pytest.approx(half, abs=1e-3)


def test_a_line_runs_along_the_axis_whatever_the_order_of_its_values():
    from matplotlib.figure import Figure

    arms = {"new": {2: [50, 50, 50], 4: [60, 60, 60], 1: [40, 40, 40]}, "old": {}}
    study, rows = along("optim.warmup_epochs", [2, 4, 1], arms, images={2: 5, 4: 5, 1: 5})
    panel = {("new", value): columns(study, by_cell(rows), value)["a"]["new"] for value in study.values}
    axes = Figure().subplots()
    draw_line(axes, study, 0, "new", panel, places_of(study, rows, None))
    assert axes.containers[-1].lines[0].get_xydata().tolist() == [[1, 39], [2, 49], [4, 59]]


def test_an_interval_over_two_seeds_is_said_to_lack_seeds_and_no_other():
    said = "An interval over two seeds is wide because there are only two; it says little of how much an arm varies."

    def text(found, **others):
        scores = {arm: {"a": values} for arm, values in found.items()}
        return as_markdown(made(scores, score=Score(suite="made", tasks=["a"]), **others), rows_of(scores))

    alone = text({"base": [40, 48.33]}, seeds=[0, 1])
    assert f"\n\n{said}\n\n" in alone and "| base | 44.16 ± 52.92 |" in alone  # 12.706 * 4.165
    assert said in text({"base": [10, 18], "x": [14, 16]}, seeds=[0, 1])  # pooled, with two degrees of freedom
    assert said not in text({"base": [10, 18], "x": [14, 16], "y": [12, 17]}, seeds=[0, 1])  # with three
    assert said not in text({"base": [10, 12, 14]})
    assert said not in text({"base": [10, 10]}, seeds=[0, 1]) and said not in text({"base": [10]}, seeds=[0])
    untrained = {"base": [10, 12, 14], "x": [11, 13, 16], "r": [1, 6]}
    assert said in text(untrained, arms={"base": {}, "x": {}, "r": "random:resnet18#{seed}"})  # by its own spread


def test_pairs_that_a_study_asks_for_are_compared_too():
    scores = {"base": {"a": [10, 12, 14]}, "one": {"a": [11, 13, 16]}, "two": {"a": [9, 12, 12]}}
    pairs = [["one", "two"], ["late", "one"]]
    study, rows = made({**scores, "late": {}}, score=Score(suite="made", tasks=["a"]), pairs=pairs), rows_of(scores)
    # Beside arms and seeds squares of 2.4444 with 4 degrees of freedom: 2.7764 * sqrt(2 * 0.6111 / 3) = 1.772.
    said = "`one` is better than `two` (+2.33 [+0.56, +4.11], n = 3"
    assert sentences(asked_for(study, by_cell(rows), None)) == [f"{said})."]
    # p is 0.022, times 3 not below 0.05
    holm = "does not hold among 3 comparisons (Holm)"
    assert f"Pairs that the study asks for:\n\n- {said}; {holm}).\n" in as_markdown(study, rows)


def test_the_spread_of_checkpoints_is_not_pooled_with_that_of_trained_arms():
    scores = {"base": {"a": [10, 12, 14]}, "x": {"a": [11, 13, 16]}, "y": {"a": [9, 12, 12]}}
    score = Score(suite="made", tasks=["a"])
    alone = arms_at(made(scores, score=score), by_cell(rows_of(scores)), None)
    arms = {**dict.fromkeys(scores, {}), "random": "random:resnet18#{seed}"}
    more = {**scores, "random": {"a": [1, 1.5, 5]}}
    beside = arms_at(made(more, score=score, arms=arms), by_cell(rows_of(more)), None)
    assert beside.noise == {**alone.noise, "random": None} and alone.noise["base"] is not None


def test_an_interval_that_excludes_zero_is_called_better_or_worse():
    scores = {"base": {"a": [10, 10, 10], "b": [10, 10, 10]}, "worse": {"a": [8, 8.2, 7.8], "b": [8, 8.2, 7.8]}}
    said = sentences(against_baseline(made(scores), by_cell(rows_of(scores)), None))
    assert said == ["`worse` is worse than `base` (-2.00 [-2.50, -1.50], n = 3)."]


def test_the_mean_over_tasks_is_of_the_seeds_that_all_tasks_have():
    scores = {"base": {"a": [10, 12, 14], "b": [20, 30]}}
    assert over_tasks(made(scores), by_cell(rows_of(scores)), "base", None) == {0: 15, 1: 21}


def test_what_is_chosen_on_select_without_a_seed_is_held_against_the_baseline_at_that_seed():
    scores = {
        arm: {"a": values, "b": values} for arm, values in {"base": [5, 6, 7], "x": [7, 9, 8], "y": [9, 9, 9]}.items()
    }
    rows = rows_of(scores, val={"base": 50.0, "x": [50.0, 51.0, 58.0], "y": 52.0})
    study, by_score, by_select = made(scores), by_cell(rows), by_cell(rows, "val")
    # Without its last seed x has 50.5 on val, less than y: 2, 3, 2 more than the baseline.
    said = chosen_on_val(study, by_score, by_select, None)
    assert said[0] == "On the val split `x` is the best (53.00)."
    assert sentences(said[1]) == [
        "For each seed, the arm that the other seeds choose (`x`, `x`, `y`) is better than `base` "
        "(+2.33 [+0.90, +3.77], n = 3)."
    ]
    clear = by_cell(rows_of(scores, val={"base": 50.0, "x": 53.0, "y": 52.0}), "val")
    (again,) = sentences(chosen_on_val(study, by_score, clear, None)[1])
    assert again.endswith("choose (`x` each time) shows no difference to `base` (+2.00 [-0.48, +4.48], n = 3).")
    assert f"Chosen on val:\n\n- {said[0]}\n- For each seed, the arm" in as_markdown(study, rows)


def test_where_a_checkpoint_is_chosen_the_spread_is_the_pairs_own():
    scores = {"base": {"a": [10, 12, 14]}, "x": {"a": [11, 13, 16]}, "y": {"a": [9, 12, 12]}, "z": {"a": [20, 23, 29]}}
    arms = {**dict.fromkeys(scores, {}), "z": "random:resnet18#{seed}"}
    study = made(scores, score=Score(suite="made", tasks=["a"]), arms=arms)
    val = by_cell(rows_of(scores, val={"base": 50.0, "x": 51.0, "y": 52.0, "z": 60.0}), "val")
    (one,) = chosen_on_val(study, by_cell(rows_of(scores)), val, None)[1]
    chosen, base = (dict(enumerate(scores[arm]["a"])) for arm in ("z", "base"))
    assert one.interval == paired_difference(chosen, base)


def test_nothing_is_chosen_on_select_before_all_arms_are_done_and_no_arm_where_the_baseline_is_best():
    scores = {arm: {"a": [5, 6, 7], "b": [5, 6, 7]} for arm in ("base", "x", "y")}
    rows = rows_of(scores, val={"base": 53.0, "x": 52.0, "y": 51.0})
    study, by_score, by_select = made(scores), by_cell(rows), by_cell(rows, "val")
    none = "On the val split `base` is the best (53.00), whichever seed is left out: no arm is above the baseline."
    assert chosen_on_val(study, by_score, by_select, None) == (none, [])
    some = by_cell(rows_of(scores, val={"base": 53.0, "x": 52.0}), "val")
    assert chosen_on_val(study, by_score, some, None) == ("", [])  # y has none
    unfinished = by_cell([row for row in rows if (row["arm"], row["seed"]) != ("y", 2)])
    assert chosen_on_val(study, unfinished, by_select, None) == ("", [])
    alone = made({arm: {task: by_task[task][:1] for task in by_task} for arm, by_task in scores.items()}, seeds=[0])
    first = [row for row in rows if row["seed"] == 0]
    said, compared = chosen_on_val(alone, by_cell(first), by_cell(first, "val"), None)
    assert said.endswith("(53.00); one seed, so no other to choose by.") and compared == []


def test_a_seed_counts_where_it_changes_a_network():
    # base and x are one network each, whose probes have other val splits by seed; two seeds of z are one file, copied.
    scores = {arm: {"a": values, "b": values} for arm, values in {"base": [5, 5, 5.3], "x": [6, 6.2, 6.1]}.items()}
    scores |= {"y": {"a": [7, 9, 8.3], "b": [7, 9, 8.3]}, "z": {"a": [8, 8.1, 9], "b": [8, 8.1, 9]}}
    networks = {"base": ["b"] * 3, "x": ["x"] * 3, "z": ["z0", "z0", "z2"]}
    arms = {"base": "timm:one", "x": "runs/copy{seed}.pth", "y": "random:two#{seed}", "z": "runs/z{seed}.pth"}
    study, rows = made(scores, arms=arms), rows_of(scores, networks=networks)
    one, several, copies = sentences(against_baseline(study, by_cell(rows), None))
    assert one == "`x` against `base`: +1.00, no verdict (n = 1, one network each)."
    # 2, 4 and 3: 4.3027 * 1 / sqrt(3) = 2.48
    about = "`base` is one network, and the interval is about its weights"
    assert several == f"`y` is better than `base` (+3.00 [+0.52, +5.48], n = 3; {about})."
    assert copies == "`z` against `base`: +3.27, no verdict (n = 3, some seeds of `z` have the same network)."
    text = as_markdown(study, rows)
    assert "| base | 5.10 | 5.10 | 5.10 |" in text and "| y | 8.10 ± 2.52 |" in text  # 4.3027 * 1.0149 / sqrt(3)
    (claim,) = claimed(study.model_copy(update={"claims": [Claim(arms=["x", "base"])]}), by_cell(rows), None)
    assert claim.interval is None and claim.seeds == 1


def test_a_pair_is_counted_once_among_the_comparisons_and_only_where_there_is_an_interval():
    values = {f"arm{n}": [n, n + 1, n - 1 + n / 10] for n in range(6)}
    scores = {arm: {"a": v, "b": v} for arm, v in {"base": [1, 3, 2], **values}.items()}
    study, rows = made(scores, pairs=[["base", "arm1"], ["arm1", "arm2"]]), rows_of(scores)
    text = as_markdown(study, rows)
    assert "among 7 comparisons (Holm)" in text  # 6, and arm1 with arm2


def test_an_arm_that_all_seeds_choose_on_val_is_one_comparison_with_the_baseline():
    scores = {"base": [10, 12, 14], "x": [17, 19, 22], "y": [11, 14, 14], "z": [16, 16, 18]}
    scores = {arm: {"a": values, "b": values} for arm, values in scores.items()}
    study, val = made(scores), {"base": 50.0, "x": 53.0, "y": 51.0, "z": 52.0}
    text = as_markdown(study, rows_of(scores, val=val))
    assert "choose (`x` each time) is better than `base` (+7.33 [" in text and "- `x` is better than `base`" in text
    assert "among 3 comparisons (Holm)" in text and "among 4" not in text
    mixed = as_markdown(study, rows_of(scores, val=val | {"x": [50.0, 50.0, 59.0]}))  # without its last seed z is best
    assert "choose (`x`, `x`, `z`) is better" in mixed and "among 4 comparisons (Holm)" in mixed


def test_a_claim_comes_first_and_all_else_is_exploratory():
    scores = {"base": {"a": [10, 12, 14], "b": [9, 9, 9]}, "x": {"a": [11, 13, 16], "b": [1, 2, 3]}}
    scores["y"] = {"a": [9, 12, 12], "b": [3, 1, 2]}
    claim = {"arms": ["x", "y"], "metric": "a", "seeds": [0, 1, 2]}
    study, rows = made(scores, claims=[claim]), rows_of(scores)
    # Only task a counts, and only the pair's own differences, 2, 1 and 4: 4.3027 * 1.5275 / sqrt(3) = 3.79. With the
    # spread pooled over base too, x would be better.
    said = "- By a, seeds [0, 1, 2]: `x` shows no difference to `y` (+2.33 [-1.46, +6.13], n = 3)."
    said_first = (
        "Claim of the study file; kdep does not check that it was named before the scores:\n\n"
        f"{said}\n\nEvery other comparison is exploratory.\n"
    )
    assert said_first in as_markdown(study, rows)
    early = [row for row in rows if (row["arm"], row["seed"]) != ("y", 2)]
    said = "- By a, seeds [0, 1, 2]: `x` against `y`: no verdict before all are scored (2 of 3 seeds, +1.50)."
    assert f"scores:\n\n{said}\n" in as_markdown(study, early)
    # The pair is not among the exploratory ones, unless the claim is about one task and they are about the mean.
    by_mean = made(
        scores, claims=[claim | {"arms": ["x", "base"], "metric": "mean"}], pairs=[["base", "x"], ["x", "y"]]
    )
    assert [one.arm for one in against_baseline(by_mean, by_cell(rows), None)] == ["`y`"]
    assert [(one.arm, one.other) for one in asked_for(by_mean, by_cell(rows), None)] == [("`x`", "`y`")]
    assert len(against_baseline(study, by_cell(rows), None)) == 2
    by_task = made(scores, claims=[claim | {"arms": ["x", "base"]}])
    assert [one.arm for one in against_baseline(by_task, by_cell(rows), None)] == ["`x`", "`y`"]
    none = as_markdown(study, [row for row in rows if row["arm"] == "base"])
    assert "`x` against `y`: no verdict before all are scored (0 of 3 seeds)." in none
    assert "No claim was named beforehand: every comparison below is exploratory." in as_markdown(made(scores), rows)


def test_a_claimed_pair_has_the_verdict_of_its_claim_and_no_other():
    scores = {"base": [0, 1, 2], "x": [2.1, 4, 5.9], "y": [1, 2.1, 3.2], "z": [1, 1.5, 3]}
    scores = {arm: {"a": values, "b": values} for arm, values in scores.items()}
    val, claims = {"base": 50.0, "x": 53.0, "y": 51.0, "z": 50.0}, [{"arms": ["base", "x"]}, {"arms": ["x", "z"]}]
    study = made(scores, claims=claims)
    text = as_markdown(study, rows_of(scores, val=val))
    said = (
        "- On the val split `x` is the best (53.00), whichever seed is left out: the claims have its verdict against "
        "`base`.\n"
    )
    assert "`base` is worse than `x` (-3.00 [-5.24, -0.76], n = 3; does not hold among 2 comparisons (Holm))" in text
    assert f"Chosen on val:\n\n{said}\n" in text and "each time" not in text and text.count("(-3.00 [") == 1
    # Another claim of the arm, or one about a task of several, leaves the comparison where it is.
    for other in ({"arms": ["x", "z"]}, {"arms": ["x", "base"], "metric": "a"}):
        text = as_markdown(made(scores, claims=[other]), rows_of(scores, val=val))
        assert "choose (`x` each time) is better than `base` (+3.00" in text


def test_the_mean_over_one_task_is_claimed_where_the_task_is():
    scores = {"base": {"a": [0, 1, 2]}, "x": {"a": [2.1, 4, 5.9]}, "y": {"a": [1, 2.1, 3.2]}}
    score, claims = Score(suite="made", tasks=["a"]), [{"arms": ["x", "base"], "metric": "a"}]
    study, rows = made(scores, score=score, claims=claims), rows_of(scores)
    assert [one.arm for one in against_baseline(study, by_cell(rows), None)] == ["`y`"]


def test_a_claim_is_about_its_own_seeds():
    scores = {"base": {"a": [10, 10, 10, 10]}, "x": {"a": [11, 12, 13, 90]}}
    claims, score = [{"arms": ["x", "base"], "seeds": [0, 1, 2]}], Score(suite="made", tasks=["a"])
    study = made(scores, score=score, seeds=[0, 1, 2, 3], claims=claims)
    (one,) = claimed(study, by_cell(rows_of(scores, seconds=[0] * 4)), None)
    assert (one.value, one.seeds, one.awaited) == (2.0, 3, 0)


def test_a_difference_of_means_is_shown_task_by_task_and_without_the_task_that_adds_the_most_to_it():
    scores = {"base": {"a": [10, 10, 10], "b": [10, 10, 10], "c": [10, 10, 10]}}
    scores["x"] = {"a": [11, 12, 13], "b": [18, 19, 20], "c": [9, 9, 9]}  # +2, +9, -1
    scores["y"] = {"a": [12, 11, 10], "b": [8, 8, 8], "c": [6, 6, 6]}  # +1, -2, -4 against base
    score = Score(suite="made", tasks=["a", "b", "c"])
    claims = [{"arms": ["x", "base"]}, {"arms": ["y", "base"], "metric": "a"}]
    study, rows = made(scores, score=score, claims=claims, pairs=[["y", "base"], ["x", "base"]]), rows_of(scores)
    # 4.3027 / sqrt(3) = 2.484 times deviations of 1; without b (2 - 1) / 2 = 0.5 by (0.5, 1, 1.5) - 0.5, deviation 0.5.
    # Without c, y is (1 - 2) / 2 = -0.5 below, by 0, -0.5, -1. The means deviate by 2 / 3 and by 1 / 3.
    table = """
| first | second | a | b | c | mean | without |
|---|---|---|---|---|---|---|
| x | base | +2.00 [-0.48, +4.48] | +9.00 [+6.52, +11.48] | -1.00 | +3.33 [+1.68, +4.99] | b: +0.50 [-0.74, +1.74] |
| y | base | +1.00 [-1.48, +3.48] | -2.00 | -4.00 | -1.67 [-2.49, -0.84] | c: -0.50 [-1.74, +0.74] |
"""
    assert table in as_markdown(study, rows)
    early = as_markdown(study, [row for row in rows if (row["arm"], row["seed"], row["task"]) != ("y", 2, "a")])
    assert "| x | base | +2.00" in early and "| y | base" not in early
    assert "Task by task" not in as_markdown(made(scores, score=score), rows)  # neither claimed nor asked for
    one_task = made(scores, score=Score(suite="made", tasks=["a"]), pairs=[["x", "base"]])
    assert "Task by task" not in as_markdown(one_task, [row for row in rows if row["task"] == "a"])


def test_claims_hold_or_not_among_all_that_were_named():
    scores = {"base": [0, 1, 2], "x": [2.1, 4, 5.9], "y": [10, 11.1, 12.2], "z": [0, 2, 1], "same": [3, 4, 5]}
    scores = {arm: {"a": values} for arm, values in scores.items()}
    claims = [{"arms": [arm, "base"]} for arm in ("x", "y", "z")]
    study, rows = made(scores, claims=claims, score=Score(suite="made", tasks=["a"])), rows_of(scores)
    # The differences of x are 2.1, 3 and 3.9, so t = 3 / (0.9 / sqrt(3)) = 5.77 with 2 degrees of freedom, p = 0.029:
    # below 0.05 alone, above as the second of three, and as the second of two and one to come. That of y is 0.00003.
    said = "x` is better than `base` (+3.00 [+0.76, +5.24], n = 3; does not hold among 3 comparisons (Holm))."
    text = as_markdown(study, rows)
    assert "Claims of the study file; kdep does not check that they were named before" in text and said in text
    assert text.count("does not hold among 3") == text.count("; holds among 3") == 1
    early = as_markdown(study, [row for row in rows if (row["arm"], row["seed"]) != ("z", 2)])
    assert early.count("does not hold among 3") == early.count("; holds among 3") == 1
    assert "`z` against `base`: no verdict before all are scored (2 of 3 seeds, +0.50)." in early
    # One without a spread has no interval; it was named all the same. Two claims about one pair are two.
    claims = [{"arms": ["x", "base"]}, {"arms": ["x", "base"], "metric": "a"}, {"arms": ["same", "base"]}]
    twice = as_markdown(made(scores, claims=claims, score=Score(suite="made", tasks=["a"])), rows)
    assert twice.count("does not hold among 3") == 2 and "`same` against `base`: +3.00, no verdict" in twice


def test_a_claim_that_waits_counts_as_if_it_were_wrong():
    scores = {"base": {"a": [0, 1, 2, 3]}, "x": {"a": [2.1, 4, 5.9, 6]}, "y": {"a": [10, 11.1, 12.2]}}
    claims, score = [{"arms": [arm, "base"]} for arm in "xy"], Score(suite="made", tasks=["a"])
    study = made(scores, score=score, seeds=[0, 1, 2, 3], claims=claims)
    done, waits = claimed(study, by_cell(rows_of(scores, seconds=[0] * 4)), None)
    assert waits.interval is not None and waits.awaited == 1  # three seeds would do for an interval
    first, second = adjusted_claims([done, waits])
    assert (first.adjusted, second.adjusted) == (pytest.approx(2 * done.interval.p), 1.0)


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ({"arms": ["x", "z"]}, r"claims: arms \['x', 'z'\]; expected two of the arms base, x"),
        ({"arms": ["x", "x"]}, "expected two of the arms base, x"),
        ({"arms": ["x", "base"], "metric": "c"}, "claims: metric 'c'; expected mean or one of a, b"),
        ({"arms": ["x", "base"], "seeds": [0, 7]}, r"claims: seeds \[0, 7\]; expected some of \[0, 1, 2\]"),
    ],
)
def test_a_claim_about_what_a_study_does_not_have_is_refused(claim, message):
    with pytest.raises(ValueError, match=message):
        made({"base": {}, "x": {}}, claims=[claim])


def test_an_answer_says_what_its_seeds_draw():
    scores = {"base": {"a": [1, 2, 3], "b": [1, 2, 3]}}
    drawn = as_markdown(made(scores), rows_of(scores))
    assert "each draws the student's weights, the order of the images, crops, which images a share has anew." in drawn
    fixed = as_markdown(made(scores, set={"data.seed": 0}), rows_of(scores))
    assert (
        "each draws the student's weights, the order of the images anew. The same for all: crops, which images" in fixed
    )
    assert "a share has, the test images, and the val splits of the probes (score seeds [0])." in fixed
    section = as_markdown(made(scores, set={"student": {"arch": "resnet18", "seed": 0}}), rows_of(scores))
    assert (
        "each draws the order of the images, crops, which images a share has anew. The same for all: the stud"
        in section
    )
    arms = {"base": {"data.seed": 0}, "x": {}, "y": {"data.seed": "{seed}"}}
    assert "crops, which images a share has (not for `base`) anew." in as_markdown(
        made(scores, arms=arms), rows_of(scores)
    )
    others = {"base": "runs/a-s{seed}/student.pth"}
    students = as_markdown(made(scores, arms=others), rows_of(scores))
    assert "[0, 1, 2]; each draws nothing anew. The same for all: the test images, and the val splits" in students
    assert "(score seeds [0]). The arms are students of other runs, which say what a seed drew there.\n" in students
    assert "The spread over seeds is the pair's own" in students and "pooled" not in students
    keys, score = {"student.seed": 0, "optim.seed": 0}, Score(suite="made", tasks=["a", "b"], seeds=None)
    turned = as_markdown(made(scores, set=keys, score=score), rows_of(scores))
    assert "each draws crops, which images a share has, the val splits of the probes anew. The same" in turned
    assert "The same for all: the student's weights, the order of the images, the test images." in turned


def test_a_seed_draws_the_weights_of_a_random_network_and_nothing_of_one_without_a_seed():
    def covered(arms, **others):
        return " ".join(what_it_covers(made(dict.fromkeys(arms, {}), arms=arms, **others)))

    untrained, own = "random:resnet18#{seed}", "runs/a-s{seed}/student.pth"
    assert "each draws the weights of `r` anew. The same for all: the test images" in covered({"r": untrained})
    assert "students of other runs" not in covered({"r": untrained, "t": "timm:resnet18"})
    mixed = covered({"r": untrained, "a": own, "t": "timm:resnet18"})
    assert "each draws the weights of `r` anew." in mixed
    assert " The networks of `a` are students of other runs, which say what a seed drew there." in mixed
    assert "each draws nothing anew." in covered({"r": "random:resnet18", "t": "timm:resnet18"})
    # Where a study trains other arms, with the same weights for all seeds.
    same = covered({"x": {"student.seed": 0, "optim.seed": 0, "data.seed": 0}, "r": untrained})
    assert "each draws the student's weights (not for `x`) anew. The same for all: the order of the images" in same


@pytest.mark.parametrize(
    ("curve", "goal", "images"),
    [
        ([(100, 50), (1000, 60)], 55, 100 * 10**0.5),  # half the way on a logarithmic axis
        ([(100, 50), (1000, 70)], 55, 100 * 10**0.25),
        ([(100, 50), (1000, 60)], 60, 1000),
        ([(100, 50), (1000, 60)], 60.001, None),
        ([(100, 50), (1000, 60)], 49, 100),  # earlier than its first point, nobody knows when
        ([(10, 1), (100, 3), (1000, 2), (10000, 9)], 2, 10 * 10**0.5),  # the first time counts
        ([(10, 3), (100, 1), (1000, 5)], 4, 100 * 10**0.75),  # after a fall
    ],
)
def test_a_score_is_reached_on_a_straight_line_over_the_logarithm_of_the_images(curve, goal, images):
    found = reached(curve, goal)
    assert found is images or found == pytest.approx(images)


def test_the_best_score_is_that_at_the_value_with_the_best_mean_over_seeds():
    goal = best_of({0: [(100, 54), (1000, 55)], 2: [(100, 54), (1000, 40)]})
    assert (goal.spent, goal.scores) == ({0: 100, 2: 100}, {0: 54, 2: 54})


def along(key, values, arms, *, images, seconds=None):
    """A study over an axis: arm -> value -> scores by seed; task a scores one less, b one more.

    `images` by value; `seconds` by arm and value, a list by seed.
    """
    study = made(dict.fromkeys(arms), axis={"key": key, "values": values})
    rows = []
    for arm, found in arms.items():
        for value, scores in found.items():
            both = {arm: {"a": [score - 1 for score in scores], "b": [score + 1 for score in scores]}}
            spent = seconds[arm][value] if seconds else (0, 0, 0)
            rows += rows_of(both, value=value, images=images[value], seconds=spent)
    return study, rows


def test_the_saving_is_a_factor_of_images_with_its_range_over_the_runs():
    arms = {
        "new": {1: [50, 50, 50], 10: [60, 70, 60]},
        "old": {1: [40, 40, 40], 10: [55, 55, 57.5]},
    }
    study, rows = along("optim.epochs", [1, 10], arms, images={1: 100, 10: 1000})
    # New has old's 55, 55, 57.5 after 10^2.5, 10^2.25, 10^2.75 images: factors 10^0.5, 10^0.75, 10^0.25. Their mean
    # exponent is 0.5.
    assert savings(study, by_cell(rows), rows, IMAGES_SEEN) == [
        "`new` reaches the best score of `old` (55.83 with 1,000 images seen) with 3.16 times fewer images seen "
        "(1.78 to 5.62 in 3 runs).",
        "`old` does not reach the best score of `new` (63.33 with 1,000 images seen) within 1,000 images seen in any "
        "run (n = 3).",
    ]
    text = as_markdown(study, rows)
    assert "## Along optim.epochs: images seen\n" in text and "seconds of training" not in text  # they are not known


def test_along_the_images_of_a_source_their_number_counts_and_not_the_views():
    arms = {"new": {10: [50, 50, 50], 1000: [60, 60, 60]}, "old": {10: [40, 40, 40], 1000: [55, 55, 55]}}
    study, rows = along("data.limit", [10, 1000], arms, images={10: 7, 1000: 7})
    assert savings(study, by_cell(rows), rows, IMAGES)[0] == (
        "`new` reaches the best score of `old` (55.00 with 1,000 images) with 10.00 times fewer images "
        "(10.00 to 10.00 in 3 runs)."
    )
    assert measures(study) == [IMAGES]
    assert measures(along("optim.lr", [10, 1000], arms, images={10: 7, 1000: 7})[0]) == []


def test_what_fewer_images_cost_is_paired_by_seed_against_the_most():
    # Differences -2, -2.5, -3: sd 0.5, and t(2) 0.5 / sqrt(3) = 1.24. Unpaired, seeds ten points apart would hide them.
    arms = {
        "new": {1000: [40, 50, 60], 10: [38, 47.5, 57], 100: [40, 51, 59]},
        "old": {1000: [30, 40, 50], 10: [30, 40, 50], 100: [30, 41]},
    }
    study, rows = along("data.limit", [1000, 10, 100], arms, images={10: 7, 100: 7, 1000: 7})
    assert sentences(against_all_images(study, by_cell(rows))) == [
        "`new, 10 images` is worse than `new, 1,000 images` (-2.50 [-3.74, -1.26], n = 3).",
        "`new, 100 images` shows no difference to `new, 1,000 images` (+0.00 [-2.48, +2.48], n = 3).",
        "`old, 10 images` against `old, 1,000 images`: +0.00, no verdict (n = 3, the same in every run).",
        "`old, 100 images` against `old, 1,000 images`: +0.50, no verdict (n = 2, too few runs for an interval).",
    ]
    assert "## Along data.limit: what fewer images cost\n" in as_markdown(study, rows)
    study, rows = along("optim.epochs", [1000, 10, 100], arms, images={10: 7, 100: 7, 1000: 7})
    assert against_all_images(study, by_cell(rows)) == []


def test_what_a_seed_does_to_all_arms_at_one_share_is_part_of_what_shares_differ_by():
    # At 10 images the seeds move all arms by 0, 5 and -5. Within that share the arms differ by a clear 1 to 3; against
    # 1,000 images a mean of -1 is nothing beside that: 4.3027 * 5 / sqrt(3) = 12.42.
    moved = [0, 5, -5]
    arms = {"new": {1000: [50, 50, 50], 10: [49 + by for by in moved]}}
    arms["old"] = {1000: [49, 49.1, 48.9], 10: [47.1 + by for by in moved[:2]] + [41.9]}
    study, rows = along("data.limit", [1000, 10], arms, images={10: 7, 1000: 7})
    said = "`new, 10 images` shows no difference to `new, 1,000 images` (-1.00 [-13.42, +11.42], n = 3)."
    assert sentences(against_all_images(study, by_cell(rows)))[0] == said


def test_a_score_that_only_some_runs_reach_is_not_reached():
    arms = {"new": {1: [50, 50, 50], 10: [60, 60, 51]}, "old": {1: [40, 40, 40], 10: [55, 55, 55]}}
    study, rows = along("optim.epochs", [1, 10], arms, images={1: 100, 10: 1000})
    assert savings(study, by_cell(rows), rows, IMAGES_SEEN)[0] == (
        "`new` does not reach the best score of `old` (55.00 with 1,000 images seen) within 1,000 images seen in 1 of "
        "3 runs."
    )


def test_a_score_that_the_smallest_value_has_already_gives_a_lower_bound():
    arms = {"new": {1: [56, 50, 50], 10: [60, 60, 60]}, "old": {1: [40, 40, 40], 10: [55, 55, 55]}}
    study, rows = along("optim.epochs", [1, 10], arms, images={1: 100, 10: 1000})
    # Factors of at least 10, then 10^0.5 twice: 10^(2/3).
    assert savings(study, by_cell(rows), rows, IMAGES_SEEN)[0].endswith(
        "with at least 4.64 times fewer images seen (1 of 3 runs have it at the smallest value already)."
    )


def test_seeds_that_lack_a_value_and_checkpoints_do_not_count():
    new = {1: [50, 50, 50], 10: [60, 60], 100: [70]}
    arms = {"new": new, "old": {1: [40, 40, 40], 10: [55, 55, 55], 100: [54, 54, 54]}}
    study, rows = along("optim.epochs", [1, 10, 100], arms, images={1: 100, 10: 1000, 100: 10000})
    assert savings(study, by_cell(rows), rows, IMAGES_SEEN)[0].endswith("with 3.16 times fewer images seen (one run).")
    study, rows = along("optim.epochs", [1, 10, 100], arms, images={1: 0, 10: 0, 100: 0})
    assert savings(study, by_cell(rows), rows, IMAGES_SEEN) == []


def test_more_images_are_called_more():
    logs = [-math.log(factor) for factor in (1.6, 2, 2.5)]
    assert in_words(logs, 0, "images seen") == "with 2.00 times as many images seen (1.60 to 2.50 in 3 runs)"
    assert in_words(logs, 1, "seconds").startswith("with at most 2.00 times as many seconds (1 of 3")  # less may do


def test_the_saving_in_seconds_is_paired_by_seed_and_takes_points_in_the_order_of_their_seconds():
    arms = {"new": {1: [50, 50, 50], 10: [60, 60, 60]}, "old": {1: [40, 40, 40], 10: [55, 55, 55]}}
    # Old's best took 400, 800, 1600 s. New has 55 half the way (of the logarithm) from 1 to 10 epochs: after 200 and
    # 400 s. In seed 2 its longer run took less, on a machine that was less busy: it has 55 at its first point, 100 s.
    seconds = {
        "new": {1: [100, 200, 1600], 10: [400, 800, 100]},
        "old": {1: [40, 80, 160], 10: [400, 800, 1600]},
    }
    study, rows = along("optim.epochs", [1, 10], arms, images={1: 100, 10: 1000}, seconds=seconds)
    assert measures(study) == [IMAGES_SEEN, SECONDS]
    new, _ = savings(study, by_cell(rows), rows, SECONDS)
    # Factors 2, 2 and at least 16.
    assert new == (
        "`new` reaches the best score of `old` (55.00 with 933 seconds of training) with at least 4.00 times fewer "
        "seconds of training (1 of 3 runs have it at the smallest value already)."
    )
    text = as_markdown(study, rows)
    assert "## Along optim.epochs: images seen\n" in text and f"{SECONDS.note}\n\n- {new}" in text
    assert text.count("times fewer images seen") == 1


def test_curves_stand_over_the_images_and_over_the_seconds_of_each_arm(tmp_path):
    from PIL import Image

    arms = {"new": {1: [50, 50, 50], 10: [60, 60, 60]}, "old": {1: [40, 40, 40], 10: [55, 55, 55]}}
    seconds = {"new": {1: [10, 20, 30], 10: [100, 200, 300]}, "old": {1: [3, 4, 5], 10: [30, 40, 50]}}
    study, rows = along("optim.epochs", [1, 10], arms, images={1: 96, 10: 960}, seconds=seconds)
    at = [places_of(study, rows, measure) for measure in measures(study)]
    assert at[0] == {("new", 1): 96, ("new", 10): 960, ("old", 1): 96, ("old", 10): 960}
    assert at[1] == {("new", 1): 20, ("new", 10): 200, ("old", 1): 4, ("old", 10): 40}
    assert study.baseline == "new" and ticks_of(study, at[1]) == [20, 200]
    without = {point: place for point, place in at[1].items() if point != ("new", 10)}
    assert ticks_of(study, without) == [20, 40]  # a value at which the baseline has no score yet
    rows += rows_of({"as it is": {"a": [30, 30, 30], "b": [30, 30, 30]}}, value=1)  # a checkpoint, which spent nothing
    study.arms["as it is"] = "random:resnet18"
    answer(study, rows, tmp_path)
    both = Image.open(tmp_path / "made.png").size
    answer(*along("log.every", [1, 10], arms, images={1: 96, 10: 960}), tmp_path)
    assert (
        both[1] > 1.9 * Image.open(tmp_path / "made.png").size[1]
        and "pretrain_seconds" in (tmp_path / "made.csv").read_text()
    )


@pytest.mark.parametrize(
    ("key", "values"), [("align.images", [1000, 2000]), ("data.source", ["a", "b"]), ("align.images", [1000, None])]
)
def test_an_answer_is_a_table_a_text_and_a_picture(key, values, tmp_path):
    from PIL import Image

    arms = {"new": {values[0]: [50, 50, 50], values[1]: [60]}, "old": {values[0]: [40, 40, 40]}}
    study, rows = along(key, values, arms, images=dict.fromkeys(values, 5))
    (tmp_path / ".made.csv.0a1b.part").write_text("of a killed study")
    (tmp_path / ".other.csv.0a1b.part").write_text("of another, which may be at work")
    text = answer(study, rows, tmp_path)
    assert [path.name for path in tmp_path.glob(".*.part")] == [".other.csv.0a1b.part"]
    assert (tmp_path / "made.md").read_text() == text and f"## {key} = {values[1]}" in text
    assert len((tmp_path / "made.csv").read_text().splitlines()) == 1 + len(rows)
    assert Image.open(tmp_path / "made.png").size[0] > 1000  # a panel per task, and one of their mean


def test_an_arm_of_one_seed_is_judged_by_the_spread_of_the_others_and_the_sentence_says_so():
    three = {"base": [10.0, 12.0, 14.5], "x": [11.0, 13.5, 16.0], "y": [9.0, 12.0, 12.5]}
    scores = {name: {"a": own, "b": own} for name, own in three.items()} | {"one": {"a": [30.0], "b": [30.0]}}
    study = made(scores, pairs=[["one", "x"]])
    own = by_cell(rows_of(scores))
    told = {one.arm: one.sentence for one in against_baseline(study, own, None)}
    assert told["`one`"].startswith("`one` is better than `base` (+20.00 [")
    assert told["`one`"].endswith("n = 1; `one` has one seed, and the spread is that of other arms).")
    assert "one seed" not in told["`x`"] + told["`y`"]
    (pair,) = asked_for(study, own, None)
    assert "; `one` has one seed" in pair.sentence
    alone = made({"base": {"a": [1.0], "b": [1.0]}, "x": {"a": [2.0], "b": [2.0]}})  # nothing to pool, so no verdict
    (one,) = against_baseline(alone, by_cell(rows_of({arm: {"a": [1.0], "b": [1.0]} for arm in alone.arms})), None)
    assert one.sentence.endswith("no verdict (n = 1, too few runs for an interval).")
