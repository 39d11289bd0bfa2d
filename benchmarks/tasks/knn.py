"""k nearest neighbours by cosine, their votes weighted by exp(similarity / temperature).

Beside the features only a block of their comparisons is in memory, however large the bank and however many the classes.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F

STEPS = 2**22  # similarities closer than 1 / STEPS, about their float32 rounding, are equal: the first image is nearer
PAIRS = 2**22  # compared at once
ROWS = 256  # queries compared at once, at least: a matrix product of fewer mostly waits for the bank's memory


def neighbours(
    queries: torch.Tensor, bank: torch.Tensor, *, k: int, rows: int | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Nearest images of the bank, nearest first, ties by position in the bank; `rows` queries at a time.

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
    """One integer per pair (R, end - start) that sorts by similarity, then by position in the whole bank.

    topk alone leaves the order of ties open.
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
    """Class with the largest vote for every (k, temperature) of the grid: a list of (N,), in the grid's order.

    Equal votes go to the smaller class number.
    """
    largest = max(k for k, _ in grid)
    answers: list[list[torch.Tensor]] = [[] for _ in grid]
    for similarity, position in neighbours(queries, bank, k=largest, rows=rows):
        seats, seated = _seats(labels[position])
        for (k, temperature), answer in zip(grid, answers, strict=True):
            weights = ((similarity[:, :k] - similarity[:, :1]) / temperature).exp()
            votes = torch.zeros_like(similarity).scatter_add_(1, seats[:, :k], weights)
            answer.append(seated.gather(1, votes.argmax(1, keepdim=True)).squeeze(1))
    return [torch.cat(answer) for answer in answers]


def _seats(classes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Number the classes among each query's neighbours (R, k) in ascending order: k seats serve any number of classes.

    Returns:
        The seat of each neighbour (R, k), and the class on each seat (R, k); seats that nobody has hold class 0.
    """
    ascending, order = classes.sort(dim=1)
    seat = torch.zeros_like(classes)
    seat[:, 1:] = (ascending[:, 1:] != ascending[:, :-1]).long().cumsum(1)
    return torch.zeros_like(classes).scatter_(1, order, seat), torch.zeros_like(classes).scatter_(1, seat, ascending)
