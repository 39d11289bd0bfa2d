import pytest

from kdep_benchmarks.studies.check import missing_checkpoints
from kdep_benchmarks.studies.file import Score, Study, load_study
from kdep_benchmarks.studies.plan import DONE, MISSING, TO_SCORE, TO_TRAIN, Item, describe, items
from kdep_benchmarks.studies.work import students
from tests.helpers.made_studies import write_study


def test_the_plan_says_what_is_left(photos, tmp_path):
    study = load_study(write_study(photos, tmp_path))
    live, bank, random = study.runs
    plan = [Item(live, TO_TRAIN, ("photos-knn",)), Item(bank, DONE, ()), Item(random, TO_SCORE, ("photos-knn",))]
    told = describe(study, [*plan, plan[2]], banks=[tmp_path / "bank"]).splitlines()
    assert told[1] == "2 runs: 1 done, 0 to score, 1 to train; 3 arms, seeds [0]"
    assert told[2] == f"  bank to make or complete  {tmp_path}/bank"
    assert told[3].startswith("  to train  tiny_study-live-s0  optim.epochs=1 ")
    assert len(told) == 6 and told[5] == f"  to score  {random.name}"  # a checkpoint once, whatever the seeds


@pytest.fixture
def scoring(tmp_path):
    """A study of checkpoints: one there for seed 8, others that are not, and a network that is no file."""
    (tmp_path / "there-s8.pth").touch()
    arms = {
        "there": f"{tmp_path}/there-s{{seed}}.pth#backbone.@64",
        "other": "runs/budget_small-SVD-s{seed}/student.pth@64",
        "own": "runs/made-there-s1/student.pth",
        "typo": "scale.name=unit",
        "random": "random:resnet18#{seed}",
    }
    score = Score(suite="photographs", tasks=["flowers5-knn"])
    return Study(name="made", question="?", pretrain="x.yaml", arms=arms, baseline="typo", seeds=[7, 8], score=score)


def test_checkpoints_that_are_not_there_are_missing_where_their_scores_are(scoring, tmp_path, monkeypatch):
    monkeypatch.setattr("kdep_benchmarks.studies.rows.identity_of", lambda *_: "1" * 64)
    known = [{**run.place, "task": "flowers5-knn", "checkpoint": "2" * 8} for run in scoring.runs if run.arm == "other"]
    plan = items(scoring, tmp_path, known[:1])
    assert [item.state for item in plan] == [MISSING, DONE, MISSING, MISSING, TO_SCORE] + [
        *(TO_SCORE, MISSING, MISSING, MISSING, TO_SCORE)
    ]
    told = describe(scoring, plan, banks=[])
    assert "missing   scale.name=unit" in told and f"missing   {tmp_path}/there-s7.pth#backbone.@64" in told
    assert missing_checkpoints(scoring, plan) == [
        f"arm there: {tmp_path}/there-s7.pth#backbone.@64 is not there; correct the arm or make the file; a text is a "
        "checkpoint, overrides are a mapping {key: value}",
        "arm own: runs/made-there-s1/student.pth is not there; train its arm first, with --arm, or correct the path",
        "arm typo: scale.name=unit is not there; correct the arm or make the file; a text is a checkpoint, overrides "
        "are a mapping {key: value}",
        "arm other: runs/budget_small-SVD-s8/student.pth@64 is not there; run kdep study budget_small first, or "
        "correct the path",
    ]
    (both,) = missing_checkpoints(scoring, [item for item in items(scoring, tmp_path, []) if item.run.arm == "other"])
    assert "budget_small-SVD-s{seed}/student.pth@64 is not there for seeds 7, 8; run kdep study budget_small" in both
    assert missing_checkpoints(scoring, [item for item in plan if item.run.arm in ("there", "random")][2:]) == []


def test_checkpoints_that_do_not_open_are_missing_and_say_why_once_for_an_arm(scoring, tmp_path):
    (tmp_path / "there-s7.pth").write_bytes(b"torn")  # that for seed 8 is empty
    plan = [item for item in items(scoring, tmp_path, []) if item.run.arm == "there"]
    assert [item.state for item in plan] == [MISSING, MISSING] and students(plan) == []
    (said,) = missing_checkpoints(scoring, plan)
    assert said.startswith(f"arm there: {tmp_path}/there-s7.pth: not a checkpoint, or a damaged one")
    assert said.endswith("; nor do those of other seeds open: 8")
    (tmp_path / "there-s7.pth").unlink()
    absent, torn = missing_checkpoints(scoring, plan)
    assert "there-s7.pth#backbone.@64 is not there; correct the arm" in absent
    assert torn.startswith(f"arm there: {tmp_path}/there-s8.pth: not a checkpoint") and "nor do" not in torn


def test_published_rows_count_although_their_checkpoint_is_damaged(scoring, tmp_path):
    (run,) = [run for run in scoring.runs if run.arm == "there" and run.seed == 8]
    known = [{**run.place, "task": "flowers5-knn", "checkpoint": "2" * 8}]
    assert [item.state for item in items(scoring, tmp_path, known) if item.run == run] == [DONE]
