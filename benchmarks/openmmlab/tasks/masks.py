"""Check a split of masks before training, and configure it for mmseg."""

from typing import Any

from kdep_benchmarks.data.cards import Dataset
from kdep_benchmarks.data.checks.masks import bad_values, lone_class, missing_files, read_values
from kdep_benchmarks.data.findings import refuse_defects
from kdep_benchmarks.data.pictures import in_threads
from kdep_benchmarks.data.readers.masks import MaskSplit, read_masks

LOOKED_AT = 32  # train masks whose values are checked; all of ADE20K would take minutes


def open_masks(dataset: Dataset, role: str) -> MaskSplit:
    """Read one split, and refuse missing files and masks with values that are not classes; of train the first are read.

    Raises:
        ValueError: a file is missing or has wrong values; the message names it.
    """
    split = read_masks(dataset, role)
    what = f"{dataset.name}: {role} split"
    refuse_defects(missing_files(split), what)
    looked_at = split.pairs if role == "test" else split.pairs[:LOOKED_AT]
    masks = in_threads(read_values, [pair.mask for pair in looked_at], what, show=False)
    found: set[int] = set()
    for pair, mask in zip(looked_at, masks, strict=True):
        refuse_defects(bad_values(mask, pair, split), what)
        found |= split.labels_of(mask.pixels or {})
    if role == "test":
        refuse_defects(lone_class(found, split, role), what)
    return split


def split_configs(split: MaskSplit) -> list[dict[str, Any]]:
    """Configure one split for mmseg without transforms; each list or folder becomes a data set."""
    return [
        {
            "type": "BaseSegDataset",
            "data_prefix": {"img_path": str(folder.images), "seg_map_path": str(folder.masks)},
            "ann_file": str(folder.listed or ""),
            "img_suffix": folder.image_suffix,
            "seg_map_suffix": folder.mask_suffix,
            # 0 means unlabelled, and mmseg moves 1..N to 0..N-1.
            "reduce_zero_label": split.zero_is_unlabelled,
            "metainfo": {"classes": split.names},
        }
        for folder in split.folders
    ]
