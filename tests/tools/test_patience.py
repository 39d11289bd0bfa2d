"""The replay of whole paths: what a probe that gives up would have tried, and when its choice would differ."""

from types import SimpleNamespace

import pytest

from tools.checks.patience import PATH, replay

PENALTIES = [10.0 ** (number - PATH) for number in range(PATH)]


def result(top1, *, task="made-linear", kind="linear", penalties=PENALTIES):
    """A probe whose curve, from the strongest penalty on, is `top1`; its cross-entropy rises from the start."""
    curve = {"lambda": penalties, "val_top1": top1[::-1], "val_loss": [float(n) for n in range(PATH)][::-1]}
    return SimpleNamespace(task=SimpleNamespace(name=task, kind=kind), curves={"pre": curve})


@pytest.mark.parametrize(
    ("top1", "tried", "others"),
    [
        ([10, 20, 30, *[5] * 10], 6, 0),
        (list(range(PATH)), 13, 0),  # better to the end
        ([30, *[5] * 11, 40], 4, 1),  # better again where nobody looks any more
    ],
)
def test_a_replay_counts_what_is_tried_and_what_is_missed(top1, tried, others):
    row = {"curves": 1, "penalties": 13, "tried": tried, "other_choices": others}
    assert replay([result(top1)]) == {"made-linear": row}


def test_only_linear_probes_with_a_whole_path_are_replayed():
    short = result([1.0] * PATH, penalties=PENALTIES[:9])
    assert replay([short, result([1.0] * PATH, kind="fewshot")]) == {}
    twice = replay([result(list(range(PATH)))] * 2)
    assert twice["made-linear"]["curves"] == 2 and twice["made-linear"]["tried"] == 26
