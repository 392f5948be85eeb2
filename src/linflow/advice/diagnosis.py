"""What limits a start and what would help, in words. Every number is computed from the input."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np

from linflow import bounds
from linflow._support.arrays import EPS, to_numpy
from linflow._support.fractions import spelled
from linflow._support.words import percent, plural, verb_for
from linflow.advice.finding import Finding, times
from linflow.advice.proof_findings import proved
from linflow.advice.step_findings import counted, descent_of, fewest, on_steps, rate_in_steps, step
from linflow.certificates import Certificate, certify
from linflow.certificates.curves import LimitCurve
from linflow.dynamics import Trajectory
from linflow.geometry.imbalance import imbalance_spectrum
from linflow.model.network import Network
from linflow.verified import DescentEnclosure, Enclosure

WORTH = 2.0
"""A change is mentioned if it multiplies the certified rate by at least this factor."""
WIDER = (2, 4, 8)
"""Factors to try on the hidden widths."""
RESCALED = (0.25, 0.5, 2.0, 4.0)
"""Factors to try on every layer."""
SLOW = 0.1
"""A run is on a plateau while its rate is below this fraction of its mean rate."""
ILL = 10.0
"""Data are called ill-conditioned if K/μ is at least this."""
LARGEST = 4e6
"""Other starts are tried only if no layer has more entries than this. Larger ones would take minutes."""

FAR = 1e6
"""A certified time is not advice if it is more than this many times the time that one layer would take."""

Redraw = Callable[[int], Network]
"""A function that draws the start again, with the same seed and with hidden layers wider by the given factor."""


def findings(
    cert: Certificate,
    run: Trajectory | None,
    until: float,
    redraw: Redraw | None = None,
    proof: Enclosure | DescentEnclosure | None = None,
) -> tuple[Finding, ...]:
    """Return all findings about a start and its run, the most important ones first.

    Args:
        cert: the certificate of the start.
        run: the run from the start, or None.
        until: fraction of the initial loss gap at which times are compared.
        redraw: a function that draws the start with wider hidden layers; None if the weights were given.
        proof: the verified run from the start, or None.

    Example:
        >>> import numpy as np, linflow as lf
        >>> from linflow.advice.diagnosis import findings
        >>> f = lf.MatrixFactorization(np.ones((3, 2)))
        >>> cert = lf.certify(f, lf.init.gaussian((3, 1, 2), rng=0))
        >>> [finding.text for finding in findings(cert, None, 1e-6) if finding.kind == "narrow"]
        ['A hidden layer of 1 unit is narrower than min(n, m) = 2: T is singular at all weights. Widen it to 2.']
    """
    if not cert.optimizer.plain:
        raise ValueError(
            f"the findings are about the plain flow and descent, and this certificate is for {cert.optimizer}; print "
            "the certificate, and check a run against it."
        )
    descent = descent_of(cert)
    parts = (
        proved(proof, cert, until),
        _rate(cert, run, until),
        _hold(cert),
        _spread(cert),
        _narrow(cert),
        _width(cert, descent, until, redraw),
        _rescale(cert, descent, until),
        _data(cert),
        _rank(cert),
        _plateau(run),
        step(cert, descent, until),
        _design(cert, descent, until),
        _published(cert),
    )
    return tuple(finding for part in parts for finding in part)


def _rate(cert: Certificate, run: Trajectory | None, until: float) -> Iterator[Finding]:
    best = cert.best
    if best is None:
        yield Finding("rate", "Nothing is certified for this start; the certificate says why for each bound.")
        return
    if cert.algorithm == "descent":
        yield rate_in_steps(cert, best.name, run, until)
        return
    sure = cert.time_to(until)
    numbers = {"rate": cert.rate}
    if not math.isfinite(sure):
        text = f"A bound is certified ({best.name}), but no time to {spelled(until)}."
        if isinstance(best.curve, LimitCurve):
            limit, speed = best.curve.limit, best.curve.speed
            text = (
                f"The loss gap is guaranteed to fall to {limit:.4g}, {percent(limit / best.gap)} of its initial "
                f"value, at rate {speed:.4g} ({best.name}); nothing is certified below that."
            )
            numbers |= {"limit": limit, "rate_to_limit": speed}
        yield Finding("rate", text, numbers)
        return
    numbers["certified_time"] = sure
    text = f"The flow is guaranteed to reach {spelled(until)} of the initial loss gap by t = {sure:.4g} ({best.name})"
    needed = math.nan if run is None else run.time_to(until)
    if math.isfinite(needed) and needed > 0:
        text += f"; the run did so at t = {needed:.4g}. The guaranteed time is {times(sure / needed)} times as long."
        numbers |= {"observed_time": needed, "time_ratio": sure / needed}
    elif run is not None:
        left = float(run.gap[-1]) / float(run.gap[0])
        text += f"; the run ended before that, at {float(run.t[-1]):.4g}, with {left:.3g} of the gap left."
        numbers["left"] = left
    else:
        text += "."
    yield Finding("rate", text, numbers)


def _hold(cert: Certificate) -> Iterator[Finding]:
    """Yield a finding on where the certified rate comes from, and how it compares with the rate at the start."""
    setting, net = cert.setting, cert.setting.network
    gamma = setting.gamma
    if net.depth < 2 or gamma == 0 or cert.algorithm != "flow" or setting.too_narrow:
        return
    least = setting.tangent.eigenvalue("least")
    now = gamma * float(least.value)
    if now <= gamma * 2 * least.error:
        text = "At the start T is singular to rounding: the loss may stand still in some direction."
        yield Finding("hold", text, {"at_start": 0.0})
        return
    alone = gamma * float(bounds.best(net, sigma_min=0.0).value)
    safe = setting.margin
    both = gamma * float(bounds.best(net, sigma_min=safe).value)
    text = (
        f"At the start the loss falls at a rate of at least {now:.3g} (γ λ_min(T)); {percent(cert.rate / now)} of it "
        "is guaranteed for the whole run."
    )
    if safe > 0:
        text += (
            f" The imbalance alone gives {alone:.3g}; with the margin {safe:.3g} of the product it gives {both:.3g}."
        )
    elif setting.objective.strong_convexity > 0:
        text += f" The start is too far from the optimum for a margin; the imbalance alone gives {alone:.3g}."
    numbers = {"at_start": now, "certified": cert.rate, "imbalance_alone": alone, "with_margin": both, "margin": safe}
    if net.depth == 2:
        s = imbalance_spectrum(net)
        spread = s.positive_spread + s.negative_spread
        if spread < 64 * EPS * max(net.sizes) ** 2:  # the spread of balanced weights is only rounding
            spread = 0.0
        text += f" The imbalance of the layers has the spectral gap {s.spectral_gap:.3g} and the spread {spread:.3g}."
        numbers |= {"spectral_gap": s.spectral_gap, "gap": s.spectral_gap, "spread": spread}
    yield Finding("hold", text, numbers)


def _spread(cert: Certificate) -> Iterator[Finding]:
    """Yield a finding if the spread cancels the gain from the margin.

    It needs two layers, for which one formula contains both.
    """
    setting, net = cert.setting, cert.setting.network
    if net.depth != 2 or setting.gamma == 0 or cert.algorithm != "flow":
        return
    safe = setting.margin / net.scale
    if safe == 0:
        return  # the bound is then the spectral gap, for any spread
    s, factor = imbalance_spectrum(net), setting.gamma * net.scale**2
    with_spread = setting.gamma * float(bounds.best(net, sigma_min=safe * net.scale).value)
    without = factor * _without_spread(s.spectral_gap, net.shape, safe)
    if without < WORTH * with_spread:
        return
    spread = s.positive_spread + s.negative_spread
    yield Finding(
        "spread",
        f"The rate is held back by the spread of the imbalance: spectral gap {s.spectral_gap:.3g}, spread "
        f"{spread:.3g}. With the same spectral gap and margin but no spread, {without:.3g} would be certified "
        f"instead of {with_spread:.3g}.",
        {
            "spectral_gap": s.spectral_gap,
            "gap": s.spectral_gap,
            "spread": spread,
            "without_spread": without,
            "with_spread": with_spread,
        },
    )


def _without_spread(gap: float, shape: tuple[int, int], sigma: float) -> float:
    """Return `½ Σ (−Δ± + sqrt((Δ± + Δ)² + 4σ²))` (Min et al. 2021, Prop. 1) at `Δ± = 0`; σ_k = 0 past min(n, m)."""
    n, m = shape
    return sum(math.hypot(gap, 2 * (sigma if k == min(n, m) else 0.0)) for k in (n, m)) / 2


def _narrow(cert: Certificate) -> Iterator[Finding]:
    net = cert.setting.network
    least = min(net.shape)
    narrow = min(net.widths[1:-1], default=least)
    if narrow < least:
        yield Finding(
            "narrow",
            f"A hidden layer of {narrow} unit{'s' * (narrow != 1)} is narrower than min(n, m) = {least}: T is "
            f"singular at all weights. Widen it to {least}.",
            {"width": float(narrow), "needed": float(least)},
        )


def _soon(cert: Certificate, until: float) -> float:
    """Return one over the certified time (steps, for a descent), or 0 if there is none or it is too long.

    It can compare exponential rates as well as slower decays.
    """
    t = cert.time_to(until) if cert.algorithm == "flow" else cert.steps_to(until)
    gamma = cert.objective.pl_constant
    if cert.algorithm == "flow" and gamma > 0 and t * gamma > FAR * math.log(1 / until):
        return 0.0
    return 1 / t if t > 0 else math.inf


def _gain(new: Certificate, old: Certificate, until: float) -> str:
    if new.algorithm == "descent":
        then, now = new.steps_to(until), old.steps_to(until)
        compared = f"not {now:,.0f}" if math.isfinite(now) else "where no number of steps is certified now"
        return f"would certify {spelled(until)} of the gap in {counted(then)} of {new.step_size:.3g}, {compared}"
    if math.isinf(old.time_to(until)):
        by = f"{new.time_to(until):.4g}"
        return f"would certify {spelled(until)} of the gap by t = {by}, where nothing is certified now"
    if old.rate > 0:
        return f"would certify the rate {new.rate:.3g}, {times(new.rate / old.rate)} times the present one"
    return f"would certify {spelled(until)} of the gap by t = {new.time_to(until):.4g}, not {old.time_to(until):.4g}"


def _better(new: Certificate, old: Certificate, until: float) -> bool:
    if old.algorithm == "flow" and old.rate > 0:
        return _soon(new, until) > 0 and new.rate >= WORTH * old.rate
    return _soon(new, until) > 0 and _soon(new, until) >= WORTH * _soon(old, until)


def _width(cert: Certificate, descent: Certificate, until: float, redraw: Redraw | None) -> Iterator[Finding]:
    """Yield a finding on the smallest tried width at which the same draw is guaranteed to be twice as fast."""
    if redraw is None or cert.schedule is not None or cert.start.depth < 2:
        return
    now = cert if cert.algorithm == "flow" else descent
    tried = 1
    for factor in WIDER:
        widths = (cert.start.widths[0], *(factor * h for h in cert.start.widths[1:-1]), cert.start.widths[-1])
        if max(a * b for a, b in itertools.pairwise(widths)) > LARGEST:
            break
        tried = factor
        start = redraw(factor)
        wide = certify(cert.objective, start, algorithm=cert.algorithm)
        if _better(wide, now, until):
            hidden = ", ".join(map(str, widths[1:-1]))
            head = "A hidden width of" if len(widths) == 3 else "Hidden widths of"
            text = f"{head} {hidden} {_gain(wide, now, until)} (same initialisation and seed)."
            more, steps = _also(wide, descent, start, until)
            yield Finding("width", text + more, {"factor": float(factor), "rate": wide.rate, **steps})
            return
    if tried > 1:
        text = f"Widening does not help: up to {tried} times as wide, the same draw is not {WORTH:g} times as fast."
        yield Finding("width", text, {"tried": float(tried)})


def _also(new: Certificate, descent: Certificate, start: Network, until: float) -> tuple[str, dict[str, float]]:
    """Return how another start changes the steps of descent. For a certificate of descent, the text is empty.

    Its finding has already stated the steps.
    """
    if new.algorithm == "descent":
        return "", {"steps": float(new.steps_to(until))}
    return on_steps(descent_of(new, start), descent, until)


def _rescale(cert: Certificate, descent: Certificate, until: float) -> Iterator[Finding]:
    """Yield a finding on the best of the factors tried on every layer, if it helps enough."""
    if cert.schedule is not None or cert.start.depth < 2 or not cert.gap > 0:
        return
    net, best = cert.start, None
    now = cert if cert.algorithm == "flow" else descent
    if max(a * b for a, b in itertools.pairwise(net.widths)) > LARGEST:
        return
    for factor in RESCALED:
        start = Network([factor * W for W in net.weights], net.scale)
        new = certify(cert.objective, start, algorithm=cert.algorithm)
        if _better(new, now, until) and (best is None or _soon(new, until) > _soon(best[1], until)):
            best = factor, new
    if best is not None:
        factor, new = best
        then, before = f"{new.gap:.3g}", f"{cert.gap:.3g}"
        first = f"would stay {before}" if then == before else f"would be {then}, not {before}"
        more, steps = _also(new, descent, new.start, until)
        text = f"Multiplying every layer by {factor:g} {_gain(new, now, until)}; the initial loss gap {first}.{more}"
        yield Finding("rescale", text, {"factor": factor, "rate": new.rate, "gap": new.gap, **steps})


def _data(cert: Certificate) -> Iterator[Finding]:
    seen = cert.setting.objective
    gamma, K, mu = seen.pl_constant, seen.smoothness, seen.strong_convexity
    if not (gamma > 0 and mu > 0 and math.isfinite(K)) or K / mu < ILL:
        return
    text = f"The data are ill-conditioned, K/μ = {K / mu:.3g}: even one layer has only the rate γ = {gamma:.3g}."
    yield Finding("data", f"{text} Whitened inputs have K/μ = 1.", {"condition": K / mu, "gamma": gamma})


def _rank(cert: Certificate) -> Iterator[Finding]:
    seen = cert.setting.objective
    if seen.shape != cert.objective.shape:
        (n, m), (r, s) = cert.objective.shape, seen.shape
        yield Finding(
            "rank",
            f"The data are rank-deficient: the loss sees only an {r}×{s} part of the {n}×{m} product. The other "
            "directions never move, and the certificate covers only what the loss sees.",
            {"seen": float(r * s), "entries": float(n * m)},
        )


def _plateau(run: Trajectory | None) -> Iterator[Finding]:
    """Yield a finding if the loss hardly fell for a while and then fell again."""
    if run is None:
        return
    t, gap, rate = (to_numpy(x) for x in (run.t, run.gap, run.rate))
    if len(t) < 4 or not t[-1] > 0 or not 0 < gap[-1] < gap[0]:
        return
    mean = math.log(gap[0] / gap[-1]) / float(t[-1])
    grid = np.linspace(0, t[-1], 400)
    slow = np.interp(grid, t, rate) < SLOW * mean
    later = np.flatnonzero(~slow)
    share = float(np.sum(slow[: later[-1]])) / len(grid) if later.size else 0.0
    if share < SLOW:
        return
    text = (
        f"The run has a plateau: for {percent(share)} of its time the loss falls at less than a tenth of its mean "
        f"rate ({mean:.3g}), and then falls again."
    )
    first, last = run.start.magnitude(), run.final.magnitude()
    if first < SLOW * last:
        text += (
            f" It starts near the saddle at zero: the norms of the layers multiply to {first:.3g}, later {last:.3g}."
        )
    yield Finding("plateau", text, {"share": share, "mean_rate": mean})


def _design(cert: Certificate, descent: Certificate, until: float) -> Iterator[Finding]:
    """Yield a finding if a start designed for the same rate (few steps, for a descent) is much better."""
    from linflow.advice.design import design  # noqa: PLC0415 - seldom needed

    if cert.start.depth < 2 or cert.schedule is not None:
        return
    if cert.algorithm == "descent":
        yield from fewest(descent, until, WORTH)
        return
    if not cert.rate > 0:
        return
    try:
        made = design(cert.objective, cert.start.widths, rate=cert.rate, scale=cert.start.scale, rng=0)
    except ValueError:
        return
    size, least = (sum(s * s for s in net.sizes) for net in (cert.start, made.start))
    if size < WORTH * least:
        return
    text = "A start designed for this rate (linflow design) is smaller: its squared weights sum to "
    text += f"{least:.3g}, not {size:.3g}."
    more, steps = _also(made.certificate, descent, made.start, until)
    yield Finding("design", text + more, {"squares": size, "least_squares": least, **steps})


def _published(cert: Certificate) -> Iterator[Finding]:
    if not cert.prior:
        return
    apply = [g.name for g in cert.prior if g.applies]
    if apply:
        count, verb = len(apply), verb_for(len(apply), "apply")
        text = f"Of {plural(len(cert.prior), 'published result')}, {count} {verb} to this start: {', '.join(apply)}."
    else:
        text = (
            f"None of {plural(len(cert.prior), 'published result')} applies to this start; the certificate says why."
        )
    yield Finding("published", text, {"apply": float(len(apply)), "known": float(len(cert.prior))})
