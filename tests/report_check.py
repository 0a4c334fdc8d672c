"""A report in headless Chromium, without a network: figures are drawn, and every control does what it says. `make
test-lab` runs it; screenshots are left in runs/lab.
"""

from __future__ import annotations

import pytest
from lab_check import SHOTS, browser  # noqa: F401
from support import many_settings

from poise_lab.show.report import write_report

DRAWN = """title => {
  const plot = [...document.querySelectorAll('.js-plotly-plot')].find(plot => plot.layout.title.text === title);
  const lines = plot.data.filter(trace => trace.name && trace.visible !== false);
  const bands = plot.data.filter(trace => trace.meta.band && trace.visible !== false);
  return {names: lines.map(trace => trace.name), bands: bands.length, x: lines[0]?.x, y: lines[0]?.y,
    title: plot.layout.xaxis.title.text, paths: plot.querySelectorAll('.scatterlayer .js-line').length};
}"""
ROWS = "() => [...document.querySelectorAll('#summary tbody tr')].filter(row => row.checkVisibility()).length"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(many_settings(), path)
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 375])
def test_seventeen_settings_move(report, browser, scheme, width):  # noqa: F811
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    page, errors, asked = context.new_page(), [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot .scatterlayer').length > 10")
    before = page.evaluate(DRAWN, "Training reward")
    assert len(before["names"]) == 17 and before["bands"] == 0 and before["title"] == "step" and before["paths"] == 17
    page.screenshot(path=SHOTS / f"report-{scheme}-{width}.png")

    page.get_by_text("tokens", exact=True).first.click()
    page.get_by_label("20", exact=True).check()
    moved = page.evaluate(DRAWN, "Training reward")
    assert moved["title"].startswith("tokens") and moved["x"][-1] > 100_000 and before["x"][-1] == 40
    assert max(moved["y"]) < max(before["y"]) and moved["y"][0] == before["y"][0]

    page.get_by_role("button", name="none").click()
    assert page.evaluate(ROWS) == 0
    for name in ("poise x2", "rloo x2"):
        page.get_by_label(name, exact=True).check()
    shown = page.evaluate(DRAWN, "Training reward")
    assert sorted(shown["names"]) == ["poise x2", "rloo x2"] and shown["bands"] == 2 and page.evaluate(ROWS) == 2
    page.get_by_role("button", name="all").click()
    assert page.evaluate(ROWS) == 17

    page.get_by_role("link", name="By task").click()
    assert page.evaluate("document.querySelector('#by-task').getBoundingClientRect().top") == pytest.approx(0, abs=60)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert errors == [] and asked == [report.as_uri()]
    context.close()
