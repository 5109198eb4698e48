"""The certificate: forms that agree pass, each kind of fault is named, and the record survives the disk."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_llama import CHAT_TEMPLATE, make_adapter, make_model, write_gguf

from ft_magic.errors import ExportError
from ft_magic.export import agreement, trained
from ft_magic.export.agreement import Agreement, kl_of_top
from ft_magic.export.certificate import certify
from ft_magic.export.merge import merge
from ft_magic.export.record import Certificate, Form, Sample
from ft_magic.export.verdicts import Reading, judge, kl_limit, overall
from ft_magic.progress import silent
from ft_magic.serve.llamacpp import Runtime

torch = pytest.importorskip("torch")
pytest.importorskip("xllamacpp")

PROMPTS = [[5, 6, 7, 80], [9, 10, 200, 11, 12, 13], [40] * 3]
NEW_TOKENS = 10


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("parts")
    base = make_model(folder / "base")
    adapter = make_adapter(base, folder / "adapter")
    merge(base, adapter, folder / "merged")
    return {"base": base, "adapter": adapter, "merged": folder / "merged"}


@pytest.fixture(scope="module")
def gguf(parts, tmp_path_factory) -> Path:
    return write_gguf(parts["merged"], tmp_path_factory.mktemp("gguf") / "tiny-F32.gguf")


@pytest.fixture(scope="module")
def whole(parts, gguf, tmp_path_factory) -> tuple[Certificate, Path]:
    out = tmp_path_factory.mktemp("certificate") / "certificate.json"
    return certify(**parts, ggufs=[gguf], prompts=PROMPTS, out=out, max_new_tokens=NEW_TOKENS), out


def certified(parts, ggufs, tmp_path, **options) -> Certificate:
    given = {"prompts": PROMPTS, "max_new_tokens": NEW_TOKENS, "out": tmp_path / "c.json"} | options
    return certify(**parts, ggufs=ggufs, **given)


def test_forms_of_one_model_agree(whole):
    certificate, _ = whole
    assert certificate.verdict == "ok"
    assert [(form.name, form.file_type) for form in certificate.forms] == [
        ("adapter", "peft"), ("merged", "safetensors"), ("tiny-F32.gguf", "F32"),
    ]  # fmt: skip
    merged, file = certificate.forms[1:]
    # Both hold the same bfloat16 weights, so they are equally far from base + adapter.
    assert file.mean_kl == pytest.approx(merged.mean_kl, rel=0.5, abs=1e-6)
    assert file.mean_kl < file.kl_limit == 0.002
    assert (file.prompt_equal, file.tokens_equal, file.stop_equal) == (True, True, True)
    assert file.first_answer_s >= 0
    assert certificate.prompts == 3
    assert certificate.answer_tokens <= 3 * NEW_TOKENS


def test_the_record_survives_the_disk_and_names_hashes_and_versions(whole, gguf):
    certificate, path = whole
    assert Certificate.read(path) == certificate
    raw = json.loads(path.read_text())
    assert raw["forms"][2]["sha256"] == {gguf.name: hashlib.sha256(gguf.read_bytes()).hexdigest()}
    assert raw["versions"]["torch"] == torch.__version__
    assert "xllamacpp" in raw["versions"]


def test_samples_show_each_forms_answer(whole):
    certificate, _ = whole
    assert len(certificate.samples) == 3
    assert list(certificate.samples[0].answers) == ["adapter", "merged", "tiny-F32.gguf"]


def test_other_weights_are_called_another_model(parts, tmp_path):
    noisy = write_gguf(parts["merged"], tmp_path / "noisy.gguf", noise=0.5)
    certificate = certified(parts, [noisy], tmp_path)
    assert certificate.verdict == "broken"
    assert [form.verdict for form in certificate.forms] == ["ok", "ok", "broken"]
    assert certificate.forms[2].says.startswith("It is another model: mean KL ")


def test_a_merged_folder_without_the_adapter_is_called_another_model(parts, tmp_path):
    certificate = certified(parts | {"merged": parts["base"]}, [], tmp_path)
    assert certificate.forms[1].verdict == "broken"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ({"template": CHAT_TEMPLATE.replace("\\n", " ")}, "Its chat template renders another prompt"),
        ({"eos": 0}, "The tokenizer's stop token does not end its answers"),
        ({"add_bos": True}, "It reads the same text as other tokens"),
    ],
)
def test_a_file_that_reads_prompts_otherwise_is_broken_whatever_its_weights(parts, tmp_path, spoil, says):
    file = write_gguf(parts["merged"], tmp_path / "spoiled.gguf", **spoil)
    certificate = certified(parts, [file], tmp_path, prompts=PROMPTS[:1], max_new_tokens=2)
    assert certificate.forms[2].verdict == "broken"
    assert certificate.forms[2].says.startswith(says)


def test_a_file_cut_short_is_a_verdict_not_a_crash(parts, gguf, tmp_path):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(gguf.read_bytes()[:-5000])
    certificate = certified(parts, [cut, gguf], tmp_path, prompts=PROMPTS[:1], max_new_tokens=2)
    assert [form.verdict for form in certificate.forms] == ["ok", "ok", "broken", "ok"]
    assert certificate.forms[2].says.startswith("llama.cpp cannot use it: ")
    assert certificate.verdict == "broken"


def test_a_full_fine_tune_is_its_own_reference(parts, tmp_path):
    certificate = certified(
        {"base": parts["merged"], "adapter": None, "merged": parts["merged"]}, [], tmp_path
    )
    assert certificate.forms[0].name == "trained"
    assert certificate.forms[1].mean_kl == pytest.approx(0, abs=1e-9)
    assert certificate.forms[1].identical_share == 1


def test_a_certificate_without_prompts_is_refused(parts, tmp_path):
    for prompts in ([], [[1, 2], []]):
        with pytest.raises(ExportError, match="needs held-out prompts"):
            certified(parts, [], tmp_path, prompts=prompts)


def test_reference_answers_end_at_the_stop_token_and_hold_its_log_probability(parts):
    model = trained.load_trained(parts["base"], parts["adapter"])
    free = agreement.reference(model, PROMPTS, [319], NEW_TOKENS, silent)
    stop = free.answers[0][3]
    found = agreement.reference(model, PROMPTS, [stop], NEW_TOKENS, silent)
    end = free.answers[0].index(stop) + 1
    assert found.answers[0] == free.answers[0][:end]
    assert found.stopped[0]
    for prompt, answer, rows in zip(found.prompts, found.answers, found.logprobs, strict=True):
        # One by one and without padding, as a check of the padded batch.
        alone = torch.log_softmax(trained.logits(model, (*prompt, *answer)), -1)[len(prompt) - 1 : -1]
        torch.testing.assert_close(rows, alone, atol=1e-4, rtol=1e-4)


def test_the_greedy_answer_read_off_one_pass_is_the_one_the_model_would_write(parts, tmp_path):
    model = trained.load_trained(parts["base"], parts["adapter"])
    expected = agreement.reference(model, PROMPTS, [319], NEW_TOKENS, silent)
    other = trained.load_trained(parts["base"], make_adapter(parts["base"], tmp_path / "other", seed=5))
    written = agreement.reference(other, PROMPTS, [319], NEW_TOKENS, silent).answers
    found = agreement.of_torch(other, expected, silent, "")
    for answer, real, wanted in zip(found.answers, written, expected.answers, strict=True):
        assert answer == real[: len(answer)]
        assert len(answer) == len(wanted) or answer[-1] != wanted[len(answer) - 1]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-8, 8), st.floats(-8, 8)), min_size=3, max_size=30), st.data())
def test_kl_over_some_tokens_and_a_rest_is_a_lower_bound(pairs, data):
    p = torch.log_softmax(torch.tensor([a for a, _ in pairs], dtype=torch.float64), -1)
    q = torch.log_softmax(torch.tensor([b for _, b in pairs], dtype=torch.float64), -1)
    exact = float((p.exp() * (p - q)).sum())
    count = data.draw(st.integers(1, len(pairs)))
    top = {i: float(q[i]) for i in q.argsort(descending=True)[:count].tolist()}
    assert -1e-6 < kl_of_top(p, top) <= exact + 1e-5
    everything = {i: float(q[i]) for i in range(len(pairs))}
    assert kl_of_top(p, everything) == pytest.approx(exact, abs=1e-5)


AGREES = Agreement(
    positions=40, mean_kl=0.001, max_kl=0.01, top1_share=1, identical_share=1, prefix_share=1, widest_tie_nats=0,
    stopped_share=1, ran_on_share=0, answers=((1,), (2,)),
)  # fmt: skip
READS = Reading(prompt_equal=True, tokens_equal=True, stop_equal=True)


@pytest.mark.parametrize(
    ("file_type", "changes", "reading", "verdict", "says"),
    [
        ("BF16", {}, READS, "ok", "every greedy answer is the same"),
        (
            "Q8_0",
            {"identical_share": 0.5, "widest_tie_nats": math.log(2)},
            READS,
            "ok",
            "1 of 2 greedy answers",
        ),
        ("Q8_0", {"identical_share": 0.5, "widest_tie_nats": math.log(2)}, READS, "ok", "at most 2.00 times"),
        ("Q8_0", {"mean_kl": 0.05}, READS, "warning", "limit 0.03"),
        ("Q8_0", {"mean_kl": 0.13}, READS, "broken", "another model"),
        ("Q4_K_M", {"mean_kl": 0.13}, READS, "ok", "limit 0.25"),
        ("F16", {"mean_kl": float("nan")}, READS, "broken", "another model"),
        ("Q4_K_M", {"ran_on_share": 0.1}, READS, "broken", "writes the stop token and goes on"),
        ("Q4_K_M", {"stopped_share": 0}, READS, "ok", "answers like"),
        ("Q4_K_M", {}, replace(READS, prompt_equal=None), "ok", "answers like"),
        ("Q4_K_M", {}, replace(READS, tokens_equal=False), "broken", "other tokens"),
        ("safetensors", {"mean_kl": 0.005}, None, "warning", "limit 0.002"),
    ],
)
def test_each_case_gets_its_verdict_and_sentence(file_type, changes, reading, verdict, says):
    found = judge(file_type, replace(AGREES, **changes), reading)
    assert found[0] == verdict
    assert says in found[1]


def test_an_answer_that_goes_on_after_a_stop_token_is_seen(parts, gguf):
    model = trained.load_trained(parts["base"], parts["adapter"])
    stop = agreement.reference(model, PROMPTS, [319], NEW_TOKENS, silent).answers[0][3]
    # A stop token the file knows nothing of: llama.cpp writes it and goes on.
    expected = agreement.reference(model, PROMPTS[:1], [stop], NEW_TOKENS, silent)
    with Runtime(gguf, threads=1) as runtime:
        found = agreement.of_runtime(runtime, expected, NEW_TOKENS, silent, "")
    assert found.ran_on_share == 1
    assert found.stopped_share == 0


def test_every_file_type_has_a_limit_and_the_worst_verdict_wins():
    from ft_magic.export.mixtures import FILE_TYPES

    assert all(kl_limit(name) > 0 for name in FILE_TYPES)
    assert kl_limit("q8_0") == kl_limit("Q8_0") < kl_limit("Q4_K_M") < kl_limit("unknown (99)")
    assert overall(["ok", "broken", "warning"]) == "broken"


def test_what_is_shown_is_escaped(whole):
    certificate, _ = whole
    nasty = "<script>alert(1)</script>"
    form = replace(certificate.forms[0], name=nasty, says=nasty)
    shown = replace(certificate, forms=(form,), samples=(Sample(nasty, {nasty: nasty}),))
    assert "<script" not in shown._repr_html_()
    assert shown._repr_html_().count("&lt;script&gt;") >= 4
    assert "Certificate: ok. Every form answers like the model as trained." in repr(shown)


def test_a_missing_or_damaged_certificate_says_what_to_do(whole, tmp_path):
    with pytest.raises(ExportError, match="There is no certificate") as caught:
        Certificate.read(tmp_path / "none.json")
    assert "run.export" in caught.value.instead
    damaged = shutil.copy(whole[1], tmp_path / "damaged.json")
    damaged.write_text(damaged.read_text()[:-100])
    with pytest.raises(ExportError, match="cannot be read"):
        Certificate.read(damaged)


def test_the_record_needs_nothing_heavy():
    import subprocess
    import sys

    code = (
        "import sys; from ft_magic.export.certificate import Certificate; "
        "print([m for m in ('torch', 'transformers', 'numpy', 'tokenizers', 'xllamacpp') if m in sys.modules])"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_real_model_merged_from_qlora_and_quantized_gets_a_good_certificate(tmp_path):
    from transformers import AutoTokenizer

    from ft_magic.export.convert import to_gguf
    from ft_magic.export.quantize import quantize
    from ft_magic.models import resolve

    base = resolve("demo")
    adapter = make_adapter(base, tmp_path / "adapter", r=16, lora_alpha=32, scale=0.03)
    merged = merge(base, adapter, tmp_path / "merged", base_bits=4)
    assert merged.mean_kl < 0.002
    source = to_gguf(merged.path, tmp_path / "bf16.gguf")
    files = [source]
    for kind in ("Q8_0", "Q4_K_M"):
        files.append(tmp_path / f"{kind}.gguf")
        quantize(source, files[-1], kind)
    tokenizer = AutoTokenizer.from_pretrained(base)
    questions = (
        "What is the capital of France?",
        "Name three colours.",
        "How do I bake bread?",
        "Say hello.",
    )
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        for text in questions
    ]
    certificate = certify(base, adapter, merged.path, files, prompts, out=tmp_path / "c.json", base_bits=4)
    assert certificate.verdict == "ok", repr(certificate)
    assert all(form.tokens_equal and form.prompt_equal and form.stop_equal for form in certificate.forms[2:])


def test_forms_keep_their_fields_in_the_record(whole):
    raw = whole[0].to_json()
    assert raw["format"] == 1
    assert set(raw["forms"][0]) == set(Form.__dataclass_fields__)
