"""A deep linear denoising autoencoder on the digits: a monitor of its training, and three ways to train it faster.

    python examples/deep_linear_autoencoder.py [FOLDER]

Needs torch and scikit-learn. Writes two figures and the monitor's table into FOLDER (the folder of this file by
default), and prints what they show.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

import linflow as lf
import linflow.torch as lt

WIDTHS, NOISE, SEED = (64, 96, 96, 64), 0.4, 0
TARGETS = (1e-2, 1e-3, 1e-4, 1e-5)  # of the first gap
STEPS, TRIALS = 2000, 1000


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Return noisy and clean images, centred, the clean ones of spectral norm 1, the noise of Gram `NOISE² I`."""
    clean = torch.tensor(load_digits().data, dtype=torch.float32)
    clean -= clean.mean(0)
    clean /= torch.linalg.matrix_norm(clean, 2)
    generator = torch.Generator().manual_seed(SEED)
    return clean + NOISE / len(clean) ** 0.5 * torch.randn(clean.shape, generator=generator), clean


def model() -> torch.nn.Sequential:
    """Return the autoencoder with the usual start of `nn.Linear`."""
    torch.manual_seed(SEED)
    return torch.nn.Sequential(*(torch.nn.Linear(a, b, bias=False) for a, b in pairwise(WIDTHS)))


def half_square(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return `½‖outputs − targets‖²`, the loss of the theory."""
    return 0.5 * torch.sum((outputs - targets) ** 2)


def loop(net, X, Y, optimizer) -> float:
    """Train, and return the seconds."""
    began = time.perf_counter()
    for _ in range(STEPS):
        optimizer.zero_grad()
        half_square(net(X), Y).backward()
        optimizer.step()
    return time.perf_counter() - began


def monitored(X, Y, objective, lr: float, **options) -> lt.Monitor:
    """Train with a constant step and a monitor."""
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    with lt.Monitor(net, optimizer, objective, **options) as monitor:
        loop(net, X, Y, optimizer)
    return monitor


@dataclass
class Trained:
    """A run: the loss gap before and after every step, and the steps."""

    gaps: np.ndarray
    rates: np.ndarray

    def steps(self, target: float) -> float:
        """Return the steps to a fraction of the first gap; inf if it was not reached."""
        hit = np.flatnonzero(self.gaps <= target * self.gaps[0])
        return float(hit[0]) if hit.size else np.inf


def train(net, X, Y, objective, *, lr: float = 1.0, rule: str | None = None) -> Trained:
    """Train with a constant step, or a rule of `LocalSmoothnessLR`, to the last target."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    scheduler = None if rule is None else lt.LocalSmoothnessLR(optimizer, net, objective, rule)
    gaps, rates = [objective.gap(lt.network(net).product())], []
    for _ in range(TRIALS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.zero_grad()
        half_square(net(X), Y).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        finite = all(bool(torch.isfinite(p).all()) for p in net.parameters())
        gaps.append(objective.gap(lt.network(net).product()) if finite else np.inf)
        if not gaps[-1] < 10 * gaps[0] or gaps[-1] <= TARGETS[-1] * gaps[0]:
            break
    return Trained(np.array(gaps), np.array(rates))


def improve(objective, net, rounds: int = 60) -> tuple[list[torch.Tensor], list[float]]:
    """Climb the certified rate at constant `Σ‖W_l‖²`, from the weights of a network; return weights and rates."""
    weights = [W.clone().requires_grad_() for W in net.weights]
    size = sum(float(torch.sum(W.detach() ** 2)) for W in weights)
    rates, step = [], 0.1
    for _ in range(rounds):
        rate = lt.certified_rate(objective, weights)
        rates.append(rate.item())
        slopes = torch.autograd.grad(rate, weights)
        length = sum(float(torch.sum(g**2)) for g in slopes) ** 0.5
        while True:  # halve the step until the rate rises
            with torch.no_grad():
                moved = [W + step * g / length for W, g in zip(weights, slopes, strict=True)]
                shrink = (size / sum(float(torch.sum(W**2)) for W in moved)) ** 0.5
                moved = [shrink * W for W in moved]
                better = lt.certified_rate(objective, moved).item() > rates[-1]
            if better or step < 1e-6:
                break
            step /= 2
        if not better:
            break
        weights, step = [W.requires_grad_() for W in moved], 1.5 * step
    return weights, rates


def draw_monitor(table: dict[str, np.ndarray], smoothness: float, path: Path) -> None:
    """Draw what the monitor logged: the loss, the imbalance and its law, rates and the operator T, steps."""
    k, c, dashes = table["step"], lf.plots.COLOURS, (0, (4, 2))
    with lf.plots.style("light", 8):
        figure, axes = lf.plots.figure("text", aspect=0.62, nrows=2, ncols=2)
        (loss, drift), (rate, step) = axes
        loss.semilogy(k, table["gap"] / table["gap"][0], color=c["blue"])
        loss.set(ylabel=r"loss gap $\ell/\ell(0)$")
        drift.semilogy(k, table["change"], color=c["blue"], label="observed")
        drift.semilogy(k, table["law"], color=c["vermillion"], linestyle=dashes, label="by the law")
        drift.semilogy(k, table["law_error"], color=c["green"], label="difference")
        drift.semilogy(k, table["rounding"], color=c["grey"], linestyle=":", label="rounding, at most")
        drift.set(ylabel="change of the imbalances")
        rate.semilogy(k, 2 * smoothness * table["lambda_max"], color=c["grey"], label=r"$2K\lambda_{\max}(T)$")
        rate.semilogy(k, table["rate"], color=c["blue"], label=r"$\|\nabla L\|^2/\ell$")
        rate.semilogy(k, table["pl"], color=c["vermillion"], linestyle=dashes, label=r"$\gamma\lambda_{\min}(T)$")
        rate.set(ylabel="rate")
        step.semilogy(k, table["safe_step"], color=c["blue"], label="largest safe now")
        step.semilogy(k, table["local_step"], color=c["green"], label=r"$1/K_t$")
        step.semilogy(k[1:], table["lr"][1:], color=c["vermillion"], label="taken")
        step.set(ylabel="step size")
        for ax in axes.flat:
            ax.set_xlabel("step")
            if ax is not loss:
                ax.legend(frameon=False)
        lf.plots.save(figure, path, dpi=200)


def draw_schedules(runs: dict[str, Trained], path: Path) -> None:
    """Draw the gaps of runs, and the steps they took."""
    with lf.plots.style("light", 8):
        figure, (left, right) = lf.plots.figure("text", aspect=0.72, ncols=2)
        for (name, run), colour in zip(runs.items(), ("blue", "green", "vermillion", "purple"), strict=True):
            left.semilogy(run.gaps / run.gaps[0], color=lf.plots.COLOURS[colour], label=name)
            right.semilogy(run.rates, color=lf.plots.COLOURS[colour], linewidth=0.7)
        left.set(xlabel="step", ylabel=r"loss gap $\ell/\ell(0)$", ylim=(TARGETS[-1] / 2, 2))
        left.legend(frameon=False)
        right.set(xlabel="step", ylabel="step size")
        lf.plots.save(figure, path, dpi=200)


def main(folder: Path) -> None:
    """Run all of it."""
    X, Y = data()
    f = lt.regression(X, Y, "half")
    print(f"{f}, widths {'×'.join(map(str, WIDTHS))}\n")

    usual = monitored(X, Y, f, 0.5)
    print(f"by default: {usual!r}")
    monitor = monitored(X, Y, f, 0.5, exact=True, budget=None, csv=folder / "deep_linear_autoencoder.csv")
    print(f"law at every step, every row: {monitor!r}")
    table = monitor.table()
    draw_monitor(table, f.smoothness, folder / "deep_linear_autoencoder_monitor.png")
    print(
        f"drift {table['drift'][-1]:.4g}; law and observation differ by at most {table['law_error'][1:].max():.2g}, "
        f"rounding to float32 may make it {table['rounding'][-1]:.2g}"
    )
    print(f"rate over γ λ_min(T): at least {np.nanmin(table['rate'] / table['pl']):.3g}")

    print(f"\nsteps to {', '.join(f'{t:g}' for t in TARGETS)} of the first gap")
    constant = {
        lr: train(model(), X, Y, f, lr=lr) for lr in (0.5, 0.55, 0.6, 0.63, 0.64, 0.65, 0.66, 0.67, 0.68, 0.7)
    }
    rules = {rule: train(model(), X, Y, f, rule=rule) for rule in ("step", "curvature")}
    start = lt.designed_(model(), f, algorithm="descent", steps=400, fraction=1e-4)
    eta = lf.certify(f, lt.network(start), algorithm="descent").step_size
    designed = train(start, X, Y, f, lr=eta)
    runs = {f"constant {lr:g}": run for lr, run in constant.items()}
    runs |= {"1/K_t": rules["step"], '1/K_t, "curvature"': rules["curvature"], f"designed start, {eta:.3f}": designed}
    for name, run in runs.items():
        print(f"  {name:<22}", *(f"{run.steps(t):6g}" for t in TARGETS))
    best = {t: min(run.steps(t) for run in constant.values()) for t in TARGETS}
    print(f"  {'best constant':<22}", *(f"{best[t]:6g}" for t in TARGETS))
    chosen = min(constant, key=lambda lr: constant[lr].steps(1e-4))
    shown = {
        r"$1/K_t$": rules["step"],
        r"$1/K_t$, curvature": rules["curvature"],
        f"best constant, {chosen:g}": constant[chosen],
        "designed start": designed,
    }
    draw_schedules(shown, folder / "deep_linear_autoencoder_steps.png")

    base = lf.init.imbalanced(WIDTHS, [0.3, -0.3], 0.01 * np.eye(64), rng=SEED, like=f.minimizer)
    torch.manual_seed(SEED)
    rough = lf.Network([W + 0.02 * torch.randn(W.shape, dtype=W.dtype) for W in base.weights])
    weights, rates = improve(f, rough)
    print(f"\ngradient ascent on the certified rate at constant Σ‖W‖²: {rates[0]:.4g} → {rates[-1]:.4g}")
    print(f"certify: {lf.certify(f, rough).rate:.4g} → {lf.certify(f, weights).rate:.4g}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
