"""The documentation site: `sphinx-build -W -b html docs docs/_build`."""

from __future__ import annotations

import sys
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

import onnx_basisprune

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "basisprune"
author = "the basisprune authors"
release = version = onnx_basisprune.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "command_help",
    "dataclass_fields",
]
exclude_patterns = ["_build"]

# Quotes and dashes of options and messages stay as they are typed.
smartquotes = False
# Docstrings write code in single backticks.
default_role = "code"
autodoc_typehints = "none"
add_module_names = False
myst_heading_anchors = 3

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_title = "basisprune"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False


def setup(app: Sphinx) -> None:
    """Write a dash between a parameter and its meaning, which `smartquotes` would else do, and to options, too."""

    def write_dashes(_: Sphinx, document: nodes.document) -> None:
        for text in list(document.findall(nodes.Text)):
            if text.astext() == " -- ":
                text.parent.replace(text, nodes.Text(" – "))

    app.connect("doctree-read", write_dashes)
