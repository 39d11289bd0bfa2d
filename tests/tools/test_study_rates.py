import json
import re
from pathlib import Path

import pytest

from tools.checks.verdicts.study_rates import rate, worlds

DOCS = Path(__file__).parents[2] / "docs"
PUBLISHED = json.loads((DOCS / "figures/study_rates.json").read_text())["wrong"]
WORLDS = {name: (repeats, case) for name, repeats, case in worlds()}
ROWS = {
    "eight equal arms of three seeds": "eight equal arms of three seeds;",
    "the same with a single seed of this arm": "the same, this arm",
    "the arm chosen on val, among five equal arms, pooled": r"chosen on val .*pooled spread",
    "the same by the pair's own spread": r"chosen on val .*own spread",
    "a claim of five seeds": "claim of five seeds",
    "savings of equal arms": "savings of two equal arms",
}


def test_every_published_rate_is_of_what_is_simulated():
    assert {name: found["repeats"] for name, found in PUBLISHED.items()} == {n: r for n, (r, _) in WORLDS.items()}


@pytest.mark.parametrize("name", WORLDS)
def test_a_few_simulated_studies_are_wrong_about_as_often_as_the_published_ones(name):
    found, published = rate(WORLDS[name][1], 400, 1), PUBLISHED[name]
    error = 100 * (published["percent"] / 100 * (1 - published["percent"] / 100) / found["with_verdict"]) ** 0.5
    assert abs(found["percent"] - published["percent"]) < 4 * error
    assert found["with_verdict"] / 400 == pytest.approx(published["with_verdict"] / published["repeats"], abs=0.1)


@pytest.mark.parametrize("start", ROWS)
def test_the_page_on_verdicts_has_the_published_rates(start):
    (row,) = re.findall(rf"^\| {re.escape(start)}.*\| ([^|]+) \|$", (DOCS / "verdicts.md").read_text(), re.MULTILINE)
    own = [found["percent"] for name, found in PUBLISHED.items() if re.match(ROWS[start], name)]
    said = f"{min(own)} to {max(own)}" if " to " in row else ", ".join(map(str, own))
    assert row == said
