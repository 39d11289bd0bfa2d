"""Studies made for tests: files of tiny networks on a few pictures, and answers of given scores."""

import yaml
from PIL import Image

from kdep_benchmarks.studies.file import Score, Study
from tests.conftest import TINY, draw

FILE = """
name: tiny_study
question: Does a bank change anything?
pretrain: {recipe}
set: {{optim.epochs: 1, data.seed: 5}}
baseline: live
arms:
  live: {{}}
  from a bank: {{bank.path: "{folder}/bank-{{seed}}", bank.views: 1}}
  random: random:test_resnet
seeds: [0]
score: {{suite: "{folder}/suite.yaml", tasks: [photos-knn], data_root: "{folder}"}}
"""


def write_study(photos, tmp_path):
    """A study of two runs and a checkpoint, scored by kNN on a few pictures; returns its file."""
    for split, start in (("train", 500), ("test", 700)):
        for number in range(30):
            path = tmp_path / "set" / split / f"c{number % 2}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(path.with_suffix(".jpg"), start + number)
            image = Image.open(path.with_suffix(".jpg"))
            (image if number % 2 else Image.eval(image, lambda value: value // 3)).save(path)
            path.with_suffix(".jpg").unlink()
    task = {"name": "photos-knn", "kind": "knn", "settings": {"size": 32}}
    task["dataset"] = {
        "name": "set",
        "layout": "imagefolder",
        "root": "set",
        "files": {"train": "train", "test": "test"},
    }
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump({"tasks": [task]}))
    (tmp_path / "tiny.yaml").write_text(TINY.format(photos=photos, runs=tmp_path / "runs"))
    path = tmp_path / "study.yaml"
    path.write_text(FILE.format(recipe=tmp_path / "tiny.yaml", folder=tmp_path))
    return path


def rows_of(scores, *, value=None, images=0, seconds=(0, 0, 0), val=None, networks=None):
    """Rows of an answer: arm -> task -> scores by seed; `seconds` by seed; `val` by arm, or by arm and seed.

    Each seed of an arm has a network of its own, unless `networks` says which: arm -> name by seed.
    """
    others = {"value": value, "images_seen": images}

    def on_val(arm, seed):
        given = (val or {}).get(arm)
        return given[seed] if isinstance(given, list) else given

    return [
        {"arm": arm, "task": task, "seed": seed, "score": score, "val": on_val(arm, seed), **others}
        | {"pretrain_seconds": seconds[seed]}
        | {"checkpoint": (networks or {}).get(arm, [f"{arm} {value} {number}" for number in range(9)])[seed]}
        for arm, tasks in scores.items()
        for task, found in tasks.items()
        for seed, score in enumerate(found)
    ]


def made(scores, **others):
    """A study of these arms on tasks a and b; the first is the baseline."""
    fields = {"name": "made", "question": "Which?", "pretrain": "demo", "arms": dict.fromkeys(scores, {})}
    fields |= {"score": Score(suite="made", tasks=["a", "b"]), "baseline": next(iter(scores)), "seeds": [0, 1, 2]}
    return Study(**fields | others)
