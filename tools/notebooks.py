"""Execute notebooks in place, so that running the same notebook twice changes nothing but real results.

    python -m tools.notebooks notebooks/02_rollouts_and_rewards.ipynb

What varies between executions and means nothing is taken out: timing, widget state, random ids.
"""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

import nbformat
from nbclient import NotebookClient

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


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(name)
        execute(name)
