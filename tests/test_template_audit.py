"""check_template: each finding has rows that have it and rows that have not; all rows are looked at."""

import dataclasses
from pathlib import Path

import pytest
import tiny_tokenizer
from test_template_render import DIVERGING, LLAMA2, THINKING, TWO

from ft_magic.data import Data, load_data
from ft_magic.errors import ModelError, TemplateError
from ft_magic.template import Tokenizer, check_template, render

DEMO = Path.home() / ".cache/ft_magic/models/SmolLM2-135M-Instruct"
SHARED = Path(__file__).parents[2] / "shared" / "data"
ROWS = tuple(
    {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}"}]}
    for i in range(50)
)
DEMOS = Data(ROWS, "demo", "chats")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tiny_tokenizer.save(tmp_path_factory.mktemp("model"), template=tiny_tokenizer.PLAIN_CHATML)
    return Tokenizer.load(folder)


def changed(tokenizer, template=None, **named):
    return dataclasses.replace(
        tokenizer,
        chat_template=tokenizer.chat_template if template is None else template,
        named_tokens={k: v for k, v in {**tokenizer.named_tokens, **named}.items() if v},
    )


def found(audit):
    return {finding.name: finding for finding in audit.findings}


def with_row(row, data=DEMOS):
    return dataclasses.replace(data, rows=(*data.rows, row))


def chat(question, answer):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def test_a_right_template_and_good_rows_are_ok_with_exact_lengths(tokenizer):
    audit = check_template(tokenizer, DEMOS)
    assert (audit.verdict, audit.findings) == ("ok", ())
    assert audit.lengths == tuple(len(render(tokenizer, row).ids) for row in ROWS)
    assert audit.trained == tuple(render(tokenizer, row).trained_tokens for row in ROWS)
    assert audit.trained[0] == len("a0") + 1
    assert audit.render(7) == render(tokenizer, ROWS[7])
    assert audit.fix() is DEMOS


def test_every_row_is_looked_at_however_many(tokenizer):
    many = Data(ROWS * 60, "demo")
    calls = []
    audit = check_template(
        tokenizer, with_row(chat("<|im_end|>", "x"), many), progress=lambda *told: calls.append(told)
    )
    assert found(audit)["special_text"].examples == (3000,)
    assert len(audit.lengths) == 3001
    assert calls[0] == ("checking the template", 0, 3001)
    assert calls[-1] == ("checking the template", 3001, 3001)


def test_the_stop_token_fault_of_the_bundled_gguf_is_caught(tokenizer):
    audit = check_template(changed(tokenizer, eos_token="<|im_start|>"), DEMOS)
    finding = found(audit)["stop_mismatch"]
    assert audit.verdict == "broken"
    assert finding.count == 50
    assert (
        "end with '<|im_end|>', but generation stops at <|im_start|>, which begins a turn" in finding.message
    )
    assert "eos_token to '<|im_end|>'" in finding.fix


def test_stops_of_the_generation_config_count(tokenizer):
    base_eos = changed(tokenizer, eos_token="<|endoftext|>")
    assert check_template(base_eos, DEMOS).verdict == "broken"
    also = dataclasses.replace(base_eos, generation_stop_ids=(2, 0))
    assert "stop_mismatch" not in found(check_template(also, DEMOS))
    other = dataclasses.replace(tokenizer, generation_stop_ids=(0,))
    assert (
        "generation_config.json stops only at <|endoftext|>"
        in found(check_template(other, DEMOS))["stop_mismatch"].message
    )


def test_a_template_without_any_stop_is_broken_in_every_row(tokenizer):
    plain = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    finding = found(check_template(changed(tokenizer, plain), DEMOS))["stop_untrained"]
    assert (finding.level, finding.count) == ("broken", 50)


def test_text_rows_need_eos_and_no_template(tokenizer):
    data = Data(({"text": "One."}, {"text": "Two."}), "text")
    assert check_template(changed(tokenizer, ""), data).verdict == "ok"
    audit = check_template(changed(tokenizer, "", eos_token=None), data)
    assert "no eos" in found(audit)["stop_mismatch"].message


def test_padding_that_stops_is_a_note_not_a_fault(tokenizer):
    audit = check_template(changed(tokenizer, pad_token="<|im_end|>"), DEMOS)
    assert audit.verdict == "ok"
    assert found(audit)["pad_is_stop"].level == "info"


def test_a_base_model_takes_prompt_and_completion_but_no_conversations(tokenizer):
    base = changed(tokenizer, "")
    audit = check_template(base, DEMOS)
    assert audit.verdict == "broken"
    assert found(audit)["template"].count == 50
    with pytest.raises(TemplateError, match="No row of chats can be trained"):
        audit.fix()
    plain = Data(({"prompt": "Q:", "completion": " A"},) * 3, "demo")
    audit = check_template(base, plain)
    assert audit.verdict == "warning"
    assert "joined as they are" in found(audit)["template"].message


def test_rows_cut_to_nothing_are_counted_and_removed(tokenizer):
    data = with_row(chat("x" * 200, "never seen"))
    assert check_template(tokenizer, data).verdict == "ok"
    audit = check_template(tokenizer, data, max_length_tokens=100)
    assert found(audit)["nothing_trained"].examples == (50,)
    assert found(audit)["nothing_trained"].level == "broken"
    assert found(audit)["truncated"].count == 1
    assert audit.trained[50] == 0
    assert audit.lengths[50] > 200
    assert "stop_untrained" not in found(audit)
    fixed = audit.fix()
    assert len(fixed) == 50
    assert fixed.lineage[-1] == "template audit: 1 rows removed"
    rare = with_row(chat("x" * 200, "never seen"), Data(ROWS * 3, "demo"))
    assert check_template(tokenizer, rare, max_length_tokens=100).verdict == "warning"


def test_rows_the_template_refuses_are_counted_with_the_reason(tokenizer):
    system = {"messages": [{"role": "system", "content": "S"}, *TWO]}
    audit = check_template(changed(tokenizer, LLAMA2, bos_token="<s>", eos_token="</s>"), with_row(system))
    finding = found(audit)["not_rendered"]
    assert (audit.verdict, finding.examples) == ("broken", (50,))
    assert "Only user and assistant roles" in finding.message
    assert len(audit.fix()) == 50
    assert found(check_template(changed(tokenizer, DIVERGING), DEMOS))["not_rendered"].count == 50


def test_history_rewritten_by_the_template_is_a_warning(tokenizer):
    audit = check_template(changed(tokenizer, THINKING), with_row({"messages": TWO}))
    assert found(audit)["last_only"].examples == (50,)
    assert audit.verdict == "warning"


def test_default_system_prompts_and_dates_are_told(tokenizer):
    audit = check_template(changed(tokenizer, tiny_tokenizer.CHATML), DEMOS)
    assert "You are a helpful test assistant." in found(audit)["default_system"].message
    own = Data(({"messages": [{"role": "system", "content": "S"}, *TWO]},), "demo")
    assert "default_system" not in found(check_template(changed(tokenizer, tiny_tokenizer.CHATML), own))
    dated = "{{ strftime_now('%Y') }}\n" + tiny_tokenizer.PLAIN_CHATML
    assert found(check_template(changed(tokenizer, dated), DEMOS))["date"].level == "info"


def test_double_bos_and_merging_borders_are_told(tokenizer):
    doubled = changed(
        tokenizer, "{{ bos_token }}{{ bos_token }}" + tiny_tokenizer.PLAIN_CHATML, bos_token="<s>"
    )
    assert found(check_template(doubled, DEMOS))["double_bos"].count == 50
    merging = Data(({"prompt": "hell", "completion": "o"}, {"prompt": "a:", "completion": "b"}), "demo")
    assert found(check_template(changed(tokenizer, ""), merging))["inexact"].examples == (0,)


def test_pairs_are_measured_by_their_longer_answer(tokenizer):
    row = {"prompt": "q", "chosen": "a long answer", "rejected": "no"}
    audit = check_template(tokenizer, [row])
    assert audit.lengths[0] == len(audit.render_pair(0).chosen.ids)
    assert audit.trained[0] == len(audit.render_pair(0).chosen.trained_ids)
    assert audit.render(0) == audit.render_pair(0).chosen


def test_frames_have_a_line_for_every_check(tokenizer):
    frame = check_template(tokenizer, with_row(chat("<|im_end|>", "x"))).to_frame()
    assert set(frame["verdict"]) == {"ok", "warning"}
    assert list(frame[frame["verdict"] == "warning"]["check"]) == ["special_text"]
    assert len(frame) == len(set(frame["check"])) == 23
    assert list(frame.columns) == ["check", "verdict", "rows", "message", "why", "fix"]
    assert frame["why"].str.endswith(".").all()


def test_previews_show_trained_text_and_escape_everything(tokenizer):
    audit = check_template(tokenizer, [chat("<script>é</script>", "Привет\n👩")])
    preview = audit.preview(0)
    assert "⟦Привет\n👩<|im_end|>⟧" in str(preview)
    assert sum(len(piece.ids) for piece in preview.pieces) == audit.lengths[0]
    html = audit._repr_html_()
    assert "<script" not in html
    assert "&lt;|im_end|&gt;" in html
    assert "\ufffd" not in html
    assert "http" not in html


def test_text_of_an_audit_leads_with_the_verdict(tokenizer):
    text = repr(check_template(tokenizer, with_row(chat("<|im_end|>", "x"))))
    assert text.startswith("template warning: 51 rows of chats")
    assert "  warning: 1 row" in text


def test_transformers_tokenizers_and_folders_are_taken_as_they_are(tmp_path):
    import transformers

    folder = tiny_tokenizer.save(tmp_path, template=tiny_tokenizer.PLAIN_CHATML)
    lengths = check_template(folder, DEMOS).lengths
    assert check_template(str(folder), DEMOS).lengths == lengths
    assert check_template(transformers.AutoTokenizer.from_pretrained(str(folder)), DEMOS).lengths == lengths


def test_what_is_no_model_is_refused():
    with pytest.raises(ModelError, match="is no model or tokenizer"):
        check_template(3, DEMOS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("alpaca_en_demo.json", 999),
        ("dpo_en_demo.json", 300),
        ("kto_en_demo.json", 300),
        ("gsm8k_test.jsonl", 1319),
        ("wiki_demo.txt", 30),
    ],
)
def test_public_data_is_ok_for_the_bundled_model(name, rows):
    if not (DEMO / "tokenizer.json").is_file():
        pytest.skip(f"the demo model is not prepared ({DEMO})")
    if not (SHARED / name).is_file():
        pytest.skip(f"the sample data is not here ({SHARED / name})")
    audit = check_template(DEMO, load_data(SHARED / name))
    # One answer of this file really holds another model's '<|user|>'.
    assert [f.name for f in audit.findings if f.level != "info"] == (
        ["foreign_markup"] if "kto" in name else []
    )
    assert len(audit.lengths) == rows
    assert min(audit.trained) > 0
