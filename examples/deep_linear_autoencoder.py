"""Training a deep linear autoencoder in PyTorch: what to watch, and which steps to take."""

# %% [markdown]
# # Training a deep linear autoencoder in PyTorch
#
# Three bias-free layers of widths 64–96–96–64 learn to clean noisy images of digits, from the usual start of
# `nn.Linear`. A monitor follows the training in an ordinary loop; then the best constant step, found by a
# search, is set against steps that look at the curvature; and at last a start is improved by climbing its certified
# rate.
#
# Run with `python examples/deep_linear_autoencoder.py [FOLDER]`; figures and the monitor's table go to FOLDER, or to
# a temporary one. Needs torch and scikit-learn.

# %%
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import linflow as lf
import linflow.torch as lt
import torch

folder = Path(sys.argv[1] if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else tempfile.mkdtemp())
folder.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)
WIDTHS, NOISE = (64, 96, 96, 64), 0.4

# %% [markdown]
# ## Data and model
#
# The clean images are centred and of spectral norm 1, the noise has the Gram matrix 0.16 I. The loss is
# `½‖outputs − clean‖²`, so its smoothness is near 1.

# %%
clean = torch.tensor(load_digits().data, dtype=torch.float32)
clean = clean - clean.mean(0)
clean /= torch.linalg.matrix_norm(clean, 2)
noisy = clean + NOISE / len(clean) ** 0.5 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))


def make_model(dtype: torch.dtype = torch.float32) -> torch.nn.Sequential:
    """Return the layers with the usual start of `nn.Linear`."""
    torch.manual_seed(0)
    return torch.nn.Sequential(*(torch.nn.Linear(a, b, bias=False) for a, b in pairwise(WIDTHS))).to(dtype)


objective = lt.regression(noisy, clean, "half")
print(f"{objective}, {len(clean)} images, widths {'×'.join(map(str, WIDTHS))}")

# %% [markdown]
# ## A training with a monitor
#
# One line is added to the loop. With its default interval it looks
# every 50 steps, unless that took more than 5 % of the time; with `exact=True` it takes every gradient into the law
# of the imbalances, at which we look here, and writes its table as it goes.


# %%
def train_monitored(steps: int, **options) -> lt.Monitor:
    """Train by a constant step and return the monitor."""
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with lt.Monitor(model, optimizer, objective, **options) as monitor:
        for _ in range(steps):
            optimizer.zero_grad()
            (0.5 * torch.sum((model(noisy) - clean) ** 2)).backward()
            optimizer.step()
    return monitor


usual = train_monitored(500)
print(f"by default: {usual!r}")
monitor = train_monitored(2000, every=20, exact=True, budget=None, csv=folder / "deep_linear_autoencoder.csv")
print(f"every 20 steps, law at every step: {monitor!r}")
table = monitor.table()
print(
    f"the imbalance moved by {table['drift'][-1]:.4g}, the law is off by at most {table['law_error'][1:].max():.2g}"
)
print(f"rate over γ λ_min(T): at least {np.nanmin(table['rate'] / table['pl']):.3g}")

# %%
k, C, DASHED, DOTTED = table["step"], lf.plots.COLOURS, (0, (4, 2)), (0, (1, 2))
with lf.plots.style("light", 8):
    figure, axes = lf.plots.figure("text", aspect=0.62, nrows=2, ncols=2)
    (loss, drift), (rate, step) = axes
    loss.loglog(k, table["gap"] / table["gap"][0], color=C["blue"])
    loss.set_ylabel(r"loss gap $\ell/\ell(0)$")
    drift.loglog(k, table["change"], color=C["blue"], label="observed")
    drift.loglog(k, table["law"], color=C["vermillion"], linestyle=DASHED, label=r"predicted by the $\eta^2$ law")
    drift.loglog(k, table["rounding"], color=C["grey"], linestyle=DOTTED, label="rounding to float32, at most")
    drift.loglog(k, table["law_error"], color=C["green"], label="difference")
    drift.set(ylabel=r"imbalance drift $\|D_l - D_l(0)\|_F$", ylim=(3e-7, 3e4))
    rate.loglog(k, 2 * objective.smoothness * table["lambda_max"], color=C["grey"], label=r"$2K\lambda_{\max}(T)$")
    rate.loglog(k, table["rate"], color=C["blue"], label=r"$\|\nabla L\|^2/\ell$")
    rate.loglog(
        k, table["pl"], color=C["vermillion"], linestyle=DASHED, label=r"local PL constant $\gamma\lambda_{\min}(T)$"
    )
    rate.set_ylabel("rate")
    step.loglog(k, table["safe_step"], color=C["blue"], label="largest safe step now")
    step.loglog(k, table["local_step"], color=C["green"], label=r"$1/K_t$")
    step.loglog(k, table["lr"], color=C["vermillion"], linestyle=DASHED, label="step taken")
    step.set_ylabel(r"step size $\eta$")
    for ax in axes.flat:
        ax.set(xlabel="iteration", xlim=(k[1], k[-1]))
        if ax is not loss:
            ax.legend(frameon=False, loc="upper left" if ax is drift else "best")
    lf.plots.save(figure, folder / "deep_linear_autoencoder_monitor.png", dpi=200)
figure

# %% [markdown]
# ## Steps that look at the curvature
#
# For the race everything is in float64, and the images are replaced by the triangular factor of their QR
# decomposition, which has the same loss up to a constant. The best constant step is searched on a grid of 0.01, and
# then 0.005 on both sides of the best for each target: it is known only after some thirty trainings.

# %%
R = np.linalg.qr(np.hstack([noisy.double().numpy(), clean.double().numpy()]))[1]
X, Y = (torch.tensor(R[:, part]) for part in (slice(64), slice(64, 128)))
race = lt.regression(X, Y, "half")
TARGETS = (1e-2, 1e-3, 1e-4, 1e-5)  # of the initial gap


def train(model, rule: str | None = None, lr: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Train to the last target by a rule, or a constant step; return the gaps, relative to the first, and steps."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    scheduler = lt.LocalSmoothnessLR(optimizer, model, race, rule) if rule else None
    gaps, steps = [race.gap(lt.network(model).product())], []
    while gaps[-1] > TARGETS[-1] * gaps[0]:
        steps.append(optimizer.param_groups[0]["lr"])
        optimizer.zero_grad()
        (0.5 * torch.sum((model(X) - Y) ** 2)).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        gaps.append(race.gap(lt.network(model).product()))
    return np.array(gaps) / gaps[0], np.array(steps)


def reached(gaps: np.ndarray) -> list[float]:
    """Return the number of steps to each target; inf where it was not reached."""
    return [float(np.argmax(gaps <= target)) if (gaps <= target).any() else np.inf for target in TARGETS]


start = lf.Network([W.numpy() for W in lt.network(make_model(torch.float64)).weights])
numpy_race = lf.LinearRegression(X.numpy(), Y.numpy())
descents: dict[float, np.ndarray] = {}
constants: dict[float, list[float]] = {}


def try_constants(sizes) -> None:
    """Descend by each of these constant steps; keep the relative gaps and the numbers of steps to the targets."""
    for eta in sizes:
        if (eta := round(float(eta), 3)) not in constants:
            run = lf.gradient_descent(numpy_race, start, step_size=eta, steps=1000, until=TARGETS[-1], reduce=False)
            descents[eta] = run.gap / run.gap[0]
            constants[eta] = reached(descents[eta])


try_constants(np.arange(0.5, 0.755, 0.01))
for i in range(len(TARGETS)):
    about = min(constants, key=lambda eta: constants[eta][i])
    try_constants((about - 0.005, about + 0.005))
best = [min(steps[i] for steps in constants.values()) for i in range(len(TARGETS))]
which = [min(constants, key=lambda eta: constants[eta][i]) for i in range(len(TARGETS))]

runs = {rule: train(make_model(torch.float64), rule) for rule in ("step", "curvature")}
designed = lt.designed_(make_model(torch.float64), race, algorithm="descent", steps=400, until=1e-4)
eta = lf.certify(race, lt.network(designed), algorithm="descent").step_size
runs["designed"] = train(designed, lr=eta)
runs["constant"] = descents[which[2]], np.full(len(descents[which[2]]) - 1, which[2])

print(f"\nsteps to {', '.join(f'{target:g}' for target in TARGETS)} of the initial gap")
rows = {
    f"best of {len(constants)} constant steps ({', '.join(f'{x:g}' for x in which)})": best,
    'LocalSmoothnessLR, "step"': reached(runs["step"][0]),
    'LocalSmoothnessLR, "curvature"': reached(runs["curvature"][0]),
    f"designed start, its certified step {eta:.3f}": reached(runs["designed"][0]),
}
for name, steps in rows.items():
    print(f"  {name:<62}", *(f"{x:5g}" for x in steps))

# %%
with lf.plots.style("light", 8):
    figure, (left, right) = lf.plots.figure("text", aspect=0.72, ncols=2)
    shown = {
        "constant": (f"best constant to $10^{{-4}}$, {which[2]:g}", "vermillion"),
        "step": (r"$1/K_t$, smoothness $K$", "green"),
        "curvature": (r"$1/K_t$, Hessian", "blue"),
        "designed": ("designed start, certified step", "purple"),
    }
    for name, (label, colour) in shown.items():
        gaps, steps = runs[name]
        left.semilogy(gaps, color=C[colour], label=label)
        right.semilogy(steps, color=C[colour], linestyle="none", marker=".", markersize=2, markeredgewidth=0)
    left.set(xlabel="iteration", ylabel=r"loss gap $\ell/\ell(0)$", ylim=(TARGETS[-1] / 2, 2))
    left.legend(frameon=False)
    right.set(xlabel="iteration", ylabel=r"step size $\eta_t$")
    lf.plots.save(figure, folder / "deep_linear_autoencoder_steps.png", dpi=200)
figure

# %% [markdown]
# ## A start improved by its own certificate
#
# `certified_rate` is differentiable: sixty steps of gradient ascent, at constant `Σ‖W_l‖²`, from a start near a
# homogeneous imbalance. A step is halved until it raises the rate, which has kinks.

# %%
base = lf.init.imbalanced(WIDTHS, [0.3, -0.3], 0.01 * np.eye(64), rng=0, like=race.minimizer)
torch.manual_seed(0)
weights = [(W + 0.02 * torch.randn(W.shape, dtype=W.dtype)).requires_grad_() for W in base.weights]
first = lf.certify(race, [W.detach() for W in weights])
size, move = sum(W.detach().square().sum() for W in weights), 0.1
for _ in range(60):
    rate = lt.certified_rate(race, weights)
    slopes = torch.autograd.grad(rate, weights)
    length = sum(g.square().sum() for g in slopes).sqrt()
    with torch.no_grad():
        while move > 1e-6:
            moved = [W + move * g / length for W, g in zip(weights, slopes, strict=True)]
            shrink = (size / sum(W.square().sum() for W in moved)).sqrt()
            moved = [shrink * W for W in moved]
            if lt.certified_rate(race, moved) > rate:
                break
            move /= 2
    weights, move = [W.requires_grad_() for W in moved], 1.5 * move
last = lf.certify(race, [W.detach() for W in weights])
print(f"\ncertified rate by gradient ascent on it: {first.rate:.4g} → {last.rate:.4g}")

# %% [markdown]
# ## What was claimed, checked

# %%
assert (table["law_error"][1:] <= table["rounding"][1:]).all()
assert (table["law"][1:] > 100 * table["law_error"][1:]).all()  # it says something: three digits at least
assert (table["rate"] >= table["pl"]).all()
assert all(a <= b for a, b in zip(rows['LocalSmoothnessLR, "curvature"'], best, strict=True))
assert not monitor.notes
assert last.rate > 5 * first.rate > 0
print(f"figures in {folder}")
