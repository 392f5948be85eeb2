"""Lower bounds on `λ_min(T)` for unscaled products `W = W_1 ⋯ W_L`, written as their statements read.

For a product scaled by c, pass the singular values and norms of `W / c` and multiply the bound by `c²`.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import brentq

from .algebra import Matrix, lam, pos, spectral_norm


def _root(increasing: Callable[[float], float], target: float, low: float, high: float) -> float:
    """The x in [low, high] where an increasing function meets the target (an end if it does not cross)."""
    if increasing(low) >= target:
        return low
    if increasing(high) <= target:
        return high
    return float(brentq(lambda x: increasing(x) - target, low, high, xtol=1e-300, rtol=8.9e-16, maxiter=10_000))


# ---------------------------------------------------------------- scalar weights, any depth


def scalar_offsets(d: Sequence[float]) -> list[float]:
    """`c_i = w_i² − min_j w_j²` from the steps `d_l = w_l² − w_{l+1}²`."""
    squares = [0.0]
    for step in d:
        squares.append(squares[-1] - step)
    return [s - min(squares) for s in squares]


def scalar_exact(d: Sequence[float], w: float) -> float:
    """Min–Vidal–Mallada 2023, Prop. 3: `λ_min(T) = p'(x)` at the root of `p(x) = Π_i (x + c_i) = w²`, x ≥ 0."""
    c = scalar_offsets(d)
    L = len(c)
    x = _root(lambda x: float(np.prod([x + ci for ci in c])), w * w, 0.0, abs(w) ** (2 / L))
    return float(sum(np.prod([x + c[j] for j in range(L) if j != i]) for i in range(L)))


def scalar_closed(d: Sequence[float], w: float) -> float:
    """Closed form `sqrt((Π_{i≠i*} c_i)² + (L |w|^{2−2/L})²)`, L ≥ 2; equal to the exact value at L = 2."""
    c = sorted(scalar_offsets(d))
    L = len(c)
    return float(np.hypot(np.prod(c[1:]), L * abs(w) ** (2 - 2 / L)))


# ---------------------------------------------------------------- two layers


def two_layer_terms(D: Matrix, n: int, m: int) -> tuple[float, float, float]:
    """`Δ₊ = [λ_1(D)]_+ − [λ_n(D)]_+`, `Δ₋ = [λ_1(−D)]_+ − [λ_m(−D)]_+`, `Δ = [λ_n(D)]_+ + [λ_m(−D)]_+`."""
    positive_spread = pos(lam(D, 1)) - pos(lam(D, n))
    negative_spread = pos(lam(-D, 1)) - pos(lam(-D, m))
    gap = pos(lam(D, n)) + pos(lam(-D, m))
    return positive_spread, negative_spread, gap


def _two_layer_half(spread: float, gap: float, s: float) -> float:
    return -spread + np.sqrt((spread + gap) ** 2 + 4 * s**2)


def two_layer(D: Matrix, n: int, m: int, sigma_n: float, sigma_m: float, drift: float = 0.0) -> float:
    """Min–Tarmoun–Vidal–Mallada (arXiv 2105.06351v2), Prop. 1.

    `½(−Δ₊ + sqrt((Δ₊+Δ)² + 4σ_m²) − Δ₋ + sqrt((Δ₋+Δ)² + 4σ_n²))`. With a drift δ, the least value over all
    imbalances within δ of D: it falls with `λ_1(±D)` and rises with `λ_n(D)`, `λ_m(−D)`.
    """
    a, b = pos(lam(D, 1)) + drift, pos(pos(lam(D, n)) - drift)
    e, g = pos(lam(-D, 1)) + drift, pos(pos(lam(-D, m)) - drift)
    return 0.5 * (_two_layer_half(a - b, b + g, sigma_m) + _two_layer_half(e - g, b + g, sigma_n))


def printed_two_layer_exchanged(D: Matrix, n: int, m: int, sigma_n: float, sigma_m: float) -> float:
    """ICML 2023, eqs. 9 and 12, as printed: σ_n and σ_m exchanged. Not a lower bound."""
    plus, minus, gap = two_layer_terms(D, n, m)
    return 0.5 * (_two_layer_half(plus, gap, sigma_n) + _two_layer_half(minus, gap, sigma_m))


def printed_two_layer_without_half(D: Matrix, n: int, m: int, sigma_n: float, sigma_m: float) -> float:
    """Without the factor ½, as in some statements. Not a lower bound."""
    plus, minus, gap = two_layer_terms(D, n, m)
    return _two_layer_half(plus, gap, sigma_m) + _two_layer_half(minus, gap, sigma_n)


def printed_two_layer_least_sigma(D: Matrix, n: int, m: int, sigma_min: float) -> float:
    """TMLR 2025 α_1 and AISTATS 2023 α_0 as printed: σ_min in both roots. Not a lower bound for n ≠ m."""
    plus, minus, gap = two_layer_terms(D, n, m)
    return 0.5 * (_two_layer_half(plus, gap, sigma_min) + _two_layer_half(minus, gap, sigma_min))


# ---------------------------------------------------------------- three layers


def _three_layer_side(D_this: Matrix, D_other: Matrix, r: int, drift: float) -> tuple[float, float]:
    """`(Δ, Δ^(2))` of one side: `Δ^(k) = tr D̄^k − tr (D̄ ∧_r D_this)^k`.

    `D̄ = diag{max(λ_i(D_this), λ_i(D_other), 0)}` and `A ∧_r B = diag{min(λ_i(A), λ_{i+1−r}(B))}`.
    A drift lowers the eigenvalues inside D̄ and raises those of the wedge: the worst case in each.
    """
    h = D_this.shape[0]
    bar = [max(lam(D_this, i) - drift, lam(D_other, i) - drift, 0.0) for i in range(1, h + 1)]
    wedge = [min(bar[i - 1], lam(D_this, i + 1 - r) + drift) for i in range(1, h + 1)]
    first = sum(bar) - sum(wedge)
    second = sum(x**2 for x in bar) - sum(x**2 for x in wedge)
    return first, second


def three_layer(D1: Matrix, D2: Matrix, n: int, m: int, drift: float = 0.0) -> float:
    """Min–Vidal–Mallada 2023, Theorem 2, with `D_21 = −D_1` and `D_23 = D_2`.

    `Δ* = ½(Δ_21^(2) + Δ_21²) + Δ_21 Δ_23 + ½(Δ_23^(2) + Δ_23²)`.
    """
    D21, D23 = -D1, D2
    first_21, second_21 = _three_layer_side(D21, D23, n, drift)
    first_23, second_23 = _three_layer_side(D23, D21, m, drift)
    return 0.5 * (second_21 + first_21**2) + first_21 * first_23 + 0.5 * (second_23 + first_23**2)


# ---------------------------------------------------------------- any depth


def unimodal_turns(Ds: Sequence[Matrix], tol: float = 0.0) -> list[int]:
    """Every l* in 1..L with `D_l ⪰ 0` for l < l* and `D_l ⪯ 0` for l ≥ l* (empty: not unimodal)."""
    L = len(Ds) + 1
    turns = []
    for turn in range(1, L + 1):
        before = all(lam(-Ds[l - 1], 1) <= tol for l in range(1, turn))
        after = all(lam(Ds[l - 1], 1) <= tol for l in range(turn, L))
        if before and after:
            turns.append(turn)
    return turns


def unimodal(Ds: Sequence[Matrix], n: int, m: int, turn: int) -> float:
    """Min–Vidal–Mallada 2023, Theorem 3, eq. 18: `λ_min(T) ≥ Π_{i=1}^{L−1} d̃(i)`.

    `d̃(i) = Σ_{l=l*}^{i} [λ_m(−D_l)]_+` for i ≥ l*, `Σ_{l=i}^{l*−1} [λ_n(D_l)]_+` for i < l*.
    """
    result = 1.0
    for i in range(1, len(Ds) + 1):
        if i >= turn:
            result *= sum(pos(lam(-Ds[l - 1], m)) for l in range(turn, i + 1))
        else:
            result *= sum(pos(lam(Ds[l - 1], n)) for l in range(i, turn))
    return result


def homogeneous(d: Sequence[float], n: int, m: int, sigma_min: float) -> float:
    """Every `D_l = d_l I` and n = m: `sqrt((Π_{i≠i*} c_i)² + (L σ_min^{2−2/L})²)`, the scalar form at w = σ_min.

    The signs of the d_l are free. Widths below n are excluded: there `D_l = d_l I` can hold with `λ_min(T) = 0`.
    """
    if n != m:
        raise ValueError("the homogeneous bound holds for n = m only")
    return scalar_closed(d, sigma_min)


def homogeneous_exact(d: Sequence[float], n: int, m: int, sigma_min: float) -> float:
    """Every `D_l = d_l I` and n = m: the layers share singular vectors; `λ_min(T)` is the scalar value at σ_min."""
    if n != m:
        raise ValueError("the homogeneous value holds for n = m only")
    return scalar_exact(d, sigma_min)


def balanced(depth: int, n: int, m: int, sigma_min: float) -> float:
    """Every `D_l = 0`: `λ_min(T) = L σ_min^{2−2/L}` if n = m, `σ_min^{2−2/L}` if n ≠ m."""
    return (depth if n == m else 1) * sigma_min ** (2 - 2 / depth)


def printed_balanced(depth: int, sigma_min: float) -> float:
    """ICML 2023, eq. 19 at D = 0 as printed, with the factor L whatever n and m. Not a bound for n ≠ m."""
    return depth * sigma_min ** (2 - 2 / depth)


def layer_floors(Ds: Sequence[Matrix], n: int, drift: float = 0.0) -> list[float]:
    """Floors `u_l ≤ λ_n(W_lᵀ W_l)`, l = 1..L, from the imbalance alone.

    `u_l ≥ [λ_n(D_l)]_+`, `u_{l+1} ≥ [λ_n(−D_l)]_+`, closed under `u_l ≥ u_{l+1} + λ_min(D_l)` and
    `u_{l+1} ≥ u_l − λ_max(D_l)`. All four compare n-th eigenvalues of h_l × h_l matrices: a width h_l < n says 0 of
    its two layers, and nothing passes through it.
    """
    L = len(Ds) + 1
    width = [np.inf] + [D.shape[0] for D in Ds] + [np.inf]
    u = [0.0] * L
    for l in range(1, L):
        u[l - 1] = max(u[l - 1], pos(lam(Ds[l - 1], n)) - drift)
        u[l] = max(u[l], pos(lam(-Ds[l - 1], n)) - drift)
    for _ in range(2 * L):
        for l in range(1, L):
            if width[l] >= n:
                D = Ds[l - 1]
                u[l - 1] = max(u[l - 1], u[l] + lam(D, D.shape[0]) - drift)
                u[l] = max(u[l], u[l - 1] - lam(D, 1) - drift)
    return [0.0 if min(width[l - 1], width[l]) < n else u[l - 1] for l in range(1, L + 1)]


def prefix_floors(Ds: Sequence[Matrix], n: int, drift: float = 0.0) -> list[float]:
    """Floors on `λ_n(P_l P_lᵀ)`, l = 0..L−1: the products `Π_{i≤l} g_i` of the forward gains.

    `g_1 = u_1`, `g_{l+1} = max(0, g_l − λ_max(D_l), u_{l+1} − Σ_{k≤l} [λ_max(−D_k)]_+)`.
    """
    L = len(Ds) + 1
    u = layer_floors(Ds, n, drift)
    g = [u[0]]
    for l in range(1, L - 1):
        outside = sum(pos(lam(-Ds[k - 1], 1)) + drift for k in range(1, l + 1))
        g.append(max(0.0, g[-1] - lam(Ds[l - 1], 1) - drift, u[l] - outside))
    floors = [1.0]
    for l in range(1, L):
        narrow = min(D.shape[0] for D in Ds[:l]) < n
        floors.append(0.0 if narrow else float(np.prod(g[:l])))
    return floors


def suffix_floors(Ds: Sequence[Matrix], m: int, drift: float = 0.0) -> list[float]:
    """Floors on `λ_m(S_lᵀ S_l)`, l = 2..L+1 (index l − 2): the prefix floors of the mirrored network."""
    return prefix_floors([-D for D in reversed(Ds)], m, drift)[::-1]


def deep(Ds: Sequence[Matrix], n: int, m: int, drift: float = 0.0) -> float:
    """`λ_min(T) ≥ Σ_l λ_n(P_{l−1}P_{l−1}ᵀ) λ_m(S_{l+1}ᵀS_{l+1})` with floors that use the imbalance only."""
    left, right = prefix_floors(Ds, n, drift), suffix_floors(Ds, m, drift)
    return float(sum(a * b for a, b in zip(left, right, strict=True)))


# ---------------------------------------------------------------- caps on the norms of the layers


def norm_inequality(Ds: Sequence[Matrix], x: float, drift: float = 0.0) -> float:
    """`x Π_{l<L} (x − Σ_{k=l}^{L−1} [λ_max(−D_k)]_+)_+`, at most `‖W‖²` when `x = ‖W_L‖²`."""
    L = len(Ds) + 1
    result = x
    for l in range(1, L):
        result *= pos(x - sum(pos(lam(-Ds[k - 1], 1)) + drift for k in range(l, L)))
    return result


def _last_norm_cap(Ds: Sequence[Matrix], cap: float, drift: float) -> float:
    total = sum(pos(lam(-D, 1)) + drift for D in Ds)
    high = total + cap ** (2 / (len(Ds) + 1))
    return _root(lambda x: norm_inequality(Ds, x, drift), cap**2, total, high)


def norm_caps(Ds: Sequence[Matrix], cap: float, drift: float = 0.0) -> list[float]:
    """Upper bounds on `‖W_l‖²`, l = 1..L, over all weights with `‖W‖ ≤ cap` and imbalance within drift of Ds.

    The inequality above inverted for `‖W_L‖²`, its mirror for `‖W_1‖²`, carried along by
    `‖W_l‖² ≤ ‖W_{l+1}‖² + [λ_max(D_l)]_+` and `‖W_{l+1}‖² ≤ ‖W_l‖² + [λ_max(−D_l)]_+`.
    """
    L = len(Ds) + 1
    caps = [np.inf] * L
    caps[-1] = _last_norm_cap(Ds, cap, drift)
    caps[0] = min(caps[0], _last_norm_cap([-D for D in reversed(Ds)], cap, drift))
    for _ in range(L):
        for l in range(1, L):
            up, down = pos(lam(Ds[l - 1], 1)) + drift, pos(lam(-Ds[l - 1], 1)) + drift
            caps[l - 1] = min(caps[l - 1], caps[l] + up)
            caps[l] = min(caps[l], caps[l - 1] + down)
    return caps


# ---------------------------------------------------------------- floors that use the product


def prefix_floor_from_norm(sigma_n: float, suffix_norm: float) -> float:
    """`λ_n(P_l P_lᵀ) ≥ σ_n²(W) / ‖S_{l+1}‖²`; 0 where σ_n is 0."""
    return 0.0 if sigma_n == 0 else sigma_n**2 / suffix_norm**2


def last_layer_ceiling(D1: Matrix, D2: Matrix, c: float) -> float:
    """L = 3, `c = λ_m(W_3ᵀW_3)`: `σ_m²(W) ≤ c[(c + ‖D_2‖)² + [λ_1(D_1)]_+ (c + [λ_1(D_2)]_+)]`."""
    return c * ((c + spectral_norm(D2)) ** 2 + pos(lam(D1, 1)) * (c + pos(lam(D2, 1))))


def last_layer_floor(D1: Matrix, D2: Matrix, sigma_m: float) -> float:
    """The least `c = λ_m(W_3ᵀW_3)` which that inequality allows."""
    return _root(lambda c: last_layer_ceiling(D1, D2, c), sigma_m**2, 0.0, sigma_m ** (2 / 3))


def first_layer_floor(D1: Matrix, D2: Matrix, sigma_n: float) -> float:
    """Mirror: the least `λ_n(W_1 W_1ᵀ)`."""
    return last_layer_floor(-D2, -D1, sigma_n)


def prefix_ceiling(D1: Matrix, D2: Matrix, p: float) -> float:
    """L = 3, `p = λ_n(P_2P_2ᵀ)`: `σ_n²(W) ≤ (y + ‖D_1‖√s)² + [λ_max(−D_2)]_+ p`.

    `d = [λ_1(D_1)]_+`, `s = ½(d + sqrt(d² + 4p))`, `y = ½(‖D_1‖√s + sqrt(‖D_1‖² s + 4ps))`.
    """
    d, norm = pos(lam(D1, 1)), spectral_norm(D1)
    s = 0.5 * (d + np.sqrt(d**2 + 4 * p))
    y = 0.5 * (norm * np.sqrt(s) + np.sqrt(norm**2 * s + 4 * p * s))
    return float((y + norm * np.sqrt(s)) ** 2 + pos(lam(-D2, 1)) * p)


def prefix_floor(D1: Matrix, D2: Matrix, sigma_n: float) -> float:
    """The least `p = λ_n(P_2P_2ᵀ)` which that inequality allows: 0 if `σ_n² ≤ 4‖D_1‖²[λ_1(D_1)]_+`."""
    return _root(lambda p: prefix_ceiling(D1, D2, p), sigma_n**2, 0.0, sigma_n ** (4 / 3))


def suffix_floor(D1: Matrix, D2: Matrix, sigma_m: float) -> float:
    """Mirror: the least `λ_m(S_2ᵀS_2)`."""
    return prefix_floor(-D2, -D1, sigma_m)


def product_aware_three_layer(
    D1: Matrix, D2: Matrix, n: int, m: int, sigma_n: float, sigma_m: float, norm: float
) -> float:
    """L = 3, weights with these imbalances, σ_n(W), σ_m(W) at least as given and ‖W‖ at most `norm`.

    Each of `λ_n(P_1P_1ᵀ)`, `λ_n(P_2P_2ᵀ)`, `λ_m(S_3ᵀS_3)`, `λ_m(S_2ᵀS_2)` is floored by the best of the imbalance
    floors, the inverted ceilings and `σ²` over the capped norms; then `λ_min(T) ≥ Σ_l (…)(…)`, or Δ* if better.
    """
    left, right = prefix_floors([D1, D2], n), suffix_floors([D1, D2], m)
    caps = [float(np.sqrt(x)) for x in norm_caps([D1, D2], norm)]
    p1 = max(left[1], first_layer_floor(D1, D2, sigma_n), prefix_floor_from_norm(sigma_n, caps[1] * caps[2]))
    p2 = max(left[2], prefix_floor(D1, D2, sigma_n), prefix_floor_from_norm(sigma_n, caps[2]))
    s3 = max(right[1], last_layer_floor(D1, D2, sigma_m), prefix_floor_from_norm(sigma_m, caps[0] * caps[1]))
    s2 = max(right[0], suffix_floor(D1, D2, sigma_m), prefix_floor_from_norm(sigma_m, caps[0]))
    return max(three_layer(D1, D2, n, m), s2 + p1 * s3 + p2)


# ---------------------------------------------------------------- any depth, imbalance and product


def chain_ceiling(Ds: Sequence[Matrix], m: int, c: float, caps: Sequence[float]) -> float:
    """An upper bound on `‖W v‖²`, v the eigenvector of `W_LᵀW_L` for `c = λ_m(W_LᵀW_L)`; caps on `‖W_l‖²`.

    `y_{L+1} = v`, `y_l = W_l y_{l+1}`, `z_l = W_lᵀy_l = D_l y_{l+1} + W_{l+1} z_{l+1}`, split as
    `z_l = κ_l y_{l+1} + e_l` with `κ_L = c`, `κ_l = κ_{l+1} + ½(λ_max(D_l) + λ_min(D_l))`:
    `‖y_l‖²` is at most each of `[λ_max(D_l)]_+ ‖y_{l+1}‖² + ‖z_{l+1}‖²`, `‖y_{l+1}‖ ‖z_l‖`,
    `[κ_{l+1} + λ_max(D_l)]_+ ‖y_{l+1}‖² + ‖W_{l+1}e_{l+1}‖ ‖y_{l+1}‖`, `‖W_l‖² ‖y_{l+1}‖²` and, at l = L − 1,
    `(c − [λ_m(−D)]_+)(c + [λ_1(D)]_+)`.
    """
    L = len(caps)
    kappa, y2, z, e = c, c, c, 0.0
    for l in range(L - 1, 0, -1):
        D = Ds[l - 1]
        top, bottom = lam(D, 1), lam(D, D.shape[0])
        y = np.sqrt(y2)
        carried = np.sqrt(caps[l]) * e if e > 0 else 0.0
        z_new = max(abs(top + kappa), abs(bottom + kappa)) * y + carried
        choices = [
            pos(top) * y2 + z**2,
            y * z_new,
            pos(top + kappa) * y2 + carried * y,
            caps[l - 1] * y2,
        ]
        if l == L - 1:
            choices.append(pos(c - pos(lam(-D, m))) * (c + pos(top)))
        e = 0.5 * (top - bottom) * y + carried
        kappa += 0.5 * (top + bottom)
        y2 = min(choices)
        z = min(z_new, np.sqrt(caps[l - 1] * y2))
    return float(y2)


def outer_floor(Ds: Sequence[Matrix], m: int, sigma_m: float, caps: Sequence[float]) -> float:
    """The least c from `[λ_m(−D_{L−1})]_+` on at which that ceiling reaches `σ_m²`: a floor of `λ_m(W_LᵀW_L)`."""
    start = pos(lam(-Ds[-1], m))
    if sigma_m == 0:
        return start
    grid = np.concatenate([[start], np.geomspace(max(start, 1e-12 * sigma_m), max(caps[-1], 2 * start, 1e-6), 400)])
    grid = np.unique(grid)
    if not chain_ceiling(Ds, m, grid[0], caps) < sigma_m**2:
        return start
    k = next((i for i, c in enumerate(grid) if chain_ceiling(Ds, m, c, caps) >= sigma_m**2), len(grid) - 1)
    return _root(lambda c: chain_ceiling(Ds, m, c, caps), sigma_m**2, float(grid[max(k - 1, 0)]), float(grid[k]))


def deep_product(
    Ds: Sequence[Matrix], n: int, m: int, sigma_n: float, sigma_m: float, caps: Sequence[float]
) -> float:
    """`Σ_l λ_n(P_{l−1}P_{l−1}ᵀ) λ_m(S_{l+1}ᵀS_{l+1})` with every floor that imbalance and product give."""
    L = len(Ds) + 1
    mirrored = [-D for D in reversed(Ds)]
    first = outer_floor(mirrored, n, sigma_n, caps[::-1]) if n <= m else 0.0
    last = outer_floor(Ds, m, sigma_m, caps) if m <= n else 0.0

    def prefixes(Ds: Sequence[Matrix], r: int, s: float, caps: Sequence[float], ends: tuple[float, float]):
        if min(D.shape[0] for D in Ds) < r:
            return prefix_floors(Ds, r)
        others = [s**2 / np.prod([caps[k] for k in range(L) if k != l]) if s > 0 else 0.0 for l in range(L)]
        u = [max(a, b) for a, b in zip(layer_floors(Ds, r), others, strict=True)]
        u[0], u[-1] = max(u[0], ends[0]), max(u[-1], ends[1])
        for _ in range(2 * L):
            for l in range(1, L):
                u[l - 1] = max(u[l - 1], u[l] + lam(Ds[l - 1], Ds[l - 1].shape[0]))
                u[l] = max(u[l], u[l - 1] - lam(Ds[l - 1], 1))
        floors, gain = [1.0], u[0]
        for l in range(1, L):
            floors.append(max(floors[-1] * gain, s**2 / np.prod(caps[l:]) if s > 0 else 0.0))
            outside = sum(pos(lam(-D, 1)) for D in Ds[:l])
            gain = max(others[l], gain - lam(Ds[l - 1], 1), u[l] - outside)
        return floors

    left = prefixes(Ds, n, sigma_n, caps, (first, last if n == m else 0.0))
    right = prefixes(mirrored, m, sigma_m, caps[::-1], (last, first if n == m else 0.0))
    return float(sum(a * b for a, b in zip(left, reversed(right), strict=True)))


def two_layer_square(D: Matrix, n: int, sigma_n: float, sigma_next: float) -> float:
    """n = m, L = 2: the least `c_1 + c_2` with both above their halves of Prop. 1 and `c_1 c_2 ≥ P`, by search.

    P: the smaller root of `P² − (s + r + w²)P + sr`, `s = σ_n²`, `r = σ_{n−1}²`, `w = ½(λ_max(D) − λ_min(D))`; for
    `P > w²` not above `max(w², sr/(s + r))`.
    """
    a, b = pos(lam(D, 1)), pos(lam(-D, 1))
    p, q = pos(lam(D, n)), pos(lam(-D, n))
    first = 0.5 * (p - b + np.hypot(b + p, 2 * sigma_n))
    last = 0.5 * (q - a + np.hypot(a + q, 2 * sigma_n))
    s, r, w = sigma_n**2, sigma_next**2, 0.5 * (lam(D, 1) - lam(D, D.shape[0]))
    P = min(np.roots([1.0, -(s + r + w**2), s * r]).real) if n > 1 else s
    if w**2 < P:
        P = min(P, max(w**2, s * r / (s + r) if n > 1 else s))
    if first * last >= P:
        return float(first + last)
    grid = np.geomspace(
        first if first > 0 else P / max(last, 1e-300) * 1e-9, P / last if last > 0 else 1e9 * P, 200_001
    )
    return float(np.min(grid + P / grid))
