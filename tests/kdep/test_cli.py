"""The command itself: a mistake about a path, or a pipe that ends first, is one line and an exit code."""

import importlib
import multiprocessing
import os
import subprocess
import sys

import pytest
import torch

from kdep import cli


@pytest.fixture
def command(photos, tmp_path, tiny):
    """Commands that write to a place that cannot be, by name, with the path that is at fault."""
    tiny()
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    beyond = tmp_path / "file" / "sub"
    return {
        "subset": (["subset", photos, "--fraction", "0.1", "--out", tmp_path / "folder"], tmp_path / "folder"),
        "pretrain": (["pretrain", tmp_path / "tiny.yaml", f"runs={tmp_path / 'file'}"], tmp_path / "file"),
        "export": (["export", "random:test_resnet", "--to", "timm", "--out", beyond / "y.pth"], beyond),
    }


@pytest.mark.parametrize("name", ["subset", "pretrain", "export"])
def test_a_path_that_cannot_be_written_is_one_line_that_names_it(command, name, capsys, tmp_path):
    arguments, place = command[name]
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(list(map(str, arguments))) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"kdep: {place}") and "Errno" not in last
    assert sorted(tmp_path.rglob("*")) == before


HELP = """
import contextlib, sys
from kdep import cli
for verb in cli.VERBS:
    with contextlib.suppress(SystemExit):
        cli.main([verb, "--help"])
    assert "torch" not in sys.modules, verb
"""


def test_no_help_imports_torch():
    subprocess.run([sys.executable, "-c", HELP], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("unbuffered", ["", "1"])  # noticed at the end of the command, or at the first line
def test_a_reader_that_ends_first_is_one_line_and_no_traceback(unbuffered):
    code = "import sys; from kdep import cli; sys.exit(cli.main(['ls', 'data']))"
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    reader, writer = os.pipe()
    os.close(reader)  # before the command begins
    with open(writer, "wb") as output:  # noqa: PTH123 - a descriptor
        pipes = {"stdout": output, "stderr": subprocess.PIPE, "text": True}
        done = subprocess.run([sys.executable, "-c", code], env=environment, **pipes)
    said = "kdep: nobody reads the output any more, so this stopped; the same command goes on from here\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_a_broken_pipe_elsewhere_is_not_hidden(monkeypatch):
    def run(args):
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        cli.guarded(run, None)


def test_a_process_of_the_command_that_was_lost_is_one_line(capsys):
    def run(args):
        here, there = multiprocessing.Pipe()
        here.send("something that nobody reads")
        there.close()
        here.recv()

    assert cli.guarded(run, None) == 1
    said = capsys.readouterr().err
    assert said.startswith("kdep: a process that loads images was lost (Connection reset by peer)")


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["pretrain"], "take a smaller optim.batch_size or data.size; a run needs another name"),
        (["targets", "recipe"], "take a smaller optim.batch_size; a smaller data.size needs another bank.path"),
        (["statistics", "random:resnet18", "--images", "photos"], "take a smaller --size\n"),
        (["compare", "a", "b"], "nvidia-smi shows what else uses this GPU"),
    ],
)
def test_a_gpu_that_is_full_is_one_line_that_says_what_the_verb_takes_for_less(words, advice, monkeypatch, capsys):
    def run(args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a capacity of 8 GiB")

    monkeypatch.setattr(importlib.import_module(cli.VERBS[words[0]][0]), "run", run)
    assert cli.main(words) == 1
    assert capsys.readouterr().err.startswith(f"kdep: CUDA out of memory; {advice}")


def test_ctrl_c_before_the_verb_begins_is_one_line(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "parse", interrupted)
    assert cli.main(["ls"]) == 130
    assert capsys.readouterr().err == "kdep: interrupted; the same command goes on from here\n"


@pytest.mark.parametrize(
    ("word", "verb"), [("pretain", "pretrain"), ("leader", "leaderboard"), ("transfr", "transfer")]
)
def test_a_verb_that_is_misspelt_is_answered_with_the_nearest(word, verb, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([word, "x"])
    assert ended.value.code == 2 and f"no verb '{word}'; did you mean {verb}?" in capsys.readouterr().err
