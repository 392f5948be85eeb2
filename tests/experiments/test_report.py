import json
import re
import shutil
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest

from linflow import plots
from linflow.experiments import figures as experiments
from linflow.experiments.figures import Claim, Outcome, Table, number, select
from linflow.pages import reproduction as report
from tests.fake_figures import whole

VOID = {"meta", "br", "link", "img"}


def draw():
    fig, ax = plots.figure(4, 3)
    ax.plot([0, 1], [1, 2], label="$h=30$")
    ax.set(xlabel="$t$", ylabel=r"$\lambda_{\min}$")
    ax.legend()
    return fig


def outcome(*claims, draw=draw):
    data = {"rate": np.array([1.0, np.nan, np.inf]), "h": np.int64(30), "nested": {"t": [(1, 2.5), (3, 4)]}}
    table = Table("Rates by h", ["h", "rate", "theorem"], [(30, 0.4, "a < b"), (1000, 3.456, "two")])
    return Outcome(claims, draw, data, {"Sizes": "h = 30 & W₁"}, [table])


def holds(seed, progress):
    progress(0.5, "half way")
    return outcome(Claim("Rates lie below <2>", f"seed {seed}", True, 1.5))


def fails(seed, progress):
    return outcome(Claim.within("The loss is 10⁻⁵", 0.5, 0, 1e-5))


def stops(seed, progress):
    raise RuntimeError("no\nluck")


def interrupts(seed, progress):
    raise KeyboardInterrupt


def experiment(name, run):
    return whole(name, run)


@pytest.fixture
def registry(monkeypatch):
    """Puts experiments of the given names and functions in place of the real ones."""

    def use(**runs):
        fakes = {name: experiment(name, run) for name, run in runs.items()}
        monkeypatch.setattr(experiments, "EXPERIMENTS", fakes, raising=False)

    use(good=holds, bad=fails, broken=stops)
    return use


class Page(HTMLParser):
    """What the tests want to know of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open, self.headings, self.text = [], [], [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if re.fullmatch(r"h\d", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title"):
            self.text += data

    def values(self, *names):
        return [value for _, name, value in self.attributes if name in names]


# --- claims, numbers and tables


def test_a_claim_that_is_not_a_number_fails():
    assert not Claim("c", "o", True, np.nan).passed
    assert not Claim("c", "o", True, (1.0, np.nan)).passed
    assert not Claim.within("c", np.nan, 0, 1).passed
    assert not Claim.within("c", [0.5, np.nan], 0, 1).passed
    assert not Claim.all_below("c", [0, np.nan], [1, 1]).passed
    assert not Claim.same("c", [1, np.nan], [1, 1], 1e-9).passed
    assert not Claim.same("c", 0.0, np.nan, 1e-9).passed
    assert not Claim.all_below("c", [0, 0], [1, np.nan]).passed


def test_a_claim_about_nothing_fails():
    assert not Claim.all_below("c", [], []).passed
    assert not Claim.within("c", []).passed
    assert not Claim.same("c", [], [], 1.0).passed


@pytest.mark.parametrize(
    ("lower", "upper", "allowance", "passed"),
    [
        ([1, 2], [1, 2], 0, True),
        ([1, 2.1], [1, 2], 0, False),
        ([1, 2.1], [1, 2], 0.1, True),
        ([0, 0], [0, 1], 0, True),
        ([1e-300], [0], 0.1, False),
        ([-2], [-1], 0, True),
        ([-1], [-2], 0.1, False),
        ([1, np.inf], [np.inf, np.inf], 0, True),
        ([np.inf], [1], 0, False),
        ([[1], [3]], [3, 4], 0, True),
    ],
)
def test_all_below(lower, upper, allowance, passed):
    assert Claim.all_below("c", lower, upper, allowance).passed is passed


def test_all_below_names_the_worst_pair():
    assert (
        Claim.same("c", [1, 2, 0], [1, 2.0000001, 0], 1e-6).observed == "equal to a relative 5·10⁻⁸ (3 comparisons)"
    )
    twice = Claim.same("c", [1, 4], [1, 2], 1e-6)
    assert (twice.passed, twice.value) == (False, 1.0)
    assert twice.observed == "largest difference: 4, where 2 is right (2 comparisons)"
    claim = Claim.all_below("c", [1, 3, 1], [2, 4, 100])
    assert claim.value == 0.75
    assert "3 against 4" in claim.observed
    assert "3 comparisons" in claim.observed


def test_claims_hold_plain_values():
    claim = Claim("c", "o", np.bool_(True), np.array([1, 2]))  # pyright: ignore[reportArgumentType]
    assert claim == Claim("c", "o", True, (1.0, 2.0))
    assert type(claim.passed) is bool


def test_number():
    assert number(-0.00012) == "−0.00012"
    assert number(1000) == "1000"
    assert number(np.int64(12_345)) == "12\u202f345"
    assert [number(x) for x in (np.inf, -np.inf, np.nan)] == ["∞", "−∞", "not a number"]
    assert number(-1e-12) == "−10⁻¹²"


def test_table_aligns_decimals_and_leaves_powers_of_ten():
    table = Table("t", ["a", "b", "c"], [(1.5, 1e-9, 1), (-10.25, 2.0, "x")])
    assert table.texts() == [("1.50", "10⁻⁹", "1"), ("−10.25", "2", "x")]
    assert [table.is_numeric(j) for j in range(3)] == [True, True, False]


def test_table_with_a_short_row():
    with pytest.raises(ValueError, match="'Rates': every row needs 2 cells"):
        Table("Rates", ["h", "rate"], [(30, 0.4), (1000,)])


# --- the registry


def test_select_keeps_the_order_asked_for(registry):
    assert [e.id for e in select(["bad", "good", "bad"])] == ["bad", "good"]
    assert [e.id for e in select()] == ["good", "bad", "broken"]


def test_an_unknown_name_is_answered_with_the_nearest(registry):
    with pytest.raises(ValueError, match=r"'god'.*'good'.*good, bad, broken"):
        select(["god"])


def test_the_registry_loads_and_has_files_names():
    for name, known in experiments.EXPERIMENTS.items():
        assert name == known.id
        assert re.fullmatch(r"[a-z][a-z0-9_-]*", name)
    with pytest.raises(AttributeError, match="nothing"):
        experiments.nothing  # noqa: B018


# --- the report


def test_report_json(registry, tmp_path):
    found = report.reproduce(out=tmp_path / "deep" / "out", seed=7)
    document = json.loads((found.out / "report.json").read_text(encoding="utf-8"))
    assert document == found.document()
    assert not document["passed"]
    assert document["complete"]
    assert document["seed"] == 7
    assert set(document["versions"]) == {"linflow", "numpy", "scipy", "numba", "matplotlib", "python"}
    assert [figure["id"] for figure in document["figures"]] == ["good", "bad", "broken"]
    good, bad, broken = document["figures"]
    assert good["claims"] == [
        {"figure": "good", "claim": "Rates lie below <2>", "observed": "seed 7", "value": 1.5, "passed": True}
    ]
    assert good["data"] == {"rate": [1.0, None, None], "h": 30, "nested": {"t": [[1, 2.5], [3, 4]]}}
    assert good["setup"] == {"Sizes": "h = 30 & W₁"}
    assert [claim["passed"] for claim in bad["claims"]] == [False]
    assert broken["claims"][0]["observed"] == "the computation stopped: RuntimeError: no luck"
    assert document["seconds"] >= sum(figure["seconds"] for figure in document["figures"]) - 0.01


def test_figure_files(registry, tmp_path):
    report.reproduce(["good"], out=tmp_path)
    shutil.copy(tmp_path / "figures" / "good.pdf", tmp_path / "figures" / "broken.pdf")  # as from an earlier run
    report.reproduce(["good", "broken"], out=tmp_path)
    files = {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()}
    assert set(files) == {"good.svg", "good.pdf", "good.png"}
    assert files["good.png"].startswith(b"\x89PNG")
    assert files["good.pdf"].startswith(b"%PDF")
    width = int.from_bytes(files["good.png"][16:20])
    assert width == 4 * 200  # inches times dots per inch


def test_page_stands_alone(registry, tmp_path):
    page = Page(report.reproduce(out=tmp_path).index.read_text(encoding="utf-8"))
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    loaded = [v for v in page.values("src", "srcset", "xlink:href", "data") if not v.startswith(("#", "data:"))]
    assert loaded == []
    links = [value for tag, name, value in page.attributes if tag == "a" and name == "href"]
    for link in links:
        assert link[1:] in page.values("id") if link.startswith("#") else (tmp_path / link).is_file()
    assert "@import" not in (text := report.reproduce(["good"], out=tmp_path).html())
    assert "url(http" not in text


def test_page_is_accessible(registry, tmp_path):
    found = report.reproduce(out=tmp_path, seed=3)
    page = Page(found.html())
    assert ("html", "lang", "en") in page.attributes
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(page.headings, page.headings[1:], strict=False))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    for reference in page.values("aria-labelledby"):
        assert reference in ids
    labels = [value for tag, name, value in page.attributes if tag == "svg" and name == "aria-label"]
    assert labels == [f"The {name} figure. What it “shows”: x < y." for name in ("good", "bad")]
    scopes = sum(1 for tag, name, _ in page.attributes if tag == "th" and name == "scope")
    assert scopes == page.tags.count("th")


def test_page_groups_the_figures_by_their_papers(registry, tmp_path):
    text = report.reproduce(out=tmp_path).html()
    papers = list(dict.fromkeys(one.paper for one in experiments.EXPERIMENTS.values()))
    assert text.count('class="paper"') == len(papers)
    for i, one in enumerate(experiments.EXPERIMENTS.values(), 1):
        assert f'<p class="label">Figure {i}: {one.paper}</p>' in text or one.id == "broken"


def test_page_says_everything(registry, tmp_path):
    page = Page(report.reproduce(out=tmp_path, seed=3).html())
    text = " ".join(page.text.split())
    for part in (
        "1 of 3 claims holds",
        "✓ holds",
        "✗ fails",
        "Rates lie below <2>",
        "the computation stopped: RuntimeError: no luck",
        "A paper, Figure 1",
        "30 & W1",
        "Seed3",
        "a < b",
        "3.456",
        f"linflow reproduce good bad broken --seed 3 --out {tmp_path}",
    ):
        assert part in text, part
    assert "sup" in page.tags
    assert "Interrupted" not in text


def test_ids_of_inlined_drawings_do_not_meet(registry, tmp_path):
    registry(one=holds, two=holds)
    page = Page(report.reproduce(out=tmp_path).html())
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    used = [v for v in page.values("xlink:href") if v.startswith("#")]
    used += [m for value in page.values("clip-path") for m in re.findall(r"url\((#[^)]+)\)", value)]
    assert used
    assert {u[1:] for u in used} <= set(ids)


def test_same_seed_gives_the_same_drawing(registry, tmp_path):
    for name in ("a", "b"):
        report.reproduce(["good"], out=tmp_path / name)
    for kind in ("svg", "pdf", "png"):
        a, b = ((tmp_path / name / "figures" / f"good.{kind}").read_bytes() for name in ("a", "b"))
        assert a == b


def test_a_drawing_that_stops_keeps_the_claims(registry, tmp_path):
    def nothing():
        raise ZeroDivisionError

    registry(good=lambda seed, progress: outcome(Claim("c", "o", True), draw=nothing))
    found = report.reproduce(out=tmp_path)
    assert [claim.passed for claim in found.claims] == [True, False]
    assert found.claims[1].observed == "the drawing stopped: ZeroDivisionError"
    assert "no drawing" in found.html()


def test_progress_rises_to_one_for_every_figure(registry, tmp_path):
    seen = []
    report.reproduce(out=tmp_path, progress=lambda *event: seen.append(event))
    for name in ("good", "bad", "broken"):
        fractions = [fraction for figure, fraction, _ in seen if figure == name]
        assert fractions == sorted(fractions)
        assert fractions[0] == 0
        assert fractions.count(1.0) == 1
    assert any(note == "half way" for _, _, note in seen)


def test_an_interrupted_run_reports_what_is_done(registry, tmp_path):
    registry(good=holds, stop=interrupts, bad=fails)
    with pytest.raises(report.ReportInterrupted) as stop:
        report.reproduce(out=tmp_path)
    found = stop.value.report
    assert [figure.experiment.id for figure in found.figures] == ["good"]
    assert not found.complete
    assert not found.passed
    assert "Interrupted: 1 of 3 figures" in found.index.read_text(encoding="utf-8")


def test_an_early_interruption_leaves_the_earlier_report(registry, tmp_path):
    before = report.reproduce(["good"], out=tmp_path).index.read_bytes()
    registry(stop=interrupts)
    with pytest.raises(report.ReportInterrupted):
        report.reproduce(out=tmp_path)
    assert (tmp_path / "index.html").read_bytes() == before


def test_an_interrupted_write_leaves_no_half_file(registry, tmp_path, monkeypatch):
    before = report.reproduce(["good"], out=tmp_path).index.read_bytes()
    files = sorted(tmp_path.rglob("*"))

    def half(path, _):
        content = path.read_bytes() if path.is_file() else b""
        if b"<html" in content[:100]:  # the page
            path.write_bytes(content[: len(content) // 2])
            raise KeyboardInterrupt

    monkeypatch.setattr("linflow._support.paths._sync", half)
    with pytest.raises(KeyboardInterrupt):
        report.reproduce(["good"], out=tmp_path, seed=1)
    assert (tmp_path / "index.html").read_bytes() == before
    assert sorted(tmp_path.rglob("*")) == files


def test_no_figures_at_all(registry, tmp_path):
    registry()
    with pytest.raises(ValueError, match="no figure"):
        report.reproduce(out=tmp_path)


# --- the style


def test_style_leaves_no_trace(monkeypatch):
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 33.0)
    before = dict(matplotlib.rcParams)
    with plots.style():
        assert matplotlib.rcParams["font.size"] == 10
        assert matplotlib.rcParams["lines.dashed_pattern"] == matplotlib.rcParamsDefault["lines.dashed_pattern"]
    plots.figure(3, ncols=2)
    assert dict(matplotlib.rcParams) == before


def test_figure_shapes():
    fig, ax = plots.figure(5, 2)
    assert tuple(fig.get_size_inches()) == (5, 2)
    assert not ax.spines["top"].get_visible()
    _, axes = plots.figure(ncols=3, nrows=2, sharex=True)
    assert axes.shape == (2, 3)


def test_only_large_collections_become_pixels():
    fig, ax = plots.figure()
    small, large = ax.scatter([0, 1], [0, 1]), ax.scatter(np.zeros(5000), np.zeros(5000))
    mesh = ax.pcolormesh(np.zeros((80, 80)))
    plots.rasterize_large(fig)
    assert [bool(a.get_rasterized()) for a in (small, large, mesh)] == [False, True, True]
