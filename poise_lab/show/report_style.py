"""How a report looks, and what moves in it: a style sheet and a script, both inside the page."""

STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #222; --soft: #595959; --rule: #ccc; --tint: #f2f3f5;
  --jp-content-font-color1: var(--text) }
@media (prefers-color-scheme: dark) { :root { --page: #16181c; --text: #e6e6e6; --soft: #a8a8a8; --rule: #43474f; --tint: #22252b } }
body { font: 1rem/1.45 system-ui, sans-serif; margin: 0; color: var(--text); background: var(--page) }
main { max-width: 84rem; padding: 1rem; min-width: 0 }
aside { padding: 1rem; font-size: .9rem; background: var(--tint) }
@media (min-width: 64rem) {
  body { display: grid; grid-template-columns: 17rem 1fr; align-items: start }
  aside { position: sticky; top: 0; max-height: 100vh; overflow-y: auto; box-sizing: border-box }
}
a { color: inherit }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2.5rem }
nav ul { padding-left: 1.1rem; margin: .3rem 0 }
fieldset { border: 0; padding: 0; margin: .8rem 0 } legend { font-weight: 600; padding: 0 }
aside label { display: inline-block; margin-right: .8rem; cursor: pointer }
.settings label { display: flex; align-items: center; gap: .4rem; margin: .1rem 0 } .settings svg { flex: none }
button { font: inherit; color: inherit; background: var(--page); border: 1px solid var(--rule); border-radius: .2rem }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); gap: 0 1rem }
.charts figure, figure.wide { min-width: 0 }
figure { margin: 1rem 0; break-inside: avoid } figure.wide { grid-column: 1 / -1 }
figcaption, .note, small { color: var(--soft); font-size: .85rem }
.table { overflow-x: auto }
table { border-collapse: collapse; font-size: .85rem }
td, th { padding: .2rem .5rem; text-align: right; border-bottom: 1px solid var(--rule); vertical-align: top }
td small { white-space: nowrap }
td:first-child, th:first-child, table.words td { text-align: left }
[hidden] { display: none !important }
pre { overflow-x: auto; background: var(--tint); padding: .6rem } summary { cursor: pointer }
.js-plotly-plot .main-svg > :not(.hoverlayer) text:not(.heatmap-label *) { fill: var(--text) !important }
@media print { .modebar, aside { display: none } body { display: block } main { max-width: none } }
"""

# Draws every figure of the page, and again when x, the smoothing or what is shown is changed. A trace of a setting has
# its numbers for each choice in `meta`; what belongs to no setting stays as it is.
SCRIPT = """
const form = document.querySelector("aside form"), figures = [...document.querySelectorAll("figure[data-figure]")];
const titles = {step: "step", tokens: "tokens sampled for training", seconds: "seconds, evaluations included"};
const parsed = figures.map(figure => JSON.parse(figure.querySelector("script").textContent));
function show() {
  const axis = form.axis.value, smoothing = form.smoothing.value;
  const boxes = [...form.querySelectorAll("[name=setting]")], on = new Set(boxes.filter(box => box.checked).map(box => box.value));
  figures.forEach((figure, i) => {
    const {data, layout} = parsed[i];
    let moves = false;
    const traces = data.map(trace => {
      if (!trace.meta) return trace;
      moves = true;
      return {...trace, x: trace.meta.x[axis], y: trace.meta.y[smoothing], visible: on.has(String(trace.meta.setting)) && (on.size <= 6 || !trace.meta.band)};
    });
    const place = {...layout.xaxis, ...(moves ? {title: {text: titles[axis]}, autorange: true} : {})};
    Plotly.react(figure.querySelector("div"), traces, {...layout, xaxis: place}, {displaylogo: false, responsive: true});
  });
  document.querySelectorAll("[data-settings]").forEach(row =>
    row.hidden = !row.dataset.settings.split(" ").every(setting => on.has(setting)));
}
form.addEventListener("change", show);
form.querySelectorAll("button").forEach(button => button.onclick = () => {
  form.querySelectorAll("[name=setting]").forEach(box => box.checked = button.value === "all");
  show();
});
show();
"""
