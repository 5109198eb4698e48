"""Judged answers and prompts alone: rendered as the model will see them, audited for what they can have."""

import dataclasses

import pytest
import rows
import tiny_tokenizer
from test_template_render import LLAMA2

from ft_magic.data import Data
from ft_magic.errors import TemplateError
from ft_magic.template import Tokenizer, check_template, prompt_ids, render

USER, SYSTEM = {"role": "user", "content": "Hi"}, {"role": "system", "content": "S"}
HELLO = {"role": "assistant", "content": "Hello"}
PROMPTS = Data(tuple(rows.prompts(50)), "prompt", "questions")
LABELS = Data(tuple(rows.labels(50)), "label", "votes")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tiny_tokenizer.save(tmp_path_factory.mktemp("model"), template=tiny_tokenizer.PLAIN_CHATML)
    return Tokenizer.load(folder)


def found(audit):
    return {finding.name: finding for finding in audit.findings}


def with_row(data, row):
    return dataclasses.replace(data, rows=(*data.rows, row))


def test_a_judged_answer_is_rendered_like_a_demonstration(tokenizer):
    label = rows.labels(1)[0]
    demo = {"prompt": label["prompt"], "completion": label["completion"]}
    assert render(tokenizer, label) == render(tokenizer, demo)
    base = dataclasses.replace(tokenizer, chat_template="")
    assert render(base, label) == render(base, demo)


def test_only_the_judged_answer_of_a_conversation_is_trained(tokenizer):
    row = {"prompt": [SYSTEM, USER, HELLO, USER], "completion": [HELLO], "label": True}
    shown = render(tokenizer, row)
    assert tokenizer.decode(shown.trained_ids) == "Hello<|im_end|>"
    assert shown.ids[: shown.prompt_tokens] == prompt_ids(tokenizer, row)


@pytest.mark.parametrize("prompt", ["Hi", [USER], [SYSTEM, USER, HELLO, USER]])
def test_a_prompt_row_is_what_the_model_reads_before_it_answers(tokenizer, prompt):
    shown = render(tokenizer, {"prompt": prompt, "answer": "not shown", "tests": [1]})
    assert shown.ids == prompt_ids(tokenizer, prompt)
    assert shown.trained_tokens == 0
    assert tokenizer.decode(shown.ids).endswith("<|im_start|>assistant\n")
    assert "not shown" not in tokenizer.decode(shown.ids)


def test_judged_answers_are_audited_like_demonstrations(tokenizer):
    audit = check_template(tokenizer, LABELS)
    assert (audit.verdict, audit.findings) == ("ok", ())
    assert audit.trained[0] == render(tokenizer, LABELS[0]).trained_tokens > 0
    long = with_row(LABELS, {"prompt": "x" * 200, "completion": "y", "label": False})
    cut = check_template(tokenizer, long, max_length_tokens=100)
    assert found(cut)["nothing_trained"].examples == (50,)
    assert len(cut.fix()) == 50


def test_prompts_have_no_trained_tokens_and_that_is_no_fault(tokenizer):
    audit = check_template(tokenizer, PROMPTS)
    assert (audit.verdict, audit.findings) == ("ok", ())
    assert audit.lengths == tuple(len(prompt_ids(tokenizer, row["prompt"])) for row in PROMPTS)
    assert set(audit.trained) == {0}
    assert audit.fix() is PROMPTS
    assert "prompts alone" in audit.summary
    assert "⟦" not in str(audit.preview(0)).partition("\n")[2]
    assert "0 trained" in audit._repr_html_()


def test_prompts_that_leave_no_room_for_an_answer_are_counted_the_longest_first(tokenizer):
    data = with_row(with_row(PROMPTS, {"prompt": "x" * 100}), {"prompt": "y" * 200})
    assert check_template(tokenizer, data).verdict == "ok"
    audit = check_template(tokenizer, data, max_length_tokens=80)
    finding = found(audit)["truncated"]
    assert (audit.verdict, finding.count, finding.examples) == ("warning", 2, (51, 50))
    assert f"the longest has {audit.lengths[51]} tokens" in finding.message
    assert "nothing_trained" not in found(audit)
    assert audit.bad_rows == (50, 51)
    assert len(audit.fix()) == 50
    filled = check_template(tokenizer, PROMPTS, max_length_tokens=max(audit.lengths[:50]))
    assert found(filled)["truncated"].count == sum(n == max(audit.lengths[:50]) for n in audit.lengths[:50])
    everything = check_template(tokenizer, PROMPTS, max_length_tokens=5)
    assert everything.verdict == "broken"
    with pytest.raises(TemplateError, match="No row of questions can be trained"):
        everything.fix()


def test_a_stop_token_that_does_not_stop_matters_to_prompts_too(tokenizer):
    wrong = dataclasses.replace(
        tokenizer, named_tokens={**tokenizer.named_tokens, "eos_token": "<|im_start|>"}
    )
    audit = check_template(wrong, PROMPTS)
    assert audit.verdict == "broken"
    assert found(audit)["stop_mismatch"].count == 50


def test_prompts_the_template_refuses_or_shortens_are_counted(tokenizer):
    llama = dataclasses.replace(
        tokenizer,
        chat_template=LLAMA2,
        named_tokens={**tokenizer.named_tokens, "bos_token": "<s>", "eos_token": "</s>"},
    )
    audit = check_template(llama, with_row(PROMPTS, {"prompt": [SYSTEM, USER]}))
    assert found(audit)["not_rendered"].examples == (50,)
    deaf = tiny_tokenizer.PLAIN_CHATML.replace(
        "{% for message in messages %}", "{% for message in messages if message['role'] != 'system' %}"
    )
    silent = check_template(dataclasses.replace(tokenizer, chat_template=deaf), [{"prompt": [SYSTEM, USER]}])
    assert "leaves out turns of the role 'system'" in found(silent)["not_rendered"].message


def test_columns_for_reward_functions_are_not_checked_as_if_the_model_read_them(tokenizer):
    row = {"prompt": "Hi", "answer": "<|im_end|>", "tests": ["<|im_start|>"]}
    assert check_template(tokenizer, Data((row,), "prompt")).findings == ()
    base = check_template(dataclasses.replace(tokenizer, chat_template=""), Data((row,), "prompt"))
    assert found(base)["template"].level == "warning"
    chat = Data(({"prompt": [USER], "answer": "x"},), "prompt")
    assert check_template(dataclasses.replace(tokenizer, chat_template=""), chat).verdict == "broken"
    spoken = with_row(PROMPTS, {"prompt": "<|im_end|>", "answer": "x"})
    assert found(check_template(tokenizer, spoken))["special_text"].examples == (50,)
