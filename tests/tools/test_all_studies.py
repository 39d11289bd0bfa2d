import pytest
from PIL import Image

from kdep_benchmarks.studies.claims import Comparison
from kdep_benchmarks.studies.file import load_study
from kdep_benchmarks.verdicts.difference import Interval
from tools.checks.verdicts import studies


def test_the_published_list_is_what_the_study_files_and_their_scores_give():
    assert (studies.PUBLISHED / "studies.md").read_text() == studies.table(studies.shipped())


def test_the_page_on_reproduction_has_the_table_of_the_default():
    page = (studies.PUBLISHED.parents[1] / "reproduction.md").read_text()
    assert "\n".join(studies.default_table(studies.shipped())) in page


def test_the_page_on_studies_has_the_table_of_the_loss_of_similarities():
    page = (studies.PUBLISHED.parents[1] / "studies.md").read_text()
    assert "\n".join(studies.loss_table(studies.shipped())) in page


def test_the_default_is_the_first_of_each_of_its_comparisons():
    one = Comparison("`rival`", "`SVD x 2`", 1.5, Interval(1.5, -0.5, 3.5, 0.1), 4, adjusted=0.1, tests=2)
    turned = studies.turned(one)
    assert (turned.arm, turned.other, turned.text) == ("`SVD x 2`", "`rival`", "-1.50 [-3.50, +0.50]")
    assert turned.adjusted == 0.1 and studies.turned(turned) == one


def test_a_student_of_several_studies_is_counted_once():
    rows = [{"checkpoint": name, "pretrain_seconds": "1800"} for name in ("a", "a", "b")]
    rows.append({"checkpoint": "c", "pretrain_seconds": "0"})  # only scored here; another study may have trained it
    seen = {"b"}
    assert studies.hours_of(rows, seen) == 0.5 and seen == {"a", "b"}


def test_the_images_are_those_of_trained_students():
    rows = [{"images_seen": count} for count in ("8000", "0", "24000", "16000")]
    assert studies.images_of(rows) == "8,000 to 24,000"
    assert studies.images_of(rows[1:2]) == "-" and studies.images_of(rows[:1]) == "8,000"


@pytest.mark.parametrize(
    ("low", "high", "adjusted", "awaited", "said"),
    [
        (0.2, 1.0, 0.01, 0, "better"),
        (-1.0, -0.2, 0.049, 0, "worse"),
        (0.2, 1.0, 0.051, 0, "not after Holm"),
        (-0.2, 1.0, 0.3, 0, "no difference"),
        (0.2, 1.0, 0.01, 1, "to come"),
    ],
)
def test_a_claim_is_counted_by_its_verdict_after_holm(low, high, adjusted, awaited, said):
    interval = Interval((low + high) / 2, low, high, 0.01)
    one = Comparison("a", "b", interval.value, interval, 6, adjusted=adjusted, tests=4, awaited=awaited)
    assert studies.verdict(one) == said


def test_a_claim_without_an_interval_is_not_to_come():
    assert studies.verdict(Comparison("a", "b", 1.0, None, 3, adjusted=1.0, tests=4)) == "no verdict"


def test_claims_of_a_study_with_an_axis_say_at_which_value_and_are_drawn(tmp_path):
    study = load_study(studies.SHIPPED / "budget_small.yaml")
    arm, other, seeds = *study.claims[0].arms, study.claims[0].seeds
    rows = [
        {"arm": name, "value": "6", "seed": str(seed), "task": task, "score": str(50 + seed * lead)}
        | {"checkpoint": f"{name} {seed}"}
        for name, lead in ((arm, 0.1), (other, 0))
        for seed in seeds
        for task in study.tasks
    ]
    found = studies.claims(study, rows)
    said = [(one.other, studies.verdict(one)) for one in found if one.other.startswith(f"`{other}`")]
    assert len(found) == len(study.claims) * len(study.values)
    assert said == [(f"`{other}`, optim.epochs = {v}", "better" if v == 6 else "to come") for v in study.values]
    studies.draw([(study, found)], tmp_path / "claims.png")
    assert Image.open(tmp_path / "claims.png").size[0] > 300
