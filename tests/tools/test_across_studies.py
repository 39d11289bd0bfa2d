import json
from pathlib import Path

from tools.checks.verdicts import across_studies

PUBLISHED = across_studies.STUDIES / "across.json"


def test_the_published_comparison_is_what_the_published_scores_give(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["across_studies", "--out", str(tmp_path / "across.json")])
    across_studies.main()
    for name in ("across.json", "across.md"):
        assert (tmp_path / name).read_text() == PUBLISHED.with_name(name).read_text()


def test_each_pair_of_runs_counts_once(monkeypatch, tmp_path):
    """Studies reuse each other's runs; a second copy of a study adds nothing."""
    monkeypatch.setattr(across_studies, "CONDITIONS", (*across_studies.CONDITIONS, "beyond_small"))
    published = json.loads(Path(PUBLISHED).read_text())["conv_minus_pts"]
    assert across_studies.conv_minus_pts() == published


def test_the_spread_of_untrained_networks_is_not_pooled(monkeypatch):
    published = across_studies.x2_minus_published_conv()

    def read_scores(study, read=across_studies.read_scores):
        scores = read(study)
        if random := scores.get(("random init", "")):
            scores["random init", ""] = {seed: (score * (1 + seed), run) for seed, (score, run) in random.items()}
        return scores

    monkeypatch.setattr(across_studies, "read_scores", read_scores)
    assert across_studies.x2_minus_published_conv() == published
