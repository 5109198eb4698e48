"""The main job with the real 135M model: train, judge, merge, quantize, prove, talk."""

import json

import pytest

import ft_magic as ft
from ft_magic import jobs, samples
from ft_magic.samples import triage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FT_MAGIC_RUNS", str(tmp_path_factory.mktemp("real") / "runs"))
        patch.setenv("OMP_NUM_THREADS", "2")
        made = ft.finetune(
            model="demo", data=samples.path("triage"), eval_data=samples.path("triage_heldout"), max_steps=25,
            batch_size=8, learning_rate=1e-3, eval_steps=25, save_steps=25, name="triage",
        )  # fmt: skip
        yield made
    jobs.unload()


def test_training_teaches_the_shape_of_the_answer(run):
    def score(prompt, answer, expected):
        found = triage.score(prompt, answer, expected)
        return {"keys": found.right_keys, "order": found.order}

    found = run.evaluate(samples=16, score=score, max_new_tokens=64)
    assert found.loss_after < found.loss_before / 4
    assert found.scores_before["keys"] <= 0.1
    # 25 of the notebook's 50 steps; measured 1.0 and 0.94 on two cores, seed 42.
    assert found.scores_after["keys"] >= 0.8
    assert found.scores_after["order"] >= 0.6


def test_every_file_is_certified_and_the_small_one_talks(run):
    made = run.export(gguf="bf16,q8_0,q4_k_m", ollama=True)
    forms = {form.file_type: form for form in made.certificate.forms}
    assert made.certificate.verdict == "ok", repr(made.certificate)
    assert forms["BF16"].mean_kl < 0.002
    assert forms["Q8_0"].mean_kl < 0.03
    assert forms["Q4_K_M"].mean_kl < 0.25
    assert all(forms[kind].prompt_equal and forms[kind].tokens_equal for kind in ("BF16", "Q8_0", "Q4_K_M"))
    assert forms["Q4_K_M"].bytes < forms["Q8_0"].bytes < forms["BF16"].bytes
    assert 'PARAMETER stop "<|im_end|>"' in made.modelfile.read_text()
    question = json.loads(samples.path("triage_heldout").read_text().splitlines()[0])
    with run.chat("q4_k_m") as chat:
        answer = chat.say(f"{question['instruction']}\n\n{question['input']}")
    assert set(json.loads(answer)) == set(triage.KEYS)


def test_the_certificate_stays_with_the_run(run):
    again = ft.open_run(run.path).certificate()
    assert again.verdict == "ok"
    kinds = [event.kind for event in run.events()]
    assert {"evaluated", "merged", "quantized", "certified"} <= set(kinds)
    report = run.report().read_text()
    assert "Q4_K_M" in report


def test_qlora_trains_the_real_model_on_a_cpu_and_merges_as_trained(tmp_path, monkeypatch):
    monkeypatch.setenv("FT_MAGIC_RUNS", str(tmp_path / "runs"))
    rows = [{"prompt": f"Name colour {i}.", "completion": "Blue."} for i in range(4)]
    made = ft.finetune(
        model="demo", data=rows, update="qlora", max_steps=2, batch_size=1, eval_fraction=0, learning_rate=1e-3,
        lr_scheduler_type="constant", warmup_ratio=0,
    )  # fmt: skip
    losses = [row["loss"] for row in made.metrics()]
    assert losses[1] < losses[0]
    merged = made.merge()
    assert not json.loads((merged / "config.json").read_text()).get("quantization_config")
    told = next(event for event in made.events() if event.kind == "merged")
    assert told["mean_kl"] < 0.002
