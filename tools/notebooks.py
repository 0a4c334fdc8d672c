"""Execute notebooks in place, so that running the same notebook twice changes nothing but real results.

    python -m tools.notebooks notebooks/02_rollouts_and_rewards.ipynb
    python -m tools.notebooks --pages pages notebooks/*.ipynb
    python -m tools.notebooks --shaken 1 notebooks/*.ipynb

What varies between executions and means nothing is taken out: timing, widget state, random ids. The second call writes
what is stored as HTML into a folder, with plotly.js beside it, so that the figures move on every page, offline. The third
writes nothing: it says which printed lines do not hold on another processor, whose logits are off by rounding errors
and which so draws a few other responses; several numbers try several such processors.
"""

from __future__ import annotations

import argparse
import base64
import re
import uuid
from itertools import zip_longest
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from plotly.offline import get_plotlyjs

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
PLOTLY = "application/vnd.plotly.v1+json"


def execute(path: str | Path, timeout: int = 900) -> None:
    """Run all cells in the notebook's folder and write it back, normalised; an error leaves it as it was."""
    path = Path(path)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
    nbformat.write(normalised(notebook), path)


SHAKE = """
import poise_lab.generate as generate, torch

def _shaken(logits, *rest, _draw=generate._draw):
    logits = logits.float()
    return _draw(logits + 5e-6 * torch.sin(9973 * logits + {seed}), *rest)

generate._draw = _shaken
"""


def shaken(path: str | Path, seed: int, timeout: int = 900) -> list[tuple[str, str]]:
    """Checked lines of a notebook that print something else if logits are off by up to 5e-6: as stored, and then.

    That is several times the 1e-6 by which logits differ between batches of another shape (`sample_rollouts`).
    """
    path = Path(path)
    stored = nbformat.read(path, as_version=4)
    again = nbformat.read(path, as_version=4)
    again.cells.insert(0, nbformat.v4.new_code_cell(SHAKE.format(seed=seed)))
    NotebookClient(
        again, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
    pairs = []
    for before, after in zip(stored.cells, again.cells[1:], strict=True):
        if "nbval-check-output" in before.metadata.get("tags", []):
            lines = (printed_lines(cell) for cell in (before, after))
            pairs += [(a, b) for a, b in zip_longest(*lines, fillvalue="") if a != b]
    return pairs


def printed_lines(cell) -> list[str]:
    return "".join(output["text"] for output in cell.outputs if output["output_type"] == "stream").splitlines()


def normalised(notebook):
    """The notebook without timing, widget state and random ids. Changes it in place and returns it."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i:02d}"
        cell.metadata = {name: cell.metadata[name] for name in ("jupyter", "tags") if cell.metadata.get(name)}
        if cell.cell_type == "code":
            cell.outputs = merged_streams(cell.outputs)
        for j, output in enumerate(cell.get("outputs", [])):
            data = output.get("data", {})
            if WIDGET_VIEW in data:
                data[WIDGET_VIEW]["model_id"] = uuid.uuid5(uuid.NAMESPACE_OID, f"{i}/{j}").hex
            if PLOTLY in data:
                for k, trace in enumerate(data[PLOTLY].get("data", [])):
                    if "uid" in trace:
                        trace["uid"] = f"{i}-{j}-{k}"
    return notebook


def merged_streams(outputs: list) -> list:
    """The outputs, neighbouring pieces of a stream joined: where printed text is cut is a matter of timing."""
    merged = []
    for output in outputs:
        last = merged[-1] if merged else {}
        if output["output_type"] == "stream" and last.get("name") == output["name"]:
            last["text"] += output["text"]
        else:
            merged.append(output)
    return merged


def write_pages(paths: list[str], folder: str | Path) -> None:
    """Write notebooks as HTML pages, and plotly.js once for all of them: what the figures of a page load."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")
    for path in map(Path, paths):
        page, _ = HTMLExporter(require_js_url="", jquery_url="").from_filename(str(path))
        (folder / f"{path.stem}.html").write_text(with_images(page, path.parent), encoding="utf-8")


def with_images(page: str, folder: Path) -> str:
    """A page that holds its drawings. (nbconvert's own way to do that closes every fold before what it hides.)"""

    def held(match) -> str:
        data = base64.b64encode((folder / match[1]).read_bytes()).decode()
        return f'src="data:image/svg+xml;base64,{data}"'

    return re.sub(r'src="(figures/[\w.-]+\.svg)"', held, page)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Execute notebooks in place, write them as pages, or try what they print."
    )
    parser.add_argument("notebooks", nargs="+")
    parser.add_argument("--pages", metavar="FOLDER", help="execute nothing, write pages into this folder")
    parser.add_argument("--shaken", metavar="N", type=int, help="write nothing, print what does not hold elsewhere")
    args = parser.parse_args()
    if args.pages:
        write_pages(args.notebooks, args.pages)
    elif args.shaken is not None:
        for name in args.notebooks:
            print(name)
            for before, after in shaken(name, args.shaken):
                print(f"  stored  {before}\n  shaken  {after}")
    else:
        for name in args.notebooks:
            print(name)
            execute(name)
