import csv
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from kdep.cli import main
from kdep_benchmarks.answers.store import class_answers
from kdep_benchmarks.results import write_result
from tests.helpers.made_results import result


@pytest.fixture
def results(tmp_path):
    """Six checkpoints with a kNN column and one of fine-tuning whose name tries to break every format."""
    for at, share in enumerate(np.linspace(0.2, 0.9, 6)):
        for task in ("=$x_1$<b>|-finetune", "set-knn"):
            right = np.arange(200) < share * 200
            one = result(f"net{at}", task, 0, 100 * float(right.mean()), arch="resnet18")
            write_result(one, tmp_path, answers=class_answers(1 - right, np.zeros(200, int)))
    return tmp_path


def test_the_verb_writes_three_files_that_no_name_breaks(results, capsys):
    assert main(["fidelity", str(results)]) == 0
    said = capsys.readouterr().out
    assert (
        "=$x_1$<b>|-finetune: 15 of 15 pairs of checkpoints differ on it; set-knn (tau 1.00) may stand for it." in said
    )
    (row,) = list(csv.DictReader((results / "fidelity.csv").read_text().splitlines()))
    assert row["expensive"] == "'=$x_1$<b>|-finetune" and row["verdict"] == "may stand" and row["pairs"] == "15"
    page = (results / "fidelity.md").read_text()
    assert "=$x\\_1$&lt;b&gt;\\|-finetune" in page and "<b>" not in page
    texts = {node.text for node in ElementTree.parse(results / "fidelity.svg").iter() if node.text}
    assert {"=$x_1$<b>|-finetune", "set-knn"} <= texts


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--cheap", "nope"], "--cheap nope: there is "),
        (["--arch", "resnet50"], "--arch resnet50: there is resnet18 (6)"),
        (["--expensive", "set-knn", "--cheap", "set-knn"], "there are no two columns to compare"),
    ],
)
def test_what_is_not_there_is_refused_in_a_sentence(results, capsys, options, said):
    assert main(["fidelity", str(results), *options]) == 2
    assert said in capsys.readouterr().err


def test_several_architectures_are_refused(results, capsys):
    write_result(result("wide", "set-knn", 0, 50.0, arch="resnet50"), results)
    assert main(["fidelity", str(results)]) == 2
    assert "several architectures: resnet18 (6), resnet50 (1); choose one with --arch" in capsys.readouterr().err
