"""Check a split of masks before training, and configure it for mmseg."""

from typing import Any

from kdep_benchmarks.data.cards import Dataset
from kdep_benchmarks.data.checks.masks import bad_values, lone_class, missing_files, read_form, read_values
from kdep_benchmarks.data.findings import refuse_defects
from kdep_benchmarks.data.pictures import in_threads
from kdep_benchmarks.data.readers.masks import MaskSplit, read_masks

LOOKED_AT = 2000  # train masks whose values are read; of more the headers only, as all of ADE20K would take minutes


def open_masks(dataset: Dataset, role: str) -> MaskSplit:
    """Read one split, and refuse missing files, masks of another size or with colours, and values that are not classes.

    Raises:
        ValueError: a file is missing or has wrong values; the message names it.
    """
    split = read_masks(dataset, role)
    what = f"{dataset.name}: {role} split"
    refuse_defects(missing_files(split), what)
    read = len(split) if role == "test" else LOOKED_AT
    found: set[int] = set()
    for pairs, look in ((split.pairs[:read], read_values), (split.pairs[read:], read_form)):
        masks = in_threads(look, [pair.mask for pair in pairs], what, show=False)
        for pair, mask in zip(pairs, masks, strict=True):
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
