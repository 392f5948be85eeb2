"""What a certificate tells of a descent with a schedule, and why it promises nothing: the numbers are those meant."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

import linflow as lf
from linflow._support.arrays import EPS
from linflow.certificates import scheduled_descent as scheduled
from linflow.certificates.setting import NO_MARGIN, NO_SMOOTHNESS, Setting
from linflow.certificates.step_bounds import NO_CAPS
from tests.certificates.test_reasons import NEAR, NET, NO_GAMMA, user

S = lf.schedules


def of_schedule(f, net, schedule):
    return scheduled.schedule_guarantees(Setting(f, net, "descent"), schedule)


def test_a_schedule_that_is_known_is_certified_and_tells_its_numbers():
    for schedule, name in (
        (S.xu2025(NEAR, NET, first=1e-3), "Xu et al. 2025, its schedule"),
        (S.local_smoothness(), "steps 1/K_t"),
    ):
        ours, *others = of_schedule(NEAR, NET, schedule)
        assert ours.applies and ours.name == name and ours.citation == ("xu2025", "linflow")
        assert len(others) == 3 and all("it is for a constant step" in g.reason for g in others)
        rule, why = scheduled._rule(schedule)
        held = scheduled.ScheduleBounds(Setting(NEAR, NET, "descent"), rule).held()
        assert why == "" and ours.facts.get("η_0") == (1e-3 if "Xu" in name else None)
        assert ours.facts["K_t"] == pytest.approx(1 / held.roots[0], rel=1e-12)
        assert ours.facts["final K_t"] == pytest.approx(1 / held.roots[-1], rel=1e-12)
        assert held.roots[0] < held.roots[-1] and held.alphas.min() < held.alphas.max()
        assert ours.facts["largest step"] == held.largest and ours.facts["α"] == held.alphas.min()
        assert ours.facts["factor"] == held.curve.factor >= ours.facts["final factor"] == held.curve.final_factor
        assert ours.facts["drift cap"] == held.drift


def test_rules_are_those_of_the_schedules():
    rule = scheduled._rule(S.xu2025(NEAR, NET, first=1e-3))[0]
    assert (rule.first, rule.printed, rule.along) == (1e-3, True, False)
    for form, printed, along in (("printed", True, False), ("step", False, True)):
        rule = scheduled._rule(S.local_smoothness(form=form))[0]
        assert (rule.first, rule.printed, rule.along) == (math.inf, printed, along)
    for schedule, words in (
        (S.local_smoothness(form="curvature"), "nothing is proved in advance for steps by the curvature"),
        (S.backtracking(), "nothing is proved in advance for a backtracking search"),
        (SimpleNamespace(step=lambda iterate: 1.0), "nothing is known about the schedule"),
    ):
        ours = of_schedule(NEAR, NET, schedule)[0]
        assert words in ours.reason and not ours.facts and ours.name == "Xu et al. 2025, its schedule"
    with pytest.raises(TypeError, match=r"a rule of linflow.schedules is needed"):
        of_schedule(NEAR, NET, 0.1)


def test_what_a_schedule_is_proved_for_is_asked_for_in_turn():
    local = S.local_smoothness()

    def why(f, net=NET):
        return of_schedule(f, net, local)[0].reason

    three = lf.Network([np.eye(2, 3), np.eye(3), np.eye(3)])
    assert why(NEAR, three) == "the network has 3 layers, not 2"
    assert why(NEAR, lf.Network([np.eye(2, 3)])) == "the network has 1 layer, not 2"
    assert why(user({"strong_convexity": 1.0})) == NO_SMOOTHNESS
    assert why(user({"smoothness": 1.0})).startswith("no strong convexity μ is known")
    slow = user({"strong_convexity": 0.5, "smoothness": 1.0, "minimizer": 1.1 * np.eye(2, 3)}, 1.1 * np.eye(2, 3))
    assert slow.pl_constant == 1.0 and why(slow) == ""
    loss = lf.LogisticLoss([[3.0, 0.0], [0.0, -4.0]], [1, -1])
    assert "drift without end" in why(loss, lf.init.gaussian((2, 3, 1), rng=0))
    narrow = lf.Network([np.ones((2, 1)), np.ones((1, 3))])
    assert "the hidden width 1 is below" in why(NEAR, narrow)
    assert "rescale" in why(lf.MatrixFactorization(1e200 * np.eye(2, 3)))
    assert NO_GAMMA.startswith("no pl_constant")


def test_without_a_cap_on_the_drift_the_way_out_is_told():
    dominated = user({"pl_constant": 1.0, "smoothness": 1.0, "minimizer": np.zeros((2, 3))}, -9.0 * np.eye(2, 3))
    assert scheduled._no_cap(Setting(dominated, NET), scheduled.Rule(1.0, True)) == NO_CAPS
    for first, words in (
        (1.0, "take a smaller first step in xu2025, start nearer"),
        (math.inf, "take a smaller first step in xu2025; start nearer"),
    ):
        assert words in scheduled._no_cap(Setting(NEAR, NET), scheduled.Rule(first, True))
    far = lf.MatrixFactorization(-5 * np.eye(2, 3))
    ours = of_schedule(far, NET, S.local_smoothness())[0]
    assert not ours.applies and ours.reason


def test_a_schedule_without_a_rate_is_told_why():
    head = "the loss never rises, but no rate is certified: "
    setting, held = Setting(NEAR, NET), SimpleNamespace(drift=0.25, alphas=np.array([0.0, 0.5]))
    assert scheduled._no_rate(setting, held) == head + (
        f"the bound on λ_min(T) is 0 when imbalances may drift by 0.25 and ‖W(0) − W*‖_F = {0.2 * math.sqrt(2):.3g}; "
        "start nearer, or imbalance the start more"
    )
    held.alphas = np.array([0.1, 0.5])
    assert scheduled._no_rate(setting, held) == head + "the decrease it promises per step is below rounding"
    held.alphas = np.array([0.0, 0.5])
    dominated = Setting(user({"pl_constant": 1.0, "smoothness": 1.0}), NET)
    assert scheduled._no_rate(dominated, held) == head + NO_MARGIN
    narrow = lf.Network([np.ones((2, 1)), np.ones((1, 3))])
    assert "the hidden width 1 is below" in scheduled._no_rate(Setting(NEAR, narrow), held)


def test_the_part_that_the_objective_does_not_see_is_counted(rng):
    """`‖W_l‖_F²` of all the weights less that of the part that is seen, and its rounding."""
    X = np.vstack([np.eye(2, 3), np.zeros((2, 3))])
    f, net = (
        lf.LinearRegression(X, np.ones((4, 2))),
        lf.Network([rng.standard_normal((3, 4)), rng.standard_normal((4, 2))]),
    )
    setting = Setting(f, net)
    found = scheduled.ScheduleBounds(setting, scheduled.Rule(1e-3, True))
    assert setting.network.widths == (2, 4, 2) and not found.whole
    W1, W2 = net.weights
    expected = [np.sum(W1[2] ** 2) + 64 * EPS * np.sum(W1**2), 64 * EPS * np.sum(W2**2)]
    assert list(found.unseen) == pytest.approx(expected, rel=1e-9, abs=0)
    plain = scheduled.ScheduleBounds(Setting(NEAR, NET), scheduled.Rule(1e-3, True))
    assert plain.whole and list(plain.unseen) == pytest.approx([64 * EPS * 2, 64 * EPS * 3], rel=1e-12, abs=0)
