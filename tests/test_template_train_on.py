"""What carries loss: every answer, the last, all; answers with ``train: False``; the same in worker and plan."""

import json
from types import SimpleNamespace

import pytest
import tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from test_template_audit import found
from test_template_render import LLAMA2, PHI3, THINKING, TWO, with_template

from ft_magic.backends import rows as feeds
from ft_magic.data import Data
from ft_magic.errors import SpecError, TemplateError
from ft_magic.template import Tokenizer, check_template, render

UNTRAINED = [TWO[0], {**TWO[1], "train": False}, *TWO[2:]]


@pytest.fixture(scope="module")
def chatml(tmp_path_factory):
    folder = tiny_tokenizer.save(tmp_path_factory.mktemp("model"), template=tiny_tokenizer.PLAIN_CHATML)
    return Tokenizer.load(folder)


def trained(rendered):
    return [span.text for span in rendered.spans if span.trained]


def fed(folder, tokenizer, row, train_on="answers"):
    path = folder / "train.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    plan = SimpleNamespace(
        method=SimpleNamespace(feed="labels"),
        settings=SimpleNamespace(max_length=500, max_completion_length=0),
        spec=SimpleNamespace(train_on=train_on),
    )
    return feeds.tokenized(path, tokenizer, plan)


def test_answers_marked_untrained_are_read_and_not_trained(chatml):
    row = {"messages": UNTRAINED}
    rendered = render(chatml, row)
    assert trained(rendered) == ["2<|im_end|>"]
    assert rendered.ids == render(chatml, {"messages": TWO}).ids
    assert "train" not in chatml.decode(rendered.ids)
    both = {"messages": [TWO[0], {**TWO[1], "train": True}, *TWO[2:]]}
    assert trained(render(chatml, both)) == ["1<|im_end|>", "2<|im_end|>"]


def test_an_untrained_last_answer_ends_the_row_at_the_one_before(chatml):
    row = {"messages": [*TWO[:3], {**TWO[3], "train": False}]}
    rendered = render(chatml, row)
    assert trained(rendered) == ["1<|im_end|>"]
    assert rendered.ids == render(chatml, {"messages": TWO[:2]}).ids
    assert trained(render(chatml, row, train_on="last")) == []
    said = "".join(trained(render(chatml, row, train_on="all")))
    assert ("1<|im_end|>" in said, "two<|im_end|>" in said, "2" in said) == (True, True, False)


def test_all_trains_everything_but_the_answers_marked_untrained(chatml):
    assert all(render(chatml, {"messages": TWO}, train_on="all").mask)
    said = "".join(trained(render(chatml, {"messages": UNTRAINED}, train_on="all")))
    assert "one" in said
    assert "1<|im_end|>" not in said


def test_a_row_with_no_answer_to_train_is_found(chatml):
    row = {"messages": [TWO[0], {**TWO[1], "train": False}]}
    audit = check_template(chatml, Data((row, {"messages": TWO}), "demo"))
    assert found(audit)["nothing_trained"].examples == (0,)
    assert len(audit.fix("nothing_trained")) == 1


def test_templates_that_rewrite_history_honour_the_marks(chatml):
    thinking = with_template(chatml, THINKING)
    rendered = render(thinking, {"messages": UNTRAINED})
    assert rendered.notes == ()  # one answer to train, and that is trained
    assert [text.endswith("2<|im_end|>") for text in trained(rendered)] == [True]
    around = render(thinking, {"messages": UNTRAINED}, train_on="all")
    assert [text.endswith("2<|im_end|>") for text in trained(around)] == [True]


@pytest.mark.parametrize("template", [tiny_tokenizer.CHATML, LLAMA2, PHI3], ids=["chatml", "llama2", "phi3"])
def test_any_choice_of_marks_trains_exactly_the_answers_that_are_not_marked(chatml, template):
    named = {"bos_token": "<s>", "eos_token": "</s>"} if template is LLAMA2 else {}
    tokenizer = with_template(chatml, template, **named)

    @settings(deadline=None, max_examples=40)
    @given(marks=st.lists(st.booleans(), min_size=1, max_size=5))
    def agrees(marks):
        messages = []
        for number, mark in enumerate(marks):
            said = {"role": "assistant", "content": f"a{number}"} | ({} if mark else {"train": False})
            messages += [{"role": "user", "content": f"q{number}"}, said]
        runs = trained(render(tokenizer, {"messages": messages}))
        kept = [f"a{number}" for number, mark in enumerate(marks) if mark]
        assert [run.strip().partition("<")[0] for run in runs] == kept

    agrees()


@pytest.mark.parametrize("train_on", ["answers", "last", "all"])
@pytest.mark.parametrize("messages", [TWO, UNTRAINED], ids=["plain", "marked"])
def test_the_worker_is_fed_what_the_audit_shows(chatml, tmp_path, train_on, messages):
    row = {"messages": messages}
    audit = check_template(chatml, Data((row,), "demo"), train_on=train_on)
    shown = audit.render(0)
    (labels,) = fed(tmp_path, chatml, row, train_on).rows
    assert labels["input_ids"] == shown.ids
    assert [label != feeds.IGNORED for label in labels["labels"]] == shown.mask
    assert audit.trained[0] == sum(shown.mask)


def test_tools_of_a_row_reach_the_worker(chatml, tmp_path):
    tool = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    able = with_template(chatml, "{{ tools | tojson if tools else 'none' }}" + tiny_tokenizer.PLAIN_CHATML)
    row = {"messages": TWO, "tools": [tool]}
    (labels,) = fed(tmp_path, able, row).rows
    assert '"name": "weather"' in able.decode(labels["input_ids"])
    assert able.decode(fed(tmp_path, able, {"messages": TWO}).rows[0]["input_ids"]).startswith("none")
    assert able.decode(render(able, {"prompt": "q", "tools": "a reward column"}).ids).startswith("none")


def plan_of(model, **more):
    import ft_magic as ft

    talk = [{"messages": UNTRAINED}, {"messages": TWO}] * 6
    return ft.plan(model=str(model), data=talk, eval_fraction=0, **more)


def test_the_plan_counts_the_tokens_the_audit_counts(tiny, runs_folder):
    shown = check_template(tiny, Data(tuple([{"messages": UNTRAINED}, {"messages": TWO}] * 6), "demo"))
    notes = " ".join(plan_of(tiny).notes)
    assert f"{sum(shown.trained):,} of {sum(shown.lengths):,} tokens carry loss" in notes
    last = check_template(tiny, shown.data, train_on="last")
    assert f"{sum(last.trained):,} of {sum(last.lengths):,}" in " ".join(plan_of(tiny, train_on="last").notes)
    assert sum(last.trained) < sum(shown.trained)


def test_train_on_is_refused_where_it_would_be_ignored(tiny, runs_folder):
    with pytest.raises(SpecError, match="train_on has no meaning for method 'dpo'"):
        plan_of(tiny, method="dpo", train_on="last")
    with pytest.raises(SpecError, match="train_on"):
        plan_of(tiny, train_on="some")


def broken(tiny, folder):
    import shutil

    shutil.copytree(tiny, folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
        encoding="utf-8",
    )
    path.write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_a_broken_template_is_refused_warned_about_or_passed_as_asked(tiny, runs_folder, tmp_path):
    model = broken(tiny, tmp_path / "broken")
    with pytest.raises(TemplateError, match="does not end with a trained stop token"):
        plan_of(model)
    warned = plan_of(model, audit="warn")
    assert any("trained stop token" in advice.message for advice in warned.warnings)
    off = plan_of(model, audit="off")
    assert not any("trained stop token" in advice.message for advice in off.warnings)
    assert any("audit: off" in note and "broken" in note for note in off.notes)
