"""What users say of answers becomes rows to train on."""

from tiny import quick


def test_feedback_is_what_dpo_trains_on(tmp_path):
    from typer.testing import CliRunner

    from modelforge.cli.main import app
    from modelforge.feedback.store import Given, Store

    store = Store(tmp_path / "f.sqlite")
    for i in range(6):
        prompt = {"messages": [{"role": "user", "content": f"What is {i} plus 1?"}]}
        store.keep(Given(f"c{i}", 0, "tiny", prompt, "No.", "down", f"It is {i + 1}."))
    store.close()
    rows = tmp_path / "rows.jsonl"
    done = CliRunner().invoke(
        app, ["feedback", "export", str(tmp_path / "f.sqlite"), "-o", str(rows)]
    )
    assert done.exit_code == 0 and len(rows.read_text().splitlines()) == 6
    few = {"max_steps": 2, "eval_split": 0, "save_strategy": "no"}
    result = quick("dpo", tmp_path, "eval_dataset=null", dataset=rows, **few)
    assert list(result.model_dir.glob("*.safetensors"))


def test_what_cannot_be_kept_or_exported_loses_nothing(tmp_path):
    import sqlite3

    import pytest
    from typer.testing import CliRunner

    from modelforge.cli.main import app
    from modelforge.errors import DataError
    from modelforge.feedback.store import Given, Store, read

    path = tmp_path / "a ?#%41.sqlite"
    store = Store(path)
    store.keep(Given("c", 0, "tiny", {"prompt": "Hi"}, "No.", "down", None))
    with sqlite3.connect(path) as other:  # SQLite's own limit stands for a full disk
        pages = other.execute("pragma page_count").fetchone()[0]
    store._db.execute(f"pragma max_page_count = {pages}")
    with pytest.raises(DataError, match="full"):
        store.keep(Given("d", 0, "tiny", {"prompt": "Hi"}, "No.", None, "x" * 20_000))
    store.close()
    assert [(g.answer_id, g.rating) for g in read(path)] == [("c", "down")]
    words = ["feedback", "export", str(path), "--kind", "labelled", "-o", str(path)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2 and "is the feedback itself" in done.stderr
    assert len(list(read(path))) == 1
