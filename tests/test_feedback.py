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
