"""`kdep statistics`: each figure against a slow version or hand-worked numbers, and the verb from end to end."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdep.cli import main
from kdep.method.statistics import Moments, finish, ratio_or_none
from kdep.models.backbones.backbone import build_backbone
from kdep.models.weights import open_checkpoint
from kdep_benchmarks.tasks.settings import Pixels
from kdep_benchmarks.teachers import figures as teacher_figures
from kdep_benchmarks.teachers import geometry, std_ratios
from kdep_benchmarks.teachers import ranking as teacher_ranking
from kdep_benchmarks.teachers import sheet as statistics_sheet
from kdep_benchmarks.teachers import statistics as teacher_statistics
from kdep_benchmarks.teachers.images import Pictures, open_pictures, seeded_order
from tests.conftest import draw


def clouds(classes=4, each=9, dim=6, seed=0):
    """Features (N, dim) in clouds of unequal shape, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes * each) % classes
    centres = torch.randn(classes, dim, generator=generator)
    return centres[labels] + torch.rand(len(labels), dim, generator=generator) ** 2, labels


def statistics_of(features):
    moments = Moments(features.shape[1])
    moments.add(features)
    return finish(moments, teacher="t", data="d")


# Spread and tails


def test_participation_ratio_counts_equal_axes_and_discounts_small_ones():
    assert geometry.participation_ratio(torch.tensor([2.0, 2.0, 2.0])) == pytest.approx(3)
    assert geometry.participation_ratio(torch.tensor([4.0, 1.0])) == pytest.approx(25 / 17)


# Classes


def test_class_distances_are_the_means_over_pairs(monkeypatch):
    monkeypatch.setattr(geometry, "BLOCK", 7)
    features, labels = clouds()
    points = features.numpy()
    pairs = [(i, j) for i in range(len(points)) for j in range(len(points)) if i != j]
    means = [
        np.mean([np.linalg.norm(points[i] - points[j]) for i, j in pairs if (labels[i] == labels[j]) == same])
        for same in (True, False)
    ]
    assert geometry.class_distances(features, labels) == pytest.approx(tuple(means), rel=1e-5)


def test_class_distances_keep_their_digits_far_from_the_origin():
    features, labels = clouds()
    far = geometry.class_distances(features.double() + 1e6, labels)
    assert far == pytest.approx(geometry.class_distances(features, labels), rel=1e-5)


@pytest.mark.parametrize(("classes", "each", "dim"), [(4, 9, 6), (9, 4, 5)])
def test_nc1_is_the_trace_with_the_pseudo_inverse(classes, each, dim):
    features, labels = clouds(classes, each, dim)
    features, labels = features[:-3], labels[:-3]  # unequal classes
    x, y = features.double().numpy(), labels.numpy()
    means = np.stack([x[y == c].mean(0) for c in range(classes)])
    within = np.mean([np.outer(a - means[c], a - means[c]) for a, c in zip(x, y, strict=True)], 0)
    between = np.mean([np.outer(m, m) for m in means - means.mean(0)], 0)
    expected = np.trace(within @ np.linalg.pinv(between, rcond=1e-10, hermitian=True)) / classes
    assert geometry.nc1(features, labels) == pytest.approx(expected)


def test_nc1_of_classes_that_are_points_is_zero():
    assert geometry.nc1(torch.eye(3).repeat(4, 1), torch.arange(3).repeat(4)) == pytest.approx(0, abs=1e-20)


def test_folds_ask_every_image_once_and_deal_classes_evenly():
    labels = np.array([0] * 10 + [1] * 7 + [2])
    parts = list(geometry.folds(labels))
    assert sorted(np.concatenate([queries for _, queries in parts])) == list(range(18))
    for bank, queries in parts:
        assert not set(bank) & set(queries) and len(bank) + len(queries) == 18
        assert (labels[queries] == 0).sum() == 2 and (labels[queries] == 1).sum() in (1, 2)
    assert len(parts) == 5 and np.array_equal(parts[0][1], next(geometry.folds(labels))[1])


def test_nearest_neighbour_score_is_that_of_loops_over_the_folds():
    features, labels = clouds(classes=3, each=20, dim=3, seed=5)
    features = features + torch.randn(60, 3, generator=torch.Generator().manual_seed(1))
    unit = features.double().numpy()
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    right = 0
    for bank, queries in geometry.folds(labels.numpy()):
        for query in queries:
            similarity = unit[bank] @ unit[query]
            nearest = np.argsort(-similarity)[:10]
            votes = np.zeros(3)
            np.add.at(votes, labels.numpy()[bank[nearest]], np.exp(similarity[nearest] / 0.07))
            right += votes.argmax() == labels[query].item()
    assert 40 < 100 * right / 60 < 95
    assert geometry.knn_accuracy(features, labels) == pytest.approx(100 * right / 60)


# Laws


def test_the_law_of_partial_whitening_is_no_square_root():
    assert std_ratios.LAWS["whiten"](16.0, alpha=0.25) == 8.0  # 16^(3/4)


def test_every_aligner_and_scaler_has_the_ratio_of_a_slow_version():
    features, _ = clouds(dim=8, each=60)
    features = features * torch.logspace(0, 1, 8)
    rows = list(std_ratios.std_ratio_rows(statistics_of(features), features, (4, 16)))
    by = {(row["width"], row["aligner"], row.get("scaler")): row for row in rows}
    centred = features.double().numpy() - features.double().numpy().mean(0)
    z = centred @ np.linalg.svd(centred, full_matrices=False)[2][:4].T
    std = z.std(0)
    slow = {
        "none": std,
        "sn": np.ones(4),
        "whiten": (z / std**0.5).std(0),
        "pts": (np.sign(z) * np.abs(z / 0.1) ** (1 / 3)).std(0),
    }
    ratio = std.max() / std.min()
    law = {"none": ratio, "sn": 1.0, "whiten": ratio**0.5, "pts": ratio ** (1 / 3)}
    for scaler, expected in slow.items():
        row = by[4, "svd", scaler]
        assert row["measured"] == pytest.approx(expected.max() / expected.min(), rel=1e-4), scaler
        assert row["predicted"] == pytest.approx(law[scaler], rel=1e-4) and row["aligned"] == pytest.approx(ratio, 1e-4)
    top = centred[:, np.sort(np.argsort(-centred.var(0))[:4])].std(0)
    assert by[4, "top_variance", "none"]["measured"] == pytest.approx(top.max() / top.min(), rel=1e-4)
    assert by[4, "phi_s", "none"]["measured"] == pytest.approx(1, rel=1e-4)
    assert "16 channels" in by[16, "svd", None]["refused"]


def test_a_constant_channel_has_no_ratio():
    assert ratio_or_none(torch.tensor([1.0, 0.0])) is None
    assert ratio_or_none(torch.tensor([3.0, 2.0])) == 1.5


# Images and the pass


def scenes(count, labels=None, size=24):
    def read(index):
        noise = np.random.Generator(np.random.Philox(index)).integers(0, 256, (3, 3, 3), dtype=np.uint8)
        return Image.fromarray(noise).resize((size, size))

    classes = () if labels is None else tuple(f"class{label}" for label in range(max(labels) + 1))
    labels = None if labels is None else np.asarray(labels)
    return Pictures("made", [str(i) for i in range(count)], read, "made", labels, classes)


def test_every_beginning_of_the_order_holds_each_class_equally():
    images = scenes(60, [0] * 40 + [1] * 15 + [2] * 5)
    order = seeded_order(images)
    assert sorted(order) == list(range(60))
    assert np.bincount(images.labels[order[:15]]).tolist() == [5, 5, 5]
    assert np.bincount(images.labels[order[:35]]).tolist() == [15, 15, 5]
    assert np.array_equal(order, seeded_order(images))
    assert not np.array_equal(seeded_order(scenes(60))[:30], np.arange(30))


def test_all_taps_come_from_one_forward_and_equal_their_own_backbones():
    checkpoint = open_checkpoint("random:test_efficientnet")
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    both = build_backbone(checkpoint, tap="post").eval()
    with torch.no_grad():
        taps = teacher_statistics.every_tap(both, images)
        assert set(taps) == {"pre", "post", "before_head"}
        for tap, features in taps.items():
            assert torch.allclose(features, build_backbone(checkpoint, tap=tap).eval()(images), atol=1e-5)
    assert not both.network.conv_head._forward_pre_hooks


def test_the_table_of_a_sheet_shows_the_figures_and_stars_a_rank_that_is_the_images():
    tap = {"dim": 8, "numerical_rank": 5, "effective_rank": 3.14159, "participation_ratio": 2.0, "std_ratio": None}
    taps = {"pre": {**tap, "limited_by_images": True}, "post": {**tap, "limited_by_images": False}}
    classes = {"classes": 3, "intra_inter": 0.91234, "nc1": 4.0, "knn": 42.85}
    rows = statistics_sheet.rows_of({"taps": taps, "classes": classes})
    assert rows[1:5] == [
        ["channels", "8", "8"],
        ["rank", "5*", "5"],
        ["effective rank", "3.142", "3.142"],
        ["participation ratio", "2", "2"],
    ]
    assert rows[5:8] == [
        ["std ratio", "-", "-"],
        ["intra-class / inter-class distance", "", "0.9123"],
        ["NC1, 3 classes", "", "4"],
    ]
    assert "images allows" in rows[-1][0]


def test_a_pass_sees_the_chosen_images_and_keeps_the_first_of_the_order():
    images, order = scenes(23), np.array([20, 3, 8, 1, 15, 9, 4])
    backbone = build_backbone(open_checkpoint("random:resnet18"))
    settings = teacher_statistics.StatisticsSettings(Pixels(size=24, batch_size=3, workers=0), keep=4)
    found = teacher_statistics.run_once(backbone, images, order, settings, tap="pre", device=torch.device("cpu"))
    assert found.kept.tolist() == [1, 3, 8, 20]
    pixels = [np.asarray(images.read(i)).transpose(2, 0, 1).copy() for i in sorted(order)]
    with torch.no_grad():
        slow = torch.cat([backbone(torch.from_numpy(image)[None].float() / 255) for image in pixels])
    assert torch.allclose(found.features, slow[[0, 1, 3, 6]], atol=1e-5)
    assert found.moments["pre"].count == 7
    assert torch.allclose(found.moments["pre"].mean, slow.double().mean(0), atol=1e-6)
    assert set(found.moments) == {"pre", "post"}


def test_rank_says_when_it_is_the_images():
    features = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    few = teacher_figures.spectrum_figures(statistics_of(features))
    assert (few["numerical_rank"], few["limited_by_images"]) == (5, True)
    both = teacher_figures.spectrum_figures(statistics_of(features[:, :2] @ torch.eye(8)[:2]))
    assert (both["numerical_rank"], both["limited_by_images"]) == (2, False)
    flat = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    flat = flat @ torch.rand(3, 8, generator=torch.Generator().manual_seed(1))
    low = teacher_figures.spectrum_figures(statistics_of(flat))
    assert (low["numerical_rank"], low["limited_by_images"]) == (3, False)
    slow = np.sort(np.linalg.eigvalsh(np.cov(flat.double().numpy().T, bias=True)))[::-1][:3]
    share = slow / slow.sum()
    assert low["effective_rank"] == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-4)
    assert low["std"][:3] == pytest.approx(np.sqrt(slow), rel=1e-4)
    std = flat.double().numpy().std(0)
    assert low["std_ratio"] == pytest.approx(std.max() / std.min(), rel=1e-4)
    width = teacher_figures.width_figures(statistics_of(flat), 2)
    assert width["explained"] == pytest.approx(share[:2].sum(), rel=1e-4)
    assert width["std_ratio"] == pytest.approx(np.sqrt(slow[0] / slow[1]), rel=1e-4)
    assert teacher_figures.width_figures(statistics_of(flat), 5)["std_ratio"] is None
    assert teacher_figures.width_figures(statistics_of(flat), 9)["explained"] is None


def test_single_axes_are_shown_at_the_width_nearest_to_512_within_the_rank():
    statistics = statistics_of(torch.randn(900, 700, generator=torch.Generator().manual_seed(0)))
    assert teacher_figures.shown_width(statistics, (320, 600, 1280)) == 600
    assert teacher_figures.shown_width(statistics, (64, 400)) == 400
    assert teacher_figures.shown_width(statistics, (1280,)) == 700


def test_figures_have_six_digits_and_no_number_that_json_has_not():
    value = {"a": (1.23456789, float("nan"), float("inf")), "b": [{"c": 3, "d": "x", "e": None}]}
    assert teacher_figures.rounded(value) == {"a": [1.23457, None, None], "b": [{"c": 3, "d": "x", "e": None}]}


# Ranking


def report(teacher, effective_rank, intra_inter, knn=50.0, halves=()):
    inputs = dict.fromkeys(("images", "fingerprint", "labels", "size", "keep"), "x")
    tap = {"dim": 8, "effective_rank": effective_rank, "participation_ratio": effective_rank}
    return {
        "inputs": {**inputs, "teacher": teacher, "tap": "pre", "seen": 9},
        "taps": {"pre": {**tap, "std_ratio": 2.0, "numerical_rank": 8}},
        "classes": {"intra_inter": intra_inter, "nc1": intra_inter, "knn": knn},
        "halves": [{"effective_rank": value} for value in halves],
    }


def test_the_more_diverse_teacher_comes_first_by_the_mean_of_its_ranks():
    rows = teacher_ranking.rank([report("a", 10, 0.8), report("b", 30, 0.9), report("c", 20, 0.7)])
    assert [(row["place"], row["teacher"], row["mean_rank"]) for row in rows] == [
        (1, "b", 1.0),
        (2, "a", 2.5),
        (2, "c", 2.5),
    ]
    assert "disagree" in teacher_ranking.verdict(rows) and "NC1: b > a > c" in teacher_ranking.verdict(rows)


def test_a_bar_in_the_name_of_a_teacher_begins_no_other_cell_of_the_ranking(tmp_path):
    text = teacher_ranking.write_ranking(teacher_ranking.rank([report("a|b", 10, 0.8), report("c", 30, 0.9)]), tmp_path)
    head, line = (next(line for line in text.splitlines() if word in line) for word in ("teacher", "a\\|b"))
    assert line.replace("\\|", "").count("|") == head.count("|") and "a|b" in (tmp_path / "ranking.csv").read_text()


def test_agreement_is_said_and_a_first_place_without_neighbours_is_called_in_question():
    rows = teacher_ranking.rank([report("trained", 10, 0.8, knn=60.0), report("random", 30, 0.9, knn=5.0)])
    text = teacher_ranking.verdict(rows)
    assert text.startswith("The 4 measures agree") and "not credible" in text and "random score 5.0 %" in text
    rows = teacher_ranking.rank([report("a", 10, 0.8, knn=60.0), report("b", 30, 0.9, knn=55.0)])
    assert "not credible" not in teacher_ranking.verdict(rows)


def test_an_order_that_two_halves_of_the_images_dispute_is_called_a_tie():
    def say(first, second):
        reports = [report("a", 10, 0.8, halves=first), report("b", 30, 0.9, halves=second)]
        return teacher_ranking.verdict(teacher_ranking.rank(reports))

    assert "the same order on either half" in say((10, 11), (29, 31))
    assert "gives another order by effective rank" in say((10, 32), (29, 31))
    assert "gives another order by effective rank" in say((29, 31), (10, 11))  # both halves against the whole
    assert "Too few images per class" in say((), ())


def test_halves_are_measured_apart_and_hold_half_of_each_class():
    features, labels = clouds(each=12)
    found = teacher_figures.halves(features, labels)
    for (_, half), figures in zip(geometry.folds(labels.numpy(), count=2), found, strict=True):
        assert np.bincount(labels[half]).tolist() == [6, 6, 6, 6]
        variances = np.linalg.eigvalsh(np.cov(features[half].double().numpy().T, bias=True))
        assert figures["participation_ratio"] == pytest.approx(variances.sum() ** 2 / (variances**2).sum())
        assert figures["nc1"] == pytest.approx(geometry.nc1(features[half], labels[half]))
        within, between = geometry.class_distances(features[half], labels[half])
        assert figures["intra_inter"] == pytest.approx(within / between)
    assert found[0] != found[1]
    assert teacher_figures.halves(features[:13], labels[:13]) == []
    assert set(teacher_figures.halves(features, None)[0]) == {"effective_rank", "participation_ratio"}


@pytest.mark.parametrize("key", ["images", "fingerprint", "labels", "size", "seen", "keep"])
def test_teachers_seen_on_other_images_are_not_ranked(key):
    other = report("b", 2, 1)
    other["inputs"][key] = "other"
    with pytest.raises(ValueError, match=f"a and b were looked at with another {key}"):
        teacher_ranking.rank([report("a", 1, 1), other])


# The verb


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes of 8 generated pictures."""
    root = tmp_path_factory.mktemp("data") / "pictures"
    for number in range(24):
        path = root / f"class{number % 3}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(path.with_suffix(".jpg"), number)
    return root


TEACHERS = ("random:resnet18", "random:test_efficientnet@48")


@pytest.fixture(scope="module")
def out(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("statistics")
    options = ["--labels", "--size", "32", "--width", "8", "16", "1280", "--out", str(out)]
    assert main(["statistics", *TEACHERS, "--images", str(folder), *options]) == 0
    return out


def test_the_verb_writes_a_sheet_and_figures_per_teacher_and_a_ranking(out, folder):
    names = {path.name for path in out.iterdir()}
    stems = ("random_resnet18", "random_test_efficientnet@48")
    assert names == {f"{s}.{kind}" for s in stems for kind in ("json", "png")} | {"ranking.csv", "ranking.md"}
    for stem in stems:
        with Image.open(out / f"{stem}.png") as image:
            assert image.width > 1000 and np.asarray(image.convert("L")).std() > 10
        assert (out / f"{stem}.png").stat().st_size < 300_000
    text = (out / "random_test_efficientnet@48.json").read_text()
    assert str(folder.parent) not in text
    found = json.loads(text)
    assert found["inputs"]["images"] == "pictures" and found["inputs"]["seen"] == found["kept"] == 24
    assert set(found["taps"]) == {"pre", "post", "before_head"} and len(found["taps"]["post"]["std"]) == 256
    assert [entry["width"] for entry in found["widths"]] == [8, 16, 1280] and found["shown_width"] == 16
    assert found["classes"]["classes"] == 3
    assert any(row["width"] == 1280 and "refused" in row for row in found["std_ratios"])
    rows = list(csv.DictReader((out / "ranking.csv").open()))
    assert sorted(row["teacher"] for row in rows) == sorted(TEACHERS) and rows[0]["place"] == "1"
    assert [float(row["mean_rank"]) for row in rows] == sorted(float(row["mean_rank"]) for row in rows)
    page = (out / "ranking.md").read_text()
    assert teacher_ranking.RULE in page and teacher_ranking.TRUST in page


def test_a_finished_teacher_is_measured_again_only_when_something_has_changed(out, folder, tmp_path, monkeypatch):
    calls, study = [], teacher_statistics.study
    monkeypatch.setattr(statistics_sheet, "draw_sheet", lambda report, path: None)
    monkeypatch.setattr(teacher_statistics, "study", lambda *a, **k: calls.append(1) or study(*a, **k))
    command = ["statistics", TEACHERS[0], "--images", str(folder), "--labels", "--size", "32", "--out"]
    (tmp_path / "random_resnet18.json").write_bytes((out / "random_resnet18.json").read_bytes())
    assert main([*command, str(tmp_path), "--width", "8", "16", "1280"]) == 0 and calls == []
    assert main([*command, str(tmp_path), "--width", "8", "16"]) == 0 and calls == [1]
    assert main([*command, str(tmp_path / "b"), "--width", "8", "16", "1280"]) == 0
    again = (tmp_path / "b" / "random_resnet18.json").read_bytes()
    assert again == (out / "random_resnet18.json").read_bytes()  # the same figures, to the byte


def test_without_labels_there_are_no_classes_and_a_limit_is_kept(folder, tmp_path, capsys):
    command = ["statistics", TEACHERS[0], "--images", str(folder), "--size", "32", "--limit", "10", "--keep", "6"]
    assert main([*command, "--tap", "post", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "random_resnet18.json").read_text())
    assert (found["inputs"]["seen"], found["kept"], found["classes"]) == (10, 6, None)
    assert found["inputs"]["tap"] == "post" and found["taps"]["post"]["numerical_rank"] == 9
    assert "effective rank" in capsys.readouterr().out and not (tmp_path / "ranking.csv").exists()


@pytest.mark.parametrize(
    ("teachers", "options", "message"),
    [
        (["random:resnet19"], [], "'resnet19' is not a timm network"),
        (["nowhere.pth"], [], "nowhere.pth: no such file"),
        (["random:resnet18", "random:resnet18"], [], "named twice"),
        (["random:resnet18"], ["--tap", "before_head"], "offers pre, post"),
        (["random:resnet18"], ["--labels", "--limit", "5"], "Raise --limit or --keep to 6"),
        (["random:resnet18"], ["--width", "1"], "--width 1"),
        (["random:resnet18"], ["--keep", "1"], "--keep 1: expected 2 or more"),
    ],
)
def test_mistakes_are_messages_with_exit_code_2(folder, tmp_path, capsys, teachers, options, message):
    command = ["statistics", *teachers, "--images", str(folder), "--size", "32", "--out", str(tmp_path / "none")]
    assert main([*command, *options]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_labels_that_are_not_there_are_asked_for(folder, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("a.jpg\n")
    bare = {"train_blob": np.zeros(2, np.uint8), "train_offsets": np.arange(3)}
    np.savez(tmp_path / "bare.npz", **bare)
    for images, message in (
        (str(tmp_path / "list.txt"), "has no labels; a folder of class folders"),
        (f"{tmp_path / 'bare.npz'}:train", "has no train_labels"),
        (str(folder / "class0"), "no class folder in"),
        (str(tmp_path / "absent"), "absent has no labels"),
    ):
        assert main(["statistics", "random:resnet18", "--images", images, "--labels", "--size", "32"]) == 2
        assert message in capsys.readouterr().err


def test_one_class_is_refused_and_an_unreadable_image_named(folder, tmp_path, capsys):
    for name in ("only/a.jpg", "only/b.jpg"):
        (tmp_path / "one" / name).parent.mkdir(parents=True, exist_ok=True)
        draw(tmp_path / "one" / name, 1)
    command = ["statistics", "random:resnet18", "--images", str(tmp_path / "one"), "--size", "32"]
    assert main([*command, "--labels", "--out", str(tmp_path / "none")]) == 2
    assert "one class only (only)" in capsys.readouterr().err
    (tmp_path / "one" / "broken.jpg").write_bytes(b"no image")
    assert main([*command, "--out", str(tmp_path / "none")]) == 2
    assert "image broken.jpg cannot be read" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_npz_splits_are_named_by_their_file(tmp_path):
    draw(tmp_path / "a.jpg", 1)
    data = np.frombuffer((tmp_path / "a.jpg").read_bytes(), np.uint8)
    content = {"train_blob": np.tile(data, 4), "train_offsets": np.arange(5) * len(data), "train_labels": [0, 1, 0, 1]}
    np.savez(tmp_path / "pack.npz", **content)
    images = open_pictures(f"{tmp_path / 'pack.npz'}:train", labels=True)
    assert (images.source, images.labels.tolist(), images.read(3).size) == ("pack.npz:train", [0, 1, 0, 1], (48, 40))


def test_the_page_on_teachers_shows_the_table_that_the_verb_wrote():
    docs = Path(__file__).parents[3] / "docs"
    ranking = (docs / "figures" / "statistics" / "ranking.md").read_text()
    page = (docs / "teachers.md").read_text()
    table = [line for line in ranking.splitlines() if line.startswith("|")]
    assert len(table) == 6 and "\n".join(table) in page
    for name in re.findall(r"figures/statistics/([\w@.]+\.(?:png|json))", page):
        assert (docs / "figures" / "statistics" / name).is_file()
