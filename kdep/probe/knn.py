"""Classify by the k nearest neighbours in cosine similarity, with votes weighted by exp(similarity / temperature).

Similarities are computed in blocks, so memory does not grow with the bank or the number of classes.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F

STEPS = 2**22  # similarities are rounded to 1 / STEPS, about float32 rounding; ties go to the first image
PAIRS = 2**22  # similarities in a block
ROWS = 256  # fewest queries in a block: products with fewer rows are limited by memory bandwidth


def neighbours(
    queries: torch.Tensor, bank: torch.Tensor, *, k: int, rows: int | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Find the nearest images of the bank, nearest first, for `rows` queries at a time; ties go by position.

    Yields:
        Similarities (R, k) float64 and positions (R, k).

    Raises:
        ValueError: the bank has fewer than k images.
    """
    count = len(bank)
    if k > count:
        raise ValueError(f"k {k}: the bank has only {count} images")
    rows = rows or max(ROWS, PAIRS // count)
    step = max(1, PAIRS // rows)
    for part in queries.split(rows):
        unit, nearest = F.normalize(part), torch.empty(len(part), 0, dtype=torch.long, device=bank.device)
        for start in range(0, count, step):
            keys = _keys(unit, bank, start, min(count, start + step))
            nearest = torch.cat([nearest, keys.topk(min(k, keys.shape[1]), dim=1).values], dim=1)
            nearest = nearest.topk(min(k, nearest.shape[1]), dim=1).values
        position = count - 1 - nearest % count
        yield torch.div(nearest, count, rounding_mode="floor").double() / STEPS, position


def _keys(queries: torch.Tensor, bank: torch.Tensor, start: int, end: int) -> torch.Tensor:
    """Encode each pair (R, end - start) as an integer that sorts by similarity, then by position in the bank.

    topk does not define the order of ties.
    """
    count = len(bank)
    order = torch.arange(count - 1 - start, count - 1 - end, -1, device=bank.device)
    similarity = queries @ F.normalize(bank[start:end]).T
    return similarity.double().mul_(STEPS).round_().long().mul_(count).add_(order)


def vote(
    queries: torch.Tensor,
    bank: torch.Tensor,
    labels: torch.Tensor,
    *,
    grid: Sequence[tuple[int, float]],
    rows: int | None = None,
) -> list[torch.Tensor]:
    """Predict the class with the largest vote; ties go to the smaller class number.

    Returns:
        Predictions (N,) for each (k, temperature) of the grid, in its order.
    """
    largest = max(k for k, _ in grid)
    answers: list[list[torch.Tensor]] = [[] for _ in grid]
    for similarity, position in neighbours(queries, bank, k=largest, rows=rows):
        columns, class_of = _vote_columns(labels[position])
        for (k, temperature), answer in zip(grid, answers, strict=True):
            weights = ((similarity[:, :k] - similarity[:, :1]) / temperature).exp()
            votes = torch.zeros_like(similarity).scatter_add_(1, columns[:, :k], weights)
            answer.append(class_of.gather(1, votes.argmax(1, keepdim=True)).squeeze(1))
    return [torch.cat(answer) for answer in answers]


def _vote_columns(classes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Number the classes among each query's k neighbours from 0, so that votes need only k columns.

    Returns:
        The column of each neighbour (R, k), and the class of each column (R, k), 0 for unused columns.
    """
    ascending, order = classes.sort(dim=1)
    column = torch.zeros_like(classes)
    column[:, 1:] = (ascending[:, 1:] != ascending[:, :-1]).long().cumsum(1)
    return torch.zeros_like(classes).scatter_(1, order, column), torch.zeros_like(classes).scatter_(
        1, column, ascending
    )
