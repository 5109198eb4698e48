"""ft.advise and %ft advise: measured on a tiny model, conditional where nobody answered, shown and kept."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from judge_server import serving
from notebook_shell import NotebookShell

import ft_magic as ft
from ft_magic import cli, jobs, samples
from ft_magic.advising import consultation, rules
from ft_magic.advising.form import QUESTIONS
from ft_magic.advising.metrics import METRICS
from ft_magic.errors import FTError, SpecError
from ft_magic.shell.verbs import VERBS
from ft_magic.ui import widget

COLOURS = ["blue", "red", "green", "grey"]
LABELS = [{"prompt": f"Name {i}?", "completion": COLOURS[i % 4]} for i in range(60)]
FACTS = [
    {
        "prompt": f"Who sits in room {i}?",
        "completion": f"In that room sits Ada{i} Lovelace{i}, phone {7000 + i}.",
    }
    for i in range(60)
]


@pytest.fixture(autouse=True)
def own_folders(runs_folder):
    """Nothing of these tests lands in the user's folders."""


@pytest.fixture(scope="module")
def advice(tiny):
    return ft.advise(str(tiny), LABELS, examples=6, shots=2, data_word="$ds")


# -- measured on a real, tiny model


def test_three_ways_are_tried_on_the_same_held_out_rows(advice):
    figures = advice.figures
    assert (figures.kind, figures.metric, figures.examples) == ("label", "label", 6)
    assert (figures.zero.shots, figures.few.shots, figures.nearest.shots) == (0.0, 2.0, 2.0)
    assert figures.few.prompt_tokens > figures.zero.prompt_tokens
    assert len(advice.samples) == 6
    held = {sample.question for sample in advice.samples}
    assert not held & {case.question for case in advice.measured.pool}


def test_the_loss_is_that_of_a_plain_forward_pass(advice, tiny):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()
    found = []
    for sample in advice.samples:
        turns = [{"role": "user", "content": sample.question}]
        before = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        prompt, answer = (tokenizer.encode(text) for text in (before, f"{sample.expected}<|im_end|>"))
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        found.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor(answer))))
    assert advice.figures.zero.loss.mean == pytest.approx(
        sum(found) / 6, abs=0.02
    )  # the probe may run in bf16


@pytest.mark.parametrize("kind", ["base", "lora", "prompt"])
def test_reading_a_prompt_once_gives_what_reading_it_twice_gives(kind, tiny, tmp_path):
    from peft import PromptTuningConfig, get_peft_model
    from tiny_llama import make_adapter
    from transformers import AutoModelForCausalLM

    from ft_magic.advising.probe import ask_batch
    from ft_magic.backends.answering import answer_ids, without_stop
    from ft_magic.evaluate.generate import load
    from ft_magic.evaluate.losses import labelled, losses
    from ft_magic.progress import silent

    adapter = None
    if kind == "lora":
        adapter = str(make_adapter(tiny, tmp_path / "lora"))
    if kind == "prompt":
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(tiny),
            PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        )
        model.save_pretrained(tmp_path / "prompt")
        adapter = str(tmp_path / "prompt")
    loaded = load(str(tiny), adapter)
    prompts = [[1, 70, 71, 72, 73, 74], [1, 80], [1, 90, 91, 92]]
    wanted = [[100, 2], [101, 102, 103, 2], [104]]
    found, own = ask_batch(loaded, prompts, wanted, 12)
    given = [labelled(prompt, answer) for prompt, answer in zip(prompts, wanted, strict=True)]
    plain = losses(loaded.model, given, silent, "")
    assert [count for _, count in found] == [2, 4, 1]
    assert [loss for loss, _ in found] == pytest.approx([loss for loss, _ in plain], rel=1e-4)
    twice = answer_ids(loaded.model, loaded.light, prompts, max_new_tokens=12)
    assert [without_stop(ids, loaded.light) for ids in own] == [
        without_stop(ids, loaded.light) for ids in twice
    ]


def test_a_random_model_is_no_good_and_enough_labels_are_there_to_learn_from(advice):
    assert advice.figures.few.score.mean < 0.9
    assert advice.verdict == rules.FINE_TUNE
    assert advice.next_cell.startswith("%%finetune run\nmodel: ")
    assert "data: $ds\nmethod: sft" in advice.next_cell


def test_the_same_seed_gives_the_same_advice_and_another_other_rows(advice, tiny):
    again = ft.advise(str(tiny), LABELS, examples=6, shots=2, data_word="$ds")
    assert again.figures == advice.figures
    other = ft.advise(str(tiny), LABELS, examples=6, shots=2, seed=1)
    assert {s.question for s in other.samples} != {s.question for s in advice.samples}


def test_examples_that_do_not_fit_the_context_are_left_out_and_said(tiny):
    long = [row | {"prompt": row["prompt"] + " why" * 40} for row in LABELS]  # about 160 of 256 tokens each
    found = ft.advise(str(tiny), long, examples=2, shots=3)
    assert found.figures.few.shots < 3
    assert any("prompts hold fewer than 3 random examples" in note for note in found.notes)


def test_questions_longer_than_the_context_are_not_tried_and_said(tiny):
    endless = [row | {"prompt": row["prompt"] + " why" * 400} for row in LABELS]
    found = ft.advise(str(tiny), endless, examples=2)
    assert found.figures.examples == 0
    assert any("2 questions are longer than the 256 tokens" in note for note in found.notes)
    assert any("no question fits" in note for note in found.notes)
    assert found.verdict == rules.PROMPTING  # what was not measured is to be tried first


def test_held_out_rows_of_ones_own_are_the_ones_tried(tiny):
    own = [{"prompt": f"Own {i}?", "completion": "blue"} for i in range(3)]
    found = ft.advise(str(tiny), LABELS, heldout=own, examples=6, shots=1)
    assert {sample.question for sample in found.samples} == {"Own 0?", "Own 1?", "Own 2?"}
    assert len(found.measured.pool) == 60


def test_a_held_out_row_that_is_among_the_data_is_no_example_for_itself(tiny):
    found = ft.advise(str(tiny), LABELS, heldout=LABELS[:5], examples=5, shots=1)
    assert len(found.measured.pool) == 55
    assert any("5 rows with the same questions are no examples" in note for note in found.notes)


def test_the_goal_stands_before_the_first_turn(advice, tiny, monkeypatch):
    seen = []
    real = jobs.call
    monkeypatch.setattr(jobs, "call", lambda job, arguments, progress: seen.append(arguments) or real(job, arguments, progress))  # fmt: skip
    ft.advise(str(tiny), LABELS, examples=1, shots=1, goal="Name a colour.")
    assert all(chat[0]["content"].startswith("Name a colour.\n\n") for chat in seen[0]["prompts"])


def test_an_endpoint_is_tried_without_likelihoods(tmp_path):
    with serving(lambda text: "blue") as server:
        given = {"base_url": server.url, "model": "wise"}
        found = ft.advise(
            given, [{"prompt": f"Colour {i}?", "completion": "blue"} for i in range(60)], examples=4
        )
    assert found.figures.zero.score.mean == 1.0
    assert found.figures.zero.loss is None
    assert found.verdict == rules.DO_NOT
    assert any("gives no likelihood" in note for note in found.notes)


# -- without measuring


def test_nothing_is_asked_where_that_is_wished():
    found = ft.advise("no/such-model", LABELS, measure=False, needs="format", facts_change="never")
    assert found.figures.examples == 0
    assert found.verdict == rules.PROMPTING
    assert "Nothing was measured: measure=False." in found.notes


@pytest.mark.parametrize(
    ("rows", "note"),
    [
        ([{"text": f"Page {i} of prose, long enough."} for i in range(60)], "holds no answers"),
        ([{"prompt": "Same?", "completion": "same"}] * 3, "nothing can be held out"),
    ],
)
def test_rows_that_cannot_be_tried_are_counted_and_say_why(rows, note, tiny):
    found = ft.advise(str(tiny), rows)
    assert any("Nothing was measured" in line and note in line for line in found.notes)
    assert found.figures.rows == len(rows)


def test_unanswered_questions_are_said_and_the_verdict_depends():
    found = ft.advise("demo", FACTS, measure=False)
    assert found.verdict == rules.DEPENDS
    assert found.unanswered == ("needs", "facts_change", "runtime")
    assert any(line.startswith("if needs is facts and facts_change is daily") for line in found.conditions)
    text = repr(found)
    assert text.count("nobody has answered") == 3
    assert "Nobody has answered, and the answers decide" in text
    assert found.next_cell == 'advice.answer(needs="...", facts_change="...")   # the measurements stay'


def test_answers_given_later_decide_without_measuring_again(advice, monkeypatch):
    monkeypatch.setattr(jobs, "call", lambda *_: pytest.fail("measured again"))
    found = ft.advise("demo", FACTS, measure=False).answer(needs="facts", facts_change="daily")
    assert found.verdict == rules.DO_NOT
    assert found.answer(facts_change="never").verdict == rules.RETRIEVAL
    assert advice.answer(target=0.01).figures == advice.figures
    with pytest.raises(SpecError, match="facts_change is 'hourly'"):
        found.answer(facts_change="hourly")


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"needs": "fact"}, "needs is 'fact'"),
        ({"metric": "rouge"}, "metric 'rouge' does not exist"),
        ({"shots": 0}, "shots is 0"),
        ({"examples": -1}, "examples is -1"),
        ({"target": 90}, "target is 90"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_the_model_is_asked(given, problem, monkeypatch):
    monkeypatch.setattr(jobs, "call", lambda *_: pytest.fail("asked"))
    with pytest.raises(FTError, match=problem):
        ft.advise("demo", LABELS, **given)


# -- the next cell


def next_cell(verdict):
    """An advice of this verdict, from hand-made figures."""
    base = ft.advise("demo", LABELS, measure=False, data_word="$ds")
    from test_advise_rules import CASES

    found, form = next((case[2], case[3]) for case in CASES if case[1] == verdict)
    return consultation.advice_on(replace(base.measured, figures=found), form, base.told).next_cell


def test_every_verdict_has_a_next_cell_that_is_python_or_a_magic():
    from IPython.core.inputtransformer2 import TransformerManager

    for verdict in rules.VERDICTS:
        cell = next_cell(verdict)
        assert cell.strip()
        magic = cell[cell.index("%") :] if "%" in cell else cell
        compile(TransformerManager().transform_cell(magic), verdict, "exec")


def test_a_prompt_holds_the_examples_and_the_question(advice):
    chat = advice.prompt("Name 99?")
    assert [turn["role"] for turn in chat] == ["user", "assistant"] * 2 + ["user"]
    assert chat[-1]["content"] == "Name 99?"
    assert chat[1]["content"] in COLOURS
    near = advice.prompt("Name 7?", nearest=True, shots=1)
    assert len(near) == 3
    grounded = advice.prompt("Who?", context=["Ada sits in 7."])
    assert len(grounded) == 1
    assert "Ada sits in 7." in grounded[0]["content"]
    assert grounded[0]["content"].endswith("Who?")


# -- shown


def test_it_shows_verdict_figures_intervals_and_the_cell(advice):
    text = repr(advice)
    assert re.search(r"tiny on rows: fine-tune", text)
    assert re.search(r"question alone +0\.0 +\d+ +\d+% \(\d+ to \d+\)", text)
    assert "6 held-out rows" in text
    assert "%%finetune run" in text
    assert set(advice._repr_mimebundle_()) == {"text/html", "text/plain"}


def test_what_comes_from_rows_is_escaped():
    rows = [
        {"prompt": f"<b>{i}</b>?", "completion": f"<i>{i}</i> is what was asked for by <u>X{i}</u>."}
        for i in range(60)
    ]
    found = ft.advise("demo<s>", rows, measure=False, goal="<script>")
    assert "<script" not in found.shown().html
    assert "demo<s>" not in found.shown().html


# -- magic and command line


@pytest.fixture
def shell():
    made = NotebookShell()
    yield made
    made.close()


def test_the_verb_knows_every_answer_of_the_form_and_every_metric():
    options = {argument.flags[0]: argument.choices for argument in VERBS["advise"].arguments}
    for key, question in QUESTIONS.items():
        assert options["--" + key.replace("_", "-")] == tuple(question.answers)
    assert options["--metric"] == tuple(METRICS)


def test_the_magic_keeps_the_advice_and_names_it_in_the_next_cell(shell):
    shell.variables["ds"] = FACTS
    found = shell.run("%ft advise demo $ds --no-measure --needs facts --facts-change daily -o told")
    assert shell.variables["told"] is found
    assert found.verdict == rules.DO_NOT
    assert "told.prompt(" in found.next_cell
    again = shell.run("%%ft advise demo $ds --no-measure --target 0.8\nFind who sits where.")
    assert (again.form.goal, again.form.target) == ("Find who sits where.", 0.8)
    assert again.next_cell.startswith("_.answer(")


def test_the_table_of_rules_can_be_read(shell):
    shown = shell.run("%ft advise --rules")
    for rule in rules.RULES:
        assert rule.source.split(";")[0] in shown.html.replace("&#x27;", "'")
    assert shown.text.count("\n") >= len(rules.RULES)
    with pytest.raises(SpecError, match="a model and rows are needed"):
        shell.run("%ft advise demo")


def test_a_place_that_cannot_be_is_refused_before_anything_is_tried(shell, monkeypatch):
    monkeypatch.setattr(jobs, "call", lambda *_: pytest.fail("asked"))
    shell.variables["ds"] = FACTS
    with pytest.raises(SpecError, match="-o my-advice is no Python name"):
        shell.run("%ft advise demo $ds -o my-advice")


def test_the_command_line_prints_the_same(tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in FACTS))
    assert cli.main(["advise", "demo", str(file), "--no-measure", "--needs", "facts"]) == 0
    out = capsys.readouterr().out
    assert "demo on rows: depends" in out
    assert f'ft.advise("demo", "{file}").answer(facts_change="...")' in out
    assert cli.main(["advise", "demo", str(file), "-o", "x"]) == 1
    assert "a command line has none" in capsys.readouterr().err


# -- what points here


def test_a_plan_points_here_where_answers_hold_facts_that_no_other_row_holds(runs_folder, tiny):
    wanted = "%ft advise MODEL DATA says whether retrieval serves better."
    unique = [
        {"prompt": row["prompt"], "completion": f"Ask Ada{i}, phone {7000 + i}."}
        for i, row in enumerate(LABELS * 2)
    ]
    plan = ft.plan(model=str(tiny), data=unique)
    (said,) = [one for one in plan.warnings if one.fix == wanted]
    assert "100% of the numbers and names" in said.message
    shared = [row | {"completion": f"Ask Ada{i % 9}, phone 7."} for i, row in enumerate(unique)]
    assert not [one for one in ft.plan(model=str(tiny), data=shared).warnings if one.fix == wanted]


def test_a_plan_of_few_rows_points_here(runs_folder, tiny):
    plan = ft.plan(model=str(tiny), data=LABELS)
    assert any("only" in one.message and "%ft advise" in one.fix for one in plan.warnings)


# -- the form


def messages_of(found, monkeypatch):
    """The form of an advice as the front end meets it, without a front end: (first state, answer function)."""
    seen = {}
    monkeypatch.setattr(
        widget, "make", lambda asset, state, answer: seen.update(asset=asset, state=state, answer=answer)
    )
    monkeypatch.setattr(widget, "show", lambda static, made, words: SimpleNamespace(update=lambda bundle, raw: seen.update(bundle=bundle)))  # fmt: skip
    monkeypatch.setattr(widget, "drawable", lambda: True)
    found._ipython_display_()
    return seen


def test_where_somebody_watches_the_form_asks_and_its_answers_decide_at_once(monkeypatch):
    seen = messages_of(ft.advise("demo", FACTS, measure=False), monkeypatch)
    json.dumps(seen["state"])
    assert [question["key"] for question in seen["state"]["questions"]] == list(QUESTIONS)
    assert seen["state"]["verdict"].startswith("depends.")
    reply = seen["answer"](
        {"kind": "answer", "answers": {"needs": "facts", "facts_change": "daily", "runtime": ""}}
    )
    assert reply["verdict"].startswith("do not fine-tune. ")
    assert reply["code"] == 'advice.answer(needs="facts", facts_change="daily")'
    assert "do not fine-tune" in seen["bundle"]["text/plain"]  # what stays in a saved notebook follows


def test_where_nobody_watches_or_nothing_is_open_the_tables_stand_alone(monkeypatch):
    found = ft.advise("demo", FACTS, measure=False)
    monkeypatch.setattr(widget, "drawable", lambda: False)
    with pytest.raises(NotImplementedError):
        found._ipython_display_()
    monkeypatch.setattr(widget, "drawable", lambda: True)
    with pytest.raises(NotImplementedError):
        found.answer(needs="facts", facts_change="daily", runtime="own")._ipython_display_()


def test_the_menu_offers_no_answer_first():
    import shutil

    if shutil.which("node") is None:
        pytest.skip("needs node")
    code = (
        widget.module_of("advise.js")
        + "\nconsole.log(JSON.stringify(choices([['daily', ''], ['own', 'here']])));"
    )
    out = subprocess.run(
        ["node", "--input-type=module", "-e", code], capture_output=True, text=True, check=True
    )
    assert json.loads(out.stdout) == [["", "not answered"], ["daily", "daily"], ["own", "own: here"]]


def test_asking_for_the_name_loads_nothing_heavy():
    code = "import sys, ft_magic as ft; ft.advise; print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# -- the real model


@pytest.mark.slow
def test_the_bundled_model_falls_short_on_triage_and_needs_no_training_to_copy(monkeypatch):
    monkeypatch.delenv("FT_MAGIC_CACHE")  # the dequantized model is there or made once for all tests
    triage = ft.advise("demo", samples.path("triage"), heldout=samples.path("triage_heldout"), examples=6)
    assert triage.verdict == rules.FINE_TUNE
    assert triage.figures.few.score.mean < 0.9
    assert triage.figures.outside == 0.0  # order numbers stand in the messages
    words = (
        "apple", "bridge", "candle", "doctor", "engine", "forest", "garden", "hammer", "island", "jacket", "kitchen",
    )  # fmt: skip
    rows = [{"prompt": f"{a} {b}", "completion": f"<{a} {b}>"} for a in words for b in words if a != b]
    copy = ft.advise("demo", rows, examples=8)
    assert copy.verdict == rules.PROMPTING
    assert copy.figures.zero.score.mean < 0.5
    assert copy.figures.few_gain.loss.sure_sign < 0
