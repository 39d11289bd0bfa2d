"""The memory of L-BFGS as matrices, for losses with a known quadratic penalty: few matrix-vector products a step.

The usual two loops over pairs (s, y) (Nocedal and Wright, algorithm 7.4) need only products between pairs, and between
pairs and one vector. Kept as matrices, the first are updated by one product per step, and both loops become triangular
systems of the number of pairs.
"""

import torch


class Memory:
    """Pairs of a step s and the change y of the gradient without the penalty p / 2 * |x|^2, whose share p * s is known.

    So the pairs stay valid when the penalty changes. `penalised` is 1 where a parameter is penalised, else 0.
    """

    def __init__(self, pairs: int, penalised: torch.Tensor) -> None:
        # Made at the first step: many a problem takes few, and this is by far the largest thing here.
        self._room, self._penalised = pairs, penalised
        self._steps = self._changes = penalised.new_zeros(0, len(penalised))
        self._cross = torch.zeros(0, 0, dtype=torch.float64)  # steps @ changes.T, on the CPU
        self._square = torch.zeros(0, 0, dtype=torch.float64)  # steps @ steps.T over what is penalised
        self._order: list[int] = []  # slots, oldest first

    def add(self, step: torch.Tensor, change: torch.Tensor) -> None:
        """Remember a pair, instead of the oldest where there is no room."""
        if len(self._order) < self._room:
            slot = len(self._order)
            if slot == len(self._steps):
                self._grow(min(self._room, max(8, 2 * slot)))
        else:
            slot = self._order.pop(0)
        self._order.append(slot)
        self._steps[slot], self._changes[slot] = step, change
        self._cross[slot], self._cross[:, slot] = (self._changes @ step).cpu(), (self._steps @ change).cpu()
        self._square[slot] = self._square[:, slot] = (self._steps @ (step * self._penalised)).cpu()

    def direction(self, gradient: torch.Tensor, penalty: float, diagonal: torch.Tensor) -> torch.Tensor:
        """The inverse Hessian times the gradient, where `diagonal` stands for the Hessian before anything is learnt."""
        cross = self._cross + penalty * self._square
        # Rounding can turn the curvature along a tiny step negative; such a pair says nothing.
        used = [slot for slot in self._order if cross[slot, slot] > 0]
        if not used:
            return gradient / diagonal
        order, last = torch.tensor(used), used[-1]
        upper = cross[order][:, order].triu()  # row i, column j: step i with the later change j
        shares = torch.zeros(len(self._steps), dtype=torch.float64)
        along = (self._steps @ gradient).cpu()[order]
        shares[order] = torch.linalg.solve_triangular(upper, along[:, None], upper=True)[:, 0]
        direction = gradient - self._changes_times(shares, penalty)
        newest = self._changes[last] + penalty * self._penalised * self._steps[last]
        direction = direction / diagonal * (float(cross[last, last]) / float(newest.dot(newest / diagonal)))
        against = self._changes @ direction + penalty * (self._steps @ (self._penalised * direction))
        # y_i . r grows by (share_j - back_j) * s_j . y_i for every earlier pair j.
        wanted = upper.diagonal() * shares[order] - against.cpu()[order]
        back = torch.zeros_like(shares)
        back[order] = torch.linalg.solve_triangular(upper.T, wanted[:, None], upper=False)[:, 0]
        return direction + back.to(direction.device) @ self._steps

    def _changes_times(self, shares: torch.Tensor, penalty: float) -> torch.Tensor:
        shares = shares.to(self._steps.device)
        return shares @ self._changes + penalty * self._penalised * (shares @ self._steps)

    def _grow(self, rows: int) -> None:
        more, known = rows - len(self._steps), len(self._steps)
        room = self._steps.new_zeros(more, self._steps.shape[1])
        self._steps, self._changes = torch.cat([self._steps, room]), torch.cat([self._changes, room])
        for name in ("_cross", "_square"):
            larger = torch.zeros(rows, rows, dtype=torch.float64)
            larger[:known, :known] = getattr(self, name)
            setattr(self, name, larger)
