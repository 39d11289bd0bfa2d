"""The measurements of tools.speed.scale on tiny sizes, and how many images statistics need; no test asserts a speed."""

import json

import pytest
import torch

from tools.checks.statistics_images import compare, held, statistics_of
from tools.speed import scale

pytest.importorskip("webdataset", reason="the extra wds is not installed")


def test_every_measurement_but_the_childs_ends_with_a_figure_and_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "in_child", lambda function, file: scale.start(file))
    assert scale.main(["--quick", "--out", f"{tmp_path}/scale.json"]) == 0
    found = json.loads((tmp_path / "scale.json").read_text())
    assert found["manifest"]["rows"] == 20_000 and found["bank"]["5 views"]["files"] == 15
    assert found["shards"]["tar / files"] > 0 and 0 < found["memory"]["32 px"]["share of the ceiling, from memory"] < 1
    assert "| bank | 5 views, files | 15 |" in (tmp_path / "scale.md").read_text()


def test_axes_of_more_images_hold_more_of_the_variance_of_others():
    draw = torch.Generator().manual_seed(0)
    deviations = torch.linspace(3, 0.1, 100)
    features = torch.randn(9000, 100, generator=draw) * deviations + 5
    found = compare(features, seed=0)
    shares = [part["of that of all images on 64 axes"] for part in found.values()]
    assert shares == sorted(shares) and shares[-1] == 1 and shares[0] > 0.97
    true = float(deviations[:64].square().sum() / deviations.square().sum())
    assert held(statistics_of(features), features, 64) == pytest.approx(true, abs=0.01)
