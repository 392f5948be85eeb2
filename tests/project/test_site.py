"""The sources of the site: formulas of docstrings, pages and their places.

Nothing here needs Sphinx; `make docs` builds the site, with warnings as errors.
"""

import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

import linflow as lf
from linflow.experiments import figures

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    path.relative_to(DOCS).as_posix()
    for kind in ("*.md", "*.rst")
    for path in DOCS.rglob(kind)
    if not path.parent.name.startswith("_")
)


@pytest.fixture(scope="module")
def site():
    """The modules of `docs/_ext` that need no Sphinx."""
    sys.path.insert(0, str(DOCS / "_ext"))
    yield {name: import_module(name) for name in ("formulas", "names", "check_links", "plain_markdown")}
    sys.path.remove(str(DOCS / "_ext"))


@pytest.mark.parametrize(
    ("written", "typeset"),
    [
        ("λ_min(T) ≥ α", r"\lambda_{\min}(T) \ge \alpha"),
        ("W_l ↦ W_lS", r"W_{l} \mapsto W_{l}S"),
        ("½‖Y − XW‖_F²", r"\tfrac12 \lVert Y - XW\rVert_{F}^{2}"),
        ("sqrt((Π d̃)² + 4σ_m²)", r"\sqrt{(\prod \tilde{d})^{2} + 4\sigma_{m}^{2}}"),
        ("D_l = W_lᵀW_l − W_{l+1}W_{l+1}ᵀ", r"D_{l} = W_{l}^{\top}W_{l} - W_{l+1}W_{l+1}^{\top}"),
        ("Ẇ = −T(0)^{1/2} ∇f(W)", r"\dot{W} = -T(0)^{1/2} \nabla f(W)"),
        ("[λ_n(D)]_+ ≠ Δ₊", r"[\lambda_{n}(D)]_{+} \ne \Delta_{+}"),
        ("γ (1 − e^{−gap0})/gap0", r"\gamma (1 - e^{-\text{gap0}})/\text{gap0}"),
        ("(h_{l-1}, h_l)", "(h_{l-1}, h_{l})"),
        ("max_l h_l ≤ 2^e", r"\max_{l} h_{l} \le 2^{e}"),
        ("x_l∓(σ) = √h", r"x_{l}^{\mp}(\sigma) = \sqrt{h}"),
    ],
)
def test_formulas_of_docstrings_become_latex(site, written, typeset):
    assert site["formulas"].is_formula(written)
    assert site["formulas"].latex(written) == typeset


def test_code_of_docstrings_stays_code(site):
    for span in (
        "docs/theory.md",
        ".nc",
        "signed=False",
        "linflow cite",
        "around(t)[3]",
        "(len(t), n)",
        "step_sizes",
    ):
        assert not site["formulas"].is_formula(span), span


def test_every_formula_of_a_public_docstring_is_complete(site):
    """Braces pair, and nothing that LaTeX would not know is left."""
    seen = 0
    for name in site["names"].public_names():
        if name.startswith("linflow.torch."):
            continue  # needs PyTorch
        text = re.sub(r"^\s*>>>.*$", "", site["names"].resolved(name).__doc__ or "", flags=re.MULTILINE)
        for span in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text):
            if site["formulas"].is_formula(span):
                formula, seen = site["formulas"].latex(span), seen + 1
                bare = re.sub(r"\\[{}]", "", formula)
                assert bare.count("{") == bare.count("}"), (name, span)
                assert formula.isascii(), (name, span, formula)
    assert seen > 300


def test_every_public_name_has_one_place_in_the_reference(site):
    listed = [
        line.strip()
        for path in (DOCS / "api").glob("*.rst")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.fullmatch(r"   linflow\.[\w.]+", line)
    ]
    assert sorted(listed) == sorted(site["names"].public_names())


def test_every_theorem_has_its_function(site):
    functions = site["names"].FUNCTIONS
    assert list(functions) == [theorem.name for theorem in lf.bounds.THEOREMS]
    assert all(callable(getattr(lf.bounds, name)) for name in functions.values())


def test_every_page_stands_in_one_table_of_contents():
    found = []
    for page in PAGES:
        text = (DOCS / page).read_text(encoding="utf-8")
        for block in re.findall(r"^:::\{toctree\}\n(.*?)^:::", text, re.DOTALL | re.MULTILINE):
            for line in block.splitlines():
                if line.strip() and not line.startswith(":"):
                    target = re.sub(r".*<(.*)>", r"\1", line.strip())
                    found.append(((DOCS / page).parent / target).resolve().relative_to(DOCS).as_posix())
    assert sorted(found) == sorted(page.rsplit(".", 1)[0] for page in PAGES if page != "index.md")


def test_links_are_checked(site, tmp_path):
    (tmp_path / "a.html").write_text(
        '<p id="here"><a href="b.html#there">b</a><a href="#here">a</a>', encoding="utf-8"
    )
    (tmp_path / "b.html").write_text('<h1 id="there">b</h1><a href="https://example.org">out</a>', encoding="utf-8")
    assert site["check_links"].faults(tmp_path) == []
    for wrong, words in (
        ('<a href="c.html">', "not there"),
        ('<a href="b.html#x">', "no such place"),
        ('<script src="https://x/y.js">', "network"),
    ):
        (tmp_path / "a.html").write_text(wrong, encoding="utf-8")
        (fault,) = site["check_links"].faults(tmp_path)
        assert words in fault


def test_pages_become_plain_markdown(site):
    page = """See {py:obj}`linflow.certify` and [this](../theory.md).

:::{paper-figure} spectrum
:set: seeds=5
:alt: Eigenvalues
:::

:::{dropdown} Answer
Four.
:::
"""
    plain = site["plain_markdown"].plain(page)
    assert plain.startswith("See `linflow.certify` and this.\n")
    assert "`linflow reproduce spectrum --set seeds=5`" in plain and "**Answer**\n\nFour." in plain
    assert ":::" not in plain and "{" not in plain


CHAPTERS = ("one_weight", "two_weights", "imbalance", "two_layers", "depth", "descent", "proofs")
OF_THE_TALK = {
    *("phase_plane", "depth", "spectrum", "convergence", "init_map", "exploding"),
    *("box_plot", "three_layers", "step_sizes"),
}


def test_the_course_has_every_figure_of_the_talk_and_exercises_with_answers():
    drawn = set()
    for number, name in enumerate(CHAPTERS, 1):
        text = (DOCS / "learn" / f"{name}.md").read_text(encoding="utf-8")
        assert f"\n# {number}. " in text and "```{code-cell}" in text
        for heading in ("## The claim", "## The code", "## What was seen", "## Exercises"):
            assert heading in text, (name, heading)
        exercises = len(re.findall(r"^\*\*\d\.\*\*", text, re.MULTILINE))
        assert exercises >= 2 and exercises == text.count(":::{dropdown} Answer"), name
        drawn |= set(re.findall(r":::\{paper-figure\} (\w+)", text))
    assert drawn >= OF_THE_TALK and drawn <= set(figures.MODULES)


def test_every_plot_is_in_the_gallery():
    text = "".join(path.read_text(encoding="utf-8") for path in (DOCS / "gallery").glob("*.md"))
    drawing = set(lf.plots.__all__) - {"COLOURS", "THEMES", "Theme", "rasterize_large", "save"}
    assert not [name for name in drawing if f"lf.plots.{name}(" not in text]


def test_formulas_of_pages_in_folders_are_latex():
    for page in PAGES:
        if "/" in page and page.endswith(".md"):
            text = re.sub(
                r"^(`{3,}).*?^\1", "", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
            )
            spans = re.findall(r"`([^`]+)`", text)
            assert not [span for span in spans if set(span) & set("λσηγμκβΔΣΠ∇‖⟨⟩ᵀ²½√≤≥⪰⪯∫∂ℓ")], page
            prose = re.sub(r"`[^`]*`", "", text)
            assert "$" not in re.sub(r"\$\$.*?\$\$|\$[^$]*\$", "", prose, flags=re.DOTALL), page


def test_ci_builds_the_site():
    assert "\nmake docs\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "sphinx-build -W" in (ROOT / "Makefile").read_text(encoding="utf-8")
