from kdep_benchmarks.studies.file import load_study
from kdep_benchmarks.studies.plan import DONE, TO_SCORE, TO_TRAIN, Item, describe
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
