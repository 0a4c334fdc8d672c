"""The site in headless Chromium, without a network: every page opens, every figure and every view moves.

`make test-lab` runs it; it needs the extras `site` and `browser`.
"""

from __future__ import annotations

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


def test_assignments_hold_no_answers(built):
    for path in sorted((site.NOTEBOOKS / "assignments" / "source").glob("*/*.ipynb")):
        text = (built / f"assignment_{path.parent.name}.html").read_text(encoding="utf-8")
        for mark in ("BEGIN SOLUTION", "BEGIN HIDDEN TESTS", "=== BEGIN"):
            assert mark not in text
