"""The talk in ten minutes."""

# %% [markdown]
# # The talk in ten minutes
#
# Gradient flow on a product of matrices converges at a rate that can be read off its start. Here is why, in code.
#
# Run with `python examples/talk_in_ten_minutes.py [FOLDER]`; figures go to FOLDER, or to a temporary one.

# %%
import sys
import tempfile
from pathlib import Path

import numpy as np

import linflow as lf

folder = Path(sys.argv[1] if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else tempfile.mkdtemp())
folder.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## Imbalance is conserved
#
# `D = W_1ᵀW_1 − W_2W_2ᵀ` does not change along the flow. What drift there is, is the error of the integration.

# %%
f = lf.MatrixFactorization(np.diag([2.0, 1.5, 1.0]))
net = lf.init.imbalanced((3, 6, 3), 2.0, 0.3 * np.eye(3), rng=0)
run = lf.gradient_flow(f, net, until=1e-8, record=("least_eigenvalue",))
print(f"largest change of D: {run.stats.imbalance_drift:.1e}")
assert run.stats.imbalance_drift < 1e-7  # hundreds of times the error seen, ten million times below D

# %% [markdown]
# ## The scalar picture
#
# With two scalars, each run stays on its hyperbola `u² − v² = d`, and its rate tends to `γ sqrt(d² + 4w²)`.

# %%
scalar = lf.MatrixFactorization(np.array([[2.0]]))
starts = [(0.3, 0.3), (2.0, -1.0), (-0.5, 2.2)]
flows = [lf.gradient_flow(scalar, [np.array([[u]]), np.array([[v]])], until=1e-8) for u, v in starts]
for (u, v), flow in zip(starts, flows, strict=True):
    final = scalar.pl_constant * np.hypot(u**2 - v**2, 2 * 2.0)
    print(f"d = {u**2 - v**2:5.2f}: rate at the end {float(flow.rate[-1]):.3f}, formula {final:.3f}")
    assert abs(float(flow.rate[-1]) / final - 1) < 1e-3  # the gap is 1e-8 there, and w off by 1e-4 of itself
ax = lf.plots.phase_plane(scalar, flows)
lf.plots.save(ax, folder / "phase_plane.png")
ax

# %% [markdown]
# ## Two layers, and more
#
# The bounds use the spectrum of D and the product. None exceeds the truth, `λ_min(T)`.

# %%
for widths in ((3, 6, 3), (3, 6, 6, 3), (3, 6, 6, 6, 3)):
    imbalances = [1.0] * (len(widths) - 2)
    start = lf.init.imbalanced(widths, imbalances, 0.3 * np.eye(3), rng=0)
    bound, truth = float(lf.bounds.best(start).value), float(lf.TangentOperator(start).least_eigenvalue())
    print(f"{len(widths) - 1} layers: bound {bound:.4f}, λ_min(T) {truth:.4f}")
    assert 0 < bound <= truth * (1 + 1e-9)  # equal where the bound is exact, to rounding

# %% [markdown]
# ## A certificate against a run

# %%
cert = lf.certify(f, net)
check = cert.check(run)
print(
    f"certified rate {cert.rate:.3f}; time to 1e-6: certified {cert.time_to(1e-6):.3f}, run {run.time_to(1e-6):.3f}"
)
assert check.holds
assert run.time_to(1e-6) <= cert.time_to(1e-6)
ax = lf.plots.convergence(run, cert)
lf.plots.save(ax, folder / "certificate.png")
ax

# %% [markdown]
# ## Imbalance or margin
#
# A start near the minimiser has a margin: its product cannot lose rank on the way. Imbalance does the same from
# anywhere. Either gives a rate; with neither there is none.

# %%
rates = {}
for imbalance in (0.0, 2.0):
    for size in (0.05, 0.9):
        start = lf.init.imbalanced((3, 6, 3), imbalance, size * np.diag([2.0, 1.5, 1.0]), rng=0)
        rates[imbalance, size] = lf.certify(f, start).rate
        print(f"imbalance {imbalance:.0f}, start at {size:.2f} W*: certified rate {rates[imbalance, size]:.3f}")
assert min(rates[0.0, 0.9], rates[2.0, 0.05]) > 0
assert rates[2.0, 0.9] > max(rates[0.0, 0.9], rates[2.0, 0.05])
assert rates[0.0, 0.05] < 1e-6 * rates[2.0, 0.05]
ax = lf.plots.init_map(lf.MatrixFactorization(np.eye(2)))
lf.plots.save(ax, folder / "init_map.png")
print(f"figures in {folder}")
ax
