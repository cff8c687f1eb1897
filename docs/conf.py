"""How Sphinx builds the site: `make docs` first lets `sources.py` put together what is read."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

import charts
import docstrings
import formulas

import unifylens as ul

project = "unifylens"
author = "The unifylens contributors"
version = release = ul.__version__
html_title = f"unifylens {version}"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_design"]

nb_execution_mode = "off"  # what is shown is what the reported run found
nb_ipywidgets_js = {}  # else pages ask other hosts for the code of widgets
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
nitpicky = True
# Of types only our own have pages here: without a network nobody else's can be looked up.
nitpick_ignore_regex = [("py:.*", r"(?!unifylens\.).*"), ("py:class", r"unifylens\..*")]

html_theme = "pydata_sphinx_theme"
html_context = {"default_mode": "auto"}  # light or dark, as the system is
html_static_path = ["style"]
html_css_files = ["site.css"]
html_extra_path = ["../build/docs-views"]  # what `views.py` writes
html_copy_source = False
html_show_sourcelink = False
html_show_search_summary = False  # it would fetch pages, which a browser refuses for files
html_math_renderer = "mathml"
html_sidebars = {"index": [], "start": [], "claims": []}
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "navbar_align": "left",
    "header_links_before_dropdown": 5,
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": [],
}
project_copyright = "The unifylens contributors, Apache-2.0"


def setup(app):
    """Let formulas and docstrings be read as they are written, and charts be drawn."""
    formulas.setup(app)
    docstrings.setup(app)
    app.connect("build-finished", charts.write_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
