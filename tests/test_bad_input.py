"""Bad input gets one clear answer before anything is trained, and leaves nothing behind."""

import json

import pytest
from rows import demos, pairs

import ft_magic as ft
from ft_magic import hardware
from ft_magic.errors import DataError, FTError, ModelError, RunError, SpecError, TemplateError


def ask(tiny, data, **more):
    return ft.finetune(model=more.pop("model", str(tiny)), data=data, backend="fake", **more)


def written(path, content):
    path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content)
    return path


CASES = {
    "an empty file": ("rows.json", "", DataError, "empty"),
    "a broken line": ("rows.jsonl", '{"prompt": "a", "completion": "b"}\n{"prompt": \n', DataError, "line 2"),
    "unknown columns": ("rows.json", json.dumps([{"foo": "1", "bar": "2", "baz": "3"}]), DataError, "foo"),
    "no table at all": ("rows.json", "42", DataError, "rows.json"),
    "bytes that are no text": ("rows.csv", b"prompt,completion\n\xff\xfe\x00,x\n", DataError, "encoding"),
}


@pytest.mark.parametrize("case", CASES)
def test_data_that_cannot_be_read_is_named(case, tiny, tmp_path, runs_folder):
    name, content, kind, said = CASES[case]
    with pytest.raises(kind) as error:
        ask(tiny, written(tmp_path / name, content))
    assert said in str(error.value)
    assert error.value.instead
    assert len(ft.runs()) == 0


def test_a_missing_file_is_not_taken_for_a_hub_id(tiny, tmp_path, runs_folder):
    written(tmp_path / "messages.json", "[]")
    with pytest.raises(DataError, match=r"mesages\.json") as error:
        ask(tiny, str(tmp_path / "mesages.json"))
    assert "messages.json" in str(error.value)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("/no/such/folder", "/no/such/folder"),
        ("dmeo", "Did you mean 'demo'"),
        ("nobody/nothing-at-all", "demo"),
    ],
)
def test_a_model_that_is_not_there_names_the_ways_on(model, said, tiny, runs_folder):
    with pytest.raises(ModelError) as error:
        ask(tiny, demos(), model=model)
    assert said in str(error.value)
    assert "demo" in error.value.instead


def test_data_of_another_signal_names_the_methods_that_fit(tiny, runs_folder):
    with pytest.raises(DataError, match="carries 'pair' rows") as error:
        ask(tiny, pairs(), method="sft")
    assert "dpo" in error.value.instead


def test_too_little_disk_is_seen_before_training(tiny, runs_folder, monkeypatch):
    monkeypatch.setattr(hardware, "disk_free_bytes", lambda _: 1000)
    with pytest.raises(RunError, match="not enough disk"):
        ask(tiny, demos())
    assert len(ft.runs()) == 0


@pytest.mark.parametrize("name", ["../../escape", "a/b", "", ".hidden", "x" * 200])
def test_a_run_name_cannot_leave_the_runs_folder(name, tiny, runs_folder):
    with pytest.raises(SpecError, match="no plain folder name"):
        ask(tiny, demos(), name=name)


def test_a_broken_template_is_refused_unless_told(tiny, tmp_path, runs_folder):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    config = json.loads((broken / "tokenizer_config.json").read_text())
    config["eos_token"] = "<|im_start|>"  # the fault of tokenizers read from this model's GGUF file
    (broken / "tokenizer_config.json").write_text(json.dumps(config))
    (broken / "special_tokens_map.json").unlink(missing_ok=True)
    (broken / "generation_config.json").write_text(json.dumps({"eos_token_id": 1}))
    with pytest.raises(TemplateError, match="broken") as error:
        ask(tiny, demos(), model=str(broken))
    assert "audit: warn" in error.value.instead
    run = ask(tiny, demos(), model=str(broken), audit="warn", max_steps=1)
    assert any(event.kind == "warning" for event in run.events())


def test_all_wrong_keys_come_at_once(tiny, runs_folder):
    with pytest.raises(SpecError) as error:
        ask(tiny, demos(), learning_rte=1e-4, epochs=3)
    assert "learning_rate" in str(error.value)
    assert "epochs" in str(error.value)


def test_every_error_shows_itself_without_a_traceback(monkeypatch):
    for kind in FTError.__subclasses__():
        lines = kind("what was given cannot be.", "Write this.")._render_traceback_()
        assert lines == [f"{kind.__name__}: what was given cannot be.", "Write this."]
    monkeypatch.setenv("FT_MAGIC_TRACEBACK", "1")
    with pytest.raises(SpecError) as error:
        raise SpecError("x", "y")
    assert "Traceback" in "".join(error.value._render_traceback_())
