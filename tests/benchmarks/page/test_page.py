"""The files of a board: CSV that is safe in a spreadsheet, Markdown and HTML that escape names, plots."""

import argparse
import base64
import csv
import io
import os
import re
import shutil
import signal
import subprocess
import threading
from dataclasses import replace
from html.parser import HTMLParser
from math import nan

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from kdep import cli, files
from kdep_benchmarks.board.build import boards
from kdep_benchmarks.board.frame import csv_cell, csv_text, results_frame
from kdep_benchmarks.board.sheets import data_uri, find_sheets
from kdep_benchmarks.counts import counted
from kdep_benchmarks.durations import duration
from kdep_benchmarks.page.leaderboard import compact, damage_lines, leaderboard_frame, overview, terminal_table
from kdep_benchmarks.page.markdown import markdown
from kdep_benchmarks.page.page import html
from kdep_benchmarks.page.panels import mean_panel, score_panels
from kdep_benchmarks.page.plots import ROWS, round_ticks
from kdep_benchmarks.page.report import write_leaderboard
from kdep_benchmarks.results import Found, find_results, write_result
from kdep_benchmarks.verbs import leaderboard
from tests.helpers.made_results import failure, result, runs


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-cmd|x", "@SUM(A1)", "＝1", "+5", "--5", "-5-5"])
def test_what_a_spreadsheet_would_run_is_escaped(text):
    assert csv_cell(text) == "'" + text


def test_numbers_missing_values_and_truth_values_are_written_as_people_read_them():
    assert [csv_cell(value) for value in (-1.5, "-1e-3", "a=b")] == ["-1.5", "-1e-3", "a=b"]
    frame = pd.DataFrame(
        {"float": [0.1 + 0.2, 100 / 3, None], "truth": [True, False, None], "=text": ["=a", None, "b"]}
    )
    assert csv_text(frame) == "float,truth,'=text\n0.3,true,'=a\n33.3333333333,false,\n,,b\n"


def test_the_files_are_written_and_read_back(tmp_path):
    results = [
        result("=evil", score=61.5, metrics={"top1": 61.5, "macro_top1": 60.0}, counts={"test": 16}),
        failure("b", seed=2),
    ]
    write_leaderboard(lambda: Found(results, []), tmp_path)
    names = ["leaderboard.csv", "leaderboard.html", "leaderboard.md", "results.csv", "verdicts.csv"]
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".")) == names
    with (tmp_path / "results.csv").open(newline="") as file:
        lines = [
            (r["name"], r["metric"], r["value"], r["main"], r["images_test"], r["error"]) for r in csv.DictReader(file)
        ]
    assert lines == [
        ("'=evil", "top1", "61.5", "true", "16", ""),
        ("'=evil", "macro_top1", "60.0", "false", "16", ""),
        ("b", "", "", "", "", "RuntimeError: out of memory"),
    ]


def test_the_frame_of_results_says_what_was_chosen_and_where_the_checkpoint_comes_from():
    one = result(chosen={"C": 10.0, "C_at_edge": True}, counts={"test": 16}, versions={"torch": "2.13.0"})
    one.checkpoint.summary["images_seen"] = 640
    row = results_frame([one, failure("b", data="e" * 64)]).iloc[0]
    assert (row.chosen, row.at_edge) == ('{"C": 10.0, "C_at_edge": true}', True)
    assert (row.pretrain_images_seen, row.images_test, row.torch) == (640, 16, "2.13.0")
    assert (row.column, row.value, row.main) == ("cifar-linear@dddddd", 50.0, True)
    assert results_frame([]).empty


def test_a_library_called_like_a_column_leaves_that_column_as_it_is():
    plain, known = result("a", commit="beef"), {"counts": {"test": 16}, "commit": "cafe"}
    plain.checkpoint.summary["method"] = "kdep svd"
    columns = list(results_frame([plain]).columns)
    assert {"pretrain_method", "seed", "name", "column", "metric", "value", "commit", "started"} <= set(columns)
    odd = result("b", versions={name: f"library {name}" for name in (*columns, "seed_2", "torch")}, **known)
    frame = results_frame([plain, odd])
    pd.testing.assert_frame_equal(frame[columns], results_frame([plain, result("b", **known)])[columns])
    assert not frame.columns.duplicated().any() and frame.columns[-1] == "started"
    assert frame.loc[1, ["name_2", "started_2", "torch"]].tolist() == [
        "library name",
        "library started",
        "library torch",
    ]
    assert sorted(frame.loc[1, [name for name in frame if name.startswith("seed_")]]) == [
        "library seed",
        "library seed_2",
    ]


def test_a_task_or_metric_called_like_a_column_leaves_that_column_as_it_is():
    metrics = {"top1": 50.0, "std": 1.0, "n": 2.0, "ci95": 3.0, "ci95_images": 4.0, "share_of_gain": 5.0, "loss": 6.0}
    plain = [result("a", "c-linear", seed, score) for seed, score in enumerate((40.0, 42.0))]
    fixed = [name for name in leaderboard_frame(boards(plain)) if not name.startswith("c-linear")]
    assert {"name", "failed", "mean_classification", "seconds", "notes"} <= set(fixed)
    card = plain[0].task
    odd = [replace(plain[0], task=replace(card, name=name)) for name in (*fixed, "c-linear_n", "c-linear_loss")]
    frame = leaderboard_frame(boards([*plain, result("b", "c-linear", metrics=metrics), *odd])).set_index("name")
    assert not frame.columns.duplicated().any() and frame.columns[-1] == "notes"
    assert [frame.loc["a", f"c-linear{suffix}"] for suffix in ("", "_std", "_n")] == [41.0, pytest.approx(2**0.5), 2]
    assert (frame.arch["a"], frame.failed["a"], frame.budget["a"], frame.params_m["a"]) == ("resnet18", 0, "full", 11)
    assert frame.loc["a", [f"{name}_2" for name in fixed]].tolist() == [40.0] * len(fixed)
    assert frame.loc["a", ["c-linear_n_3", "c-linear_loss_2"]].tolist() == [40.0] * 2  # two are metrics of b
    assert frame.loc["b", [f"c-linear_{metric}_2" for metric in ("std", "n", "ci95")]].tolist() == [1.0, 2.0, 3.0]
    assert frame.loc["b", ["c-linear_ci95_images_2", "c-linear_share_of_gain_2", "c-linear_loss"]].tolist() == [4, 5, 6]


def test_the_board_of_odd_files_of_others_is_written(tmp_path, capsys):
    write_result(result("a", "c-linear", score=62.5), tmp_path)
    odd = {"metrics": {"top1": 61.5, "std": 3.0}, "versions": {"seed": "1", "metric": "2"}, "counts": {"leaked": 3}}
    write_result(result("b", "c-linear", chosen={"out_of_memory": None}, **odd), tmp_path)
    assert cli.main(["leaderboard", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "62.50 (1)*" in said and "61.50 (1)" in said
    assert "c-linear: 3 of its test images are also in train or val, byte for byte." in said
    assert pd.read_csv(tmp_path / "leaderboard.csv")["c-linear_std_2"].tolist() == pytest.approx([nan, 3], nan_ok=True)
    assert pd.read_csv(tmp_path / "results.csv").seed.tolist() == [0, 0, 0]


def test_the_markdown_table_marks_the_best_of_each_protocol_and_escapes_names():
    results = [result("a|b", score=60.0), result("*c*", score=50.0), result("d", score=99.0, version=2)]
    text = markdown(boards(results))
    assert "| a\\|b | **60.00 (1)** |" in text
    assert "| \\*c\\* | 50.00 (1) |" in text
    assert "| d | 99.00 (1) |" in text  # alone on its board: nothing to be better than
    scores = [line for line in text.split("### classification")[1].splitlines() if line.startswith("|")]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in scores[:4]] == [3] * 4  # two cells, whatever the name


def test_scores_that_look_equal_are_best_together_and_none_where_all_do():
    scores = {"a": 0.001, "b": 0.004, "c": 0.0}
    assert "**" not in markdown(boards([result(name, score=score) for name, score in scores.items()]))
    text = markdown(boards([result(name, score=score + 5) for name, score in (scores | {"c": -1.0}).items()]))
    assert "| a | **5.00 (1)** |" in text and "| b | **5.00 (1)** |" in text and "| c | 4.00 (1) |" in text


def test_the_best_is_marked_with_all_that_the_intervals_do_not_tell_from_it():
    def rows(*scores):
        # Half an interval is 1.9602 standard errors over 10,001 images; of the best it is 3 and of the others 4.
        halves = (3, 4, 4, 4)
        named = zip("abcd", scores, halves, strict=False)
        known = [
            result(n, "v-segment", score=s, counts={"test": 10_001}, errors={"mIoU": h / 1.9602}) for n, s, h in named
        ]
        return markdown(boards(known))

    # The root of 3 squared and 4 squared is 5; of four rows there are six pairs: 5 * 2.6383 / 1.96 = 6.7305.
    text = rows(60.0, 53.28, 53.26, 40.0)
    assert [name for name in "abcd" if re.search(rf"\| {name} \| \*\*[\d.]+ ± [34]\.00 \(1\)\*\*", text)] == ["a", "b"]
    # The overview has the mean over families and that of the family: the same numbers, marked alike.
    assert "| a | **60.00 ± 3.00** | **60.00 ± 3.00** |" in text
    assert "| b | **53.28 ± 4.00** | **53.28 ± 4.00** |" in text and "| c | 53.26 ± 4.00 | 53.26 ± 4.00 |" in text
    assert "**" not in rows(60.0, 55.01, 56.0)  # nothing is told from the best
    assert [name for name in "ab" if f"| {name} | **" in rows(60.0, 54.99)] == ["a"]  # of two rows there is one pair


def test_of_many_equal_means_the_lowest_is_not_said_to_be_below_the_best():
    random, told = np.random.default_rng(0), 0
    for _ in range(10):
        scores = 50 + random.standard_normal(20)
        errors = {"counts": {"test": 10_001}, "errors": {"mIoU": 1.0}}
        (board,) = boards([result(f"r{n}", "v-segment", score=s, **errors) for n, s in enumerate(scores.tolist())])
        told += any(row[1].best for row in overview(board).rows)
    assert told <= 1  # nine without a correction


def test_other_metrics_and_provenance_are_on_the_pages():
    metrics = [{"top1": 50.0, "top1_macro": 48.0 + s} for s in (0, 2)]
    results = [result("a", "c-linear", seed, metrics=one, commit="beef") for seed, one in enumerate(metrics)]
    results[0].checkpoint.summary.update({"method": "kdep svd", "pretrain_epochs": 90, "images_seen": 640})
    every = boards([*results, failure("a", "v-segment")])
    text = markdown(every)
    assert "### classification: other metrics" in text and "### segmentation: other" not in text
    assert "c-linear (top1\\_macro)" in text and "49.00 (2)" in text
    assert "| a | 61000000 | resnet18 | kdep svd | - | - | 640 | 90 | - | - | - | beef |" in text
    page = html(every)
    assert page.count("<summary>Other metrics</summary>") == 1 and 'data-value="49.0"' in page
    assert '<td class="absent" >kdep svd</td>' in page.partition("<h3>Provenance</h3>")[2]


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


EVIL = '<img src=x onerror="alert(1)">&$x$'


def test_every_view_says_at_which_size_multiply_adds_are_counted():
    every = boards([result("a", cost={"gmacs": 1.8, "images_per_second": 90.0, "device": "cpu x1"})])
    written, page = markdown(every), html(every)
    assert "GMACs (224 px)" in written and "GMACs (224 px)" in terminal_table(every)
    assert "<span>GMACs</span><small>224 px</small>" in page
    for text in (written, page):
        assert (
            "GMACs are for one image of 224 x 224 pixels" in text and "images/s are at the sizes of the tasks" in text
        )


def test_the_page_escapes_every_name_also_in_plots():
    results = [result(EVIL, "cifar-linear", arch=EVIL), result("b", f"{EVIL}-knn"), failure(EVIL, "x-detect")]
    page = Page(html(boards(results)))
    assert "img" not in [tag for tag, _ in page.tags]
    assert not any("onerror" in attrs for _, attrs in page.tags)
    assert page.text.count(EVIL) > 5 and "mathdefault" not in page.text


def test_the_page_needs_no_network_and_its_plots_take_the_colours_of_the_page():
    text = html(boards(runs("a", "cifar-linear", [1.0, 2.0])))
    assert not re.search(r"https?://|//cdn|@import|url\(|xlink:href=\"[^#]", text)
    loads = [(t, a) for t, a in Page(text).tags if {"src", "href"} & set(a) or t in ("link", "iframe", "object")]
    assert loads == []
    assert "default-src 'none'" in text  # and the browser holds it to that
    (svg,) = re.findall(r"<svg .*?</svg>", text, re.DOTALL)
    assert "var(--student)" in svg and ">a</text>" in svg and "font-family" not in svg
    assert not re.findall(r"#[0-9a-f]{6}\b", svg)
    assert len(svg) < 8000


def titles(text):
    return [attrs["aria-label"] for tag, attrs in Page(text).tags if tag == "svg"]


def test_the_page_has_the_plots_of_means_and_scores():
    results = [result(n, "c-linear", seed, 50.0 + i) for i, n in enumerate("xyz") for seed in (0, 1)]
    every = boards(results)
    assert titles(html(every)) == ["mean", "c-linear"]
    assert "<title>x: 50.00 ± 0.00</title>" in score_panels(every[0], "classification")[0]
    assert mean_panel(boards(results[:2])[0]) == []  # one row: nothing to compare


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (61.2, 63.9, [61, 62, 63, 64]),
        (50, 50, [49.5, 49.75, 50, 50.25, 50.5]),
        (0.8, 37, [0, 10, 20, 30, 40]),
        (19.9, 85.6, [0, 20, 40, 60, 80, 100]),
    ],
)
def test_ticks_are_round_and_enclose_all_scores(low, high, ticks):
    assert round_ticks(low, high) == pytest.approx(ticks)


def test_a_plot_of_many_rows_shows_the_first_and_all_baselines():
    many = [result(f"s{number:02}", score=99.0 - number) for number in range(ROWS + 5)]
    (panel,) = score_panels(boards([*many, result("r", score=1.0, role="random")])[0], "classification")
    assert panel.count("<title>") == ROWS + 1 and "r: 1.00" in panel
    assert f"the first {ROWS} of {ROWS + 6} rows" in panel


def test_an_interval_says_what_it_covers_and_stays_within_0_and_100():
    page = html(boards(runs("a", "cifar-finetune", [98.0, 99.0, 100.0], counts={"test": 100})))
    assert re.search(r"95 % interval 9\d\.\d\d to 100\.00, over 100 test images and 3 runs", page)


def test_values_that_the_page_sorts_by_are_numbers_and_absent_ones_have_none():
    results = [result("a", "c-linear", score=5.0), result("a", "d-linear"), result("b", "c-linear", score=40.0)]
    cells = [attrs for tag, attrs in Page(html(boards(results))).tags if tag == "td"]
    assert all(float(attrs["data-value"]) is not None for attrs in cells if "data-value" in attrs)
    assert any("absent" in attrs["class"] and "data-value" not in attrs for attrs in cells)


CLICKS = """<script>
addEventListener("load", () => {
  const table = document.querySelector("table"), said = [];
  const rows = () => Array.from(table.tBodies[0].rows).filter(row => !row.hidden);
  const shown = () => rows().map(row => row.cells[0].textContent.slice(1));
  const click = name => {
    const heads = Array.from(table.tHead.rows[0].cells);
    heads.find(cell => cell.textContent.startsWith(name)).querySelector("button").click();
    said.push(shown().join());
  };
  click("mean"); click("mean"); click("checkpoint"); click("rank");
  const filter = document.getElementById("filter");
  filter.value = "RANDOM resnet18"; filter.dispatchEvent(new Event("input")); said.push(shown().join());
  document.title = said.join(" ") + " " + (document.documentElement.scrollWidth <= innerWidth);
});
</script></body>"""


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_a_browser_sorts_and_filters_the_page_and_nothing_is_wider_than_it(tmp_path):
    results = [
        result(n, t, score=s) for n, s in (("m", 9.0), ("z", 80.0), ("b", 70.0)) for t in ("c-linear", "v-segment")
    ]
    results += [result("random:r", "c-linear", score=5.0, role="random")]  # incomplete: last, both ways
    page = tmp_path / "page.html"
    page.write_text(html(boards(results)).replace("</body>", CLICKS), encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900", "--dump-dom"]
    dom = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=600, check=True).stdout
    title = re.search("<title>(.*?)</title>", dom)[1]
    assert title == "z,b,m,random:r m,b,z,random:r b,m,random:r,z z,b,m,random:r random:r true"


def sheet(folder, seed, colour="red", **others):
    one = result("a", "voc-segment", seed, **others)
    path = write_result(one, folder).with_suffix(".sheet.png")
    Image.new("RGB", (3000, 1000), colour).save(path)
    return one, path


def test_the_page_holds_the_sheet_of_the_lowest_seed_that_has_one(tmp_path, monkeypatch):
    (two, second), (three, _) = sheet(tmp_path, 2), sheet(tmp_path, 3)
    other, apart = sheet(tmp_path, 0, version=2)
    results = [result("a", "voc-segment", 0), three, two, other, failure("b", "voc-segment")]
    found = [find_sheets(board, [tmp_path / "none", tmp_path]) for board in boards(results)]
    assert [list(sheets.values()) for sheets in found] == [[second], [apart]]
    write_leaderboard(lambda: Found(results[:3], []), tmp_path, folders=[tmp_path])
    page = (tmp_path / "leaderboard.html").read_text()
    assert page.count("<img ") == 1 and "voc-segment: image, truth, prediction (1 checkpoint)" in page
    picture = Image.open(io.BytesIO(base64.b64decode(data_uri(second).partition(",")[2])))
    assert picture.size == (744, 248) and data_uri(second) in page
    whole = second.read_bytes()
    for content in (b"no picture", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", whole[:-400], b""):
        second.write_bytes(content)
        with pytest.raises(ValueError, match=r"seed2.sheet.png: not a picture"):
            data_uri(second)
    second.write_bytes(whole)
    monkeypatch.setenv("KDEP_MAX_PIXELS", "2999999")  # as a picture that would fill the memory
    with pytest.raises(ValueError, match=r"seed2.sheet.png: not a picture .*KDEP_MAX_PIXELS"):
        data_uri(second)


def test_the_page_holds_sheets_of_a_study_below_the_folder_but_only_of_results_that_count(tmp_path):
    write_result(result("a", "voc-segment", 1, 50.0), tmp_path)
    sheet(tmp_path / "study", 1, score=51.0)  # the nearer result counts, and has no sheet
    _, second = sheet(tmp_path / "study", 2)
    _, other = sheet(tmp_path, 2, settings={"size": 64})
    (board,) = boards(find_results(tmp_path).results)
    found = {board.columns.way[column].settings: path for (_, column), path in find_sheets(board, [tmp_path]).items()}
    assert found == {"{}": second, '{"size": 64}': other}


def test_the_score_that_counts_and_the_file_that_does_not_are_in_every_view(tmp_path, capsys):
    write_result(result("random:r", score=50.0, role="random"), tmp_path)
    path = write_result(result("random:r", score=50.3, role="random"), tmp_path / "study")
    assert cli.main(["leaderboard", str(tmp_path)]) == 0
    for text in (capsys.readouterr().out, *((tmp_path / f"leaderboard.{kind}").read_text() for kind in ("md", "html"))):
        assert "50.00" in text and "50.30" not in text and "Left out: 1 file." in text
        assert f"{path}: " in text.replace("\\", "") and "has other scores of the same cell" in text


def test_counts_and_durations_are_short_for_people():
    assert [compact(count) for count in (950, 20_000, 1_281_167, 999_999)] == ["950", "20 k", "1.281 M", "1000 k"]
    texts = ["42 s", "59 s", "1 min", "60 min", "1.0 h", "2.5 h"]
    assert [duration(seconds) for seconds in (41.6, 59.4, 60, 3599, 3600, 9000)] == texts


def test_every_count_of_things_has_a_separator_of_thousands():
    assert [counted(number, "data set") for number in (0, 1, 2328)] == ["0 data sets", "1 data set", "2,328 data sets"]
    assert damage_lines(["a.json: damaged"] * 1200)[0] == "Left out: 1,200 files."
    board = boards(runs("a", "cifar-linear", [50.0 + seed % 3 for seed in range(1200)]))
    assert "1 checkpoint, 1 task, 1,200 runs, the last of" in html(board)


def test_the_terminal_table_is_aligned_and_marks_the_best():
    results = runs("a", "c-linear", [60.0, 60.2]) + runs("long name", "c-linear", [50.0]) + [failure("f", "c-linear")]
    text = terminal_table(boards(results))
    assert "60.10 ± 1.27 (2)*" in text
    assert "failed (1)!" in text
    block = text.split("\n\n")[3].splitlines()
    assert len({len(line) for line in block}) == 1


def arguments(*words):
    parser = argparse.ArgumentParser()
    leaderboard.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def test_the_command_rebuilds_the_same_board_beside_the_results(tmp_path, capsys):
    write_result(result("a"), tmp_path / "one")
    write_result(result("b"), tmp_path / "two")
    words = arguments(tmp_path / "one", tmp_path / "two")
    assert leaderboard.run(words) == 0
    assert "b" in capsys.readouterr().out
    first = (tmp_path / "one" / "leaderboard.html").read_bytes()
    assert leaderboard.run(words) == 0
    assert (tmp_path / "one" / "leaderboard.html").read_bytes() == first


def test_compare_behind_leaderboard_says_the_command_that_is_right(capsys):
    words = ["leaderboard", "compare", "a", "random:resnet18", "--results", "demo/results"]
    assert cli.main(words) == 2
    assert "kdep compare a random:resnet18 --results demo/results\n" in capsys.readouterr().err


def test_a_killed_process_leaves_no_half_written_board_for_long(tmp_path, monkeypatch, capsys):
    (tmp_path / ".leaderboard.md.killed.part").write_text("half")
    flush = files.flush

    def killed(path):
        if path.name.startswith(".results.csv"):
            os.kill(os.getpid(), signal.SIGTERM)
        flush(path)

    monkeypatch.setattr(files, "flush", killed)
    before = signal.getsignal(signal.SIGTERM)
    assert cli.main(["leaderboard", str(tmp_path)]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before
    assert list(tmp_path.glob(".*.part")) == []


def test_of_two_suites_that_end_together_the_last_board_has_the_results_of_both(tmp_path):
    write_result(result("early", score=50.0), tmp_path)
    reading, other_ended = threading.Event(), threading.Event()

    def read_and_wait():
        found = find_results(tmp_path)
        reading.set()
        other_ended.wait(1)  # without the lock around the reading, the other one ends now, and then this one writes
        return found

    def other():
        reading.wait(300)
        write_result(result("late", score=60.0), tmp_path)
        write_leaderboard(lambda: find_results(tmp_path), tmp_path)
        other_ended.set()

    thread = threading.Thread(target=other)
    thread.start()
    found, (board,) = write_leaderboard(read_and_wait, tmp_path)
    thread.join()
    assert [one.checkpoint.name for one in found.results] == ["early"] and list(board.rows.name) == ["early"]
    assert list(pd.read_csv(tmp_path / "leaderboard.csv").name) == ["late", "early"]
    assert list(pd.read_csv(tmp_path / "results.csv").name) == ["early", "late"]
    assert all("late" in (tmp_path / f"leaderboard.{kind}").read_text() for kind in ("md", "html"))


def test_a_folder_that_is_not_there_is_named_and_not_made(tmp_path, capsys):
    assert cli.main(["leaderboard", str(tmp_path / "absent")]) == 2
    assert f"{tmp_path / 'absent'}: no such folder of results" in capsys.readouterr().err
    assert not (tmp_path / "absent").exists()


def test_no_results_make_an_empty_board_not_an_error(tmp_path):
    assert write_leaderboard(lambda: Found([], []), tmp_path).boards == []
    assert "No results yet" in (tmp_path / "leaderboard.html").read_text()
    assert terminal_table([]) == "no results yet\n"
