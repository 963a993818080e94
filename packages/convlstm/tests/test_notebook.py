"""The notebook of the example runs from the first cell to the last."""

import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "next_frame.ipynb"


def test_the_notebook_runs_from_end_to_end(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    kernelspec = pytest.importorskip("ipykernel.kernelspec")
    kernelspec.install(prefix=str(tmp_path), kernel_name="python3")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share" / "jupyter"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not committed"
    first = notebook.cells[1]
    assert "SECONDS = 60" in first.source
    first.source = first.source.replace("SECONDS = 60", "SECONDS = 2")
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    assert (tmp_path / "forecast.gif").stat().st_size > 1000
    assert (tmp_path / "digits.keras").exists()
    text = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    assert "updates in" in text
    assert "last frame moved on" in text
    kernel = client.km.kernel_spec.argv[0] if client.km else sys.executable
    assert Path(kernel).resolve() == Path(sys.executable).resolve()
