"""The site: `make docs` builds it into build/site; it needs no network, neither to build nor to read."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # matrices are small

from linflow import __version__ as release  # noqa: E402 - after BLAS is told how many threads it has
from linflow.pages import play  # noqa: E402

project = "linflow"
author = "The linflow developers"
copyright = "the linflow developers, MIT licence"
version = release

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_design",
    "sphinx_copybutton",
    "docstrings",
    "public",
    "tables",
    "notebooks",
    "paper_figures",
]
exclude_patterns = ["_ext", "_generated"]
root_doc = "index"
default_role = "code"
nitpicky = False

# Markdown: GitHub's dialect with formulas; anchors of headings are those a code host makes.
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist", "attrs_block", "attrs_inline"]
myst_heading_anchors = 4
myst_dmath_double_inline = True
myst_dmath_allow_labels = False
suppress_warnings = ["myst.xref_missing.placeholder"]

# Chapters, guides and gallery are notebooks in Markdown; a cell that fails fails the build.
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # a cell may be the first to compile the bounds
nb_execution_in_temp = True
nb_merge_streams = True
nb_number_source_lines = False

# Docstrings
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_mock_imports = [name for name in ("torch", "lightning") if importlib.util.find_spec(name) is None]
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_use_rtype = False
python_display_short_literal_types = True
add_module_names = False
toc_object_entries_show_parents = "hide"

# MathJax lies beside the pages: one file, which holds its fonts as outlines.
MATHJAX = importlib.util.find_spec("sphinx-mathjax-offline")
if MATHJAX is None or MATHJAX.origin is None:
    raise ImportError("MathJax is missing; pip install '.[docs]' brings it.")
html_static_path = ["_static"]
mathjax_path = "mathjax/tex-svg.js"
mathjax3_config = {
    "tex": {"tags": "none"},
    "svg": {"fontCache": "global", "mtextInheritFont": True},
    "options": {"enableMenu": False},
}

html_theme = "pydata_sphinx_theme"
html_title = "linflow"
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_last_updated_fmt = None
html_theme_options = {
    "logo": {"text": "linflow"},
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "show_toc_level": 2,
    "show_nav_level": 1,
    "navigation_with_keys": False,
    "collapse_navigation": True,
    "back_to_top_button": True,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc", "notebook"],
    "navbar_end": ["theme-switcher"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "monokai",
}
templates_path = ["_templates"]


def setup(app):
    """Copy MathJax beside the pages, and write the page to play with."""

    def write_others(app, error):
        if error is None and app.builder.format == "html":
            source = Path(MATHJAX.origin).parent / "static" / "mathjax" / "tex-svg.js"
            target = Path(app.outdir) / "_static" / "mathjax" / "tex-svg.js"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
            play.write(Path(app.outdir) / "play.html")

    app.connect("build-finished", write_others)
