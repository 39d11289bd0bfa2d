"""Score a segmentation by the pixels of each class: right, answered and labelled."""

import numpy as np
import torch
import torch.nn.functional as F


def image_areas(scores: torch.Tensor, mask: np.ndarray) -> np.ndarray:
    """Count one image: scores (C, rows, columns), mask (H, W) where C means no class -> (3, C)."""
    classes = len(scores)
    answer = F.interpolate(scores[None], mask.shape, mode="bilinear", align_corners=False)[0].argmax(0)
    truth = torch.from_numpy(mask).to(answer.device)
    known = truth < classes
    answer, truth = answer[known], truth[known]
    counted = (truth[answer == truth], answer, truth)
    return torch.stack([torch.bincount(part, minlength=classes) for part in counted]).cpu().numpy()


def segmentation_metrics(areas: np.ndarray) -> dict[str, float]:
    """mIoU, share of the pixels that are right, and its mean over classes, in percent.

    A class that is neither labelled nor answered anywhere takes no part in the means.

    Args:
        areas: pixels right, answered and labelled per class, summed over all images: (3, C).
    """
    right, answered, labelled = areas.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou, recall = right / (labelled + answered - right), right / labelled
    return {
        "mIoU": 100 * float(np.nanmean(iou)),
        "aAcc": 100 * float(right.sum() / labelled.sum()),
        "mAcc": 100 * float(np.nanmean(recall)),
    }
