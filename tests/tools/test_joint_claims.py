import json

import pytest

from tools.checks.verdicts import joint_claims
from tools.checks.verdicts.studies import PUBLISHED

FOUND = json.loads((PUBLISHED / "joint.json").read_text())
LIGHTLY, QUEUE, ALL_QUEUE, SHORT, ALL_SHORT, MOBILE, RATE = [group["rows"] for group in FOUND["groups"]]
KL = "`SVD, queue KL` minus"


def page(name):
    return " ".join((PUBLISHED.parents[1] / name).read_text().split())


def holding(rows):
    return {(row["study"], row["claim"]) for row in rows if row["joint_p"] < 0.05}


def test_the_published_correction_is_what_the_published_scores_give(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["joint_claims", "--out", str(tmp_path / "joint.json")])
    joint_claims.main()
    for name in ("joint.json", "joint.md"):
        assert (tmp_path / name).read_text() == (PUBLISHED / name).read_text()


@pytest.mark.parametrize(
    ("rows", "digits", "joint"), [(LIGHTLY, "332", 2), (QUEUE, "333", 3)], ids=["lightly", "queue"]
)
def test_the_page_on_studies_has_the_p_values_of_three_measures(rows, digits, joint):
    own = [f"{row['p']:.{places}f}" for row, places in zip(rows, digits, strict=True)]
    after = [f"{row['joint_p']:.{joint}f}" for row in rows]
    said = f"p is {own[0]}, {own[1]} and {own[2]}, after the correction {after[0]}, {after[1]} and {after[2]}"
    assert said in page("studies.md")


def test_the_pages_name_the_claims_that_hold_over_several_studies():
    studies, reproduction = page("studies.md"), page("reproduction.md")
    assert not holding(LIGHTLY) and "linear probes with them, it would leave none:" in studies
    assert "over these three measures of the same students would leave none" in reproduction
    assert len(holding(QUEUE)) == 3 and "would leave all three leads over SVD x 2 (p is" in studies
    assert len(ALL_QUEUE) == 6 and holding(ALL_QUEUE) == {("queue_dense", f"{KL} `SVD x 2`")}
    assert "Over all six claims of the three studies it would leave the dense one" in studies
    assert holding(SHORT) == {("queue_dense_small", f"{KL} `SVD x 2`")}
    assert f"leaves the dense lead over the default (p {SHORT[1]['joint_p']:.3f})" in studies
    assert len(ALL_SHORT) == 11 and holding(ALL_SHORT) == {
        ("queue_small", f"{KL} `SVD + PTS x 4`"),
        ("queue_dense_small", f"{KL} `SVD + PTS x 4`"),
        ("queue_small", f"{KL} `LightlyTrain v1`"),
    }
    said = "over all eleven claims the leads over SVD + PTS x 4 and the one over LightlyTrain v1 in the probes"
    assert said in studies
    assert (
        len(MOBILE) == len(holding(MOBILE)) == 3 and "Holm's correction over the three leaves all of them." in studies
    )
    assert len(RATE) == len(holding(RATE)) == 3
    assert "Holm's correction over the three claims leaves all of them" in studies
