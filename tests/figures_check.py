"""Every state of every stored figure in headless Chromium, drawn as JupyterLab draws it and as a page does: no words over
words, legend, controls or marks, none cut and none small. And the stills. `make test-lab` runs it.
"""

from __future__ import annotations

import itertools
import json

import nbformat
import pytest
from lab_check import NOTEBOOKS, ROOT, browser  # noqa: F401
from plotly.offline import get_plotlyjs

from poise_lab.show.page import PLOTLY, SCRIPT, to_html
from poise_lab.show.still import to_svg

WIDTHS = {"lab": 900, "page": 900, "phone": 343}  # px; a phone of 375 has a margin

LAB = """([figure, width]) => {
  document.body.innerHTML = `<div id="plot" style="width:${width}px"></div>`;
  const {data, layout} = structuredClone(figure);
  window.controls = [...layout.sliders ?? [], ...layout.updatemenus ?? []];
  return Plotly.newPlot('plot', data, layout, {responsive: true}).then(() => 0);
}"""
PAGE = """([html, script, width]) => {
  document.body.innerHTML = `<div style="width:${width}px">${html}</div>`;
  eval(script)(document.querySelector('.poise-figure'));
}"""
DRAWN = "() => document.querySelector('.js-plotly-plot .main-svg .xtick, .js-plotly-plot .main-svg .ytick') !== null"
MOVE = {
    "lab": """at => Promise.all(at.map(([name, i]) => {
      const one = controls.find(each => each.name === name);
      return Plotly.update('plot', ...structuredClone((one.steps ?? one.buttons)[i].args));
    })).then(() => 0)""",
    "page": """at => at.forEach(([name, i]) => {
      const row = [...document.querySelectorAll('.poise-figure > :is(label, fieldset)')].find(r => r.firstChild.textContent === name + ' ');
      const range = row.querySelector('[type=range]'), list = row.querySelector('select');
      if (range) { range.value = i; range.oninput(); }
      else if (list) { list.selectedIndex = i; list.onchange(); }
      else row.querySelectorAll('[type=radio]')[i].onchange();
    })""",
}
# What is wrong with what is drawn now.
FAULTS = """() => {
  const plot = document.querySelector('.js-plotly-plot'), frame = plot.getBoundingClientRect(), faults = [];
  const box = element => element.getBoundingClientRect();
  const over = (p, q, by = 2) => Math.min(p.right, q.right) - Math.max(p.left, q.left) > by
    && Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > by;
  const words = [...plot.querySelectorAll('.main-svg text')].filter(t => t.textContent.trim() && !t.closest('.hoverlayer')
    && box(t).width > 0 && getComputedStyle(t).visibility !== 'hidden' && getComputedStyle(t).opacity !== '0');
  const slanted = t => /rotate\\((?!0|-90)/.test(t.getAttribute('transform') ?? '');  // their boxes overlap, the words do not
  const said = t => t.textContent.trim().slice(0, 40);
  const boxes = words.map(box);
  for (const [i, t] of words.entries()) {
    const p = boxes[i];
    if (parseFloat(getComputedStyle(t).fontSize) < 12) faults.push(`small: ${said(t)}`);
    if (p.left < frame.left - 1 || p.right > frame.right + 1 || p.top < frame.top - 1 || p.bottom > frame.bottom + 1)
      faults.push(`cut: ${said(t)}`);
    for (let j = i + 1; j < words.length; j++)
      if (over(p, boxes[j]) && !(slanted(t) && slanted(words[j]))) faults.push(`overlap: ${said(t)} | ${said(words[j])}`);
  }
  const areas = [...plot.querySelectorAll('.draglayer .nsewdrag')].map(box);
  const marks = [...plot.querySelectorAll('.cartesianlayer .points path, .cartesianlayer .point path, .cartesianlayer path.point')]
    .map(mark => [mark, box(mark)])
    .filter(([, q]) => q.width > 0 && areas.some(a => over(q, a, 0)));  // others are clipped
  for (const [i, t] of words.entries()) {
    if (t.closest('.heatmap-label') || t.classList.contains('heatmap-label')) continue;
    const own = t.closest('.point');
    if (marks.some(([mark, q]) => !(own && own.contains(mark)) && over(boxes[i], q, 3))) faults.push(`on a mark: ${said(t)}`);
  }
  const controls = [...plot.querySelectorAll('.updatemenu-item-rect, .slider-rail-touch-rect')].map(box);
  for (const [i, t] of words.entries())
    if (!t.closest('.updatemenu-container, .slider-container') && controls.some(q => over(boxes[i], q, 1))) faults.push(`under a control: ${said(t)}`);
  for (const part of plot.querySelectorAll('.legend, .slider-container, .updatemenu-container, .g-gtitle'))
    if (box(part).width && areas.some(area => over(box(part), area, 1)))
      faults.push(`on the plot: ${part.getAttribute('class')}`);
  return faults;
}"""
STILL = """() => {
  const faults = [], texts = [...document.querySelectorAll('text')], size = document.querySelector('svg').getBoundingClientRect();
  const slanted = t => /rotate\\(-37/.test(t.getAttribute('transform') ?? '');
  for (const [i, t] of texts.entries()) {
    const p = t.getBoundingClientRect();
    if (parseFloat(getComputedStyle(t).fontSize) < 12) faults.push(`small: ${t.textContent}`);
    if (p.left < size.left || p.right > size.right || p.top < size.top || p.bottom > size.bottom) faults.push(`cut: ${t.textContent}`);
    for (const other of texts.slice(i + 1)) {
      const q = other.getBoundingClientRect();
      if (Math.min(p.right, q.right) - Math.max(p.left, q.left) > 2 && Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 3
          && !(slanted(t) && slanted(other))) faults.push(`overlap: ${t.textContent} | ${other.textContent}`);
    }
  }
  return faults;
}"""


def stored(name: str) -> list[tuple[int, dict]]:
    """The figures of a notebook, each with the number of its cell."""
    cells = nbformat.read(ROOT / "notebooks" / name, as_version=4).cells
    return [
        (i, o.data[PLOTLY])
        for i, cell in enumerate(cells)
        for o in cell.get("outputs", [])
        if PLOTLY in o.get("data", {})
    ]


def states(figure: dict) -> list[dict[str, int]]:
    """Every combination of what its controls can stand at: name to place."""
    controls = [*figure["layout"].get("sliders", []), *figure["layout"].get("updatemenus", [])]
    places = [range(len(control.get("steps") or control["buttons"])) for control in controls]
    names = [control["name"] for control in controls]
    return [dict(zip(names, at, strict=True)) for at in itertools.product(*places)]


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("figures")
    (folder / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")
    (folder / "page.html").write_text(
        "<!doctype html><meta charset=utf-8><script src=plotly.min.js></script><body>", encoding="utf-8"
    )
    context = browser.new_context(viewport={"width": 1000, "height": 1000}, offline=True)
    page = context.new_page()
    page.goto((folder / "page.html").as_uri())
    yield page
    context.close()


@pytest.mark.parametrize("form", WIDTHS)
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_nothing_overlaps_in_any_state(page, name, form):
    faults: dict[str, str] = {}
    for cell, figure in stored(name):
        if form == "lab":
            page.evaluate(LAB, [figure, WIDTHS[form]])
        else:
            page.evaluate(PAGE, [to_html(figure, "words"), SCRIPT, WIDTHS[form]])
        page.wait_for_function(DRAWN)
        before: dict = {}
        for at in states(figure):
            page.evaluate(
                MOVE["lab" if form == "lab" else "page"], [[k, i] for k, i in at.items() if before.get(k) != i]
            )
            before = at
            for fault in page.evaluate(FAULTS):
                faults.setdefault(f"cell {cell}: {fault}", str(at))
    assert not faults, "\n".join(f"{fault} at {at}" for fault, at in faults.items())


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_stills_are_read(page, name):
    faults = []
    for cell, figure in stored(name):
        page.evaluate("svg => { document.body.innerHTML = svg }", to_svg(json.loads(json.dumps(figure))))
        faults += [f"cell {cell}: {fault}" for fault in page.evaluate(STILL)]
    assert not faults, "\n".join(faults)
