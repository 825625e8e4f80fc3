"""The notebook in docs, run from top to bottom as a reader would."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers.commands import ROOT

NOTEBOOK = ROOT / "docs" / "posted.ipynb"


@pytest.mark.slow
@pytest.mark.timeout(900)
# Of the client and its kernel: it asks the loop of a thread that has ended.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_it_tells_the_story_from_symptom_to_cure(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (tmp_path / "data").symlink_to(NOTEBOOK.parent / "data")
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()  # Raises at the first cell that does.
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    pictures = [o for c in cells for o in c.outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 4
    told = ["".join(o.get("text", "") for o in cell.outputs) for cell in cells]
    symptom, cure = (text for text in told if text)
    assert "FAULT wrong-sign" in symptom
    assert "FAULT broken-gradient" in symptom
    assert "[h_nn(x) for x in xs]" in symptom
    assert "FAULT" not in cure
    assert "GOOD" in cure


def test_it_is_committed_with_its_pictures() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    assert sum("image/png" in o.get("data", {}) for c in cells for o in c.outputs) == 4
