"""How Sphinx renders the report: executed notebooks as they are, offline."""

project = "nnpar"
author = "the nnpar authors"
copyright = author
extensions = ["myst_nb", "sphinxcontrib.bibtex"]
bibtex_bibfiles = ["references.bib"]
html_theme = "sphinx_book_theme"
html_title = "Parallelism in neural networks, measured"
html_theme_options = {"show_toc_level": 2, "use_download_button": False, "use_fullscreen_button": False}
html_static_path = ["style.css"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_sourcelink = False
nb_execution_mode = "off"
nb_ipywidgets_js = {}  # the default loads two scripts from a CDN
nb_merge_streams = True
numfig = True
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["mystnb.unknown_mime_type", "bibtex.duplicate_citation", "myst.header"]
