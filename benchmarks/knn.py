"""k nearest neighbours by cosine, their votes weighted by exp(similarity / temperature)."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F

STEPS = 2**22  # similarities closer than 1 / STEPS, about their float32 rounding, are equal: the first image is nearer
PAIRS = 2**22  # compared at once


def neighbours(
    queries: torch.Tensor, bank: torch.Tensor, *, k: int, rows: int | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Nearest images of the bank, nearest first, ties by position in the bank; `rows` queries at a time.

    Yields:
        Similarities (R, k) float64 and positions (R, k).
    """
    bank, count = F.normalize(bank), len(bank)
    order = torch.arange(count - 1, -1, -1, device=bank.device)
    for part in F.normalize(queries).split(rows or max(1, PAIRS // count)):
        # One integer per pair that sorts by similarity, then by position: topk alone leaves the order of ties open.
        keys = (part @ bank.T).double().mul_(STEPS).round_().long() * count + order
        nearest = keys.topk(k, dim=1).values
        position = count - 1 - nearest % count
        yield torch.div(nearest, count, rounding_mode="floor").double() / STEPS, position


def vote(
    queries: torch.Tensor,
    bank: torch.Tensor,
    labels: torch.Tensor,
    *,
    classes: int,
    grid: Sequence[tuple[int, float]],
    rows: int | None = None,
) -> list[torch.Tensor]:
    """Class with the largest vote for every (k, temperature) of the grid: a list of (N,), in the grid's order.

    Equal votes go to the smaller class number.
    """
    largest = max(k for k, _ in grid)
    answers: list[list[torch.Tensor]] = [[] for _ in grid]
    for similarity, position in neighbours(queries, bank, k=largest, rows=rows):
        for (k, temperature), answer in zip(grid, answers, strict=True):
            weights = ((similarity[:, :k] - similarity[:, :1]) / temperature).exp()
            votes = weights.new_zeros(len(weights), classes).scatter_add_(1, labels[position[:, :k]], weights)
            answer.append(votes.argmax(1))
    return [torch.cat(answer) for answer in answers]
