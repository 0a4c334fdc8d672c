"""Every notebook in a real JupyterLab in headless Chromium: run all cells, move every slider, look for errors.

Not part of `make test`: it needs a browser. `make test-lab` installs what it needs. Screenshots of the
figures are left in runs/lab. On a machine with other work raise POISE_LAB_PATIENCE (seconds per notebook).
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
PATIENCE = float(os.environ.get("POISE_LAB_PATIENCE", 600))
SHOTS = ROOT / "runs" / "lab"

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
FIGURE = """() => {
  const plot = document.querySelector('.jp-Notebook .jp-Cell.jp-mod-active .js-plotly-plot');
  if (!plot) return null;
  const shown = plot.data.map(trace => [trace.x, trace.y, trace.z, trace.name, trace.marker?.color]);
  return JSON.stringify([shown, plot.layout.title?.text]);
}"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Address of a JupyterLab on a copy of the notebooks, which a run must not change."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}",
        "--IdentityProvider.token=", "--ServerApp.password=", "--LabApp.expose_app_in_browser=True",
        "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        f"--ServerApp.root_dir={folder}",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://localhost:{port}"
    for _ in range(120):
        try:
            urllib.request.urlopen(f"{address}/api", timeout=1)
            break
        except OSError:
            time.sleep(0.5)
    yield address
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


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_in_the_browser(lab, browser, name):
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    page, foreign, errors = context.new_page(), [], []
    home = (lab, lab.replace("http", "ws"), "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(home) else foreign.append(request.url))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{lab}/lab/tree/notebooks/{name}?reset", timeout=90_000)
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=90_000)
    page.add_style_tag(content=".Toastify { display: none }")  # JupyterLab's question whether to show its news
    assert wait_until(lambda: page.evaluate(STATE)[0] == "idle", 90, 0.5), "the kernel did not start"
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
    widgets = [
        i for i, cell in enumerate(outputs) if any("widget-view" in mime for o in cell for mime in o.get("data", {}))
    ]
    unmoved, moved = [], 0
    for i in widgets:
        page.evaluate(SHOW, i)
        cell = page.locator(".jp-Notebook .jp-Cell.jp-mod-active").first
        if not wait_until(lambda: page.evaluate(FIGURE) is not None, 15, 0.2):
            continue  # a progress bar
        handles = cell.locator(".noUi-handle")
        for k in range(handles.count()):
            before = page.evaluate(FIGURE)
            changed = False
            for key in ("ArrowLeft", "ArrowRight"):  # it may stand at either end
                handles.nth(k).focus()
                page.keyboard.press(key)
                changed = changed or wait_until(lambda: page.evaluate(FIGURE) != before, 3)  # noqa: B023
            moved += changed
            if not changed:
                unmoved.append((i, k))
        SHOTS.mkdir(parents=True, exist_ok=True)
        cell.locator(".js-plotly-plot").first.screenshot(path=SHOTS / f"{Path(name).stem}-{i}.png")
    page.evaluate("() => window.jupyterapp.commands.execute('kernelmenu:shutdown')")
    context.close()
    assert not unmoved, f"sliders (cell, number) that changed no figure: {unmoved}"
    assert not foreign, foreign
    assert not errors, errors
    sliders = "Sliders(" in (ROOT / "notebooks" / name).read_text(encoding="utf-8")
    assert moved > 0 or not sliders
