"""The form of the article: a title block, contents, numbered sections, figures at the width that
their text needs, and long tables in an appendix."""

from __future__ import annotations

import re
from pathlib import Path

from bs4 import BeautifulSoup, Tag

COLUMN = 242.0  # points, the widths of print that `article.css` sets
PAGE = 504.0
SMALLEST_TEXT = 7.0  # points
LONGEST_TABLE = 12  # rows that stay in their section
APPENDIX = "appendix"  # the ids of two sections with a form of their own
ABSTRACT = "abstract"
MAIN_FIGURES = ("regimes", "ladder")  # those that answer the two questions of the abstract
HEADINGS = re.compile("^h[1-6]$")
SVG_WIDTH = re.compile(r'<svg [^>]*?width="([\d.]+)pt"')
SVG_TEXT = re.compile(r"scale\((\d*\.\d+) -\d*\.\d+\)")  # matplotlib's glyphs have 100 points


def arrange(page: BeautifulSoup, folder: Path, edition: str) -> None:
    """Give the chapters of a page the form of an article; its pictures lie in a folder.

    `edition` says which version of the project and which records the article is about.
    """
    root = page.select_one("div.body > section")
    if root is None:
        return
    for mark in root.select(".headerlink"):
        mark.decompose()
    _free_tables(page, root)
    _unwrap_chapters(root)
    abstract = root.find("section", id=ABSTRACT)
    if abstract is not None:
        abstract["class"] = [ABSTRACT, "unnumbered"]
    tables = _appendix(page, root)
    _set_levels(root)
    _move_long_tables(page, root, tables)
    _number_sections(page, root)
    _lead_with_figures(root)
    for figure in root.select("figure:has(img)"):
        _set_width(figure, folder)
    _add_front(page, root, edition)


def widths(drawing: str) -> tuple[float, float]:
    """Return the width of an SVG of matplotlib, and that at which its smallest text has 7 points;
    both in points, 0 where it has no size."""
    width = SVG_WIDTH.search(drawing)
    if width is None:
        return 0.0, 0.0
    natural = float(width[1])
    sizes = [100 * float(scale) for scale in SVG_TEXT.findall(drawing)]
    return natural, natural * SMALLEST_TEXT / min(sizes, default=SMALLEST_TEXT)


def _free_tables(page: BeautifulSoup, root: Tag) -> None:
    """Take tables out of paragraphs, in which HTML allows none."""
    for table in root.find_all("table"):
        frame = table.wrap(page.new_tag("div", attrs={"class": "table"}))
        outer = table.find_parent("p")
        if outer is not None:
            outer.insert_after(frame.extract())
        if outer is not None and not outer.get_text(strip=True):
            outer.decompose()


def _unwrap_chapters(root: Tag) -> None:
    """Make chapters sections of that in which their list is, each with the target of its links."""
    for wrapper in root.select(".toctree-wrapper"):
        for chapter in wrapper.find_all("section", recursive=False):
            target = chapter.find_previous_sibling("span", id=True)
            if target is not None:
                chapter.insert(0, target)
        wrapper.unwrap()


def _appendix(page: BeautifulSoup, root: Tag) -> Tag:
    """Put the references and then the appendix at the end; return its part for tables, still
    empty."""
    references = root.select_one(".citation-list, .footnote-list")
    if references is not None and references.find_parent("section") is not root:
        root.append(references.find_parent("section"))
        root.contents[-1]["class"] = ["unnumbered"]
    appendix = root.find("section", id=APPENDIX)
    if appendix is None:
        appendix = page.new_tag("section", attrs={"id": APPENDIX})
        appendix.append(_element(page, "h2", "Appendix"))
    appendix["class"] = ["appendix"]
    root.append(appendix)
    tables = page.new_tag("section", attrs={"id": "tables"})
    tables.append(_element(page, "h3", "Tables"))
    appendix.append(tables)
    return tables


def _set_levels(root: Tag) -> None:
    """Let the level of a heading be the number of sections around it."""
    for heading in root.find_all(HEADINGS):
        heading.name = f"h{min(6, len(heading.find_parents('section')))}"


def _number_sections(page: BeautifulSoup, root: Tag) -> None:
    """Number sections and their sections; the appendix has a letter."""
    sections = root.find_all("section", recursive=False)
    plain = [
        section for section in sections if not {"appendix", "unnumbered"} & set(_classes(section))
    ]
    for number, section in enumerate(plain, start=1):
        _label(page, section, str(number))
    for section in root.find_all("section", id=APPENDIX, recursive=False):
        _label(page, section, "A")


def _label(page: BeautifulSoup, section: Tag, label: str) -> None:
    """Number a section and those in it, to the third level."""
    heading = section.find(HEADINGS, recursive=False)
    if heading is not None:
        heading.insert(0, _element(page, "span", f"{label} ", **{"class": "number"}))
    if label.count(".") < 2:
        for number, part in enumerate(section.find_all("section", recursive=False), start=1):
            _label(page, part, f"{label}.{number}")


def _move_long_tables(page: BeautifulSoup, root: Tag, appendix: Tag) -> None:
    """Move tables of many rows to the appendix, with links there and back; a short article has
    none."""
    frames = [frame for frame in root.select("section:not(.appendix) div.table") if _is_long(frame)]
    for number, frame in enumerate(frames, start=1):
        name = f"Table A.{number}"
        figure = page.new_tag("figure", attrs={"class": "table", "id": f"long-table-{number}"})
        link = _element(page, "a", name, href=f"#{figure['id']}")
        note = page.new_tag("p", attrs={"class": "moved"})
        note.extend([link, f", in the appendix, has the {_num_rows(frame)} rows."])
        section = frame.find_parent("section")
        frame.replace_with(note)
        figure.append(_caption(page, name, section))
        figure.append(frame)
        appendix.append(figure)
    empty = [] if frames else [appendix]
    if not frames and len(appendix.parent.find_all("section")) == 1:
        empty.append(appendix.parent)
    for section in empty:
        section.extract()


def _is_long(frame: Tag) -> bool:
    return _num_rows(frame) > LONGEST_TABLE and "appendix" not in {
        name for section in frame.find_parents("section") for name in _classes(section)
    }


def _num_rows(frame: Tag) -> int:
    return len(frame.select("tbody tr"))


def _caption(page: BeautifulSoup, name: str, section: Tag) -> Tag:
    """Return the caption of a moved table: its name, and the section that it belongs to."""
    heading = section.find(HEADINGS, recursive=False)
    caption = page.new_tag("figcaption")
    number = _element(page, "span", f"{name} ", **{"class": "caption-number"})
    link = _element(page, "a", heading.get_text(), href=f"#{section['id']}")
    caption.extend([number, link])
    return caption


def _lead_with_figures(root: Tag) -> None:
    """Put the main figures in front of the first section, and number all figures anew."""
    first = root.select_one(":scope > section:not(.abstract)")
    for name in MAIN_FIGURES:
        figure = root.find("figure", id=name)
        if figure is not None:
            first.insert_before(figure)
    for number, caption in enumerate(root.select("figure[id] > figcaption .caption-number"), 1):
        figure = caption.find_parent("figure")
        if figure.find("img") is not None:
            caption.string = f"Fig. {number} "
            for link in root.select(f'a[href="#{figure["id"]}"] > .std-numref'):
                link.string = f"Fig. {number}"


def _set_width(figure: Tag, folder: Path) -> None:
    """Let a figure have a column, or the page where its text needs that."""
    image = figure.img
    file = folder / str(image["src"])
    drawing = file.read_text(encoding="utf-8") if file.suffix == ".svg" else ""
    natural, needed = widths(drawing)
    room = COLUMN if needed <= COLUMN else PAGE
    if natural:
        image["style"] = f"--printed: {min(room, natural):.1f}pt; --needed: {needed:.1f}pt"
    if room == PAGE:
        figure["class"] = [*_classes(figure), "wide"]
    frame = image.wrap(Tag(name="div", attrs={"class": "picture"}))
    frame["tabindex"] = "0"


def _add_front(page: BeautifulSoup, root: Tag, edition: str) -> None:
    """Put title, edition, abstract and contents at the beginning."""
    title = root.find("h1", recursive=False)
    front = page.new_tag("header", attrs={"class": "front"})
    abstract = page.new_tag("div", attrs={"class": "abstract"})
    for part in list(title.next_siblings):
        is_part = isinstance(part, Tag) and part.name in ("section", "figure")
        if is_part and ABSTRACT not in _classes(part):
            break
        abstract.append(part)
    title.insert_after(front)
    front.extend([title, _element(page, "p", edition, **{"class": "edition"}), abstract])
    front.insert_after(_contents(page, root))


def _contents(page: BeautifulSoup, root: Tag) -> Tag:
    """Return the list of sections to the third level; print has two."""
    nav = page.new_tag("nav", attrs={"class": "contents", "aria-label": "Contents"})
    nav.append(_element(page, "p", "Contents", **{"class": "contents-title"}))
    nav.append(_list(page, root))
    return nav


def _list(page: BeautifulSoup, parent: Tag, depth: int = 1) -> Tag:
    entries = page.new_tag("ol")
    for section in parent.find_all("section", recursive=False):
        heading = section.find(HEADINGS, recursive=False)
        item = page.new_tag("li")
        item.append(_element(page, "a", heading.get_text(), href=f"#{section['id']}"))
        entries.append(item)
        if depth < 3 and section.find("section", recursive=False):
            item.append(_list(page, section, depth + 1))
    return entries


def _classes(tag: Tag) -> list[str]:
    return list(tag.get("class", []))


def _element(page: BeautifulSoup, name: str, text: str, **attributes: str) -> Tag:
    element = page.new_tag(name, attrs=attributes)
    element.string = text
    return element
