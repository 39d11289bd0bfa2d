import csv
import dataclasses
import re
from pathlib import Path

import pytest

from kdep.models.checkpoints.checkpoint import write_student
from kdep.models.weights import open_checkpoint
from kdep_benchmarks.studies.file import Run, Score, Study
from kdep_benchmarks.studies.plan import DONE, TO_SCORE, TO_TRAIN, items
from kdep_benchmarks.studies.rows import (
    COLUMNS,
    collect,
    cost,
    fingerprint,
    on_val,
    one_student,
    read_known,
    refuse_to_replace,
    settings_of,
    write_rows,
)
from kdep_benchmarks.tasks.choose import choose_tasks
from tests.helpers.made_results import failure, result

NOWHERE = Path("nowhere")  # no student there
TASKS = ["flowers5-knn", "cifar10s-knn"]
SETTINGS = {task.name: task.plain_settings for task in choose_tasks("photographs", TASKS, NOWHERE)}


def study_of(tasks=TASKS, **others):
    fields = {
        "pretrain": "none.yaml",
        "arms": {"random": "random:resnet18", "published": "torchvision:resnet18"},
        "score": Score(suite="photographs", tasks=tasks, data_root="data", seeds=[0, 1]),
        "baseline": "random",
        "seeds": [0],
    }
    return Study(name="made", question="Which?", **fields | others)


def scored(name, task, scores, **others):
    others = {"settings": SETTINGS[task], **others}
    return [result(name, task, seed, score, version=2, **others) for seed, score in enumerate(scores)]


def test_a_row_is_the_mean_over_the_seeds_of_a_task_once_all_are_there():
    results = [*scored("random:resnet18", TASKS[0], [50.0, 51.0]), *scored("random:resnet18", TASKS[1], [60.0])]
    results += [failure("random:resnet18", TASKS[1], 1, version=2)]
    (row,) = collect(study_of(), NOWHERE, results)
    assert (row["arm"], row["task"], row["score"], row["checkpoint"]) == ("random", TASKS[0], 50.5, "72616e64")
    assert (row["protocol"], row["data"], set(row)) == ("fair-v2", "dddddddd", set(COLUMNS))


def test_scores_of_another_protocol_or_of_older_weights_do_not_count():
    old = scored("random:resnet18", TASKS[0], [1.0, 1.0], sha256="a" * 64)
    new = scored("random:resnet18", TASKS[0], [50.0, 51.0], sha256="b" * 64, started="2026-01-03T00:00:00Z")
    short = scored("random:resnet18", TASKS[1], [1.0, 1.0], sha256="b" * 64, budget="short")
    rows = collect(study_of(), NOWHERE, [*new, *old, *short])
    assert [(row["task"], row["score"]) for row in rows] == [(TASKS[0], 50.5)]


def test_a_checkpoint_in_a_file_is_known_by_its_weights_and_not_by_its_folder(tmp_path):
    spec = str(tmp_path / "seed{seed}" / "r18" / "student.pth")
    opened = [open_checkpoint(f"random:test_resnet#{seed}") for seed in (0, 1)]
    for seed, checkpoint in enumerate(opened):
        write_student(dataclasses.replace(checkpoint, name="r18"), Path(spec.format(seed=seed)))
    study = study_of(arms={"mine": spec, "enlarged": f"{spec}@64"}, baseline="mine", tasks=TASKS[:1], seeds=[0, 1])
    large = open_checkpoint(f"{spec.format(seed=0)}@64").identity
    results = [
        *scored("r18", TASKS[0], [50.0, 50.0], sha256=opened[0].identity),
        *scored("r18@64", TASKS[0], [70.0, 70.0], sha256=large, started="2027-01-01T00:00:00Z"),
    ]
    rows = collect(study, NOWHERE, results)
    assert [(row["arm"], row["seed"], row["score"]) for row in rows] == [("mine", 0, 50), ("enlarged", 0, 70)]
    left = [(item.run.arm, item.run.seed) for item in items(study, NOWHERE, rows) if item.state == TO_SCORE]
    assert left == [("mine", 1), ("enlarged", 1)]


def test_scores_on_different_data_are_refused():
    results = scored("random:resnet18", TASKS[0], [1.0, 1.0])
    with pytest.raises(ValueError, match="flowers5-knn: scored on different data"):
        collect(study_of(), NOWHERE, [*results, *scored("torchvision:resnet18", TASKS[0], [1.0, 1.0], data="e" * 64)])
    with pytest.raises(ValueError, match="its seeds were scored on different data"):
        collect(study_of(), NOWHERE, [results[0], scored("random:resnet18", TASKS[0], [1.0, 1.0], data="e" * 64)[1]])


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            {"chosen": {"out_of_memory": {"because": "out of memory", "accumulate": 2}}},
            "full batch in float32; half-batch",
        ),
        ({"chosen": {"precision": "bfloat16"}}, "the full batch in float32; bfloat16"),
    ],
)
def test_scores_of_other_batches_or_precisions_are_refused(other, said):
    results = scored("random:resnet18", TASKS[0], [1.0, 1.0])
    with pytest.raises(ValueError, match=f"flowers5-knn: scored in several ways .*{said}"):
        collect(study_of(), NOWHERE, [*results, *scored("torchvision:resnet18", TASKS[0], [1.0, 1.0], **other)])
    with pytest.raises(ValueError, match="flowers5-knn: scored in several ways"):  # two seeds of one run
        collect(study_of(), NOWHERE, [results[0], *scored("random:resnet18", TASKS[0], [1.0, 1.0], **other)[1:]])
    every = [
        r for name in ("random:resnet18", "torchvision:resnet18") for r in scored(name, TASKS[0], [1.0, 1.0], **other)
    ]
    assert len(collect(study_of(), NOWHERE, every)) == 2
    # Two tasks may be measured in two ways.
    assert len(collect(study_of(), NOWHERE, [*results, *scored("random:resnet18", TASKS[1], [1.0, 1.0], **other)])) == 2


def test_scores_of_other_settings_or_of_another_kind_than_the_task_has_now_do_not_count():
    now = scored("random:resnet18", TASKS[0], [50.0, 51.0])
    for other in ({"settings": {"k": [20]}}, {"task": dataclasses.replace(now[0].task, kind="linear")}):
        before = [dataclasses.replace(one, metrics={"top1": 1.0}, **other) for one in now]
        (row,) = collect(study_of(), NOWHERE, [*before, *now, *before])
        assert row["score"] == 50.5
        assert collect(study_of(), NOWHERE, before) == []


def test_select_is_the_best_of_the_curve_by_which_the_probe_was_chosen():
    curves = {"pre": {"val_top1": [1.0, 2.0]}, "post": {"val_top1": [3.0, 9.0, 4.0]}}
    cells = [result(curves=curves, chosen={"tap": "post"}), result(curves=curves, chosen={"tap": "pre"})]
    assert on_val(cells) == (9 + 2) / 2
    assert on_val([result(curves={"val_top1": [None, 5.0]})]) == 5
    assert on_val([result()]) is None and on_val([cells[0], result()]) is None
    # A few-shot probe has chosen in each of its draws.
    assert on_val([result(task="made-fewshot", curves={"val_top1": [10.0, 90.0]})]) == 50


def rows_by(checkpoint, **scores):
    return [{"task": task, "score": score, "checkpoint": checkpoint} for task, score in scores.items()]


def test_the_rows_of_a_run_are_of_one_student():
    study = study_of(tasks=["a", "b", "c"])
    own, other = rows_by("11", b=1), rows_by("22", a=2, c=2)
    assert one_student(study, own, other) == other  # the more complete
    assert one_student(study, rows_by("11", a=1, b=1), other) == rows_by("11", a=1, b=1)
    assert one_student(study, own, rows_by("11", c=3, a=2)) == rows_by("11", a=2, b=1, c=3)  # of the same: together
    assert one_student(study, own, []) == own
    assert one_student(study, [], rows_by("11", a=1) + rows_by("22", b=2)) == rows_by("11", a=1)  # of equals the first
    assert one_student(study, [], rows_by("11", a=1) + other[1:] + rows_by("22", b=2)) == rows_by("22", b=2, c=2)
    assert one_student(study, own, rows_by("11", c=3) + rows_by("22", a=2)) == rows_by("11", b=1, c=3)


@pytest.fixture
def published(tmp_path):
    """A study whose first arm is scored, as the CSV of its answer; change a column by keyword."""

    def write(study=None, name="known.csv", **changes):
        study = study or study_of()
        results = [r for task in TASKS for r in scored("random:resnet18", task, [50.0, 51.0])]
        rows = collect(study, tmp_path, results)
        write_rows([{**row, **changes} for row in rows], tmp_path / name)
        return tmp_path / name

    return write


def test_published_rows_come_back_as_they_were_collected(published, tmp_path):
    known = read_known([published()], study_of())
    results = [r for task in TASKS for r in scored("random:resnet18", task, [50.0, 51.0])]
    assert known == collect(study_of(), tmp_path, results) == collect(study_of(), tmp_path, [], known)
    path = published(name="noted.csv")  # with a column of somebody else's
    path.write_text("\n".join(f"{line},{number}" for number, line in enumerate(path.read_text().splitlines())))
    assert read_known([path], study_of()) == known


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": "123456789abc"}, "line 2: run 123456789abc, in this study"),
        ({"protocol": "fair-v1"}, "line 2: protocol fair-v1, in this study fair-v2: a row of another study"),
        ({"settings": "12345678"}, "line 2: settings 12345678, in this study"),
        ({"arm": "else"}, "line 2: else 0 on flowers5-knn is not in made"),
        ({"seed": 7}, "line 2: random 7 on flowers5-knn is not in made"),
        ({"score": "high"}, "line 2: score is 'high', not a number"),
        ({"score": "nan"}, "line 2: score is 'nan', expected a finite number"),
    ],
)
def test_rows_of_another_study_are_refused(published, changes, message):
    path = published(**changes)
    with pytest.raises(ValueError, match=re.escape(f"{path}, {message}")):
        read_known([path], study_of())


def test_of_the_answer_of_another_study_the_rows_that_both_have_are_taken(published, caplog):
    """An arm, a seed and a task that this study lacks are left out, and said; it is refused where all are."""
    known = read_known([published()], study_of())
    path = published(name="wider.csv")
    head, knn, linear = path.read_text().splitlines()
    others = [knn.replace("random,", "else,", 1), knn.replace(",0,", ",7,", 1), knn.replace("-knn", "-fewshot", 1)]
    assert len({knn, *others}) == 4
    path.write_text("\n".join([head, others[0], knn, *others[1:], linear]) + "\n")
    with caplog.at_level("INFO"):
        assert read_known([path], study_of()) == known
    assert f"{path}: left out 3 rows that made has no place for (else, random)" in caplog.text
    with pytest.raises(ValueError, match=re.escape("wider.csv, line 2: else 0 on flowers5-knn is not in made. Move")):
        read_known([path], study_of(), "Move it", entire=True)
    path.write_text("\n".join([head, *others]) + "\n")
    with pytest.raises(ValueError, match=re.escape("wider.csv, line 2: else 0 on flowers5-knn is not in made. Leave")):
        read_known([path], study_of())


def test_rows_by_other_settings_of_a_task_or_of_weights_that_were_replaced_are_refused(tmp_path):
    spec, known = tmp_path / "r18.pth", tmp_path / "known.csv"
    write_student(open_checkpoint("random:test_resnet"), spec)
    study = study_of(arms={"mine": str(spec)}, baseline="mine", tasks=TASKS[:1])
    results = scored("r18", TASKS[0], [50.0, 51.0], sha256=open_checkpoint(str(spec)).identity)
    write_rows(collect(study, NOWHERE, results), known)
    assert len(read_known([known], study)) == 1
    write_student(open_checkpoint("random:test_resnet#1"), spec)
    with pytest.raises(
        ValueError, match=r"line 2: a row of weights [0-9a-f]{8}, and .*r18.pth now holds [0-9a-f]{8}. Leave"
    ):
        read_known([known], study)
    with pytest.raises(ValueError, match="now holds .* move known.csv, .md and .png away"):
        refuse_to_replace(known, study)
    spec.unlink()
    assert len(read_known([known], study)) == 1  # there is nothing to score again

    task = choose_tasks("photographs", TASKS[:1], NOWHERE)[0]
    mine = dataclasses.replace(task, settings=task.settings | {"config": "/a/b.py"}, config_sha256="c" * 64)
    other = dataclasses.replace(mine, settings=task.settings | {"config": "/d/b.py"})
    changed = [
        dataclasses.replace(task, settings=task.settings | {"size": 56}),
        dataclasses.replace(task, kind="linear"),
        dataclasses.replace(mine, config_sha256="d" * 64),
    ]
    assert settings_of(mine) == settings_of(other)
    assert len({settings_of(one) for one in (task, mine, *changed)}) == 5


def test_an_answer_of_another_study_of_the_same_name_is_not_replaced(published, tmp_path):
    path = published(name="made.csv")
    refuse_to_replace(path, study_of())
    refuse_to_replace(tmp_path / "none.csv", study_of())
    for changes in ({"run": "123456789abc"}, {"arm": "else"}):
        with pytest.raises(ValueError, match=r"line 2: .* move made.csv, .md and .png away, or name another --out"):
            refuse_to_replace(published(name="made.csv", **changes), study_of())


def test_two_files_that_say_different_things_are_refused(published):
    both = [published(), published(name="other.csv", score=1.0)]
    with pytest.raises(ValueError, match="other.csv, line 2: another file says 50.5 of the same score"):
        read_known(both, study_of())
    assert len(read_known([both[0], both[0]], study_of())) == 2
    with pytest.raises(ValueError, match="else.csv, line 2: student beef, in another file 72616e64; keep one"):
        read_known([both[0], published(name="else.csv", checkpoint="beef")], study_of())


def test_files_of_two_students_of_a_run_are_never_one_run(published, tmp_path, caplog):
    head, knn, cifar = published().read_text().splitlines()
    (tmp_path / "one.csv").write_text(f"{head}\n{knn}\n")
    (tmp_path / "two.csv").write_text(f"{head}\n{cifar.replace('72616e64', 'beefbeef')}\n")
    study = study_of()
    known = read_known([tmp_path / "one.csv", tmp_path / "two.csv"], study)
    assert "several students: random:resnet18 (72616e64, beefbeef); only those" in caplog.text
    rows = collect(study, tmp_path, [], known)
    assert [(row["task"], row["checkpoint"]) for row in rows] == [(TASKS[0], "72616e64")]
    assert items(study, tmp_path, rows)[0].state == TO_SCORE


def test_a_table_without_fingerprints_is_refused(published, tmp_path):
    rows = list(csv.DictReader(published().open()))
    with (tmp_path / "old.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [column for column in COLUMNS if column != "run"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(ValueError, match="no column run; not a study's answer"):
        read_known([tmp_path / "old.csv"], study_of())
    with pytest.raises(ValueError, match="no such file"):
        read_known([tmp_path / "none.csv"], study_of())


def test_a_fingerprint_is_of_what_decides_a_result(tiny, tmp_path):
    tiny()
    study = study_of(pretrain=str(tmp_path / "tiny.yaml"))

    def of(*overrides):
        return fingerprint(study, Run("x", None, 0, "x", overrides))

    assert of() == of("name=other") == of("log.every=9") == of("data.flip=true")  # the last is the default
    assert len({of(), of("optim.lr=1"), of("seed=2"), of("precision=auto")}) == 4
    # A bank stores what a live teacher says, rounded; where it lies does not matter.
    assert of() != of("bank.path=a") == of("bank={path: b}") != of("bank.path=a", "bank.axes=8")
    seeds = study_of(pretrain=str(tmp_path / "tiny.yaml"), score=study.score.model_copy(update={"seeds": [0]}))
    assert fingerprint(seeds, Run("x", None, 0, "x")) != of()


def test_the_cost_of_a_run_is_in_its_log_up_to_a_line_that_was_cut_short(tmp_path):
    known = '{"step": 1, "loss": 1.0, "lr": 0.1, '
    lines = [f'{known}"images": 100, "images_per_second": 10}}', f'{known}"images": 300, "images_per_second": 20}}']
    lines.append('{"images": 4')
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    assert cost(tmp_path) == {"images_seen": 300, "pretrain_seconds": 20.0}
    assert cost(tmp_path / "none") == {"images_seen": 0, "pretrain_seconds": 0.0}


def test_what_is_left_of_a_run_is_what_its_student_lacks(tmp_path, monkeypatch):
    study = study_of(arms={"new": {}, "random": "random:resnet18"})
    new, random = study.runs
    row = {**new.place, "task": TASKS[0], "checkpoint": "11111111"}

    def left(*rows):
        return [(item.state, item.cells) for item in items(study, tmp_path, rows)]

    both, second = tuple(TASKS), (TASKS[1],)
    assert left() == [(TO_TRAIN, both), (TO_SCORE, both)]
    # Half of its rows are published, but their student is not here: a new one needs all.
    assert left(row)[0] == (TO_TRAIN, both)
    assert left(row, {**row, "task": TASKS[1]})[0] == (DONE, ())
    monkeypatch.setattr(
        "kdep_benchmarks.studies.plan.student_here", lambda _, planned, runs: None if planned == random else "1" * 64
    )
    assert left(row)[0] == (TO_SCORE, second)
    assert left({**row, "checkpoint": "22222222"})[0] == (TO_SCORE, both)  # of another student
