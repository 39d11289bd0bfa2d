"""Draw fewer of the demo's scenes, in a copy of kdep that a test made."""

import re
from pathlib import Path

COUNTS = {"pool": 620, "train_per_class": 10, "test_per_class": 5, "dense_train": 20, "dense_val": 10}


def draw_few_scenes(benchmarks: Path) -> None:
    """Change the counts in a copy of the folder benchmarks."""
    scenes = benchmarks / "data" / "scenes" / "make.py"
    code = scenes.read_text()
    for what, count in COUNTS.items():
        code, found = re.subn(rf"\b{what}: int = \d+", f"{what}: int = {count}", code)
        assert found == 1, what
    scenes.write_text(code)
