"""The HTML that notebooks show: well formed, escaped, cheap, and never an exception."""

import dataclasses
import xml.etree.ElementTree as ET

import numpy as np
import pytest

import linflow as lf
from linflow._support import html
from linflow.model import network


def parsed(shown):
    """The HTML as XML, which holds it to closed tags and escaped text; no resources or style sheets."""
    text = shown._repr_html_()
    assert not text.startswith("<pre>"), "the fallback was shown"
    root = ET.fromstring(text)
    tags = {node.tag for node in root.iter()}
    assert not tags & {"style", "script", "link", "img", "iframe"}
    assert "://" not in text and "url(" not in text
    return root


def words(root):
    return " ".join(root.itertext())


def objective_and_start():
    return lf.MatrixFactorization(np.arange(6.0).reshape(3, 2) / 4), lf.init.gaussian((3, 5, 2), rng=0)


@pytest.mark.parametrize("widths", [(1, 1), (3, 2), (1, 1, 1), (3, 5, 2), (2,) * 31])
def test_network_of_every_depth_has_a_row_for_each_layer(widths):
    net = lf.init.gaussian(widths, rng=0)
    root = parsed(net)
    assert len(root.findall(".//tbody/tr")) == net.depth
    assert "×".join(map(str, widths)) in words(root)


def test_network_shows_norms_gap_and_spreads_of_the_library():
    net = lf.init.gaussian((3, 5, 2), rng=1)
    cells = [td.text for td in parsed(net).findall(".//tbody/tr")[0]]
    found = lf.imbalance_spectrum(net)
    assert cells[2] == f"{np.linalg.norm(net.weights[0]):.4g}"
    assert cells[3:] == [f"{found.spectral_gap:.4g}", f"{found.positive_spread:.4g}, {found.negative_spread:.4g}"]


def test_notes_are_shown_and_escaped():
    net = lf.Network([np.ones((2, 2), dtype=int), np.ones((2, 1), dtype=int)])
    net.notes = ("<script>alert('a & b')</script>",)
    assert "<script>alert('a & b')</script>" in words(parsed(net))


def test_wide_layers_are_not_decomposed(monkeypatch):
    h = network.WIDEST + 100
    net = lf.Network([np.full((h, h), 1e-3)] * 2)
    for name in ("svd", "svdvals", "eigh", "eigvalsh", "qr"):  # what takes minutes there
        monkeypatch.setattr(np.linalg, name, lambda *_, name=name, **__: pytest.fail(f"{name} was called"))
    assert "not computed: wide" in words(parsed(net))


def test_certificate_separates_what_applies_from_what_does_not():
    f, net = objective_and_start()
    cert = lf.certify(f, net)
    root = parsed(cert)
    shown = [tr[0].text for tr in root.findall("./table/tbody/tr")]
    folded = {name: tr[1].text for tr in root.findall("./details//tbody/tr") for name in tr[0].text.split("; ")}
    assert shown == [g.name for g in cert.guarantees if g.applies] and shown
    assert folded == {g.name: g.reason for g in cert.guarantees if not g.applies} and folded


def test_bounds_separate_what_applies_from_what_does_not():
    table = lf.bounds.table(lf.init.gaussian((3, 5, 2), rng=0))
    root = parsed(table)
    shown = root.findall("./table/tbody/tr")
    assert {tr[0].text for tr in shown} == {b.name for b in table if b.applies}
    values = [float(tr[1].text) for tr in shown]
    assert values == sorted(values, reverse=True)
    folded = {name: tr[1].text for tr in root.findall("./details//tbody/tr") for name in tr[0].text.split("; ")}
    assert folded == {b.name: b.reason for b in table if not b.applies}


@pytest.mark.parametrize("asked", [{"rate": 2.0}, {"algorithm": "descent", "steps": 80, "until": 1e-4}])
def test_design_shows_its_layers_and_its_certificate(asked):
    f, _ = objective_and_start()
    design = lf.design(f, (3, 5, 2), rng=0, **asked)
    text = words(parsed(design))
    assert f"{design.imbalance:.4g}" in text and "3×5×2" in text and design.reason in text
    assert ("steps of" in text) == (design.steps is not None)


def test_certificate_of_descent_counts_steps():
    f, net = objective_and_start()
    assert "steps to 1e-6" in words(parsed(lf.certify(f, net, algorithm="descent")))


@pytest.mark.parametrize("kept", ["none", "failing"])
def test_certificate_without_guarantees(kept):
    f, net = objective_and_start()
    cert = lf.certify(f, net)
    left = () if kept == "none" else tuple(g for g in cert.guarantees if not g.applies)
    root = parsed(dataclasses.replace(cert, guarantees=left))
    assert "no guarantee applies" in words(root)


def test_run_shows_times_and_a_falling_curve():
    f, net = objective_and_start()
    run = lf.gradient_flow(f, net, until=1e-7)
    root = parsed(run)
    assert f"{run.time_to(1e-4):.4g}" in words(root) and run.result.value in words(root)
    points = [p.split(",") for p in root.findall(".//path")[1].get("d")[1:].split(" L")]
    y = np.array([float(p[1]) for p in points])
    assert np.all(np.diff(y) >= 0)  # the loss gap of a flow never rises, and y points down
    assert y[0] == 2 and y[-1] == html._SIZE[1] - 2


def test_diverged_run_is_shown():
    f, net = objective_and_start()
    run = lf.gradient_descent(f, net, step_size=50.0, steps=100)
    assert "diverged" in words(parsed(run))


def test_repr_does_not_run_the_flow_again():
    f, net = objective_and_start()
    run = lf.gradient_flow(f, net, until=1e-4)
    parsed(run)
    assert "gap_error" not in run.stats.__dict__  # cached_property stores its value there


def test_torch_arrays_with_gradients():
    torch = pytest.importorskip("torch")
    net = lf.Network([torch.eye(2, dtype=torch.float64, requires_grad=True)] * 2)
    assert "2×2×2" in words(parsed(net))
    f = lf.MatrixFactorization(2 * torch.eye(2, dtype=torch.float64))
    parsed(lf.certify(f, net.detach()))
    parsed(lf.gradient_flow(f, net.detach(), until=1e-3))


def test_failure_falls_back_to_the_escaped_repr():
    def fail(shown):
        raise RuntimeError

    assert html.never_raising(fail, "<b>") == "<pre>&#x27;&lt;b&gt;&#x27;</pre>"
