import contextlib
import csv
import json
import re
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
import yaml
from PIL import Image

from kdep.cli import main
from kdep_benchmarks.jobs.engines.engine import Lost, Slot
from kdep_benchmarks.studies import answer as study_answer
from kdep_benchmarks.studies import work as study_work
from kdep_benchmarks.studies.file import load_study
from kdep_benchmarks.studies.plan import TO_SCORE, TO_TRAIN, Item, items
from kdep_benchmarks.studies.rows import fingerprint
from kdep_benchmarks.studies.work import banks_left, pretrain_command, score_command, students
from tests.conftest import measure_here
from tests.helpers.made_studies import write_study

SHIPPED = sorted((Path(__file__).parents[3] / "configs/studies").glob("*.yaml"))


@pytest.fixture
def written(photos, tmp_path):
    return write_study(photos, tmp_path)


def run_here(monkeypatch, do):
    """Do commands in this process, and tell which; `refuse` makes those fail that hold one of its words."""
    commands, refuse = [], []

    def run(arguments, log, slot):
        commands.append(arguments)
        if any(word in part for part in arguments for word in refuse):
            return 1
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file, contextlib.redirect_stderr(file):
            return do(arguments)

    monkeypatch.setattr(study_work, "run_verb", run)
    return SimpleNamespace(commands=commands, refuse=refuse, verbs=lambda: [command[0] for command in commands])


@pytest.fixture
def here(finished, monkeypatch):
    """Commands leave what those of `finished` left, without computing it again."""
    monkeypatch.setattr(study_answer, "draw", lambda *_: None)  # `finished` has a picture
    return run_here(monkeypatch, finished.copy)


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    """The folder of a study that was run, and what it did."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        measure_here(patch)
        ran = run_here(patch, main)
        assert main(command_of(write_study(photos, folder), folder)) == 0
    scores = {
        json.loads(file.read_text())["checkpoint"]["name"]: file for file in folder.glob("results/*/*/*/seed0.json")
    }

    def copy(arguments):
        verb, first, *rest = arguments
        given = dict(argument.split("=", 1) for argument in rest if "=" in argument)
        if verb == "targets":
            shutil.copytree(folder / "bank-0", given["bank.path"])
        elif verb == "pretrain":
            shutil.copytree(folder / "runs" / given["name"], Path(given["runs"], given["name"]))
        else:
            score = scores[first if first in scores else Path(first).parent.name]
            to = Path(rest[rest.index("--results") + 1], score.relative_to(folder / "results"))
            shutil.copytree(score.parent, to.parent)
        return 0

    return SimpleNamespace(folder=folder, file=folder / "study.yaml", ran=ran, results=folder / "results", copy=copy)


def command_of(written, tmp_path):
    return ["study", str(written), "--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]


def rows_in(path):
    return list(csv.DictReader(path.open()))


def test_a_study_says_what_it_would_do(written, tmp_path, here, capsys):
    assert main([*command_of(written, tmp_path), "--dry-run"]) == 0 and here.commands == []
    told = capsys.readouterr().out
    assert "2 runs: 0 done, 0 to score, 2 to train" in told and f"bank to make or complete  {tmp_path}/bank-0" in told


def test_a_study_runs_scores_and_answers_and_does_nothing_twice(finished, here, capsys):
    # First the bank, then what needs only scores, then every run with its scores behind it.
    assert finished.ran.verbs() == ["targets", "transfer", "pretrain", "transfer", "pretrain", "transfer"]
    assert finished.ran.commands[0][-1] == "precision=float32"
    rows = rows_in(finished.results / "tiny_study.csv")
    assert [(row["arm"], row["seed"], row["task"]) for row in rows] == [
        ("live", "0", "photos-knn"),
        ("from a bank", "0", "photos-knn"),
        ("random", "0", "photos-knn"),
    ]
    assert [row["images_seen"] for row in rows] == ["128", "128", "0"] and float(rows[0]["pretrain_seconds"]) > 0
    assert all(0 <= float(row["val"]) <= 100 and len(row["run"]) == 12 for row in rows)
    assert (finished.folder / "bank-0" / "bank.json").exists()
    assert Image.open(finished.results / "tiny_study.png").size[0] > 300
    assert "| from a bank | " in (finished.results / "tiny_study.md").read_text()
    assert main(command_of(finished.file, finished.folder)) == 0 and here.commands == []
    assert "2 runs: 2 done, 0 to score, 0 to train" in capsys.readouterr().out


def test_a_run_that_fails_stops_no_other_and_the_answer_has_the_rest(written, tmp_path, here, capsys):
    here.refuse.append("name=tiny_study-live-s0")
    assert main(command_of(written, tmp_path)) == 1
    told = capsys.readouterr().out
    assert "FAILED (1), see" in told and "1 of 3 runs are not done: tiny_study-live-s0" in told
    answer = (tmp_path / "results" / "tiny_study.md").read_text()
    assert "Unfinished: 1 of 3 scores are still to come." in answer and "Nothing yet of: `live`." in answer
    assert [row["arm"] for row in rows_in(tmp_path / "results" / "tiny_study.csv")] == ["from a bank", "random"]


def test_a_failure_is_told_with_the_last_line_of_its_log(written, tmp_path, monkeypatch, capsys):
    run_here(monkeypatch, main)
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(recipe.read_text().replace("random:test_efficientnet", "npm:resnet51"))
    assert main([*command_of(written, tmp_path), "--arm", "from a bank"]) == 1
    told = capsys.readouterr().out
    assert re.search(
        r"FAILED \(2\), see \S+bank.log: bank \S+bank-0\n    kdep: npm:resnet51: there is resnet50\n", told
    )


def test_runs_whose_bank_failed_are_not_tried(written, tmp_path, here):
    written.write_text(written.read_text().replace("seeds: [0]\nscore", "seeds: [0, 1]\nscore"))
    here.refuse += ["precision=float32", "-live-"]
    assert main(command_of(written, tmp_path)) == 1
    assert here.verbs() == ["targets", "targets", "transfer", "pretrain", "pretrain"]
    assert [command[2] for command in here.commands[3:]] == ["name=tiny_study-live-s0", "name=tiny_study-live-s1"]


def test_a_part_of_a_study_is_done_first_and_the_answer_says_what_is_left(written, tmp_path, here, capsys):
    command = command_of(written, tmp_path)
    assert main([*command, "--arm", "live", "--arm", "random", "--seed", "0"]) == 0
    assert here.verbs() == ["transfer", "pretrain", "transfer"]  # and no bank, which neither needs
    assert [row["arm"] for row in rows_in(tmp_path / "results" / "tiny_study.csv")] == ["live", "random"]
    assert "Unfinished: 1 of 3 scores are still to come." in capsys.readouterr().out
    there = {"--arm alive": "live, from a bank, random", "--seed 7": "0", "--value 7": "no axis"}
    for asked, has in there.items():
        assert main([*command, *asked.split()]) == 2
        assert f"{asked}: study tiny_study has none of that name; it has {has}\n" in capsys.readouterr().err


def test_a_value_of_the_axis_is_done_first(written, tmp_path, here, capsys):
    written.write_text(written.read_text() + "axis: {key: optim.lr, values: [2, 0.5]}\n")
    command = [*command_of(written, tmp_path), "--dry-run", "--arm", "live"]
    assert main([*command, "--value", "0.5"]) == 0
    told = capsys.readouterr().out
    assert "1 runs: 0 done, 0 to score, 1 to train" in told and "to train  tiny_study-live-0.5-s0" in told
    assert main([*command, "--value", "5"]) == 2
    assert "--value 5: study tiny_study has none of that name; it has 2, 0.5\n" in capsys.readouterr().err


def test_an_interrupted_study_has_answered_what_was_finished(written, tmp_path, here, monkeypatch):
    own, count = study_work.run_verb, []

    def run(arguments, log, slot):
        count.append(arguments)
        if len(count) == 5:
            raise KeyboardInterrupt
        return own(arguments, log, slot)

    monkeypatch.setattr(study_work, "run_verb", run)
    assert main(command_of(written, tmp_path)) == 130
    assert [row["arm"] for row in rows_in(tmp_path / "results" / "tiny_study.csv")] == ["live", "random"]


def test_published_rows_are_not_measured_again(finished, tmp_path, here, capsys):
    table = (finished.results / "tiny_study.csv").read_text().splitlines(keepends=True)
    published = tmp_path / "published.csv"
    published.write_text("".join(line for line in table if not line.startswith("live")))
    elsewhere = [*command_of(finished.file, tmp_path), "--known", str(published)]
    assert main([*elsewhere, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "2 runs: 1 done, 0 to score, 1 to train" in told and "done      tiny_study-from_a_bank-s0" in told
    assert main(elsewhere) == 0
    assert here.verbs() == ["pretrain", "transfer"]
    assert [row["arm"] for row in rows_in(tmp_path / "results/tiny_study.csv")] == ["live", "from a bank", "random"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("data.seed: 5", "data.sed: 5"), "unknown key data.sed"),
        (("data.seed: 5", "scale.name: sn, scale.temperature: 2"), "arm live: scale.temperature: sn takes factor"),
        (("data.seed: 5", "align.name: pca"), "align.name must be 'svd', 'top_variance', .* or 'none', got 'pca'"),
        (("data.seed: 5", "student.arch: resnet81"), "arm live: 'resnet81' is not a timm network; close: resnet18"),
        (
            ("bank.views: 1}", "bank.views: 1, data.size: 24}\n  two: {bank.path: '{folder}/bank-0'}"),
            "cannot share the bank",
        ),
        (
            (
                "bank.views: 1}",
                "bank.views: 1}\n  two: {bank.path: '{folder}/bank-0', align.name: none, project: linear}",
            ),
            "bank.axes is 'as many as test_resnet has channels' and 'all'",
        ),
        (
            ("bank.views: 1}", "bank.views: 1}\n  two: {bank.path: '{folder}/bank-0', align.images: 8}"),
            "align.images is None and 8",
        ),
        (
            ("bank.views: 1}", "bank.views: 1}\n  two: {bank.path: '{folder}/bank-0', loss.dense: 1}"),
            r"the feature map \(loss.dense\) is 'no' and 'that of test_resnet'",
        ),
        (
            ("bank.views: 1}", "optim.epochs: null, optim.steps: 4}"),
            "bank.views is needed with optim.steps 4",
        ),
        (("live: {}", "live: {}\n  again: {scale.name: pts}"), "arms: live and again are one configuration at every"),
        (("tasks: [photos-knn]", "tasks: [photos-cnn]"), "suite .* has photos-knn"),
    ],
)
def test_a_study_that_cannot_be_is_refused_before_anything_runs(written, tmp_path, change, message, here, capsys):
    old, new = change
    written.write_text(written.read_text().replace(old, new.replace("{folder}", str(tmp_path))))
    assert main(command_of(written, tmp_path)) == 2
    assert re.search(message, capsys.readouterr().err) and here.commands == []


def test_images_that_are_not_there_are_named_in_the_plan_and_stop_what_trains_on_them(written, tmp_path, here, capsys):
    written.write_text(written.read_text().replace("set: {", f"set: {{data.source: {tmp_path}/nowhere, "))
    assert main([*command_of(written, tmp_path), "--dry-run"]) == 0
    assert f"{tmp_path}/nowhere is not there" in capsys.readouterr().out
    assert main(command_of(written, tmp_path)) == 2 and here.commands == []
    assert f"{tmp_path}/nowhere is not there" in capsys.readouterr().err


def test_data_that_is_not_there_stops_a_study_and_not_its_plan(written, tmp_path, here, capsys):
    (tmp_path / "set" / "test").rename(tmp_path / "elsewhere")
    assert main([*command_of(written, tmp_path), "--dry-run"]) == 0
    assert f"{tmp_path}/set/test is not there" in capsys.readouterr().out
    assert main(command_of(written, tmp_path)) == 2 and here.commands == []
    assert f"{tmp_path}/set/test is not there" in capsys.readouterr().err


def test_a_checkpoint_that_is_not_there_or_damaged_stops_no_other_run_and_is_named(written, tmp_path, here, capsys):
    arms = {"other": "runs/budget_small-SVD-6-s0/student.pth", "torn": f"{tmp_path}/torn.pth"}
    (tmp_path / "torn.pth").write_bytes(b"torn")
    lines = "".join(f"  {arm}: {path}\n" for arm, path in arms.items())
    written.write_text(written.read_text().replace("  random: ", f"{lines}  random: "))
    absent = f"arm other: {arms['other']} is not there; run kdep study budget_small first, or correct the path\n"
    torn = f"arm torn: {arms['torn']}: not a checkpoint, or a damaged one"
    assert main([*command_of(written, tmp_path), "--dry-run"]) == 0 and here.commands == []
    told = capsys.readouterr().out
    assert absent in told and torn in told and "are there\n" not in told
    assert all(f"missing   {path}" in told for path in arms.values())
    # The rest is done; the end says again what is missing, and why.
    assert main(command_of(written, tmp_path)) == 1
    assert here.verbs() == ["targets", "transfer", "pretrain", "transfer", "pretrain", "transfer"]
    told = capsys.readouterr().out
    assert f"2 of 5 runs are not done: {', '.join(arms.values())}\n{absent}{torn}" in told
    assert told.index(absent) < told.index("done: ")  # and the start, before hours of work
    answer = (tmp_path / "results" / "tiny_study.md").read_text()
    assert "Unfinished: 2 of 5 scores are still to come." in answer and "Nothing yet of: `other`, `torn`." in answer
    done = len(here.commands)
    assert main(command_of(written, tmp_path)) == 1 and len(here.commands) == done
    assert main([*command_of(written, tmp_path), "--arm", "random"]) == 0 and len(here.commands) == done


def test_networks_trained_elsewhere_are_compared_over_their_seeds(written, tmp_path, monkeypatch, capsys):
    for seed in range(2):
        torch.manual_seed(seed)
        weights = timm.create_model("test_resnet").state_dict()
        torch.save(weights, tmp_path / f"one-{seed}.pth")
        torch.save({name: 2 * tensor for name, tensor in weights.items()}, tmp_path / f"other-{seed}.pth")
    content = yaml.safe_load(written.read_text())
    arms = {name: f"{tmp_path}/{name}-{{seed}}.pth" for name in ("one", "other")}
    content |= {"arms": arms, "baseline": "one", "seeds": [0, 1], "score": {**content["score"], "arch": "test_resnet"}}
    written.write_text(yaml.safe_dump({key: content[key] for key in content if key not in ("set", "pretrain")}))
    run_here(monkeypatch, main)
    measure_here(monkeypatch)
    assert main(command_of(written, tmp_path)) == 0
    assert "4 checkpoints: 0 done, 4 to score, 0 missing; 2 arms, seeds [0, 1]" in capsys.readouterr().out
    rows = rows_in(tmp_path / "results" / "tiny_study.csv")
    assert [(row["arm"], row["seed"]) for row in rows] == [("one", "0"), ("other", "0"), ("one", "1"), ("other", "1")]
    assert len({row["checkpoint"] for row in rows}) == 4
    assert "n = 2" in (tmp_path / "results" / "tiny_study.md").read_text()
    assert main(command_of(written, tmp_path)) == 0 and "4 done" in capsys.readouterr().out
    # The same on the folder itself, without a suite: another task of the same images and settings.
    content["score"] = {"data": str(tmp_path / "set"), "size": 32, "tasks": ["knn"], "arch": "test_resnet"}
    written.write_text(yaml.safe_dump({key: content[key] for key in content if key not in ("set", "pretrain")}))
    own = ["study", str(written), "--results", str(tmp_path / "own")]
    assert main(own) == 0
    again = rows_in(tmp_path / "own" / "tiny_study.csv")
    assert {row["task"] for row in again} == {"set-knn-32px"}
    assert [row["score"] for row in again] == [row["score"] for row in rows]


def test_a_student_of_another_configuration_is_refused(written, tmp_path, finished, capsys):
    study = load_study(written)
    finished.copy(pretrain_command(study, study.runs[0], tmp_path / "runs"))
    assert main([*command_of(written, tmp_path), "--dry-run"]) == 0
    written.write_text(written.read_text().replace("optim.epochs: 1", "optim.epochs: 2"))
    assert main(command_of(written, tmp_path)) == 2
    assert "optim.epochs: 1 there, 2 now" in capsys.readouterr().err


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_study_is_possible(path, tmp_path, capsys):
    assert main(["study", str(path), "--dry-run", "--runs", str(tmp_path), "--results", str(tmp_path / "none")]) == 0
    assert " to score, " in capsys.readouterr().out
    header = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert f"kdep study {path.stem}" in header and load_study(path).name == path.stem


def test_a_bank_is_made_once_for_the_run_that_needs_most_of_it(written, tmp_path):
    arms = [
        f'  {arm}: {{bank.path: "x-{{seed}}", bank.views: {views}}}\n' for arm, views in (("a", 1), ("b", 3), ("c", 2))
    ]
    text = written.read_text().replace("  random: ", "".join(arms) + "  random: ")
    written.write_text(text)
    study = load_study(written)
    assert [run.arm for run in banks_left(study, items(study, tmp_path, [])).values()] == ["from a bank", "b"]


def test_a_checkpoint_is_scored_once_for_all_seeds_and_before_anything_is_trained(written, tmp_path):
    written.write_text(written.read_text().replace("seeds: [0]\nscore", "seeds: [0, 1]\nscore"))
    study = load_study(written)
    found = students(items(study, tmp_path, []))
    assert [item.run.name for item in found] == [
        "random:test_resnet",
        "tiny_study-live-s0",
        "tiny_study-from_a_bank-s0",
        "tiny_study-live-s1",
        "tiny_study-from_a_bank-s1",
    ]
    assert [item.state for item in found] == [TO_SCORE] + 4 * [TO_TRAIN]


def test_the_budget_and_the_protocol_of_a_study_are_those_of_its_scores(written, tmp_path):
    written.write_text(
        written.read_text().replace("tasks: [", "seeds: [0, 3], budget: smoke, protocol: fair, tasks: [")
    )
    study = load_study(written)
    command = score_command(study, Item(study.runs[0], TO_SCORE, ("photos-knn",)), tmp_path, tmp_path / "results")
    told = " ".join(command)
    assert command[1] == f"{tmp_path}/tiny_study-live-s0/student.pth"
    assert "--tasks photos-knn --seeds 0,3" in told and "--budget smoke --protocol fair" in told


def test_a_probe_splits_by_the_seed_of_the_run_where_a_study_says_so(written, tmp_path):
    text = written.read_text().replace("seeds: [0]\nscore", "seeds: [4, 7]\nscore")
    written.write_text(text.replace("tasks: [", "seeds: null, tasks: ["))
    study = load_study(written)
    seeds = {
        (item.run.arm, item.run.seed): command[command.index("--seeds") + 1]
        for item in items(study, tmp_path, [])
        if (command := score_command(study, item, tmp_path, tmp_path))
    }
    assert seeds == {
        ("live", 4): "4",
        ("from a bank", 4): "4",
        ("random", 4): "4,7",  # one checkpoint for both runs
        ("live", 7): "7",
        ("from a bank", 7): "7",
        ("random", 7): "4,7",
    }
    assert len({fingerprint(study, run) for run in study.runs}) == 6  # a row of one split is not taken for another's


def test_a_study_says_how_far_it_is_and_how_long_the_rest_takes():
    assert study_work.progress(2, 12, 600) == "[2/12] about 50 min left"
    assert study_work.progress(12, 12, 3600) == "[12/12] in 1.0 h"


def test_every_job_has_a_gpu_of_its_own(written, tmp_path, monkeypatch):
    monkeypatch.setattr(study_work, "visible_devices", lambda device: ("4", "7"))
    both, used = threading.Barrier(2, timeout=600), []

    def run(arguments, log, slot):
        if arguments[0] == "pretrain":
            used.append(slot.device)
            both.wait()  # until the other one runs, too
        return 1

    monkeypatch.setattr(study_work, "run_verb", run)
    study = load_study(written)
    todo = [item for item in items(study, tmp_path, []) if item.state == TO_TRAIN]
    monkeypatch.setattr(study_work, "banks_left", lambda study, plan: {})
    engine = study_work.engine_for("local", {}, jobs=2, folder=tmp_path)
    assert study_work.work(study, todo, tmp_path, tmp_path / "results", engine=engine, after=lambda: None) == 2
    assert sorted(used) == ["4", "7"]


class Cluster:
    """An engine that keeps what it is given and runs the jobs in the order of their positions."""

    jobs, shares_folders = None, True

    def run(self, jobs, *, after=(), meanwhile=None, say=None):
        self.steps, self.after = [job.args[0] for job in jobs], list(after)
        for position, job in enumerate(jobs):
            if position == 2:
                yield position, Lost("the node is gone")
            else:
                yield position, job(Slot())


def test_on_a_cluster_banks_runs_and_scores_wait_for_each_other_and_start_only_if_their_files_are_there(
    written, tmp_path, monkeypatch, capsys
):
    ran = []
    monkeypatch.setattr(study_work, "run_verb", lambda arguments, log, slot: ran.append(arguments[0]) or 0)
    study, engine, runs = load_study(written), Cluster(), tmp_path / "runs"
    plan = [Item(run, TO_SCORE if run.checkpoint else TO_TRAIN, ("one", "two")) for run in study.runs]
    answered = []
    failed = study_work.work(study, plan, runs, tmp_path, engine=engine, after=lambda: answered.append(1))
    assert [step.what.split()[0] for step in engine.steps] == [
        "bank",
        *2 * ["score"],
        *2 * ["pretrain", "score", "score"],
    ]
    assert engine.after == [(), (), (), (), (3,), (3,), (0,), (6,), (6,)]
    assert [step.command[5] for step in engine.steps if step.command[0] == "transfer"] == 3 * ["one", "two"]
    # The bank's command left no bank and the run's no student, one score was lost: nothing is tried without its files.
    assert ran == ["targets", "transfer", "pretrain"] and failed == 3 and len(answered) == 3
    told = capsys.readouterr().out
    assert "FAILED: score random_test_resnet two: the node is gone" in told
    assert "not started: pretrain tiny_study-from_a_bank-s0: the files that it needs are not there" in told
