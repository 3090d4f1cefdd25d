"""The form of the article: sections and their numbers, figures' widths, tables in the appendix."""

import pytest
import typeset
from bs4 import BeautifulSoup

ROW = "<tr><td>1</td></tr>"
DRAWING = '<svg width="{}pt" height="1pt"><g transform="translate(1 2) scale({} -{})"/></svg>'
PAGE = """<div class="body"><section id="title"><h1>Title<a class="headerlink"></a></h1>
<p>Short.</p>
<section id="one"><h2>One</h2><p><a href="#regimes"><span class="std-numref">Fig. 2</span></a></p>
<figure id="plain"><img src="plain.svg"><figcaption><span class="caption-number">Fig. 1 </span>
</figcaption></figure><div class="toctree-wrapper">
<span id="document-two"></span><section id="two"><h3>Two</h3><section id="in"><h4>In</h4>
<p><span><table><tbody>{long}</tbody></table></span></p>
<p><span><table><tbody>{short}</tbody></table></span></p>
<figure id="regimes"><img src="wide.svg"><figcaption><span class="caption-number">Fig. 2 </span>
</figcaption></figure></section></section>
</div></section><section id="appendix"><h2>Appendix</h2><div class="toctree-wrapper">
<span id="document-claims"></span><section id="claims"><h3>Claims</h3>
<section id="refs"><h4>References</h4><div class="citation-list"></div></section></section>
</div></section></section></div>"""


@pytest.fixture(scope="module")
def article(tmp_path_factory):
    """Return a page of two chapters and an appendix, arranged as an article."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "plain.svg").write_text(DRAWING.format(300, 0.09, 0.09))
    (folder / "wide.svg").write_text(DRAWING.format(400, 0.08, 0.08))
    page = BeautifulSoup(PAGE.format(long=ROW * 13, short=ROW * 12), "html.parser")
    typeset.arrange(page, folder, "Version 1")
    return page


def test_chapters_and_sections_are_numbered_and_the_appendix_has_letters(article):
    headings = [tag.name + " " + tag.get_text() for tag in article.find_all(typeset.HEADINGS)]
    assert headings == [
        *("h1 Title", "h2 1 One", "h3 1.1 Two", "h4 1.1.1 In", "h2 References"),
        *("h2 A Appendix", "h3 A.1 Claims", "h3 A.2 Tables"),
    ]
    entries = [link.get_text() for link in article.select("nav.contents a")]
    assert entries == [heading[3:] for heading in headings[1:]]


def test_a_long_table_goes_to_the_appendix_with_a_link_in_its_place(article):
    assert article.find("table").find_parent("p") is None
    assert [len(table.select("tr")) for table in article.select("#in table")] == [12]
    link = article.select_one("#in p.moved a")
    moved = article.find(id=link["href"][1:])
    assert moved.find_parent("section")["id"] == "tables" and len(moved.select("tr")) == 13
    assert link.text == "Table A.1" and moved.figcaption.a["href"] == "#in"


def test_main_figures_come_first_and_numbers_follow_the_order(article):
    numbers = {tag["id"]: tag.select_one(".caption-number").text for tag in article("figure")[:2]}
    assert list(numbers.items()) == [("regimes", "Fig. 1 "), ("plain", "Fig. 2 ")]
    assert article.select_one(".std-numref").text == "Fig. 1"


def test_a_figure_has_the_page_where_its_text_needs_it(article):
    assert "wide" in article.find(id="regimes")["class"]
    assert "wide" not in article.find(id="plain").get("class", [])
    assert article.select_one("#plain img")["style"] == "--printed: 242.0pt; --needed: 233.3pt"


def test_the_width_at_which_the_smallest_text_has_seven_points():
    assert typeset.widths(DRAWING.format(300, 0.14, 0.14)) == (300, pytest.approx(150))
    assert typeset.widths("<svg/>") == (0, 0)
