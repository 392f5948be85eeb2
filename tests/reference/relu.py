"""ReLU networks, literally: one neuron, one sample, one formula at a time; no allowance for rounding."""

from __future__ import annotations

import itertools

import numpy as np
from scipy.optimize import minimize_scalar

Matrix = np.ndarray


def outputs(X: Matrix, U: Matrix, V: Matrix, s: float) -> Matrix:
    """`σ(XU)V`, `σ(z) = z` for z > 0 and `s z` for z ≤ 0."""
    Z = X @ U
    return np.array([[z if z > 0 else s * z for z in row] for row in Z]) @ V


def slopes(X: Matrix, U: Matrix, s: float) -> Matrix:
    """`a_ij`: 1 where `z_ij > 0`, else s."""
    return np.array([[1.0 if x @ u > 0 else s for u in U.T] for x in X])


def H(X: Matrix, U: Matrix, V: Matrix, a: Matrix, s: float) -> Matrix:
    """`Σ_j (D_{a_j} K D_{a_j}) ⊗ v_jv_jᵀ + ΦΦᵀ ⊗ I` (Lemma 0), Φ from the weights."""
    K, m = X @ X.T, V.shape[1]
    Z = X @ U
    Phi = np.where(Z > 0, Z, s * Z)
    total = np.kron(Phi @ Phi.T, np.eye(m))
    for j in range(U.shape[1]):
        D = np.diag(a[:, j])
        total += np.kron(D @ K @ D, np.outer(V[j], V[j]))
    return total


def movement(X: Matrix, u: Matrix, v: Matrix, s: float, tau: float) -> dict:
    """Lemma 1 for one neuron: the least fixed point of the slope caps, and the bounds."""
    K, z = X @ X.T, X @ u
    phi = np.where(z > 0, z, s * z)
    N = len(X)
    active = [bool(zi >= 0) for zi in z]
    while True:
        t = np.array([1.0 if on else s for on in active])
        kappa = max(0.0, float(np.linalg.eigvalsh(np.diag(t) @ K @ np.diag(t))[-1]))
        nv, nf, r = np.linalg.norm(v), np.linalg.norm(phi), np.sqrt(kappa)
        if kappa == 0:
            V, eps = nv * tau, 0.0
        else:
            cosh_less_1 = 2 * np.sinh(r * tau / 2) ** 2  # no digits are lost
            V = nv * np.sinh(r * tau) / r + nf * cosh_less_1 / kappa
            eps = nf * np.sinh(r * tau) / r + nv * cosh_less_1
        M = np.array([np.linalg.norm(np.diag(t) @ X @ X[i]) * V for i in range(N)])
        again = [on or abs(z[i]) <= M[i] for i, on in enumerate(active)]
        if again == active:
            break
        active = again
    frozen = np.array([abs(z[i]) > M[i] for i in range(N)])
    E = []
    for i in range(N):
        if z[i] > 0:
            E.append(M[i])
        elif M[i] <= abs(z[i]):
            E.append(s * M[i])
        else:
            E.append(max(s * M[i], s * abs(z[i]) + M[i] - abs(z[i])))
    return {"t": t, "kappa": kappa, "V": V, "eps": eps, "M": M, "frozen": frozen, "E": np.array(E), "phi": phi}


def shadow(K: Matrix, a: Matrix, free: Matrix, delta: float, s: float) -> Matrix:
    """`S(Δ)` of Lemma 2, `Δ = δ diag(K)` on the free samples."""
    G = [i for i in range(len(K)) if free[i]]
    D = np.diag([(1 + s) / 2 if free[i] else a[i] for i in range(len(K))])
    if not G:
        return D @ K @ D
    Delta = delta * np.diag(np.diag(K)[G])
    inner = K - K[:, G] @ np.linalg.inv(K[np.ix_(G, G)] + Delta) @ K[G, :]
    S = D @ inner @ D
    for k, i in enumerate(G):
        S[i, i] -= ((1 - s) / 2) ** 2 * Delta[k, k]
    return S


def second_floor(X: Matrix, u: Matrix, v: float, moved: dict, drift: float = 0.0) -> float:
    """`φ_j` of Lemma 3 for one output, with the drift of gradient descent."""
    basis = np.linalg.svd(X, full_matrices=False)
    rank = int((basis[1] > 1e-10 * basis[1][0]).sum())
    p, w = np.linalg.norm(basis[2][:rank] @ u), np.sqrt(moved["kappa"]) * moved["V"]
    return max(max(abs(v) - moved["eps"], 0) ** 2, v**2 - p**2 + max(p - w, 0) ** 2 - drift, 0.0)


def twins(U: Matrix, V: Matrix) -> list[bool]:
    """Which neurons have one with the same u and the opposite v. No neuron is drawn more than twice here."""
    h = range(U.shape[1])
    return [any(k != j and (U[:, k] == U[:, j]).all() and (V[k] == -V[j]).all() for k in h) for j in h]


def twin_means(X: Matrix, u: Matrix, v: Matrix, s: float, tau: float) -> tuple[float, Matrix]:
    """Lemma T for a twin: `α_j`, and how far the mean of the features of both moves on each sample."""
    n, K, z, N = movement(X, u, v, s, tau), X @ X.T, X @ u, len(X)
    free, E = [i for i in range(N) if not n["frozen"][i]], []
    for i in range(N):
        B = np.linalg.norm(np.diag(n["t"]) @ X @ X[i]) * (n["V"] - np.linalg.norm(v) * tau)
        B += (1 - s) / 2 * np.sqrt(sum(K[i, l] ** 2 for l in free)) * n["V"]
        where_free = B + (1 - s) / 2 * max(n["M"][i] - abs(z[i]) + B, 0)
        where_frozen = B if z[i] > 0 else s * B
        E.append(min(n["E"][i], where_frozen if n["frozen"][i] else where_free))
    return n["eps"] - np.linalg.norm(n["phi"]) * tau, np.array(E)


def features_spread(X: Matrix, U: Matrix, V: Matrix, s: float, tau: float) -> float:
    """`Ē` of Lemma 3 (c), with the means of twins."""
    rows, joint = [], 0.0
    for u, v, twin in zip(U.T, V, twins(U, V), strict=True):
        n = movement(X, u, v, s, tau)
        rows.append(twin_means(X, u, v, s, tau)[1] if twin else n["E"])
        whole = n["kappa"] * n["V"]
        joint += min(whole, np.linalg.norm(rows[-1])) ** 2 if twin else whole**2
    return min(float(np.linalg.norm(np.array(rows), 2)), float(np.sqrt(joint)))


def one_output_floor(X: Matrix, U: Matrix, V: Matrix, s: float, tau: float, deltas: list[float]) -> float:
    """Theorem 1 for one output: the largest `λ_min(B(τ))` over some δ (δ → 0 where most are free) and every c ≥ 1."""
    K, N = X @ X.T, len(X)
    neurons = [movement(X, u, v, s, tau) for u, v in zip(U.T, V, strict=True)]
    Phi = np.array([n["phi"] for n in neurons]).T
    spread, best = features_spread(X, U, V, s, tau), -np.inf
    for delta, together in itertools.product(deltas, (True, False)):
        A = np.zeros((N, N))
        for j, (n, twin) in enumerate(zip(neurons, twins(U, V), strict=True)):
            free = ~n["frozen"]
            used = min(deltas) if s == 0 and 2 * free.sum() > N else delta
            a = np.where(X @ U[:, j] > 0, 1.0, s)
            weight = second_floor(X, U[:, j], V[j, 0], n)
            if together and twin:
                weight = max(weight, max(abs(V[j, 0]) - twin_means(X, U[:, j], V[j], s, tau)[0], 0) ** 2)
                more = (abs(V[j, 0]) + n["eps"]) ** 2 - weight
                A -= more * ((1 - s) / 2) ** 2 * used * np.diag(np.diag(K) * free)
            A += weight * shadow(K, a, free, used, s)
        best = max(best, best_c(A, Phi @ Phi.T, spread))
    return max(best, 0.0)


def best_c(A: Matrix, gram: Matrix, spread: float) -> float:
    """`max_{c ≥ 1} λ_min(A + (1 − 1/c) ΦΦᵀ) − (c − 1)Ē²`, by a search over a concave function."""

    def value(log: float) -> float:
        c = 1 + np.exp(log)
        return float(np.linalg.eigvalsh(A + (1 - 1 / c) * gram)[0] - (c - 1) * spread**2)

    found = minimize_scalar(lambda log: -value(log), bounds=(-12, 18), method="bounded", options={"xatol": 1e-6})
    return max(float(np.linalg.eigvalsh(A)[0]), -float(found.fun))


def plain_theorem(X: Matrix, U: Matrix, V: Matrix, Y: Matrix, steps: int = 400) -> float:
    """The rate `2λ(q*)` of Theorem R (models.md): neurons frozen on every sample, one output, ReLU; 0 if refused."""
    K, v, y = X @ X.T, V[:, 0], Y[:, 0]
    size = np.linalg.norm(X, 2)
    r = np.linalg.norm(outputs(X, U, V, 0.0)[:, 0] - y)
    a, Z = (X @ U > 0).astype(float), np.abs(X @ U)
    u, rows = np.linalg.norm(U, axis=0), np.linalg.norm(X, axis=1)

    def floor(q: float) -> float:
        rho = np.abs(v) * np.sinh(q) + u * (np.cosh(q) - 1)
        good = (rows[:, None] * rho < Z).all(axis=0)
        first = np.maximum(v**2 - u**2, 0)
        second = np.maximum(np.abs(v) * (2 - np.cosh(q)) - u * np.sinh(q), 0) ** 2
        phi = np.where(good, np.maximum(first, second), 0.0)
        return float(np.linalg.eigvalsh((a * phi) @ a.T * K)[0])

    least = floor(0.0)
    if least <= 0:
        return 0.0
    part, q, left = size * r / least / steps, 0.0, size * r
    while True:
        part *= 1.002
        q += part
        value = floor(q)
        if value <= 1e-12 * least:
            return 0.0
        left -= value * part
        if left <= 0:
            return 2 * value


def explicit_size(X: Matrix, U: Matrix, Y: Matrix) -> float:
    """The least α for which the conditions of Theorem 4(a) hold, by bisection; one output, ReLU, pairs."""
    a, Z, K = (X @ U > 0).astype(float), X @ U, X @ X.T
    mu = float(np.linalg.eigvalsh(a @ a.T * K)[0])
    f = max(np.linalg.norm(np.maximum(Z[:, j], 0)) for j in range(U.shape[1]))
    kappa = np.linalg.norm(X, 2) ** 2
    zeta = min(abs(Z[i, j]) / np.linalg.norm(X @ X[i]) for i in range(len(X)) for j in range(U.shape[1]))

    def holds(alpha: float) -> bool:
        tau = 2 * np.linalg.norm(Y) / (alpha**2 * mu)
        return (
            np.sqrt(kappa) * tau <= 1
            and 1.18 * alpha * tau + 0.55 * f * tau**2 < zeta
            and 1.18 * f * tau + 0.55 * alpha * kappa * tau**2 <= 0.29 * alpha
        )

    low, high = 0.0, 1.0
    while not holds(high):
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def without_the_near_ones(X: Matrix, U: Matrix, alpha: float, tau: float) -> tuple[float, int]:
    """The floor `½α²(μ − κν)` of Theorem 4(b) and ν; 0 where its conditions on τ fail. One output, ReLU, pairs."""
    a, Z, K = (X @ U > 0).astype(float), X @ U, X @ X.T
    kappa, f = np.linalg.norm(X, 2) ** 2, np.linalg.norm(np.maximum(Z, 0), axis=0).max()
    w = 1.18 * alpha * tau + 0.55 * f * tau**2
    near = int((np.abs(Z) <= np.linalg.norm(K, axis=1)[:, None] * w).any(axis=0).sum())
    holds = np.sqrt(kappa) * tau <= 1 and 1.18 * f * tau + 0.55 * alpha * kappa * tau**2 <= 0.29 * alpha
    mu = float(np.linalg.eigvalsh(a @ a.T * K)[0])
    return (0.5 * alpha**2 * (mu - kappa * near) if holds else 0.0), near


def several_outputs_floor(
    X: Matrix, U: Matrix, V: Matrix, s: float, tau: float, deltas: list[float], ratios: tuple[float, ...]
) -> float:
    """Theorem 1 for several outputs: the largest floor over some δ, some θ in `c_j = θ‖v_j‖/ε_j`, every c ≥ 1."""
    K, (N, m) = X @ X.T, (len(X), V.shape[1])
    neurons = [movement(X, u, v, s, tau) for u, v in zip(U.T, V, strict=True)]
    Phi = np.array([n["phi"] for n in neurons]).T
    spread, best = features_spread(X, U, V, s, tau), 0.0
    for delta, means in itertools.product(deltas, (True, False)):
        for ratio in ratios:
            A, together, apart = np.zeros((N * m, N * m)), np.zeros((N, N)), np.zeros(N)
            for j, (n, twin) in enumerate(zip(neurons, twins(U, V), strict=True)):
                size, free, eps = np.linalg.norm(V[j]), ~n["frozen"], n["eps"]
                used = min(deltas) if s == 0 and 2 * free.sum() > N else delta
                if means and twin:
                    paid = (size + eps) ** 2 * ((1 - s) / 2) ** 2 * used * np.diag(K) * free
                    A -= np.kron(np.diag(paid), np.eye(m))
                    eps = twin_means(X, U[:, j], V[j], s, tau)[0]
                c = min(max(1.0, ratio * size / eps), 1e8) if eps > 0 else 1e8
                a = np.where(X @ U[:, j] > 0, 1.0, s)
                A += (1 - 1 / c) * np.kron(shadow(K, a, free, used, s), np.outer(V[j], V[j]))
                together += (c - 1) * eps**2 * np.outer(n["t"], n["t"])
                apart += (c - 1) * eps**2 * n["kappa"] * (n["t"] > 0)
            price = min(np.linalg.norm(np.abs(K) * together, 2), apart.max())
            best = max(best, best_c(A - price * np.eye(N * m), np.kron(Phi @ Phi.T, np.eye(m)), spread))
    return best
