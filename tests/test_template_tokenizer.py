"""Tokenizer: loads what model folders hold and agrees with transformers, token for token."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_magic.errors import ModelError, TemplateError
from ft_magic.template import Tokenizer, prompt_ids, render

DEMO = Path.home() / ".cache/ft_magic/models/SmolLM2-135M-Instruct"
TEXTS = st.text(max_size=40) | st.sampled_from(
    ["", " ", "hello", "<|im_end|>", "<b>é & ü</b>", "日本語\n", "👩‍👩‍👧"]
)
CONVERSATIONS = st.tuples(
    st.none() | TEXTS, st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4)
).map(
    lambda parts: [
        *([] if parts[0] is None else [{"role": "system", "content": parts[0]}]),
        *(
            {"role": role, "content": text}
            for pair in parts[1]
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ),
    ]
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_tokenizer.save(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def both(folder):
    import transformers

    return Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(str(folder))


@settings(deadline=None)
@given(messages=CONVERSATIONS)
def test_chat_text_and_ids_equal_transformers(both, messages):
    ours, theirs = both
    assert ours.chat.render(messages) == theirs.apply_chat_template(messages, tokenize=False)
    wanted = theirs.apply_chat_template(messages, return_dict=False)
    assert render(ours, {"messages": messages}).ids == list(wanted)
    wanted = theirs.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
    assert prompt_ids(ours, messages[:-1]) == list(wanted)


@settings(deadline=None)
@given(text=st.text())
def test_text_ids_equal_transformers_and_decode_back(both, text):
    ours, theirs = both
    ids = ours.encode(text)
    assert ids == theirs.encode(text, add_special_tokens=False)
    assert ours.decode(ids) == text
    assert ours.encode_batch([text, "a"])[0] == ids


def test_ids_of_named_and_stop_tokens(tmp_path):
    tokenizer = Tokenizer.load(tiny_tokenizer.save(tmp_path, stops=[2, 4], bos_token="<s>"))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (3, 2, 0)
    assert tokenizer.stop_ids == (2, 4)
    assert tokenizer.special_ids == frozenset(range(7))
    assert tokenizer.contract.end_of_turn == "<|im_end|>"
    assert repr(tokenizer).endswith("with chat template, stops at <|im_end|>, </s>)")


@pytest.mark.parametrize("place", ["config", "jinja", "json", "list", "object tokens"])
def test_templates_are_found_where_hubs_keep_them(tmp_path, place):
    tiny_tokenizer.save(
        tmp_path, template=None if place in ("jinja", "json", "list") else "config:{{ eos_token }}"
    )
    if place == "jinja":
        (tmp_path / "chat_template.jinja").write_text("jinja:{{ eos_token }}", encoding="utf-8")
    if place == "json":
        (tmp_path / "chat_template.json").write_text(
            '{"chat_template": "json:{{ eos_token }}"}', encoding="utf-8"
        )
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    if place == "list":
        config["chat_template"] = [
            {"name": "tool_use", "template": "tools"},
            {"name": "default", "template": "list:{{ eos_token }}"},
        ]
    if place == "object tokens":
        config["eos_token"] = {"content": "<|im_end|>", "lstrip": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    prefix = "config" if place == "object tokens" else place
    assert Tokenizer.load(tmp_path).chat.render([]) == f"{prefix}:<|im_end|>"


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}\n  {% if m.role == 'user' %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}\n",
        "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m | tojson }}{% endfor %}",
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}!{% endfor %}",
        "{{ messages | tojson(indent=2) }}{{ bos_token }}{{ tools is none }}{{ undefined_name }}",
        "{% set ns = namespace(x='') %}{% for m in messages %}{% generation %}{% set ns.x = m.role %}{% endgeneration %}{{ ns.x }}{% endfor %}",
    ],
)
def test_template_features_render_as_in_transformers(both, template):
    import dataclasses

    ours, theirs = both
    messages = [{"role": "user", "content": "<é> & 'x'"}, {"role": "assistant", "content": "b"}] * 2
    wanted = theirs.apply_chat_template(messages, chat_template=template, tokenize=False)
    assert dataclasses.replace(ours, chat_template=template).chat.render(messages) == wanted


def test_the_date_comes_from_the_given_clock(folder):
    import dataclasses

    tokenizer = Tokenizer.load(folder, clock=lambda: datetime(2026, 2, 3, tzinfo=UTC))
    dated = dataclasses.replace(tokenizer, chat_template="{{ strftime_now('%d %b %Y') }}")
    assert dated.chat.render([]) == "03 Feb 2026"
    assert dated.contract.writes_date


def test_templates_cannot_reach_python_and_faults_are_explained(folder):
    import dataclasses

    tokenizer = Tokenizer.load(folder)

    def refused(template, *messages):
        with pytest.raises(TemplateError) as caught:
            dataclasses.replace(tokenizer, chat_template=template).chat.render(list(messages))
        return str(caught.value)

    assert "no valid jinja (line 1" in refused("{% for %}")
    assert "unsafe" in refused("{{ ''.__class__.__mro__ }}")
    assert "only users" in refused("{{ raise_exception('only users') }}")
    assert "refuses" in refused("{{ messages[0].content + 1 }}", {"role": "user", "content": "a"})


def test_bos_is_added_only_where_the_tokenizer_itself_does(tmp_path):
    from tokenizers import processors

    backend = tiny_tokenizer.byte_level()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 3)])
    tokenizer = Tokenizer.load(tiny_tokenizer.save(tmp_path / "a", backend, bos_token="<s>"))
    assert tokenizer.adds_bos
    assert tokenizer.encode("a") == Tokenizer.load(tiny_tokenizer.save(tmp_path / "b")).encode("a")
    assert not Tokenizer.load(tmp_path / "b").adds_bos


def test_stored_truncation_and_padding_are_switched_off(tmp_path):
    backend = tiny_tokenizer.byte_level()
    backend.enable_truncation(2)
    backend.enable_padding(length=9)
    assert len(Tokenizer.load(tiny_tokenizer.save(tmp_path, backend)).encode("xyz")) == 3


def test_wrapping_a_transformers_tokenizer_changes_nothing_in_it(both):
    ours, theirs = both
    theirs.backend_tokenizer.enable_truncation(3)
    wrapped = Tokenizer.from_transformers(theirs)
    messages = [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": "hi"}]
    assert render(wrapped, {"messages": messages}).ids == render(ours, {"messages": messages}).ids
    assert wrapped.special_ids == ours.special_ids
    assert theirs.backend_tokenizer.truncation is not None
    theirs.backend_tokenizer.no_truncation()


def test_folders_without_a_usable_tokenizer_are_explained(tmp_path):
    with pytest.raises(ModelError, match="There is no folder"):
        Tokenizer.load(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="no tokenizer that can be read"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="is no tokenizer"):
        Tokenizer.load(tmp_path)


@pytest.mark.slow
def test_the_real_model_renders_and_tokenizes_as_transformers():
    import transformers

    if not (DEMO / "tokenizer.json").is_file():
        pytest.skip(f"the demo model is not prepared ({DEMO})")
    ours, theirs = Tokenizer.load(DEMO), transformers.AutoTokenizer.from_pretrained(str(DEMO))
    assert ours.stop_ids == (theirs.convert_tokens_to_ids("<|im_end|>"),)

    @settings(deadline=None, max_examples=400)
    @given(messages=CONVERSATIONS)
    def agrees(messages):
        rendered = render(ours, {"messages": messages})
        wanted = list(theirs.apply_chat_template(messages, return_dict=False))
        if rendered.notes == ():
            assert rendered.ids == wanted
        else:  # an answer that begins with white space merges with the newline before it, unlike at inference
            assert rendered.notes == ("inexact",)
            assert any(turn["content"][:1].isspace() for turn in messages if turn["role"] == "assistant")
            assert ours.decode(rendered.ids) == ours.decode(wanted)
        prompt = list(
            theirs.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
        )
        assert prompt_ids(ours, messages[:-1]) == prompt

    agrees()
