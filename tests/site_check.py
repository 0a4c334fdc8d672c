"""The site in headless Chromium, without a network: every page opens, every figure and every view moves.

`make test-lab` runs it; it needs the extras `site` and `browser`.
"""

from __future__ import annotations

import nbformat
import pytest
from lab_check import NOTEBOOKS, browser, moved_by_keyboard  # noqa: F401

from tools import site

PAGES = [
    "index", "api", *site.GUIDES, *(name.removesuffix(".ipynb") for name in NOTEBOOKS),
    *(f"assignment_{path.name}" for path in sorted((site.NOTEBOOKS / "assignments" / "source").glob("[0-9]*"))),
]  # fmt: skip
SHADES = "() => [...document.querySelectorAll('.poise-view details[open] .text span[title]')].map(t => getComputedStyle(t).backgroundColor).join()"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "site"
    site.build(folder)
    return folder


def opened(browser, path, width=1200):  # noqa: F811
    """A page without a network, and a list that fills with what it asks of one and with its errors."""
    context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
    page, said = context.new_page(), []
    page.on(
        "request",
        lambda request: None if request.url.startswith(("file:", "data:", "blob:")) else said.append(request.url),
    )
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(path.as_uri(), timeout=120_000)
    return page, said


@pytest.mark.parametrize("name", PAGES)
def test_page_opens_and_moves(built, browser, name):  # noqa: F811
    page, said = opened(browser, built / f"{name}.html")
    assert page.locator("h1:visible").count()
    faults, moved = moved_by_keyboard(page)
    stored = built / f"{name}.html"
    assert (
        moved > 0
        or "poise-figure" not in stored.read_text(encoding="utf-8")
        or name[:2] not in ("01", "02", "03", "04", "05", "06")
    )
    view = page.locator(".poise-view:has(input.e)")  # those whose tokens are shaded; others show texts alone
    for k in range(view.count()):
        radio, before = view.nth(k).locator("input.e"), page.evaluate(SHADES)
        radio.focus()
        page.keyboard.press("ArrowRight")
        if page.evaluate(SHADES) == before:
            faults.append(f"view {k} did not change its shades")
    if name[:2].isdigit():
        page.wait_for_function("() => window.MathJax?.startup?.promise")
        page.evaluate("() => MathJax.startup.promise")
        if not page.locator("mjx-container").count() or page.locator("article p", has_text="$$").count():
            faults.append("formulas are not typeset")
        faults += page.evaluate(MARKS)
    missing = page.evaluate("() => [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)")
    page.context.close()
    assert not faults, "\n".join(faults)
    assert not missing, missing
    assert not said, said


def test_pages_lead_to_one_another_and_are_searched(built, browser):  # noqa: F811
    page, said = opened(browser, built / "index.html")
    linked = set(page.evaluate("() => [...document.links].map(link => link.href.split('/').pop().split('#')[0])"))
    assert {f"{name}.html" for name in PAGES} <= linked
    page.goto(f"{(built / 'search.html').as_uri()}?q=partner")
    page.wait_for_selector("#search-results li a", timeout=30_000)
    page.context.close()
    assert not said, said


@pytest.mark.parametrize("name", ["index", "02_rollouts_and_rewards", "api"])
def test_page_is_as_wide_as_a_phone(built, browser, name):  # noqa: F811
    page, _ = opened(browser, built / f"{name}.html", width=375)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.context.close()


MARKS = r"""() => {
  const found = [], words = document.createTreeWalker(document.querySelector('.bd-article'), NodeFilter.SHOW_TEXT);
  while (words.nextNode()) {
    const node = words.currentNode;
    if (/[$`]|\\[a-zA-Z]|\*\*/.test(node.textContent) && !node.parentElement.closest('code, pre, script, style, mjx-container, .poise-view, .poise-figure'))
      found.push(`not typeset: ${node.textContent.trim().slice(0, 60)}`);
  }
  return found;
}"""
CUT = """() => [...document.querySelectorAll('.cell_input pre, .cell_output pre, .poise-table, .pst-scrollable-table-container')]
  .filter(part => part.checkVisibility() && part.scrollWidth > part.clientWidth + 2).map(part => part.innerText.slice(0, 60))"""


@pytest.mark.parametrize("name", [*(name for name in PAGES if name[:2].isdigit()), "results"])
def test_code_output_and_tables_are_not_cut_and_solutions_stay_folded(built, browser, name):  # noqa: F811
    page, _ = opened(browser, built / f"{name}.html", width=1300)
    assert not page.evaluate(CUT)
    page.wait_for_function(
        "() => [...document.querySelectorAll('.poise-figure .main-svg')].every(svg => "
        "svg.getBoundingClientRect().right <= svg.closest('.poise-figure').getBoundingClientRect().right + 1)"
    )
    cells = nbformat.read(site.NOTEBOOKS / f"{name}.ipynb", as_version=4).cells if name[:2].isdigit() else []
    seen = [code.strip() for code in page.locator(".cell_input pre:visible").all_inner_texts()]
    for cell in cells:
        if cell.cell_type == "code":
            assert (cell.source.strip() in seen) != bool(cell.metadata.get("jupyter", {}).get("source_hidden"))
    page.context.close()


# What a printer would cut, break or print too faintly on white paper.
ON_PAPER = """() => {
  const faults = [], light = color => color.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  for (const figure of document.querySelectorAll('.poise-figure')) {
    if (getComputedStyle(figure).breakInside !== 'avoid') faults.push('a figure is broken over pages');
    if (figure.getBoundingClientRect().height > 1000) faults.push('a figure is higher than a page');
    for (const part of figure.querySelectorAll('.main-svg, label, legend, input, select'))
      if (part.getBoundingClientRect().right > innerWidth + 1) faults.push(`cut: ${part.tagName}`);
  }
  for (const code of document.querySelectorAll('pre')) if (code.scrollWidth > code.clientWidth + 2) faults.push(`cut: ${code.textContent.slice(0, 30)}`);
  for (const text of document.querySelectorAll('article *, .poise-figure text')) {
    const words = [...text.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!words || !text.checkVisibility() || text.closest('mjx-container')) continue;
    const style = getComputedStyle(text), color = text.namespaceURI.includes('svg') ? style.fill : style.color;
    if (1.05 / (light(color.match(/[0-9.]+/g).slice(0, 3).map(Number)) + 0.05) < 4.5) faults.push(`faint, ${color}: ${text.textContent.slice(0, 30)}`);
  }
  return [...new Set(faults)];
}"""


@pytest.mark.parametrize("name", ["02_rollouts_and_rewards", "10_probe_transfer"])
def test_dark_pages_are_printed_dark_on_white_with_whole_figures(built, browser, name):  # noqa: F811
    context = browser.new_context(viewport={"width": 1200, "height": 900}, color_scheme="dark", offline=True)
    page = context.new_page()
    page.goto((built / f"{name}.html").as_uri(), timeout=120_000)
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.wait_for_function(
        "() => [...document.querySelectorAll('.poise-figure')].every(box => box.querySelector('.main-svg'))"
    )
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 without its margins
    page.wait_for_timeout(1000)
    faults = page.evaluate(ON_PAPER)
    context.close()
    assert not faults, "\n".join(faults)


def test_assignments_hold_no_answers(built):
    for path in sorted((site.NOTEBOOKS / "assignments" / "source").glob("*/*.ipynb")):
        text = (built / f"assignment_{path.parent.name}.html").read_text(encoding="utf-8")
        for mark in ("BEGIN SOLUTION", "BEGIN HIDDEN TESTS", "=== BEGIN"):
            assert mark not in text
