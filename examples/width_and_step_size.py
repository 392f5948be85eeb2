"""Choosing width and step size."""

# %% [markdown]
# # Choosing width and step size
#
# Two layers in the NTK scaling, drawn at random. The wider they are, the larger the certified rate, up to a limit: T
# tends to a multiple of the identity. What does width do to the step of a descent, and which width is enough?
#
# Run with `python examples/width_and_step_size.py [FOLDER]`; figures go to FOLDER, or to a temporary one.

# %%
import sys
import tempfile
from pathlib import Path

import numpy as np

import linflow as lf

folder = Path(sys.argv[1] if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else tempfile.mkdtemp())
folder.mkdir(parents=True, exist_ok=True)
WIDTHS, SEEDS, UNTIL = (20, 50, 100, 300, 1000, 3000), range(5), 1e-4
objective = lf.MatrixFactorization(np.full((8, 4), 0.1))

# %% [markdown]
# ## Certified rate, safe step and the steps they promise, at each width
#
# Medians of five draws. The safe step is the one whose certificate is best; every descent below is run with it.

# %%
rates, step_sizes, promised, taken, held = {}, {}, {}, {}, []
for h in WIDTHS:
    rows = []
    for seed in SEEDS:
        net = lf.init.ntk((8, h, 4), rng=seed)
        eta = lf.safe_step_size(objective, net)
        cert = lf.certify(objective, net, algorithm="descent", step_size=eta)
        run = lf.gradient_descent(objective, net, step_size=eta, steps=100_000, until=UNTIL)
        held.append(cert.check(run).holds and run.result.ok)
        rows.append((lf.certify(objective, net).rate, eta, cert.steps_to(UNTIL), run.stats.steps))
    rates[h], step_sizes[h], promised[h], taken[h] = (float(x) for x in np.median(rows, axis=0))
    print(
        f"h = {h:>4}: certified rate {rates[h]:6.3f}, safe step {step_sizes[h]:.4f}, "
        f"steps to {UNTIL:g}: promised {promised[h]:.0f}, taken {taken[h]:.0f}"
    )

# %% [markdown]
# ## Which width?
#
# Wider layers need fewer steps, and each step costs in proportion to the width. We recommend the width of the least
# promised work, steps times width; where steps are all that counts, the widest wins.

# %%
work = {h: h * promised[h] for h in WIDTHS}
advised = min(work, key=work.get)
print(f"recommended: h = {advised} with step {step_sizes[advised]:.4f}, {promised[advised]:.0f} steps promised")

# %%
fig, axes = lf.plots.figure("text", aspect=0.9, ncols=3)
with lf.plots.style("light"):
    axes[0].plot(WIDTHS, list(rates.values()), "s--")
    axes[0].set(xscale="log", xlabel="width $h$", ylabel="certified rate of the flow")
    axes[1].plot(WIDTHS, list(step_sizes.values()), "s--")
    axes[1].set(xscale="log", xlabel="width $h$", ylabel="safe step")
    axes[2].plot(WIDTHS, list(promised.values()), "s--", label="promised")
    axes[2].plot(WIDTHS, list(taken.values()), "o-", label="taken")
    axes[2].set(xscale="log", yscale="log", xlabel="width $h$", ylabel=f"steps to {UNTIL:g} of the gap")
    axes[2].legend(frameon=False)
lf.plots.save(fig, folder / "width_and_step_size.png")
fig

# %% [markdown]
# ## What was claimed, checked

# %%
assert all(held)
assert all(np.diff(list(rates.values())) > 0)  # medians at these seeds, each a clear step apart
assert WIDTHS[0] < advised < WIDTHS[-1]  # neither end of the range: the trade-off is real
assert all(np.diff(list(step_sizes.values())) > 0)
assert all(taken[h] <= promised[h] for h in WIDTHS)
print(f"figures in {folder}")
