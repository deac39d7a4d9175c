"""The notebook in `examples/` runs from its first cell to its last."""

import contextlib
import io
import json
import re
import shutil
from html import unescape

import pytest
from tiny import ROOT, few, shallow

NOTEBOOK = ROOT / "examples" / "09_ppo_grpo_dpo.ipynb"


def beside(folder):
    """What lies about the notebook, with few rows and half of the model."""
    shutil.copytree(ROOT / "configs" / "tiny", folder / "configs" / "tiny")
    tiny = folder / "examples" / "tiny"
    shutil.copytree(shallow(), tiny / "model")
    (tiny / "data").mkdir()
    for name in ("prompts", "preference"):
        for part, rows in (("train", 64), ("eval", 12)):
            shutil.copy(few(f"{name}_{part}", rows), tiny / "data")
    return tiny.parent


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(beside(tmp_path))
    monkeypatch.setenv("STEPS", "1")
    monkeypatch.setenv("OUT", "runs")
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"]
             if cell["cell_type"] == "code"]  # fmt: skip
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells)
    names, told = {}, io.StringIO()
    with contextlib.redirect_stdout(told):
        for cell in cells:
            exec(compile("".join(cell["source"]), NOTEBOOK.name, "exec"), names)
    assert list(names["results"]) == ["ppo", "grpo", "dpo"]
    for method, result in names["results"].items():
        assert result.metrics == result.after and f"{method} {{'eval_" in told.getvalue()
        shown = result._repr_html_()
        (page,) = re.findall(r'srcdoc="([^"]*)"', shown)
        assert unescape(page) == (result.run_dir / "report.html").read_text()
        for left in ("checkpoints", "metrics.jsonl", "samples.jsonl", "model", "report.html"):
            assert (result.run_dir / left).exists()
        (result.run_dir / "report.html").unlink()
        assert result._repr_html_() is None
    assert "dpo-1 against model: " in told.getvalue()
