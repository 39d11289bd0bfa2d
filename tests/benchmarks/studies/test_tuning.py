from kdep_benchmarks.studies.answer import as_markdown
from kdep_benchmarks.studies.claims import by_cell
from kdep_benchmarks.studies.file import Axis
from kdep_benchmarks.studies.tuning import at_their_best, tuned
from tests.helpers.made_studies import made, rows_of

RATES = [0.001, 0.002, 0.004]
# Test scores by rate. At 0.002, the baseline's best, the rival loses; at its own best, 0.004, it wins.
TEST = {
    0.001: {"base": [10, 11, 12], "rival": [10, 10, 10]},
    0.002: {"base": [20, 21, 23], "rival": [18, 20, 20]},
    0.004: {"base": [15, 15, 15], "rival": [24, 24, 27]},
}
VAL = {0.001: {"base": 30.0, "rival": 30.0}, 0.002: {"base": 41.0, "rival": 38.0}, 0.004: {"base": 35.0, "rival": 44.0}}


def study_and_rows(val=VAL, **others):
    rows = [
        row
        for rate, scores in TEST.items()
        for row in rows_of(
            {arm: {"a": values, "b": values} for arm, values in scores.items()}, value=rate, val=val[rate]
        )
    ]
    return made(TEST[0.002], axis=Axis(key="optim.lr", values=RATES), **others), rows


def test_each_arm_is_compared_at_the_value_that_val_chooses_for_it():
    study, rows = study_and_rows()
    found = tuned(study, by_cell(rows), by_cell(rows, "val"))
    assert found.values == {"base": 0.002, "rival": 0.004} and found.on_val == {"base": 41.0, "rival": 44.0}
    # Differences 4, 3, 4: variance 1/3, standard error of their mean 1/3, times 4.3027 (2 degrees of freedom).
    (said,) = at_their_best(study, found)
    assert said.sentence == "`rival` at 0.004 is better than `base` at 0.002 (+3.67 [+2.23, +5.10], n = 3)."
    text = as_markdown(study, rows)
    assert "## Each arm at its own optim.lr, chosen on val" in text and said.sentence[:-9] in text
    assert "| base | 0.002 | 41.00 | 21.33 |\n| rival | 0.004 (the highest tried) | 44.00 | 25.00 |" in text


def test_a_bar_in_the_name_of_an_arm_begins_no_other_cell():
    scores = {"a|b": [10, 11, 13], "c": [12, 14, 15]}
    study = made(scores, axis=Axis(key="optim.lr", values=[1, 2]), claims=[{"arms": ["a|b", "c"]}])
    rows = [
        row
        for value in (1, 2)
        for row in rows_of(
            {arm: {"a": own, "b": own} for arm, own in scores.items()}, value=value, val={"a|b": 50.0, "c": 60.0}
        )
    ]
    lines = [line for line in as_markdown(study, rows).splitlines() if line.startswith("| a")]
    # Scores, task by task, and twice what val chooses; each has as many cells as the line above it.
    told = ["| a\\|b | 11.33 ", "| a\\|b | c | -2.33", "| a\\|b | 50.00 | 50.00 |", "| a\\|b | 1 | 50.00 | 11.33 |"]
    assert all(any(line.startswith(start) for line in lines) for start in told)
    assert not any("a|b" in line for line in lines)


def test_arms_that_have_the_same_value_are_compared_there_and_counted_once():
    study, rows = study_and_rows(VAL | {0.004: {"base": 45.0, "rival": 44.0}})
    found = tuned(study, by_cell(rows), by_cell(rows, "val"))
    assert found.values == {"base": 0.004, "rival": 0.004} and at_their_best(study, found) == []
    text = as_markdown(study, rows)
    assert (
        "Two arms with the same value are compared above" in text and text.count("`rival` is better than `base`") == 1
    )


def test_test_scores_do_not_choose():
    turned = {rate: {"base": by_arm["rival"], "rival": by_arm["base"]} for rate, by_arm in VAL.items()}
    study, rows = study_and_rows(turned)
    assert tuned(study, by_cell(rows), by_cell(rows, "val")).values == {"base": 0.004, "rival": 0.002}


def test_nothing_is_chosen_for_an_arm_before_it_has_tried_every_value_with_every_seed():
    study, rows = study_and_rows()
    fewer = [row for row in rows if (row["arm"], row["value"], row["seed"]) != ("rival", 0.001, 2)]
    found = tuned(study, by_cell(fewer), by_cell(fewer, "val"))
    assert found.values == {"base": 0.002} and at_their_best(study, found) == []
    assert "|---|---|---|---|\n| base | 0.002 | 41.00 | 21.33 |\n" in as_markdown(study, fewer)
    assert "| rival | 0.0" not in as_markdown(study, fewer)
    # What it has tried so far is in the grid.
    grid = "| arm | optim.lr = 0.001 | 0.002 | 0.004 |\n|---|---|---|---|\n| base | 30.00 | 41.00 | 35.00 |\n"
    assert grid + "| rival | - | 38.00 | 44.00 |\n" in as_markdown(study, fewer)
    without_val = study_and_rows({rate: {"base": 1.0} for rate in RATES})[1]
    assert tuned(study, by_cell(without_val), by_cell(without_val, "val")).values == {"base": 0.001}
    baseless = [row for row in rows if (row["arm"], row["value"], row["seed"]) != ("base", 0.001, 2)]
    assert tuned(study, by_cell(baseless), by_cell(baseless, "val")) is None
    assert "Each arm at its own" not in as_markdown(study, baseless)


def test_a_budget_is_not_chosen_and_a_checkpoint_has_no_value():
    study, rows = study_and_rows()
    budget = made(TEST[0.002], axis=Axis(key="optim.epochs", values=[1, 2, 4]))
    epochs = [row | {"value": {0.001: 1, 0.002: 2, 0.004: 4}[row["value"]]} for row in rows]
    assert tuned(budget, by_cell(epochs), by_cell(epochs, "val")) is None
    assert " on val\n" not in as_markdown(budget, epochs)
    study, rows = study_and_rows(arms={"base": {}, "rival": "random:resnet18"})
    found = tuned(study, by_cell(rows), by_cell(rows, "val"))
    assert found.values == {"base": 0.002, "rival": None}
    assert at_their_best(study, found)[0].arm == "`rival`"
