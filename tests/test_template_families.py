"""Masks equal what an independent way finds, for every template TRL ships and for those of common families."""

import importlib.util
from pathlib import Path

import pytest
import tiny_tokenizer
from family_templates import BUILT, FAMILIES, trl_stop
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from mask_oracle import SIGNS, UnknownError, expected, mask_of, refused

from ft_magic.template import Tokenizer, check_template, render
from ft_magic.template.probe import MARKER

TRL = importlib.util.find_spec("trl")
FILES = sorted((Path(TRL.origin).parent / "chat_templates").glob("*.jinja")) if TRL and TRL.origin else []
SOURCES = {f"trl-{f.stem}": (f.read_text(encoding="utf-8"), trl_stop(f.stem)) for f in FILES} | FAMILIES
# Their prompt opens a reasoning block that answers without one do not begin with.
APART = {
    "trl-deepseek_r1_distill", "trl-deepseek_r1_distill_training", "trl-deepseekv3", "trl-deepseekv3_training",
    *(f"trl-nemotron_3_{n}{t}" for n in ("nano", "super", "ultra", "5_lightning") for t in ("", "_training")),
}  # fmt: skip
# They write earlier answers otherwise than the last one.
REWRITING = {
    "qwen3", "trl-qwen3", "trl-qwen3_5_think", "trl-qwen3_5_nothink", "trl-qwen3_6", "trl-gptoss", "trl-gptoss_training",
}  # fmt: skip
# The header of the next turn is what stops them; the last answer of a conversation has none behind it.
UNSTOPPED = {"trl-glm4moe"}
WILD = (
    "",
    " ",
    "\n",
    "<think>",
    "</think>",
    "[INST] x [/INST]",
    "### Response:\n",
    "{{ x }}",
    "<|im_end|>",
    "</s>",
    "é👩‍👩‍👧",
)
TEXT = st.lists(
    st.sampled_from(WILD)
    | st.text(st.characters(exclude_characters=SIGNS, exclude_categories=["Cs"]), max_size=8),
    max_size=3,
).map("".join)


@pytest.fixture(scope="module")
def tokenizer_of(tmp_path_factory):
    made = {}

    def of(name):
        if name not in made:
            source, stop = SOURCES[name]
            specials = dict.fromkeys([*sorted(set(MARKER.findall(source))), stop, *BUILT, "<bos>", "<pad>"])
            backend = tiny_tokenizer.byte_level(tuple(specials))
            named = {"eos_token": stop, "bos_token": "<bos>", "pad_token": "<pad>"}
            folder = tiny_tokenizer.save(tmp_path_factory.mktemp("model"), backend, template=source, **named)
            made[name] = Tokenizer.load(folder)
        return made[name]

    return of


def conversation(pairs):
    return [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


def trained(tokenizer, rendered):
    return [span.text for span in rendered.spans if span.trained]


def test_every_template_trl_ships_is_looked_at():
    if not FILES:
        pytest.skip("trl is not installed here")
    assert len(FILES) > 50
    assert [file.stem for file in FILES if trl_stop(file.stem) is None] == []


@pytest.mark.parametrize("name", SOURCES)
def test_the_mask_is_what_differs_with_and_without_each_answer(tokenizer_of, name):
    tokenizer = tokenizer_of(name)
    stop = SOURCES[name][1]

    @settings(deadline=None, max_examples=12, suppress_health_check=list(HealthCheck))
    @given(pairs=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3), special=st.booleans())
    def agrees(pairs, special):
        if special:  # the very token that ends an answer, written by a person
            pairs = [(f"{asked}{stop}", said) for asked, said in pairs]
        messages = conversation(pairs)
        try:
            places, last_only = expected(tokenizer.chat.render, messages, stop)
        except UnknownError:
            assume(False)
        refusal = refused(render, tokenizer, {"messages": messages})
        if places is None:
            assert "does not tell answers from prompts" in str(refusal)
            return
        assert refusal is None
        rendered = render(tokenizer, {"messages": messages})
        whole = tokenizer.chat.render(messages)
        assert ("last_only" in rendered.notes) == last_only
        assert trained(tokenizer, rendered) == [whole[begin:end] for begin, end in places]
        ids, mask = mask_of(tokenizer.codec.backend, whole, places)
        if "inexact" not in rendered.notes:
            assert (rendered.ids, rendered.mask) == (ids, mask)
        assert tokenizer.decode(rendered.trained_ids) == "".join(whole[begin:end] for begin, end in places)

    agrees()


@pytest.mark.parametrize("name", SOURCES)
def test_what_a_template_allows_is_as_stated(tokenizer_of, name):
    tokenizer, stop = tokenizer_of(name), SOURCES[name][1]
    messages = conversation([("one", "uno"), ("two", "dos")])
    if name in APART:
        assert "does not tell answers from prompts" in str(refused(render, tokenizer, {"messages": messages}))
        return
    rendered = render(tokenizer, {"messages": messages})
    assert ("last_only" in rendered.notes) == (name in REWRITING)
    assert ("unstopped" in rendered.notes) == (name in UNSTOPPED)
    runs = trained(tokenizer, rendered)
    assert ["uno" in run for run in runs] == ([False] if name in REWRITING else [True, False])
    assert "dos" in runs[-1]
    assert not any(asked in run for run in runs for asked in ("one", "two"))
    assert all(run.endswith(stop) for run in runs) == (name not in UNSTOPPED)
    marked = [messages[0], {**messages[1], "train": False}, *messages[2:]]
    assert trained(tokenizer, render(tokenizer, {"messages": marked})) == runs[-1:]
    assert trained(tokenizer, render(tokenizer, {"messages": messages}, train_on="last")) == runs[-1:]


# With {% generation %} marks, and whose answers are all trained here too.
TRAINING = [
    name
    for name, (source, _) in SOURCES.items()
    if "{% generation" in source.replace("{%-", "{%") and name not in APART | REWRITING
]


@pytest.mark.parametrize("name", TRAINING)
def test_masks_agree_with_transformers_where_a_template_marks_answers(tokenizer_of, name):
    import transformers

    tokenizer = tokenizer_of(name)
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.codec.backend,
        chat_template=tokenizer.chat_template,
        **tokenizer.named_tokens,
    )
    messages = conversation([("one", "uno"), ("two", "dos")])
    parts = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in messages]
    said = parts if tokenizer.chat.wants_parts else messages
    wanted = theirs.apply_chat_template(said, return_dict=True, return_assistant_tokens_mask=True)
    ours = render(tokenizer, {"messages": messages})
    assert ours.ids == wanted["input_ids"]
    assert not any(own and not their for own, their in zip(ours.mask, wanted["assistant_masks"], strict=True))
    # transformers trains more: white space and a second eos behind the stop, and what the prompt writes at inference.
    extra = [their and not own for own, their in zip(ours.mask, wanted["assistant_masks"], strict=True)]
    runs = [text.strip() for text in marked_runs(tokenizer, ours.ids, extra)]
    header = tokenizer.contract.prompt_end.strip()
    assert all(run == "" or header.endswith(run) or run == SOURCES[name][1] for run in runs)


def marked_runs(tokenizer, ids, mask):
    runs, run = [], []
    for token_id, marked in zip([*ids, 0], [*mask, False], strict=True):
        if marked:
            run.append(token_id)
        elif run:
            runs.append(tokenizer.decode(run))
            run = []
    return runs


# Of those whose prompt opens a reasoning block, the ones that keep what stands in it.
KEEPING = {
    name
    for name in APART
    if name not in ("trl-deepseek_r1_distill", "trl-deepseekv3", "trl-deepseekv3_training")
}


@pytest.mark.parametrize("name", sorted(APART))
def test_an_empty_reasoning_block_makes_reasoning_models_trainable(tokenizer_of, name):
    if name not in SOURCES:
        pytest.skip("this version of trl does not ship it")
    tokenizer = tokenizer_of(name)
    audit = check_template(tokenizer, [{"messages": conversation([("one", "uno")])}])
    (finding,) = (f for f in audit.findings if f.name == "generation_prompt" and f.level == "broken")
    assert "audit.fix('generation_prompt')" in finding.fix
    again = check_template(tokenizer, audit.fix("generation_prompt"))
    assert ("not_rendered" in {f.name for f in again.findings}) == (name not in KEEPING)
    if name in KEEPING:
        assert trained(tokenizer, again.render(0))[0].endswith(f"uno{SOURCES[name][1]}")


def test_the_training_version_trl_ships_is_proposed(tokenizer_of):
    if "trl-glm4moe" not in SOURCES:
        pytest.skip("trl is not installed here")
    data = [{"messages": conversation([("one", "uno")])}]
    audit = check_template(tokenizer_of("trl-glm4moe"), data)
    (finding,) = (f for f in audit.findings if f.name == "stop_untrained")
    assert "glm4moe_training.jinja" in finding.fix
    better = check_template(audit.propose("training").tokenizer, data)
    assert "stop_untrained" not in {f.name for f in better.findings}
