"""Weights with prescribed imbalances and product: whether they exist, and how to find them.

For two layers there is a closed form. For more layers, a search finds them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from linflow._support.arrays import EPS
from linflow.model.levenberg_marquardt import brought_to
from linflow.model.network import multiply, running_products, running_suffixes
from linflow.model.scalar_chain import chain_offsets, chain_root

NEGLIGIBLE = 1e-12
"""Size, relative to the layers, up to which an eigenvalue or a singular value counts as rounding."""

ACCEPTED = 1e-10
"""Largest violation of a constraint, in units of that constraint, at which weights are accepted."""

_TIGHT, _STARTS, _STEPS = 1e-14, 40, 150
_DENSE = 1200  # up to this number of constraints, the equations of a step are solved by factorisation
_FLOOR = 1e-13  # least damping relative to the Jacobian, since dependent constraints make the equations singular


class Prescription:
    """Prescribed imbalances and product in diagonal coordinates, and the weights that have them.

    `W_l ↦ Q_{l−1}ᵀ W_l Q_l` with orthogonal Q turns `D_l` into `Q_lᵀD_lQ_l` and W into `Q_0ᵀWQ_L`. So only the
    eigenvalues of each `D_l` and the singular values of W decide whether weights exist. The class works with diagonal
    `D_l` and W, and rotates the result back.

    Args:
        Ds: symmetric `D_1, …, D_{L−1}`.
        W: the product of the layers, without output scale.
    """

    def __init__(self, Ds: Sequence[np.ndarray], W: np.ndarray):
        self.Ds, self.W = list(Ds), W
        U, self.sigma, Vt = np.linalg.svd(W)
        pairs = [np.linalg.eigh(D) for D in Ds]
        self.spectra = [_cleared(values[::-1]) for values, _ in pairs]
        self.bases = [U, *(vectors[:, ::-1] for _, vectors in pairs), Vt.T]
        self.widths = [len(U), *(len(D) for D in Ds), len(Vt)]
        self.depth = len(Ds) + 1
        # A layer next to D has `‖W_l‖² ≥ ‖D‖`, and some layer has `‖W_l‖² ≥ ‖W‖^{2/L}`.
        self.size = max([*(float(np.abs(d).max()) for d in self.spectra), float(self.sigma[0]) ** (2 / self.depth)])

    # ------------------------------------------------------------ existence

    def obstacle(self) -> str:
        """Return the reason why no weights exist, or an empty string if every necessary condition holds."""
        most = min(self.widths)
        rank = int(np.sum(self.sigma > NEGLIGIBLE * self.sigma[0]))
        if rank > most:
            l = self.widths.index(most)
            return (
                f"the product has rank {rank}, but every product of the layers has rank at most h_{l} = {most}. "
                f"Widen that layer, or cut the product to rank {most}"
            )
        return self._inertia() or self._interlacing()

    def _inertia(self) -> str:
        """Check the inertia of each `D_l`, and return the obstacle, or an empty string.

        `D_l ⪯ W_lᵀW_l` and `−D_l ⪯ W_{l+1}W_{l+1}ᵀ`, whose ranks are at most `h_{l−1}` and `h_{l+1}`.
        """
        for l, d in enumerate(self.spectra, 1):
            signs = (("positive", d, l - 1, f"W_{l}ᵀW_{l}"), ("negative", -d, l + 1, f"W_{l + 1}W_{l + 1}ᵀ"))
            for word, values, side, gram in signs:
                count, most = int(np.sum(values > NEGLIGIBLE * self.size)), self.widths[side]
                if count > most:
                    sign = "" if word == "positive" else "−"
                    return (
                        f"D_{l} has {count} {word} eigenvalues, but {sign}D_{l} ⪯ {gram} has rank at most "
                        f"{self._width(side)} = {most}. Set all but {most} of them to zero, or take more of that side"
                    )
        return ""

    def _width(self, l: int) -> str:
        return "n" if l == 0 else "m" if l == self.depth else f"h_{l}"

    def _interlacing(self) -> str:
        """Check Weyl's inequalities, and return the obstacle, or an empty string.

        The inequalities for `W_lᵀW_l = W_{l+1}W_{l+1}ᵀ + D_l` are applied to intervals for all `σ_k²(W_l)` until
        these stop shrinking.
        """
        if self.depth == 2:  # nothing can fail for two layers
            return ""
        ranks = [min(a, b) for a, b in itertools.pairwise(self.widths)]
        low = [np.zeros(r) for r in ranks]
        high = [np.full(r, math.inf) for r in ranks]
        allowed = NEGLIGIBLE * self.size
        for _ in range(2 * self.depth * max(ranks)):
            moved = False
            for l, d in enumerate(self.spectra):
                for own, other, shift in ((l, l + 1, d), (l + 1, l, -d[::-1])):
                    least, most = _weyl(low[other], high[other], shift)
                    r = ranks[own]
                    least_own, most_own = np.maximum(low[own], least[:r]), np.minimum(high[own], most[:r])
                    bad = np.flatnonzero(np.append(least_own - most_own, least[r:]) > allowed)
                    if bad.size:
                        k = int(bad[0])
                        cap = most_own[k] if k < r else 0.0
                        floor = least_own[k] if k < r else least[k]
                        return (
                            f"D_{l + 1} and the other imbalances require σ_{k + 1}²(W_{own + 1}) ≥ {floor:.4g} and "
                            f"≤ {cap:.4g} at once (Weyl's inequalities for W_lᵀW_l = W_{{l+1}}W_{{l+1}}ᵀ + D_l). "
                            "Widen the layers, or bring the imbalances nearer to each other"
                        )
                    moved |= bool(np.any(least_own > low[own] + allowed) or np.any(most_own < high[own] - allowed))
                    low[own], high[own] = least_own, most_own
            if not moved:
                break
        return ""

    # ------------------------------------------------------------ weights

    def weights(self, rng: np.random.Generator) -> tuple[list[np.ndarray], float]:
        """Return the best weights found, and their largest violation of the constraints."""
        if self.depth == 2:
            found = self._rotated(self._two_layers())
            return found, self.residual(found)
        best, least = [], math.inf
        for start in self._starts(rng):
            found = self._rotated(self._search(start))
            residual = self.residual(found)
            if residual < least:
                best, least = found, residual
            if least < 1e-2 * ACCEPTED:
                break
        return best, least

    def residual(self, weights: Sequence[np.ndarray]) -> float:
        """Return the largest violation of a constraint.

        For an imbalance, it is `‖W_lᵀW_l − W_{l+1}W_{l+1}ᵀ − D_l‖_F` divided by `max_l ‖W_l‖_F²`. For the product, it
        is `‖W_1 ⋯ W_L − W‖_F` divided by the larger of `‖W‖_F` and a hundredth of `Π ‖W_l‖_F`.
        """
        size = max(float(np.linalg.norm(A)) for A in weights) ** 2
        if size == 0.0:
            return 0.0 if self.size == 0.0 else math.inf
        off = [
            float(np.linalg.norm(A.T @ A - B @ B.T - D)) / size
            for (A, B), D in zip(itertools.pairwise(weights), self.Ds, strict=True)
        ]
        target = float(np.linalg.norm(self.W))
        error = float(np.linalg.norm(multiply(weights) - self.W))
        # A small product of large factors is accurate only relative to its factors.
        unit = max(target, NEGLIGIBLE / ACCEPTED * math.prod(float(np.linalg.norm(A)) for A in weights))
        return max(*off, error / unit if error > 0 else 0.0)

    def _rotated(self, weights: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [P @ W @ Q.T for (P, Q), W in zip(itertools.pairwise(self.bases), weights, strict=True)]

    def _two_layers(self) -> list[np.ndarray]:
        """Return the closed form, in which each mode of W takes up to one positive and one negative eigenvalue of D.

        Take a mode with singular value σ and eigenvalues `λ ≥ 0 ≥ −μ` at the coordinates e and f. Let
        `p − q = λ + μ`, `pq = σ²` and `t = λ/(λ + μ)`. At these coordinates, the row of W_1 is `(√(tp), √((1−t)q))`
        and the column of W_2 is `(√(tq), √((1−t)p))`.
        """
        (n, h, m), d = self.widths, self.spectra[0]
        W1, W2 = np.zeros((n, h)), np.zeros((h, m))
        # Rounding can turn zero eigenvalues into nonzero ones. At most n positive and m negative ones are needed.
        positive = int(np.sum(d[:n] > 0))
        negative = int(np.sum(d[::-1][:m] < 0))
        paired = {i: i for i in range(positive)}
        # Modes without a positive eigenvalue come first: if h is tight, each must get an eigenvalue.
        rows = [*range(positive, m), *reversed(range(min(positive, m)))][:negative]
        against = {j: h - 1 - k for k, j in enumerate(rows)}
        free = iter(range(positive, h - negative))
        for i in range(max(n, m)):
            e, f = paired.get(i), against.get(i)
            plus, minus = (0.0 if e is None else d[e]), (0.0 if f is None else -d[f])
            sigma = float(self.sigma[i]) if i < len(self.sigma) else 0.0
            if e is None and f is None:
                e = next(free, None) if sigma > 0 else None
                if e is None:
                    continue
            p = (plus + minus + math.hypot(plus + minus, 2 * sigma)) / 2
            q = sigma * (sigma / p) if p > 0 else 0.0
            share = plus / (plus + minus) if plus + minus > 0 else 1.0
            for at, part, left, right in ((e, share, p, q), (f, 1 - share, q, p)):
                if at is not None:
                    if i < n:
                        W1[i, at] = math.sqrt(part * left)
                    if i < m:
                        W2[at, i] = math.sqrt(part * right)
        return [W1, W2]

    # ------------------------------------------------------------ search

    def _starts(self, rng: np.random.Generator) -> Iterator[list[np.ndarray]]:
        """Yield the exact ones among the scalar chains in three orders, then perturbed chains and random weights."""
        keys = [np.negative, np.positive, lambda d: -np.abs(d)]
        chains = [self._chains([np.argsort(key(d), kind="stable") for d in self.spectra]) for key in keys]
        yield from (chain for chain in chains if self.residual(self._rotated(chain)) < ACCEPTED)
        shapes, root = list(itertools.pairwise(self.widths)), math.sqrt(self.size)
        for k in range(_STARTS):
            noise = [root * rng.standard_normal(shape) / math.sqrt(max(shape)) for shape in shapes]
            # At a chain the Jacobian is singular, so without noise its zeros would stay zero.
            shaken = [A + 0.3 * V for A, V in zip(chains[k // 2 % 3], noise, strict=True)]
            yield noise if k % 2 else shaken

    def _chains(self, orders: list[np.ndarray]) -> list[np.ndarray]:
        """Return layers made of scalar chains, with one entry per pair of coordinates.

        They are exact if scalar chains can be. Chain i joins the coordinates that have rank i in each order.
        """
        widths, through = self.widths, min(self.widths)
        places = [np.arange(widths[0]), *orders, np.arange(widths[-1])]
        weights = [np.zeros(shape) for shape in itertools.pairwise(widths)]
        for i in range(max(widths)):
            d = np.array([s[o[i]] if i < len(s) else 0.0 for s, o in zip(self.spectra, orders, strict=True)])
            if i < through:
                c = chain_offsets(d)
                squares = chain_root(c, self.sigma[i]) + c
            else:
                squares = self._ending(i, d)
            for l in np.flatnonzero(squares):
                weights[l][places[l][i], places[l + 1][i]] = math.sqrt(squares[l])
        return weights

    def _ending(self, i: int, d: np.ndarray) -> np.ndarray:
        """Return the squared entries of the pieces of a chain that does not pass through every layer.

        A piece that ends at a hidden layer has no entry beyond it, which determines its squares from that end. If two
        such ends disagree, the mean is taken.
        """
        squares, L = np.zeros(self.depth), self.depth
        held = [min(a, b) > i for a, b in itertools.pairwise(self.widths)]
        for l in range(L):
            if not held[l]:
                continue
            first, last = l, l
            while first > 0 and held[first - 1]:
                first -= 1
            while last < L - 1 and held[last + 1]:
                last += 1
            sums = [-d[first - 1 : l].sum()] if first > 0 else []
            sums += [d[l : last + 1].sum()] if last < L - 1 else []
            squares[l] = max(0.0, sum(sums) / len(sums))
        return squares

    def _search(self, start: list[np.ndarray]) -> list[np.ndarray]:
        """Move weights onto the constraints by the Levenberg–Marquardt method, in units in which the size is 1."""
        root = math.sqrt(self.size) or 1.0
        targets = [np.diag(d) / root**2 for d in self.spectra]
        product = np.zeros((self.widths[0], self.widths[-1]))
        np.fill_diagonal(product, self.sigma / root**self.depth)

        def moved(weights: list[np.ndarray], off: list[np.ndarray], damping: float) -> list[np.ndarray]:
            step = _step(weights, off, damping * min(_size(off), 1.0))
            return [A - S for A, S in zip(weights, step, strict=True)]

        weights = brought_to(
            [A / root for A in start],
            lambda weights: _violation(weights, targets, product),
            _size,
            moved,
            goal=_TIGHT,
            steps=_STEPS,
        )
        return [root * A for A in weights]


def _cleared(d: np.ndarray) -> np.ndarray:
    """Return the eigenvalues, with those that are rounding set to 0, because their roots would become weights."""
    return np.where(np.abs(d) > 16 * EPS * math.sqrt(len(d)) * np.max(np.abs(d)), d, 0.0)


def _weyl(low: np.ndarray, high: np.ndarray, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds on the eigenvalues of `B + D`, with `shift` the spectrum of D and zero-padded bounds of B ⪰ 0."""
    h = len(shift)
    low, high = (np.pad(x[:h], (0, h - min(h, len(x)))) for x in (low, high))
    least, most = np.zeros(h), np.full(h, math.inf)
    for k in range(h):
        most[k] = np.min(high[: k + 1] + shift[k::-1])  # λ_{i+j−1}(B + D) ≤ λ_i(B) + λ_j(D)
        least[k] = np.max(low[k:] + shift[: k - 1 if k else None : -1])  # λ_{i+j−h}(B + D) ≥ λ_i(B) + λ_j(D)
    return np.maximum(least, 0.0), most


def _violation(weights: Sequence[np.ndarray], targets: Sequence[np.ndarray], product: np.ndarray) -> list[np.ndarray]:
    """Return `W_lᵀW_l − W_{l+1}W_{l+1}ᵀ − D_l` for each l, followed by `W_1 ⋯ W_L − W`."""
    off = [A.T @ A - B @ B.T - D for (A, B), D in zip(itertools.pairwise(weights), targets, strict=True)]
    return [*off, multiply(weights) - product]


def _size(off: Sequence[np.ndarray]) -> float:
    return math.sqrt(sum(float(np.sum(R * R)) for R in off))


def _step(weights: list[np.ndarray], off: list[np.ndarray], damping: float) -> list[np.ndarray]:
    """Return `Jᵀ(JJᵀ + damping)⁻¹ off`, where J is the derivative of the constraints."""
    P, S = running_products(weights), running_suffixes(weights)
    shapes = [R.shape for R in off]
    ends = np.cumsum([R.size for R in off])[:-1]

    def adjoint(v: np.ndarray) -> list[np.ndarray]:
        """Apply Jᵀ to a vector, or to a stack of vectors. Only the symmetric parts of the imbalances count."""
        parts = [x.reshape(*v.shape[:-1], *s) for x, s in zip(np.split(v, ends, axis=-1), shapes, strict=True)]
        Rs, pulled = [x + x.swapaxes(-1, -2) for x in parts[:-1]], parts[-1]
        found = []
        for l, W in enumerate(weights):
            G = pulled if P[l] is None else P[l].T @ pulled
            G = G if S[l] is None else G @ S[l].T
            if l < len(Rs):
                G = G + W @ Rs[l]
            if l > 0:
                G = G - Rs[l - 1] @ W
            found.append(G)
        return found

    def forward(V: Sequence[np.ndarray]) -> np.ndarray:
        """Apply J to a change of the weights."""
        parts = []
        for (A, B), (X, Y) in zip(itertools.pairwise(weights), itertools.pairwise(V), strict=True):
            R = A.T @ X - B @ Y.T
            parts.append(R + R.T)
        E = np.zeros(shapes[-1])
        for p, X, s in zip(P, V, S, strict=True):
            left = X if p is None else p @ X
            E = E + (left if s is None else left @ s)
        return np.concatenate([x.ravel() for x in (*parts, E)])

    r = np.concatenate([x.ravel() for x in off])
    if len(r) <= _DENSE:
        stack = adjoint(np.eye(len(r)))
        J = np.concatenate([G.reshape(len(r), -1) for G in stack], axis=1)
        M = J @ J.T
        M[np.diag_indices(len(r))] += max(damping, _FLOOR * float(np.trace(M)))
        return adjoint(np.linalg.solve(M, r))
    return adjoint(_conjugate_gradients(lambda v: forward(adjoint(v)) + damping * v, r))


def _conjugate_gradients(apply, r: np.ndarray) -> np.ndarray:
    """Return an approximate solution of `apply(x) = r`, for symmetric semidefinite `apply` and r in its range."""
    x, rest, direction = np.zeros_like(r), r.copy(), r.copy()
    first = squared = float(rest @ rest)
    for _ in range(400):
        image = apply(direction)
        curvature = float(direction @ image)
        if curvature <= 0 or squared <= 1e-6 * first:
            break
        x += squared / curvature * direction
        rest -= squared / curvature * image
        squared, before = float(rest @ rest), squared
        direction = rest + squared / before * direction
    return x
