"""The kinds of tasks, and what is to be known of each; its settings are in `kdep_benchmarks.tasks.settings`."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Kind:
    """What a task does with a backbone.

    Attributes:
        family: the part of the board on which its columns stand.
        title: for people.
        seed: what a seed redraws: only the val split, so that runs are averaged and never counted; the train images,
            the same for all checkpoints; or a whole training.
        frozen: the backbone does not change.
        toolbox: mmsegmentation or mmdetection measures it.
        pooled: it reads the pooled features of the images, which are extracted once for all such tasks.
    """

    family: Literal["classification", "segmentation", "detection"]
    title: str
    seed: Literal["val split", "train images", "training"]
    frozen: bool = True
    toolbox: bool = False
    pooled: bool = False


KINDS: dict[str, Kind] = {
    "knn": Kind("classification", "nearest neighbours", "val split", pooled=True),
    "linear": Kind("classification", "linear probe", "val split", pooled=True),
    "fewshot": Kind("classification", "few-shot linear probe", "train images", pooled=True),
    "finetune": Kind("classification", "fine-tuning", "training", frozen=False),
    "segment": Kind("segmentation", "segmentation", "training", frozen=False, toolbox=True),
    "segment-frozen": Kind("segmentation", "segmentation on the frozen backbone", "training", toolbox=True),
    "dense-linear": Kind("segmentation", "linear segmentation probe", "val split"),
    "dense-knn": Kind("segmentation", "nearest-neighbour segmentation probe", "val split"),
    "detect": Kind("detection", "detection", "training", frozen=False, toolbox=True),
    "detect-frozen": Kind("detection", "detection on the frozen backbone", "training", toolbox=True),
    "box": Kind("detection", "probe of given boxes", "val split"),
}
FAMILIES = tuple(dict.fromkeys(kind.family for kind in KINDS.values()))
AVERAGED = tuple(name for name, kind in KINDS.items() if kind.seed == "val split")
PAIRED = tuple(name for name, kind in KINDS.items() if kind.seed == "train images")
SCHEDULED = tuple(name for name, kind in KINDS.items() if kind.seed == "training")
TOOLBOXES = tuple(name for name, kind in KINDS.items() if kind.toolbox)
POOLED = tuple(name for name, kind in KINDS.items() if kind.pooled)
PROBES = tuple(name for name, kind in KINDS.items() if kind.frozen and not kind.toolbox)
CHEAP = tuple(name for name, kind in KINDS.items() if kind.frozen)
EXPENSIVE = tuple(name for name, kind in KINDS.items() if not kind.frozen)
