"""What a notebook stores of a figure: plotly JSON for Jupyter and VS Code, and HTML for a static page."""

from __future__ import annotations

import base64
import hashlib
import html
import json

from .still import to_svg

PLOTLY = "application/vnd.plotly.v1+json"

# No button that leads to a network. Nothing on size: "responsive" lets a figure of JupyterLab shrink to nothing when the
# theme changes.
CONFIG = {"displaylogo": False, "showSendToCloud": False}

# Draws the figure of the JSON in `box` in the place of its still. plotly.js is loaded once a page, from the file beside
# it. The controls of the figure become the page's own, which a keyboard, a screen reader and a thumb can move.
SCRIPT = """async box => {
  const {data, layout, config} = JSON.parse(box.querySelector("script").textContent);
  const plot = document.createElement("div"), make = (tag, into, set) => into.appendChild(Object.assign(document.createElement(tag), set));
  window.poisePlotly ??= window.Plotly ? Promise.resolve() : new Promise((done, failed) =>
    make("script", document.head, {src: "plotly.min.js", onload: done, onerror: failed}));
  try { await window.poisePlotly } catch { box.append("To move this figure put plotly.min.js beside this page."); return }
  box.firstElementChild.remove();
  const controls = [...layout.sliders ?? [], ...layout.updatemenus ?? []].sort((a, b) => b.pad.b - a.pad.b);
  if (controls.length) {
    const room = layout.margin.t - 50;
    Object.assign(layout, {height: layout.height - room, sliders: [], updatemenus: []});
    layout.margin.t -= room;
    layout.annotations = (layout.annotations ?? []).filter(note => note.name !== "control");
  }
  for (const {name, active, steps, buttons, type} of controls) {
    const set = i => Plotly.update(plot, ...JSON.parse(JSON.stringify((steps ?? buttons)[i].args)));
    const row = make(type === "buttons" ? "fieldset" : "label", box, {style: "display:block;border:0;padding:0;margin:.4em 0"});
    make(type === "buttons" ? "legend" : "span", row, {textContent: name + " ", style: "float:left;width:auto;margin-right:.6em;padding:0;font-size:inherit"});
    if (steps) {
      const range = make("input", row, {type: "range", min: 0, max: steps.length - 1, value: active, style: "width:min(30em,60%)"});
      const said = make("output", row, {style: "margin-left:.6em"});
      const say = () => { said.value = steps[range.value].label; range.setAttribute("aria-valuetext", said.value) };
      range.oninput = () => { say(); set(range.value) };
      say();
    } else if (type === "buttons") buttons.forEach(({label}, i) => {
      const one = make("label", row, {style: "margin-right:1em;white-space:nowrap"});
      make("input", one, {type: "radio", name: box.id + name, checked: i === active, onchange: () => set(i)});
      one.append(" " + label);
    }); else {
      const list = make("select", row, {onchange: () => set(list.selectedIndex)});
      buttons.forEach(({label}, i) => make("option", list, {textContent: label, selected: i === active}));
    }
  }
  plot.style.minWidth = "640px";  // what words and marks need; on a phone the picture is moved sideways
  make("div", box, {style: "overflow-x:auto"}).append(plot);
  Plotly.newPlot(plot, data, layout, {...config, responsive: true});
}"""

# Gives plotly's own controls in JupyterLab to the keyboard, as soon as the notebook may run scripts: each is one stop of
# the tab key, and the arrow keys move it. The figure is the output before the one that this stands in.
KEYBOARD = """<script>(child => {
  const wire = tries => {
    const plot = child?.previousElementSibling?.querySelector(".js-plotly-plot");
    if (!plot?._fullLayout?.xaxis) return tries && setTimeout(wire, 200, tries - 1);
    if (plot.dataset.lmSuppressShortcuts) return;  // JupyterLab runs a script of an output twice
    const click = (what, x, y) => ["mousedown", "mouseup", "click"].forEach(type =>
      what.dispatchEvent(new MouseEvent(type, {bubbles: true, clientX: x, clientY: y})));
    const controls = () => [[".slider-group", "sliders", "steps"], [".updatemenu-header-group", "updatemenus", "buttons"]]
      .flatMap(([place, kind, of]) => [...plot.querySelectorAll(place)].map((element, k) => {
        const {active, name, [of]: values} = plot._fullLayout[kind][k];
        return {element, active, name, values};
      }));
    const move = ({element, values}, i) => {
      const rail = element.querySelector(".slider-rail-touch-rect"), head = element.querySelector(".updatemenu-header");
      if (rail) {
        const {left, top, width} = rail.getBoundingClientRect();
        return click(rail, left + 10 + (width - 20) * i / (values.length - 1), top + 5);
      }
      if (head) click(head);
      click((head ? plot : element).querySelectorAll(head ? ".updatemenu-dropdown-button" : ".updatemenu-button")[i]);
    };
    const say = () => controls().forEach(({element, active, name, values}) => {
      const said = {tabindex: 0, role: "slider", "aria-label": name, "aria-valuemin": 0, "aria-valuemax": values.length - 1,
        "aria-valuenow": active, "aria-valuetext": values[active].label};
      Object.entries(said).forEach(([key, value]) => element.setAttribute(key, value));
    });
    plot.dataset.lmSuppressShortcuts = "true";
    plot.addEventListener("keydown", event => {
      const by = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
      const k = controls().findIndex(({element}) => element === event.target), one = controls()[k];
      if (!by || !one) return;
      event.preventDefault();
      event.stopPropagation();
      if (one.values[one.active + by]) move(one, one.active + by);
      say();
      controls()[k].element.focus();
    });
    plot.on("plotly_afterplot", say);
    say();
  };
  wire(50);
})(document.currentScript.closest(".jp-OutputArea-child"))</script>"""


def bundle(figure: dict, words: str) -> dict:
    """The representations of one output, from which a reader's program takes the richest that it can show.

    figure: data and layout as plotly.js takes them. words: what it shows.
    """
    figure = {"data": figure["data"], "layout": figure["layout"], "config": CONFIG}
    return {PLOTLY: figure, "text/html": to_html(figure, words), "text/plain": words}


def to_html(figure: dict, words: str) -> str:
    """A piece of a page; the same figure gives the same bytes. It needs plotly.min.js beside the page.

    Without scripts it is a still. That stands in here and is no output of its own: a repository's view takes HTML before
    pictures and drops its scripts, and a PDF by nbconvert would need Inkscape.
    """
    text = json.dumps(figure, ensure_ascii=False, separators=(",", ":"), sort_keys=True).replace("</", "<\\/")
    name = f"poise-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    still = base64.b64encode((to_svg(figure) or "").encode()).decode()
    image = f'<img src="data:image/svg+xml;base64,{still}" alt="{html.escape(words)}" style="max-width:100%">'
    return (
        f'<div class="poise-figure" id="{name}" style="max-width:900px">{image if still else f"<p>{html.escape(words)}</p>"}'
        f'<script type="application/json">{text}</script></div>'
        f'<script>({SCRIPT})(document.getElementById("{name}"))</script>'
    )
