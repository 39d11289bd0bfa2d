"""What verdicts and the plan take from the table of kinds, written out."""

from kdep_benchmarks.kinds import AVERAGED, CHEAP, EXPENSIVE, PAIRED, POOLED, PROBES, SCHEDULED, TOOLBOXES


def test_a_seed_of_a_probe_is_no_run_and_a_seed_of_a_training_is_one():
    # A probe among the trainings would count its val splits as runs, which makes every interval too narrow.
    assert set(AVERAGED) == {"knn", "linear", "dense-linear", "dense-knn", "box"} and PAIRED == ("fewshot",)
    assert set(SCHEDULED) == {"finetune", "segment", "segment-frozen", "detect", "detect-frozen"}


def test_what_is_frozen_is_cheap_and_probes_need_no_toolbox():
    assert set(PROBES) == {*AVERAGED, *PAIRED} and POOLED == ("knn", "linear", "fewshot")
    assert set(TOOLBOXES) == {"segment", "segment-frozen", "detect", "detect-frozen"}
    assert set(CHEAP) == {*PROBES, "segment-frozen", "detect-frozen"} and EXPENSIVE == ("finetune", "segment", "detect")
