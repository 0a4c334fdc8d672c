"""Every notebook in a real JupyterLab in headless Chromium: as shipped, nothing run, every figure is drawn and every
control moves it; after all cells have run it stands where it opened; no errors.

Not part of `make test`: it needs a browser. `make test-lab` installs what it needs. Screenshots of the
figures, as shipped and after all cells have run, in the light and the dark theme, are left in runs/lab; sheet.html there
shows every figure of every notebook as shipped, in colour and in grey. On a machine with other work raise POISE_LAB_PATIENCE (seconds per notebook).
"""

from __future__ import annotations

import html
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import sync_playwright

from tools.notebooks import PLOTLY, WIDGET_VIEW, write_pages

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
PATIENCE = float(os.environ.get("POISE_LAB_PATIENCE", 600))
SHOTS = ROOT / "runs" / "lab"
HIGHEST = 700  # px of a figure
LIVE = ".poise-live"
THEME = "() => document.body.dataset.jpThemeName"

STATE = """() => {
  const panel = window.jupyterapp.shell.currentWidget, cells = panel.content.model.cells;
  let open = 0;
  for (let i = 0; i < cells.length; i++) {
    const cell = cells.get(i);
    if (cell.type === 'code' && (cell.executionState === 'running' || cell.executionCount == null)) open++;
  }
  return [panel.sessionContext.session?.kernel?.status, open];
}"""
OUTPUTS = """() => window.jupyterapp.shell.currentWidget.content.widgets.map(cell =>
  cell.model.type === 'code' ? cell.model.toJSON().outputs : [])"""
SHOW = """i => {
  const notebook = window.jupyterapp.shell.currentWidget.content;
  notebook.activeCellIndex = i;
  return notebook.scrollToItem(i, 'start');
}"""
RUN = "() => { window.jupyterapp.commands.execute('notebook:run-cell') }"  # not awaited
DONE = """i => {  // the kernel may call itself idle between the messages of a widget
  const cell = window.jupyterapp.shell.currentWidget.content.widgets[i].model;
  return cell.executionState !== 'running' && cell.executionCount != null;
}"""
FIGURE = """() => {
  const plot = document.querySelector('.jp-Notebook .jp-Cell.jp-mod-active .js-plotly-plot');
  if (!plot || !plot.querySelector('.cartesianlayer .trace, .cartesianlayer .hm')) return null;
  const seen = plot.data.filter(trace => trace.visible !== false && trace.xaxis !== 'x99');
  const shown = seen.map(trace => [trace.x, trace.y, trace.z, trace.name, trace.marker?.color]);
  return JSON.stringify([shown, plot.layout.title?.text]);
}"""
# Where the sliders and the rows of buttons of the active cell stand, and how many places each has.
CONTROLS = """() => {
  const layout = document.querySelector('.jp-Notebook .jp-Cell.jp-mod-active .js-plotly-plot')?._fullLayout;
  const read = (controls, of) => (controls ?? []).map(one => [one.active, one[of].length]);
  return [read(layout?.sliders, 'steps'), read(layout?.updatemenus, 'buttons')];
}"""
# What is wrong with the drawn figures of the active cell: titles, height, contrast, text that is cut or overlaps.
FAULTS = """highest => {
  const light = color => {  // relative luminance as WCAG defines it
    const [r, g, b] = color.match(/[0-9.]+/g).slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const clear = color => color === 'transparent' || / 0\\)$/.test(color);
  const behind = element => {
    while (element && clear(getComputedStyle(element).backgroundColor)) element = element.parentElement;
    return element ? getComputedStyle(element).backgroundColor : 'rgb(255, 255, 255)';
  };
  const faults = [];
  document.querySelectorAll('.jp-Notebook .jp-Cell.jp-mod-active .js-plotly-plot').forEach((plot, k) => {
    const say = text => faults.push(`figure ${k}: ${text}`);
    const layout = plot._fullLayout, frame = plot.getBoundingClientRect(), page = behind(plot);
    if (!plot.layout.title?.text) say('no title');
    for (const name of Object.keys(layout).filter(name => /^[xy]axis[0-9]*$/.test(name)))
      if (layout[name].showticklabels && !plot.layout[name]?.title?.text) say(`${name} has no title`);
    if (frame.height > highest) say(`${frame.height} px high`);
    const texts = [...plot.querySelectorAll('.main-svg text')].filter(t =>
      t.textContent.trim() && !t.closest('.hoverlayer') && t.getBoundingClientRect().width > 0);
    if (!texts.length) say('no text');
    for (const t of texts) {
      const box = t.getBoundingClientRect();
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1)
        say(`cut: ${t.textContent}`);
      if (parseFloat(getComputedStyle(t).fontSize) < 12) say(`${getComputedStyle(t).fontSize}: ${t.textContent}`);
      if (t.closest('.heatmap-label, .updatemenu-container')) continue;  // on colours of their own
      const [a, b] = [light(getComputedStyle(t).fill), light(page)].sort((x, y) => y - x);
      const contrast = (a + 0.05) / (b + 0.05);
      if (contrast < 4.5) say(`contrast ${contrast.toFixed(2)} of ${getComputedStyle(t).fill} on ${page}: ${t.textContent}`);
    }
    const words = texts.filter(t => !t.closest('.heatmap-label') && !t.classList.contains('heatmap-label')
      && !/rotate\\((?!0)/.test(t.getAttribute('transform')));  // the boxes of slanted words overlap, the words do not
    for (let i = 0; i < words.length; i++) for (let j = i + 1; j < words.length; j++) {
      const [p, q] = [words[i].getBoundingClientRect(), words[j].getBoundingClientRect()];
      const [w, h] = [Math.min(p.right, q.right) - Math.max(p.left, q.left), Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top)];
      if (w > 3 && h > 3 && words[i].closest('.bars') === null) say(`overlap: ${words[i].textContent} | ${words[j].textContent}`);
    }
    const buttons = [...plot.querySelectorAll('.modebar-btn')].map(button => button.dataset.title || '');
    if (buttons.some(title => /share|cloud|studio|edit/i.test(title))) say(`a button to a network: ${buttons}`);
    const cell = plot.closest('.jp-Cell');
    if (cell.querySelectorAll('.jp-OutputArea details p').length < cell.querySelectorAll('.js-plotly-plot').length)
      say('no text alternative');
  });
  return faults;
}"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Address of a JupyterLab, and the folder that it serves: a copy of the notebooks, which a run must not change."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "served" / "notebooks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}",
        "--IdentityProvider.token=", "--ServerApp.password=", "--LabApp.expose_app_in_browser=True",
        "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        f"--ServerApp.root_dir={folder / 'served'}",
    ]  # fmt: skip
    # settings of its own, not the user's
    own = {f"JUPYTER_{kind}_DIR": str(folder / kind.lower()) for kind in ("CONFIG", "DATA")}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **own})
    address = f"http://localhost:{port}"
    for _ in range(120):
        try:
            urllib.request.urlopen(f"{address}/api", timeout=1)
            break
        except OSError:
            time.sleep(0.5)
    yield address, folder / "served"
    process.terminate()
    process.wait(20)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        system = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=system, args=["--no-sandbox"])
        yield browser
        browser.close()


def wait_until(condition, seconds: float, pause: float = 0.02):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(pause)
    return False


def opened(lab, browser, name):
    """A page with the notebook, its kernel idle, and two lists that fill: foreign addresses asked, errors in the console.

    The notebook as it is shipped: JupyterLab saves what is open every two minutes, and widgets that it saved and finds
    no more are errors.
    """
    address, folder = lab
    shutil.copy(ROOT / "notebooks" / name, folder / "notebooks" / name)
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    page, foreign, errors = context.new_page(), [], []
    home = (f"{address}/", address.replace("http", "ws") + "/", "data:", "blob:")
    page.on("websocket", lambda socket: None if socket.url.startswith(home) else foreign.append(socket.url))
    page.on("request", lambda request: None if request.url.startswith(home) else foreign.append(request.url))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{address}/lab/tree/notebooks/{name}?reset", timeout=90_000)
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=90_000)
    page.add_style_tag(content=".Toastify { display: none }")  # JupyterLab's question whether to show its news
    assert wait_until(lambda: page.evaluate(STATE)[0] == "idle", 90, 0.5), "the kernel did not start"
    return page, foreign, errors


def stuck_controls(page, cell) -> list[str]:
    """The controls of the active cell's figure that changed nothing when they were moved."""
    stuck = []
    sliders, menus = page.evaluate(CONTROLS)
    for k, (active, places) in enumerate(sliders):
        before, rail = page.evaluate(FIGURE), cell.locator(".slider-rail-touch-rect").nth(k)
        rail.scroll_into_view_if_needed()
        box = rail.bounding_box()
        end = 2 if active == places - 1 else box["width"] - 2
        page.mouse.click(box["x"] + end, box["y"] + box["height"] / 2)
        if not wait_until(lambda: page.evaluate(FIGURE) != before, 10, 0.1):  # noqa: B023
            stuck.append(f"slider {k}")
    for k, (active, places) in enumerate(menus):
        before, row = page.evaluate(FIGURE), cell.locator(".updatemenu-header-group").nth(k)
        head, buttons = row.locator(".updatemenu-header"), row.locator(".updatemenu-button")
        if head.count():
            head.click()
            buttons = cell.locator(".updatemenu-dropdown-button")
            buttons.first.wait_for()
        buttons.nth((active + 1) % places).dispatch_event("click")  # a long list is scrolled
        if not wait_until(lambda: page.evaluate(FIGURE) != before, 10, 0.1):  # noqa: B023
            stuck.append(f"buttons {k}")
    return stuck


def deaf_controls(page, cell) -> list[str]:
    """The controls of the active cell's figure that the arrow keys do not move, or that say or keep something else."""
    deaf, controls = [], cell.locator(".js-plotly-plot [role=slider][tabindex='0']")
    count = sum(map(len, page.evaluate(CONTROLS)))
    if not wait_until(lambda: controls.count() == count, 20, 0.2):
        return [f"{controls.count()} controls of {count}"]
    for k in range(count):
        before = page.evaluate(FIGURE)
        controls.nth(k).focus()
        for key in ("ArrowRight", "ArrowLeft"):  # one of them is to be had at either end
            page.keyboard.press(key)
            if wait_until(lambda: page.evaluate(FIGURE) != before, 2, 0.1):  # noqa: B023
                break
        else:
            deaf.append(f"control {k}")
        if not controls.nth(k).evaluate("control => control === document.activeElement"):
            deaf.append(f"the focus of control {k}")
    said = [int(controls.nth(k).get_attribute("aria-valuenow")) for k in range(count)]
    if sorted(said) != sorted(active for each in page.evaluate(CONTROLS) for active, _ in each):
        deaf.append(f"what is said, {said},")
    return deaf


def write_sheet() -> None:
    """One page with the figures of all notebooks as they are shipped, each under its notebook, cell and title, and in grey."""
    shown = []
    for name in NOTEBOOKS:
        for i, cell in enumerate(nbformat.read(ROOT / "notebooks" / name, as_version=4).cells):
            figures = [o.data[PLOTLY] for o in cell.get("outputs", ()) if PLOTLY in o.get("data", {})]
            shot = f"{Path(name).stem}-{i}-shipped.png"
            if figures and (SHOTS / shot).is_file():
                title = html.escape(figures[0]["layout"]["title"]["text"])
                pictures = f'<img src="{shot}"><img src="{shot}" class="grey">'
                shown.append(
                    f"<figure><figcaption>{Path(name).stem}, cell {i}: {title}</figcaption>{pictures}</figure>"
                )
    style = "img { width: 48% } .grey { filter: grayscale(1) } figure { margin: 1em 0; break-inside: avoid }"
    head = f"<!doctype html><meta charset='utf-8'><title>Figures as shipped</title><style>{style}</style>"
    own = SHOTS / f"sheet-{os.getpid()}.html"  # notebooks are tested side by side
    own.write_text(head + "".join(shown), encoding="utf-8")
    own.replace(SHOTS / "sheet.html")


def looked_at(page, i) -> bool:
    """Show a cell; whether a figure is drawn in it."""
    page.evaluate(SHOW, i)
    return wait_until(lambda: page.evaluate(FIGURE) is not None, 60, 0.2)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_in_the_browser(lab, browser, name):
    SHOTS.mkdir(parents=True, exist_ok=True)
    page, foreign, errors = opened(lab, browser, name)
    faults, opening = [], {}
    cell = page.locator(".jp-Notebook .jp-Cell.jp-mod-active").first
    cells = nbformat.read(ROOT / "notebooks" / name, as_version=4).cells
    for i, (source, outputs) in enumerate(zip(cells, page.evaluate(OUTPUTS), strict=True)):
        if not any(PLOTLY in o.get("data", {}) for o in outputs):
            continue
        if not looked_at(page, i):
            faults.append(f"cell {i} as shipped drew nothing")
            continue
        opening[i] = page.evaluate(CONTROLS)
        if opening[i] != [[], []] and not cell.locator(".poise-untrusted").first.is_visible():
            faults.append(f"cell {i} does not say how its controls are had by keyboard")
        if "Sliders(" in source.source and opening[i] == [[], []]:
            faults.append(f"cell {i} has nothing to move it")
        cell.locator(".js-plotly-plot").first.screenshot(path=SHOTS / f"{Path(name).stem}-{i}-shipped.png")
        faults += [f"cell {i}: {control} did not move the figure" for control in stuck_controls(page, cell)]

    write_sheet()
    sheet = (SHOTS / "sheet.html").read_text(encoding="utf-8")
    faults += [f"cell {i} is not on the sheet" for i in opening if f'"{Path(name).stem}-{i}-shipped.png"' not in sheet]

    page.evaluate("() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")  # not awaited
    time.sleep(3)
    quiet = 0
    for _ in range(int(PATIENCE / 2)):  # idle, with nothing left to run, three times in a row
        quiet = quiet + 1 if page.evaluate(STATE) == ["idle", 0] else 0
        if quiet == 3:
            break
        time.sleep(2)
    assert quiet == 3, f"not finished after {PATIENCE:.0f} s: {page.evaluate(STATE)}"

    outputs = page.evaluate(OUTPUTS)
    assert not [o for cell in outputs for o in cell if o["output_type"] == "error"]
    kinds = [{mime for o in cell for mime in o.get("data", {})} for cell in outputs]
    shown = [i for i, kind in enumerate(kinds) if kind & {PLOTLY, WIDGET_VIEW}]
    for i in shown:
        if PLOTLY not in kinds[i]:
            page.evaluate(SHOW, i)
            if not cell.locator(LIVE).count():
                continue  # a progress bar alone
        if not looked_at(page, i):
            faults.append(f"cell {i} drew nothing")
        elif cell.locator(".poise-untrusted:visible").count():
            faults.append(f"cell {i} asks for a trust that it has")
        elif i in opening and page.evaluate(CONTROLS) != opening[i]:
            faults.append(f"cell {i} stands at {page.evaluate(CONTROLS)} and opened at {opening[i]}")
        else:
            faults += [f"cell {i}: {control} did not follow the keyboard" for control in deaf_controls(page, cell)]
    for theme in ("JupyterLab Light", "JupyterLab Dark"):
        page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
        dark = theme.split()[1].lower()
        assert wait_until(lambda: page.evaluate(THEME) == theme, 20, 0.2), f"{theme} did not come"  # noqa: B023
        for i in shown:
            page.evaluate(SHOW, i)
            page.wait_for_timeout(400)  # a figure that scrolls into view is drawn again
            plots = page.locator(".jp-Notebook .jp-Cell.jp-mod-active .js-plotly-plot")
            wait_until(lambda: plots.count() > 0, 5 if kinds[i] & {PLOTLY} else 1, 0.2)  # noqa: B023
            faults += [f"cell {i}, {dark}: {fault}" for fault in page.evaluate(FAULTS, HIGHEST)]
            for k in range(plots.count()):
                plots.nth(k).screenshot(path=SHOTS / f"{Path(name).stem}-{i}-{k}-{dark}.png")
    page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", "JupyterLab Light")
    dialogs = page.locator(".jp-Dialog, .Toastify__toast--error").all_text_contents()
    page.evaluate("() => window.jupyterapp.commands.execute('kernelmenu:shutdown')")
    page.context.close()
    assert not faults, "\n".join(faults)
    assert not dialogs, dialogs
    assert not foreign, foreign
    assert not errors, errors


SEEN = """box => JSON.stringify(box.querySelector('.js-plotly-plot').data
  .filter(trace => trace.visible !== false && trace.xaxis !== 'x99').map(trace => [trace.x, trace.y, trace.z, trace.name]))"""


def moved_by_keyboard(page) -> tuple[list[str], int]:
    """Move every control of every figure of a page: what did not move, and how many did."""
    figures = page.locator(".poise-figure")
    faults, moved = [], 0
    for i in range(figures.count()):
        figure = figures.nth(i)
        if not wait_until(lambda: figure.locator(".main-svg .trace, .main-svg .hm").count() > 0, 30, 0.1):  # noqa: B023
            faults.append(f"figure {i} is not drawn")
            continue
        controls = figure.locator("input[type=range], input[type=radio]:checked, select")
        for k in range(controls.count()):
            before = figure.evaluate(SEEN)
            controls.nth(k).focus()
            for key in ("ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp"):  # one of them is to be had at either end
                page.keyboard.press(key)
                if figure.evaluate(SEEN) != before:
                    moved += 1
                    break
            else:
                faults.append(f"figure {i}: control {k} did not move it")
    return faults, moved


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_figure_moves_on_a_page_by_keyboard_without_a_network(browser, tmp_path, name):
    write_pages([ROOT / "notebooks" / name], tmp_path)
    context = browser.new_context(viewport={"width": 1000, "height": 900}, offline=True)
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((tmp_path / name).with_suffix(".html").as_uri())
    faults, moved = moved_by_keyboard(page)
    context.close()
    assert not faults, "\n".join(faults)
    assert not errors, errors
    assert moved > 0 or "Sliders(" not in (ROOT / "notebooks" / name).read_text(encoding="utf-8")


def test_training_stops_and_goes_on(lab, browser):
    """The stop button in the middle of notebook 7's training: a message, no error, and the run goes on from there."""
    (name,) = (name for name in NOTEBOOKS if name.startswith("07"))
    page, _, errors = opened(lab, browser, name)
    cells = nbformat.read(ROOT / "notebooks" / name, as_version=4).cells
    code = [i for i, cell in enumerate(cells) if cell.cell_type == "code"]
    (training,) = (i for i in code if "LiveCurves(" in cells[i].source)
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    reached = []
    for attempt in range(2):
        for i in [*code[:3], training] if attempt == 0 else [training]:  # the third reads the recorded runs
            page.evaluate(SHOW, i)
            page.evaluate(RUN)
        # the cell goes on from where it was stopped, and shows what was done before
        assert wait_until(lambda: drawn_points(page) > [2, *reached][-1], PATIENCE / 4, 0.2), "no curve grew"
        page.locator('.jp-NotebookPanel-toolbar [data-command="notebook:interrupt-kernel"]').click()
        assert wait_until(lambda: page.evaluate(DONE, training), PATIENCE / 4, 0.2), "it did not stop"
        outputs = page.evaluate(OUTPUTS)[training]
        assert not [o for o in outputs if o["output_type"] == "error"]
        said = "".join(str(o.get("text", "")) for o in outputs)
        (step,) = re.findall(r"stopped after step (\d+); run folder .* is saved, go on with resume", said)
        reached.append(int(step))
    page.evaluate("() => window.jupyterapp.commands.execute('kernelmenu:shutdown')")
    page.context.close()
    assert 0 < reached[0] < reached[1], reached
    assert not errors, errors


def drawn_points(page) -> int:
    """Points of the first curve that grows in the active cell: in its second figure, beside the recorded one."""
    return page.evaluate(
        """() => {
          const plots = document.querySelectorAll('.jp-Notebook .jp-Cell.jp-mod-active .js-plotly-plot');
          return plots[1]?.data[0]?.x?.length ?? 0;
        }"""
    )
