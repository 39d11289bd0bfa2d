"""Soft labels of positions from their nearest neighbours in a memory of labelled positions, as in Hummingbird.

Balazevic et al., "Towards in-context scene understanding" (2023): similarity is the cosine, and a position's label is
the mean of its neighbours' soft labels, weighted by exp(similarity / temperature).
"""

import torch
import torch.nn.functional as F

PAIRS = 2**24  # compared at once


class Memory:
    """Labelled positions on the leading principal axes of their standardised features.

    Without standardisation a few large channels decide the cosine. The leading axes take a tenth of the time of all
    channels; see docs/decisions/0023.

    Args:
        features: (P, D).
        labels: (P, C) shares of the classes.
        axes: how many axes are kept.
        device: where to compare.

    Raises:
        ValueError: features are not finite.
    """

    def __init__(self, features: torch.Tensor, labels: torch.Tensor, *, axes: int, device: torch.device) -> None:
        features = features.to(device).float()
        deviation, self._mean = torch.std_mean(features, 0, correction=0)
        if not torch.isfinite(deviation).all():
            raise ValueError("features are not finite; the network diverges on these images or its weights are broken")
        used = deviation > 1e-6 * self._mean.abs().clamp_min(1e-30)
        scale = torch.where(used, 1 / deviation.clamp_min(1e-30), torch.zeros_like(deviation))
        self._basis = scale[:, None] * leading_axes((features - self._mean) * scale, axes)
        self._unit, self._labels = self._project(features), labels.to(device).float()

    def _project(self, features: torch.Tensor) -> torch.Tensor:
        return F.normalize((features - self._mean) @ self._basis)

    def ask(self, features: torch.Tensor, *, k: int, temperature: float) -> torch.Tensor:
        """Soft labels (Q, C) of positions (Q, D).

        Raises:
            ValueError: the memory holds fewer than k positions.
        """
        if k > len(self._unit):
            raise ValueError(f"k is {k}, but only {len(self._unit)} labelled positions of train were drawn")
        answers = []
        for part in features.split(max(1, PAIRS // len(self._unit))):
            nearest, position = (self._project(part.to(self._unit).float()) @ self._unit.T).topk(k, dim=1)
            weights = (nearest / temperature).softmax(1)
            answers.append((weights[:, :, None] * self._labels[position]).sum(1))
        return torch.cat(answers)


def leading_axes(centred: torch.Tensor, count: int) -> torch.Tensor:
    """Principal axes (D, count) of centred features (P, D), found by a randomised decomposition of a fixed seed.

    It runs on the CPU, where `svd_lowrank` draws the same start for every device. Only the CPU's generator is seeded:
    `torch.manual_seed` would seed those of the GPUs too, which are not restored here.
    """
    count = min(count, *centred.shape)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return torch.svd_lowrank(centred.cpu(), q=count, niter=2)[2].to(centred.device)
