"""The rollout viewer in headless Chromium: on a page, at the width of a phone and of a screen, light and dark, and in
JupyterLab before a notebook is trusted and after. And the schematics. `make test-lab` runs it; screenshots are left in
runs/lab.
"""

from __future__ import annotations

import nbformat
import pytest
from lab_check import ROOT, SHOTS, browser, lab, wait_until  # noqa: F401
from test_viewer import HOSTILE, made

import poise_lab as pl
from poise_lab.show.tokens import ShownPrompt, read_tokens
from poise_lab.show.viewer import RolloutViewer

THEMES = {"light": "body{background:#fff;color:#212121}", "dark": "body{background:#111;color:rgba(255,255,255,.87)}"}
SHADES = """() => [...document.querySelectorAll('.poise-view details[open] .text span[title]')]
  .map(token => getComputedStyle(token).backgroundColor).join()"""
OPEN = "() => [...document.querySelectorAll('.poise-view > details')].map(fold => fold.open).indexOf(true)"
# What is wrong with what is shown: small or faint letters, pieces that overlap or stick out.
FAULTS = """page => {
  const faults = [], numbers = color => (color.match(/[0-9.]+/g) ?? []).map(Number);
  const over = (top, below) => { const a = top[3] ?? 1; return below.map((c, i) => a * top[i] + (1 - a) * c) };
  const light = color => color.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const seen = element => element.checkVisibility();
  const texts = [...document.querySelectorAll('.poise-view *')].filter(e => seen(e) && [...e.childNodes]
    .some(node => node.nodeType === 3 && node.textContent.trim()));
  for (const text of texts) {
    const style = getComputedStyle(text), said = text.textContent.slice(0, 30);
    if (parseFloat(style.fontSize) < 12) faults.push(`${style.fontSize}: ${said}`);
    const layers = [];
    for (let e = text; e; e = e.parentElement) layers.push(numbers(getComputedStyle(e).backgroundColor));
    const behind = layers.reverse().filter(layer => layer.length).reduce((below, layer) => over(layer, below), [255, 255, 255]);
    const [a, b] = [light(behind), light(over(numbers(style.color), behind))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) faults.push(`contrast ${((a + 0.05) / (b + 0.05)).toFixed(2)}: ${said}`);
  }
  const blocks = [...document.querySelectorAll('.poise-view :is(p, summary, fieldset, .text)')].filter(seen);
  for (const [i, one] of blocks.entries()) {
    const p = one.getBoundingClientRect();
    if (p.right > innerWidth + 1 || p.left < -1 || one.scrollWidth > one.clientWidth + 2) faults.push(`sticks out: ${one.textContent.slice(0, 30)}`);
    for (const other of blocks.slice(i + 1)) {
      const q = other.getBoundingClientRect();
      if (Math.min(p.right, q.right) - Math.max(p.left, q.left) > 1 && Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 1)
        faults.push(`overlap: ${one.textContent.slice(0, 30)} | ${other.textContent.slice(0, 30)}`);
    }
  }
  if (document.documentElement.scrollWidth > innerWidth) faults.push(`the page scrolls: ${document.documentElement.scrollWidth}`);
  return faults;
}"""


@pytest.fixture(scope="module")
def html(bundled):
    """A view of the bundled policy, read with two probes, and a prompt whose responses are hostile and long."""
    baseline, readings, prompts = pl.make_baseline("poise", warmup=1), {}, 4
    for name in ("before_training", "after_training"):
        rollouts = pl.sample_rollouts(bundled, pl.load_task(pl.TINY_TASKS).sample(40, seed=3), responses=2, seed=3)
        internals = pl.read_internals(bundled, rollouts)
        baseline.update(rollouts, internals)
        shown = read_tokens(bundled, rollouts, internals, baseline, prompts)
        prompts = [one.index for one in shown]
        strange = [made(*HOSTILE, ended=True, reasoning=3), made(*["\u0645\u0631\u062d\u0628\u0627 "] * 300, "x" * 500)]
        readings[name] = [*shown, ShownPrompt(40, "", HOSTILE, strange, None, 4)]
    return RolloutViewer(**readings).to_html()


def walk(page, name: str) -> list[str]:
    """Every shading and every fold by keyboard; what is wrong at any of them. Leaves a screenshot of each shading."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    faults, seen = [], []
    page.locator("input[name=shade]:checked").focus()
    for _ in range(4):
        seen.append(page.evaluate(SHADES))
        faults += page.evaluate(FAULTS)
        page.screenshot(path=SHOTS / f"viewer-{name}-{len(seen)}.png", full_page=True)
        page.keyboard.press("ArrowRight")
    if len(set(seen)) < 4 or page.evaluate(SHADES) != seen[0]:
        faults.append("the arrow keys do not go round the four shadings")
    folds = page.locator(".poise-view > details > summary")
    for k in range(1, folds.count()):
        folds.nth(k).focus()
        page.keyboard.press("Enter")
        if not wait_until(lambda: page.evaluate(OPEN) == k or k == folds.count() - 1, 5):  # noqa: B023
            faults.append(f"fold {k} did not open alone")  # but for the words
        faults += page.evaluate(FAULTS)
    page.screenshot(path=SHOTS / f"viewer-{name}-last.png", full_page=True)
    return faults


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", [375, 1400])
def test_viewer_on_a_page(browser, html, tmp_path, width, theme):  # noqa: F811
    head = f"<!doctype html><meta charset='utf-8'><meta name='viewport' content='width=device-width'><style>{THEMES[theme]}</style>"
    (tmp_path / "page.html").write_text(f"{head}<body>{html}</body>", encoding="utf-8")
    context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith("file:") else said.append(request.url))
    page.goto((tmp_path / "page.html").as_uri())
    faults = walk(page, f"{width}-{theme}")
    page.keyboard.press("Enter")
    context.close()
    assert not faults, "\n".join(faults)
    assert not said, said


def test_viewer_in_a_notebook(lab, browser, html):  # noqa: F811
    """As cloned, a notebook runs and styles nothing: folds, shades and marks are there all the same."""
    address, folder = lab
    output = nbformat.v4.new_output("display_data", data={"text/html": html, "text/plain": "words"})
    cells = [nbformat.v4.new_code_cell("view", outputs=[output], execution_count=1), nbformat.v4.new_code_cell("1")]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "notebooks" / "viewer.ipynb")
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    page, errors = context.new_page(), []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{address}/lab/tree/notebooks/viewer.ipynb?reset", timeout=90_000)
    page.wait_for_selector(".poise-view details[open]", timeout=90_000)
    page.add_style_tag(content=".Toastify { display: none }")
    assert not page.locator(".poise-view fieldset").is_visible() and page.locator(".poise-view .plain").is_visible()
    assert len(set(page.evaluate(SHADES).split("),"))) >= 3
    first, second = (page.locator(".poise-view > details").nth(k).locator(".cards > div").first for k in (0, 1))
    assert first.is_visible() and not second.is_visible()
    page.locator(".poise-view > details > summary").nth(1).click()
    assert wait_until(second.is_visible, 5)
    page.screenshot(path=SHOTS / "viewer-lab-untrusted.png")
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:trust') }")
    page.locator(".jp-Dialog .jp-mod-warn").click()
    radio = page.locator(".poise-view input.e")
    radio.wait_for()
    for theme in ("JupyterLab Light", "JupyterLab Dark"):
        page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
        page.wait_for_timeout(1000)
        page.screenshot(path=SHOTS / f"viewer-lab-{theme.split()[1].lower()}.png")
    before = page.evaluate(SHADES)
    radio.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".poise-view input.l").is_checked() and page.evaluate(SHADES) != before
    page.keyboard.press("ArrowDown")
    assert page.locator(".poise-view input.v").is_checked()
    page.evaluate("() => window.jupyterapp.commands.execute('kernelmenu:shutdown')")
    context.close()
    assert not errors, errors


# What is wrong with a drawing: words that overlap, or stick out of the drawing or of the box in whose middle they are.
DRAWN_FAULTS = """() => {
  const faults = [], svg = document.documentElement, size = svg.viewBox.baseVal;
  const texts = [...svg.querySelectorAll('text')].filter(t => !t.closest('.away')).map(t => [t.textContent, t.getBBox(), t]);
  const boxes = [...svg.querySelectorAll('rect.box, rect.warm, rect.plain')].map(r => r.getBBox());
  for (const [i, [said, p, t]] of texts.entries()) {
    if (parseFloat(getComputedStyle(t).fontSize) < 12) faults.push(`small: ${said}`);
    if (p.x < 2 || p.y < 0 || p.x + p.width > size.width - 2 || p.y + p.height > size.height) faults.push(`sticks out: ${said}`);
    const [x, y] = [p.x + p.width / 2, p.y + p.height / 2];
    for (const b of boxes) if (x > b.x && x < b.x + b.width && y > b.y && y < b.y + b.height
        && (p.x < b.x + 1 || p.x + p.width > b.x + b.width - 1) && b.width > 30) faults.push(`wider than its box: ${said}`);
    for (const [other, q] of texts.slice(i + 1))
      if (Math.min(p.x + p.width, q.x + q.width) - Math.max(p.x, q.x) > 1 && Math.min(p.y + p.height, q.y + q.height) - Math.max(p.y, q.y) > 3)
        faults.push(`overlap: ${said} | ${other}`);
  }
  return faults;
}"""

# Of a drawing that moves, one frame is looked at, and the others are away. Returns how many frames there are.
ONE_FRAME = """i => {
  const frames = [...document.querySelectorAll('.frame')];
  frames.forEach((frame, k) => { frame.classList.toggle('away', k !== i); frame.style.opacity = k === i ? 1 : 0; });
  return frames.length;
}"""

# Words against the fill of the last box that holds them, or the ground.
DRAWN_CONTRAST = """() => {
  const light = color => color.match(/[0-9.]+/g).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const filled = [...document.querySelectorAll('rect')].filter(r => getComputedStyle(r).fill !== 'none');
  return [...document.querySelectorAll('text')].flatMap(t => {
    const p = t.getBBox(), [x, y] = [p.x + p.width / 2, p.y + p.height / 2];
    const under = filled.filter(r => { const b = r.getBBox(); return x > b.x && x < b.x + b.width && y > b.y && y < b.y + b.height }).pop();
    const [a, b] = [light(getComputedStyle(t).fill), light(getComputedStyle(under).fill)].sort((p, q) => q - p);
    return (a + 0.05) / (b + 0.05) < 4.5 ? [`contrast ${((a + 0.05) / (b + 0.05)).toFixed(2)}: ${t.textContent}`] : [];
  });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_drawings_are_read_in_both_themes(browser, scheme):  # noqa: F811
    SHOTS.mkdir(parents=True, exist_ok=True)
    size = {"width": 700, "height": 500}
    context, faults = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce"), []
    page = context.new_page()
    for path in sorted((ROOT / "notebooks" / "figures").glob("*.svg")):
        page.goto(path.as_uri())
        page.screenshot(path=SHOTS / f"drawing-{path.stem}-{scheme}.png")
        for frame in range(max(1, page.evaluate(ONE_FRAME, 0))):
            page.evaluate(ONE_FRAME, frame)
            faults += [f"{path.stem}: {fault}" for fault in page.evaluate(DRAWN_FAULTS)]
        faults += [f"{path.stem}: {fault}" for fault in page.evaluate(DRAWN_CONTRAST)]
    context.close()
    assert not faults, "\n".join(faults)
