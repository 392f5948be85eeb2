"""My matrix factorization is slow: why?"""

# %% [markdown]
# # My matrix factorization is slow: why?
#
# A linear model of two layers is fitted to real images of digits. It starts small and balanced, as is common, and
# for a long while nothing seems to happen. The quantity behind that is the least eigenvalue of T: the loss gap falls
# at a rate of at least γ λ_min(T). We look at it, and then choose a start where it is large.
#
# Run with `python examples/slow_factorization.py [FOLDER]`; figures go to FOLDER, or to a temporary one.

# %%
import sys
import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import linflow as lf

folder = Path(sys.argv[1] if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else tempfile.mkdtemp())
folder.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## The data
#
# Eight leading principal components of the images, whitened so that the regression itself is easy (its smoothness
# and strong convexity are equal), against the ten classes. What is slow will be the two layers, not the data.

# %%
data = load_digits()
pixels = data.data - data.data.mean(axis=0)
X = np.linalg.svd(pixels, full_matrices=False)[0][:, :8]
Y = np.eye(10)[data.target] - np.eye(10)[data.target].mean(axis=0)
objective = lf.LinearRegression(X, Y / np.linalg.norm(Y, 2))
widths = (8, 20, 10)
print(f"γ = {objective.pl_constant:.3g}: one layer alone would have this rate")

# %% [markdown]
# ## The slow run, and why

# %%
UNTIL = 1e-4
slow_start = lf.init.balanced(
    widths, 1e-3 * np.linalg.qr(np.random.default_rng(0).standard_normal((10, 8)))[0].T, rng=0
)
slow = lf.gradient_flow(objective, slow_start, until=UNTIL, record=("least_eigenvalue",))
slow_cert = lf.certify(objective, slow_start)
first = float(lf.TangentOperator(slow_start).least_eigenvalue())
spectrum = lf.imbalance_spectrum(slow_start)
print(f"time to {UNTIL:g} of the gap: {slow.time_to(UNTIL):.4g}")
print(
    f"λ_min(T) at the start: {first:.3g}; spectral gap Δ of the imbalance: {spectrum.spectral_gap:.3g}; "
    f"certified rate: {slow_cert.rate:.3g}"
)

# %% [markdown]
# Balanced weights have no imbalance to hold λ_min(T) up. It is then fixed by the least singular value of the product,
# which is small at the start: the gradient is multiplied by almost nothing in the directions not yet learned.
#
# ## The fix
#
# Imbalance is conserved, so a start that has it keeps it. We ask for the least start with a certified rate.
# Times are those of the flow; a descent from larger weights needs smaller steps (see `width_and_step_size.py`).

# %%
design = lf.design(objective, widths, rate=2 * objective.pl_constant, rng=0)
fast = lf.gradient_flow(objective, design.start, until=UNTIL, record=("least_eigenvalue",))
check = design.certificate.check(fast)
ratio = slow.time_to(UNTIL) / fast.time_to(UNTIL)
print(f"designed: λ_min(T) at the start {float(lf.TangentOperator(design.start).least_eigenvalue()):.3g}")
print(f"certified rate {design.rate:.4g}; time to {UNTIL:g}: {fast.time_to(UNTIL):.4g}, {ratio:.1f} times sooner")
print(f"certified time: {design.certificate.time_to(UNTIL):.4g}")

# %%
fig, axes = lf.plots.figure("text", aspect=0.7, ncols=2)
lf.plots.convergence(
    [slow, fast], [slow_cert, design.certificate], axes[0], labels=["balanced", "designed"], named=True
)
lf.plots.rate([slow, fast], [slow_cert, design.certificate], axes[1], labels=["balanced", "designed"], named=True)
lf.plots.save(fig, folder / "slow_factorization.png")
fig

# %% [markdown]
# ## What was claimed, checked

# %%
assert spectrum.spectral_gap < 1e-6  # balanced: zero to rounding of squared weights, far below those of the design
assert abs(first / 1e-3 - 1) < 1e-6  # balanced, n ≠ m: λ_min(T) is σ_min of the product, to rounding of its square
assert check.holds
assert fast.time_to(UNTIL) <= design.certificate.time_to(UNTIL)
assert ratio > 2
print(f"figures in {folder}")
