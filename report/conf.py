"""How Sphinx renders the report: executed notebooks as they are, offline. The tag `article` makes
one page to print."""

import dataclasses
import re

import latex2mathml.converter
from docutils import nodes
from docutils.nodes import Element, SkipNode
from sphinx.application import Sphinx
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

from nnpar_lib.config.option import Option, Section
from nnpar_lib.records import kinds

project = "nnpar"
author = "the nnpar authors"
copyright = author
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinxcontrib.bibtex"]
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
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3  # notebooks link to the terms of the glossary
# the pages of `api/` import the library; what is large and not needed for that is left out
autodoc_mock_imports = ["torch", "torchvision", "mpi4py", "ipyparallel"]
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"
default_role = "literal"  # docstrings write `name` for code
suppress_warnings = ["mystnb.unknown_mime_type", "bibtex.duplicate_citation", "myst.header"]

if tags.has("article"):  # noqa: F821 - Sphinx puts it here
    html_theme, html_theme_options, html_css_files = "basic", {"nosidebar": True}, ["article.css"]
    exclude_patterns = ["notebooks.md", "notebooks/*", "api.md", "api/*"]
    suppress_warnings.append("toc.not_readable")


def setup(app: Sphinx) -> None:
    """Write formulas as MathML, which browsers draw by themselves: no script, no network."""
    app.add_html_math_renderer("mathml", (_inline_math, None), (_displayed_math, None))
    app.connect("doctree-resolved", _describe_figures)
    app.connect("autodoc-process-signature", _shorten_signature)
    app.connect("autodoc-process-docstring", _complete_docstring)


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


def _shorten_signature(
    app: Sphinx, what: str, name: str, documented: object, *_: object
) -> tuple[str, str] | None:
    """Leave the fields of configs and records out of signatures: they are listed below them."""
    return ("(**fields)", "") if _lists_fields(documented) else None


def _complete_docstring(
    app: Sphinx, what: str, name: str, documented: object, options: object, lines: list[str]
) -> None:
    """List the fields of a config or a record; take |x| for an absolute value."""
    lines[:] = [re.sub(r"(`[^`]*`)|\|", lambda part: part[1] or r"\|", line) for line in lines]
    if not _lists_fields(documented):
        return
    names = vars(documented).get("__annotations__", {})
    fields = [field for field in dataclasses.fields(documented) if field.name in names]
    if issubclass(documented, Section):
        for field in fields:
            option: Option = field.metadata["option"]
            lines += [f"`{field.name}`: {field.type} = `{option.default!r}`"]
            lines += [f"    {_option_text(option)}", ""]
    else:
        lines += ["Fields: " + ", ".join(f"`{field.name}`: {field.type}" for field in fields) + "."]


def _lists_fields(documented: object) -> bool:
    is_described = isinstance(documented, type) and dataclasses.is_dataclass(documented)
    return is_described and (
        issubclass(documented, Section) or documented.__module__ == kinds.__name__
    )


def _option_text(option: Option) -> str:
    """Return what an option is for, its choices, its role and what reads it."""
    parts = [option.text.replace("*", r"\*")]
    if option.choices:
        parts.append("choices: " + ", ".join(f"`{choice}`" for choice in option.choices))
    if option.role:
        parts.append(f"role: {option.role}")
    parts += [
        f"read where {reader} is {', '.join(values)}" for reader, values in option.read_by.items()
    ]
    return "; ".join(parts) + "."
