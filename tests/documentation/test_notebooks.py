"""The notebooks of the pages run from top to bottom."""

import json

import matplotlib
import pytest
from training.runs import ROOT

NOTEBOOKS = sorted((ROOT / "docs").glob("*.ipynb"))


@pytest.mark.full
# the tutorial starts a new classifier for two classes, of which the library warns
@pytest.mark.filterwarnings("default:scene-b0 has no fitting weights:UserWarning")
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_runs_from_top_to_bottom(notebook, monkeypatch):
    monkeypatch.chdir(ROOT / "docs")  # as Sphinx runs it
    matplotlib.use("Agg")
    names = {"__name__": "__main__"}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{notebook.name}:{cell['id']}", "exec"), names)
