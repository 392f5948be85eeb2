"""The least and the greatest eigenvalue of T, followed along a run at a bounded cost per call."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from linflow.geometry.operator import TangentOperator
from linflow.model.network import Network
from torch import Tensor

DENSE = 100
"""Largest `nm` for which all eigenvalues of T are computed."""
TOLERANCE, RELATIVE = 1e-6, {False: 1e-3, True: 1e-2}
"""Residuals that end the iteration: relative to the greatest eigenvalue, and to the one sought (by `largest`)."""
DEPENDENT = 1e-7
"""A unit vector is dropped as rounding if its part outside the span of the others is below this."""
FIRST = 40
"""Limit on the iterations of the first call."""


class Extremes:
    """`λ_min(T)` and `λ_max(T)` of weights that change little from one call to the next.

    Results are exact for two layers, for small products, and for layers narrower than min(n, m) (where the least
    eigenvalue is 0). Otherwise the eigenvectors of the last call start a preconditioned iteration (LOBPCG) of at most
    `iterations` steps. The value is a Rayleigh quotient, so it is never below the least or above the greatest
    eigenvalue, and some eigenvalue lies within the error of it. An iteration that does not converge in one call goes
    on in the next ones.
    """

    def __init__(self, iterations: int = 30):
        self.iterations = iterations
        self._vectors: dict[bool, Tensor] = {}

    def __call__(self, network: Network, trained: Sequence[bool] | None = None) -> tuple[float, float, float]:
        """Return `λ_min(T)`, `λ_max(T)`, and the error of `λ_min(T)`; T has terms of the `trained` layers alone."""
        n, m = network.shape
        singular = not network.overparametrized
        if network.depth <= 2 or n * m <= DENSE or not all(trained or ()):
            T = TangentOperator(network, trained)
            found = T.eigenvalue("least")
            least, error = (0.0, 0.0) if singular else (float(found.value), found.error)
            return least, float(T.greatest_eigenvalue()), error
        terms = _Terms(network)
        greatest, _ = self._iterate(terms, largest=True)
        if singular:
            return 0.0, greatest, 0.0
        least, error = self._iterate(terms, largest=False)
        return least, greatest, error

    def _iterate(self, terms: _Terms, *, largest: bool) -> tuple[float, float]:
        """Run LOBPCG with one vector, in the eigenbases of the outer terms, which makes these diagonal."""
        old = self._vectors.get(largest)
        x = terms.start(largest=largest) if old is None else terms.turn(old)
        x = x / torch.linalg.norm(x)
        Tx = terms.apply(x)
        others: list[tuple[Tensor, Tensor]] = []  # the last direction and its image under T
        value, error = x.new_zeros(()), math.inf
        limit = self.iterations if old is not None else max(FIRST, self.iterations)
        for i in range(limit + 1):
            value = torch.sum(x * Tx)
            residual = Tx - value * x
            error = float(torch.linalg.norm(residual))
            if i == limit or error <= max(TOLERANCE * terms.size, RELATIVE[largest] * float(value)):
                break
            w = residual if largest else residual / terms.diagonal
            w = w / torch.linalg.norm(w)
            # T is applied once per iteration; its values on linear combinations follow by linearity.
            pairs = [(x, Tx), (w, terms.apply(w)), *others]
            basis, moved = (torch.stack([pair[k].reshape(-1) for pair in pairs], dim=1) for k in (0, 1))
            R = torch.linalg.qr(basis, mode="r").R
            if float(torch.min(torch.abs(torch.diagonal(R)))) < DEPENDENT:
                basis, moved, R = basis[:, :2], moved[:, :2], R[:2, :2]
            small = torch.linalg.solve_triangular(R.T, basis.T @ moved, upper=False)
            small = torch.linalg.solve_triangular(R, small, upper=True, left=False)
            y = torch.linalg.eigh((small + small.T) / 2).eigenvectors[:, -1 if largest else 0]
            y = torch.linalg.solve_triangular(R, y[:, None], upper=True)
            new, Tnew = ((V @ y).reshape(x.shape) for V in (basis, moved))
            along = torch.sum(new * x)
            d, Td = new - along * x, Tnew - along * Tx
            length = torch.linalg.norm(d)
            others = [(d / length, Td / length)] if float(length) > DEPENDENT else []
            length = torch.linalg.norm(new)
            x, Tx = new / length, Tnew / length
        self._vectors[largest] = terms.turn_back(x)
        scale = terms.scale
        return scale * float(value), scale * error


class _Terms:
    """`E ↦ A E + E B + Σ A_l E B_l` in the eigenbases of A and B."""

    def __init__(self, network: Network):
        lefts = [None if P is None else P @ P.T for P in network.prefixes()]
        rights = [None if S is None else S.T @ S for S in network.suffixes()]
        a, self.U = torch.linalg.eigh(lefts[-1])
        b, self.V = torch.linalg.eigh(rights[0])
        self.scale = network.scale**2
        self.outer = a[:, None] + b[None, :]
        self.middle = [
            (self.U.T @ A @ self.U, self.V.T @ B @ self.V) for A, B in zip(lefts[1:-1], rights[1:-1], strict=True)
        ]
        diagonal = self.outer + sum(torch.diag(A)[:, None] * torch.diag(B)[None, :] for A, B in self.middle)
        self.size = float(diagonal.max())
        self.diagonal = torch.clamp(diagonal, min=max(1e-12 * self.size, torch.finfo(torch.float64).tiny))

    def apply(self, E: Tensor) -> Tensor:
        """Return `T(E)` divided by c², for one matrix or a stack of them."""
        return self.outer * E + sum(A @ E @ B for A, B in self.middle)

    def start(self, *, largest: bool) -> Tensor:
        """Return the coordinate vector of the extreme diagonal entry, plus a little of all others."""
        x = torch.full_like(self.outer, 0.1 / self.outer.numel() ** 0.5)
        x.view(-1)[torch.argmax(self.diagonal) if largest else torch.argmin(self.diagonal)] = 1.0
        return x

    def turn(self, E: Tensor) -> Tensor:
        """Return the coordinates of E in the eigenbases."""
        return self.U.T @ E @ self.V

    def turn_back(self, E: Tensor) -> Tensor:
        """Return the matrix with coordinates E in the eigenbases."""
        return self.U @ E @ self.V.T
