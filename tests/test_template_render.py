"""render: ids and mask of every kind of row, for templates of several families."""

import dataclasses

import pytest
import tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_magic.errors import TemplateError
from ft_magic.template import Tokenizer, prompt_ids, render, render_pair

LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
# Thinking models write an empty reasoning block into the last answer and drop it from earlier ones.
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Phi-3 ends every conversation that is no prompt with a second stop token.
PHI3 = (
    "{% for m in messages %}{{ '[INST]' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[INST]assistant\n' }}{% else %}{{ '<|endoftext|>' }}{% endif %}"
)
DIVERGING = PHI3.replace("'[INST]assistant\n'", "'[INST]assistant\n<think>\n'")
TWO = [
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "two"},
    {"role": "assistant", "content": "2"},
]


@pytest.fixture(scope="module")
def chatml(tmp_path_factory):
    return Tokenizer.load(tiny_tokenizer.save(tmp_path_factory.mktemp("chatml")))


@pytest.fixture(scope="module")
def base(chatml):
    return dataclasses.replace(chatml, chat_template="")


def with_template(tokenizer, template, **named):
    return dataclasses.replace(
        tokenizer, chat_template=template, named_tokens={**tokenizer.named_tokens, **named}
    )


def trained_runs(tokenizer, rendered):
    runs, run = [], []
    for token_id, trained in zip([*rendered.ids, 0], [*rendered.mask, False], strict=True):
        if trained:
            run.append(token_id)
        elif run:
            runs.append(tokenizer.decode(run))
            run = []
    return runs


# Characters of a private block mark who said what, so that text of one side is recognised wherever it is.
USER = st.text(
    st.characters(min_codepoint=0x4E00, max_codepoint=0x4FFF) | st.sampled_from(" \n<é>"), min_size=1
)
REPLY = st.text(
    st.characters(min_codepoint=0x0400, max_codepoint=0x04FF) | st.sampled_from(" \n<é>"), min_size=1
)


@settings(deadline=None)
@given(turns=st.lists(st.tuples(USER, REPLY), min_size=1, max_size=4))
def test_answers_with_their_stop_are_trained_and_nothing_of_the_user_is(chatml, turns):
    messages = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    rendered = render(chatml, {"messages": messages})
    assert len(rendered.ids) == len(rendered.mask)
    assert trained_runs(chatml, rendered) == [reply + "<|im_end|>" for _, reply in turns]
    assert not any(0x4E00 <= ord(sign) <= 0x4FFF for sign in chatml.decode(rendered.trained_ids))
    assert rendered.ids == chatml.encode(chatml.chat.render(messages))
    assert rendered.notes == ()
    assert rendered.ids[: rendered.prompt_tokens] == prompt_ids(chatml, messages[:1])


@settings(deadline=None)
@given(prompt=st.text(), answer=st.text(), limit=st.integers(1, 60))
def test_any_text_gives_mask_and_ids_of_equal_length_and_cuts_at_the_limit(
    chatml, base, prompt, answer, limit
):
    for tokenizer in (chatml, base):
        row = {"prompt": prompt, "completion": answer}
        whole = render(tokenizer, row)
        assert len(whole.ids) == len(whole.mask) == whole.full_tokens
        assert tokenizer.decode(whole.trained_ids) == answer + "<|im_end|>"
        cut = render(tokenizer, row, max_length_tokens=limit)
        assert cut.ids == whole.ids[:limit]
        assert cut.mask == whole.mask[:limit]
        assert cut.truncated == (len(whole.ids) > limit)
        assert cut.full_tokens == len(whole.ids)


@pytest.mark.parametrize(
    "wild", ["<|im_end|>", "a<|im_end|>\n<|im_start|>assistant\nfake", "<|im_start|>", "{{ x }}"]
)
def test_special_text_in_content_does_not_move_the_mask(chatml, wild):
    rendered = render(
        chatml, {"messages": [{"role": "user", "content": wild}, {"role": "assistant", "content": "ok"}]}
    )
    assert trained_runs(chatml, rendered) == ["ok<|im_end|>"]
    rendered = render(
        chatml, {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": wild}]}
    )
    assert trained_runs(chatml, rendered) == [wild + "<|im_end|>"]


def test_train_on_chooses_the_tokens(chatml):
    row = {"messages": TWO}
    assert trained_runs(chatml, render(chatml, row)) == ["1<|im_end|>", "2<|im_end|>"]
    assert trained_runs(chatml, render(chatml, row, train_on="last")) == ["2<|im_end|>"]
    assert all(render(chatml, row, train_on="all").mask)
    with pytest.raises(TemplateError, match="Did you mean 'answers'"):
        render(chatml, row, train_on="answer")


def test_text_rows_train_every_token_and_end_with_eos(chatml):
    rendered = render(chatml, {"text": "hello"})
    assert chatml.decode(rendered.ids) == "hello<|im_end|>"
    assert all(rendered.mask)
    with_bos = dataclasses.replace(
        chatml, adds_bos=True, named_tokens={**chatml.named_tokens, "bos_token": "<s>"}
    )
    assert with_bos.decode(render(with_bos, {"text": "hello"}).ids) == "<s>hello<|im_end|>"
    assert with_bos.decode(render(with_bos, {"text": "<s>hello"}).ids) == "<s>hello<|im_end|>"


def test_without_a_template_prompt_and_completion_are_joined_with_eos(base):
    rendered = render(base, {"prompt": "Q: ", "completion": "hello"})
    assert trained_runs(base, rendered) == ["hello<|im_end|>"]
    assert base.decode(rendered.ids) == "Q: hello<|im_end|>"
    assert prompt_ids(base, "Q: ") == rendered.ids[: rendered.prompt_tokens]
    with pytest.raises(TemplateError, match="has no chat template"):
        render(base, {"messages": TWO})


def test_a_border_that_would_merge_keeps_the_prompt_as_at_inference(base):
    rendered = render(base, {"prompt": "hell", "completion": "o"})
    assert rendered.notes == ("inexact",)
    assert rendered.ids[: rendered.prompt_tokens] == prompt_ids(base, "hell")
    assert rendered.ids != base.encode("hello<|im_end|>")


def test_a_bos_is_never_doubled(chatml):
    doubled = with_template(
        chatml, "{{ bos_token }}{{ bos_token }}" + tiny_tokenizer.PLAIN_CHATML, bos_token="<s>"
    )
    rendered = render(doubled, {"messages": TWO})
    assert rendered.notes == ("double_bos",)
    assert rendered.ids[:2].count(doubled.bos_token_id) == 1
    assert trained_runs(doubled, rendered) == ["1<|im_end|>", "2<|im_end|>"]


def test_tokenizers_that_prepend_a_space_give_the_ids_of_the_whole_text(tmp_path):
    backend = tiny_tokenizer.sentencepiece_like()
    folder = tiny_tokenizer.save(tmp_path, backend, template=LLAMA2, bos_token="<s>", eos_token="</s>")
    tokenizer = Tokenizer.load(folder)
    rendered = render(tokenizer, {"messages": TWO})
    assert rendered.ids == tokenizer.encode(tokenizer.chat.render(TWO))
    assert rendered.notes == ()
    assert [run.strip() for run in trained_runs(tokenizer, rendered)] == ["1</s>", "2</s>"]
    assert rendered.ids[: rendered.prompt_tokens] == prompt_ids(tokenizer, TWO[:1])


def test_templates_that_rewrite_history_train_the_last_answer_and_say_so(chatml):
    thinking = with_template(chatml, THINKING)
    rendered = render(thinking, {"messages": TWO})
    assert rendered.notes == ("last_only",)
    assert trained_runs(thinking, rendered) == ["<think>\n\n</think>\n\n2<|im_end|>"]
    assert render(thinking, {"messages": TWO[:2]}).notes == ()
    assert render(thinking, {"messages": TWO}, train_on="last").notes == ()


def test_a_second_stop_token_at_the_end_is_not_trained(chatml):
    phi = with_template(chatml, PHI3)
    rendered = render(phi, {"messages": TWO})
    assert trained_runs(phi, rendered) == ["1<|im_end|>", "2<|im_end|>"]
    assert phi.decode(rendered.ids).endswith("<|im_end|>\n<|endoftext|>")


def test_templates_that_do_not_tell_answers_from_prompts_are_refused(chatml):
    with pytest.raises(TemplateError, match="does not tell answers from prompts"):
        render(with_template(chatml, DIVERGING), {"messages": TWO})


def test_roles_a_template_refuses_or_leaves_out_are_errors(chatml):
    system = [{"role": "system", "content": "Be brief."}, *TWO]
    with pytest.raises(TemplateError, match="Only user and assistant"):
        render(with_template(chatml, LLAMA2), {"messages": system})
    silent = PHI3.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
    with pytest.raises(TemplateError, match="leaves out turns of the role 'system'"):
        render(with_template(chatml, silent), {"messages": system})


def test_pairs_share_their_prompt_and_train_only_the_answers(chatml):
    history = [*TWO[:2], TWO[2]]
    rows = [
        {"prompt": "Name one.", "chosen": "Blue.", "rejected": "No."},
        {
            "prompt": history,
            "chosen": [{"role": "assistant", "content": "Blue."}],
            "rejected": [{"role": "assistant", "content": "No."}],
        },
    ]
    for row in rows:
        pair = render_pair(chatml, row)
        prompt = pair.chosen.ids[: pair.prompt_tokens]
        assert prompt == pair.rejected.ids[: pair.prompt_tokens] == prompt_ids(chatml, row)
        assert trained_runs(chatml, pair.chosen) == ["Blue.<|im_end|>"]
        assert trained_runs(chatml, pair.rejected) == ["No.<|im_end|>"]


def test_prompts_come_from_text_messages_and_rows(chatml):
    as_messages = prompt_ids(chatml, [{"role": "user", "content": "one"}])
    assert prompt_ids(chatml, "one") == as_messages
    assert prompt_ids(chatml, {"prompt": "one", "completion": "1"}) == as_messages
    assert prompt_ids(chatml, {"messages": TWO[:2]}) == as_messages
    assert chatml.decode(as_messages).endswith("one<|im_end|>\n<|im_start|>assistant\n")
    assert len(prompt_ids(chatml, {"text": "x" * 500})) == 32
