"""How Sphinx renders the report: executed notebooks as they are, offline. The tag `article` makes
one page to print."""

import latex2mathml.converter
from docutils import nodes
from docutils.nodes import Element, SkipNode
from sphinx.application import Sphinx
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

project = "nnpar"
author = "the nnpar authors"
copyright = author
extensions = ["myst_nb", "sphinxcontrib.bibtex"]
bibtex_bibfiles = ["references.bib"]
html_theme = "sphinx_book_theme"
html_title = "Parallelism in neural networks, measured"
html_theme_options = {
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
}
html_static_path = ["style.css", "article.css"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_sourcelink = False
html_math_renderer = "mathml"
nb_execution_mode = "off"
nb_ipywidgets_js = {}  # the default loads two scripts from a CDN
nb_merge_streams = True
numfig = True
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["mystnb.unknown_mime_type", "bibtex.duplicate_citation", "myst.header"]

if tags.has("article"):  # noqa: F821 - Sphinx puts it here
    html_theme, html_theme_options, html_css_files = "basic", {"nosidebar": True}, ["article.css"]
    exclude_patterns = ["notebooks.md", "notebooks/*"]
    suppress_warnings.append("toc.not_readable")


def setup(app: Sphinx) -> None:
    """Write formulas as MathML, which browsers draw by themselves: no script, no network."""
    app.add_html_math_renderer("mathml", (_inline_math, None), (_displayed_math, None))
    app.connect("doctree-resolved", _describe_figures)


def _describe_figures(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Let who cannot see a figure hear its caption, not the name of its file."""
    for figure in doctree.findall(nodes.figure):
        captions = [caption.astext() for caption in figure.findall(nodes.caption)]
        for image in figure.findall(nodes.image):
            image["alt"] = " ".join(captions)


def _inline_math(translator: HTML5Translator, node: Element) -> None:
    translator.body.append(latex2mathml.converter.convert(node.astext()))
    raise SkipNode


def _displayed_math(translator: HTML5Translator, node: Element) -> None:
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    if node["number"]:
        number = get_node_equation_number(translator, node)
        translator.body.append(f'<span class="eqno">({number})</span>')
    translator.body.append(
        latex2mathml.converter.convert(node.astext(), display="block") + "</div>\n"
    )
    raise SkipNode
