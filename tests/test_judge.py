"""A judge behind an endpoint and a local one: swap, ties, store, patience, errors, agreement."""

import json
import math
import os
import shutil

import pytest
from judge_server import SHOWN, longer, serving
from notebook_shell import NotebookShell

from ft_magic import cli, jobs
from ft_magic.errors import DataError, RunError, SpecError
from ft_magic.judging import (
    endpoint,
    judge,
    judgement,
    local,
    prefer,
    preferences,
    replies,
    reward_run,
    score,
    settings,
)
from ft_magic.judging.agreement import agreement
from ft_magic.judging.questions import Question, Reply
from ft_magic.judging.verdicts import Store

ROWS = [
    {"prompt": "Name a colour.", "a": "Blue is a colour.", "b": "No."},
    {"prompt": "Name a fruit.", "a": "Fig", "b": "An apple is a fruit."},
    {"prompt": "Name a bird.", "a": "Wren", "b": "Kite"},  # as long: the first is preferred, whichever it is
    {"prompt": "Name a tree.", "a": "Oak.", "b": "Oak."},
]


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("FT_MAGIC_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("FT_MAGIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    preferences._bench.cache_clear()


@pytest.fixture
def server():
    with serving(longer) as running:
        yield running


@pytest.fixture
def waits(monkeypatch):
    """Seconds the judge would have slept; nobody sleeps."""
    slept = []
    monkeypatch.setattr("tenacity.sleep_using_event", lambda event: slept.append)
    return slept


def at(server, **more):
    return {"base_url": server.url, "model": "wise", **more}


# -- verdicts


def test_every_pair_is_read_in_both_orders_and_a_change_of_mind_is_a_tie(server):
    found = judge(ROWS, judge=at(server))
    assert [v.winner for v in found.verdicts] == ["a", "b", "tie", "tie"]
    assert [v.why for v in found.verdicts] == ["", "", "order", "same"]
    assert found.counts == {"a": 1, "b": 1, "tie": 2}
    assert found.ties == {"order": 1, "same": 1, "unread": 0}
    orders = [SHOWN.search(body["messages"][0]["content"]).groups() for body in server.bodies]
    assert sorted(orders) == sorted(
        [(r["prompt"], r["a"], r["b"]) for r in ROWS[:3]] + [(r["prompt"], r["b"], r["a"]) for r in ROWS[:3]]
    )
    # 6 readings; first shown wins once in each decided contest and twice in the undecided one: 4 of 6.
    assert found.first_share == pytest.approx(4 / 6)


def test_decided_contests_become_preference_rows_and_ties_are_counted(server):
    pairs = judge(ROWS, judge=at(server)).pairs()
    assert pairs.signal == "pair"
    assert list(pairs) == [
        {"prompt": "Name a colour.", "chosen": "Blue is a colour.", "rejected": "No."},
        {"prompt": "Name a fruit.", "chosen": "An apple is a fruit.", "rejected": "Fig"},
    ]
    assert (
        "2 ties left out (1 changed with the order, 1 equal answers, 0 unreadable replies)"
        in pairs.lineage[1]
    )


def test_nothing_but_ties_gives_no_pairs_and_says_why(server):
    with pytest.raises(DataError, match=r"2 ties left out \(1 changed with the order, 1 equal answers"):
        judge(ROWS[2:], judge=at(server)).pairs()


def test_message_lists_are_read_as_text_and_kept_as_they_are(server):
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Bye"},
    ]
    row = {"prompt": turns, "a": [{"role": "assistant", "content": "Goodbye"}], "b": "So"}
    found = judge([row], judge=at(server))
    assert found.pairs()[0] == {"prompt": turns, "chosen": row["a"], "rejected": "So"}
    assert "user: Hi\n\nassistant: Yes?\n\nuser: Bye" in server.bodies[0]["messages"][0]["content"]


def test_the_criteria_reach_the_judge_and_braces_in_answers_stay(server):
    row = {"prompt": "p {a}", "a": "{b} and {criteria}", "b": "x"}
    found = judge([row], judge=at(server), criteria="Politeness {b} first")
    assert "Criteria: Politeness {b} first\n" in server.bodies[0]["messages"][0]["content"]
    assert any("Answer A:\n{b} and {criteria}\n" in body["messages"][0]["content"] for body in server.bodies)
    assert found.verdicts[0].winner == "a"


def test_rows_that_hold_no_two_answers_are_refused(server):
    with pytest.raises(DataError, match="'demo' rows, and a judge compares two answers"):
        judge([{"prompt": "p", "completion": "c"}], judge=at(server))


# -- what is shown


def test_a_judgement_shows_counts_ties_bias_and_where_replies_are(server):
    text = repr(judge(ROWS, judge=at(server)))
    for line in (
        "answer a better",
        "1 of 4 (25%)",
        "verdict changed with the order",
        "67% (50% without position bias)",
        "6 replies asked",
    ):
        assert line in text
    assert (
        "&lt;b&gt;" in judge([{"prompt": "<b>", "a": "long answer", "b": "x"}], judge=at(server)).shown().html
    )


# -- agreement


def test_kappa_agrees_with_the_numbers_worked_out_by_hand():
    # 10 contests: both a 4, both b 3, judge a / person b 2, judge b / person a 1.
    ours = ["a"] * 4 + ["b"] * 3 + ["a"] * 2 + ["b"]
    theirs = ["a"] * 4 + ["b"] * 3 + ["b"] * 2 + ["a"]
    found = agreement(ours, theirs)
    # share 7/10; chance (6*5 + 4*5)/100 = 0.5; kappa (0.7 - 0.5) / 0.5 = 0.4
    assert (found.share, found.by_chance) == (0.7, 0.5)
    assert found.kappa == pytest.approx(0.4)


def test_ties_are_a_verdict_of_their_own_for_kappa_and_left_out_where_decided():
    found = agreement(["a", "b", "tie", "a"], ["a", "b", "a", "tie"])
    # share 2/4; chance (a 2*2 + b 1*1 + tie 1*1)/16 = 6/16; kappa (0.5 - 0.375) / 0.625 = 0.2
    assert found.kappa == pytest.approx(0.2)
    assert found.decided == 2


def test_kappa_is_undefined_where_both_know_one_word_only():
    assert agreement(["a", "a"], ["a", "a"]).kappa is None
    assert agreement([], []).share is None


def test_votes_are_compared_with_the_verdicts(server):
    found = judge(ROWS, judge=at(server), votes=["a", "a", "tie", "b"])
    # verdicts a, b, tie, tie: equal in two of four, and in one of the two where neither said tie
    assert (found.agreement.same, found.agreement.count) == (2, 4)
    assert (found.agreement.decided_same, found.agreement.decided) == (1, 2)
    assert "agrees with your votes" in repr(found)
    with pytest.raises(SpecError, match="1 for 4 contests"):
        judge(ROWS, judge=at(server), votes=["a"])


def test_preference_rows_count_as_votes_and_either_side_may_be_the_chosen_one(server):
    rows = [{"prompt": f"p{i}", "chosen": f"the long answer {i}", "rejected": f"no {i}"} for i in range(12)]
    found = judge(rows, judge=at(server))
    assert found.agreement.share == 1.0
    assert found.agreement.kappa == 1.0  # both sides occur, or kappa would be undefined
    assert [dict(row) for row in found.pairs()] == rows


# -- the store


def test_nothing_is_asked_twice_and_replies_stand_in_the_folder_with_their_texts(server, tmp_path):
    judge(ROWS, judge=at(server), folder=tmp_path / "kept")
    again = judge(ROWS, judge=at(server), folder=tmp_path / "kept")
    assert again.asked == 0
    assert len(server.bodies) == 6
    lines = [json.loads(line) for line in (tmp_path / "kept" / "verdicts.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    assert {"prompt", "a", "b", "criteria", "judge", "key", "value", "raw", "t"} <= lines[0].keys()
    elsewhere = judge(ROWS, judge=at(server), folder=tmp_path / "other")  # from the cache, and noted there
    assert elsewhere.asked == 0
    assert len((tmp_path / "other" / "verdicts.jsonl").read_text().splitlines()) == 6


def test_another_model_other_criteria_or_another_answer_are_asked_anew(server):
    one = [ROWS[0]]
    assert judge(one, judge=at(server)).asked == 2
    assert judge(one, judge=at(server), criteria="Brevity").asked == 2
    assert judge(one, judge=at(server, parameters={"temperature": 1})).asked == 2
    assert judge([ROWS[0] | {"a": "Red is a colour"}], judge=at(server)).asked == 2
    assert judge(one, judge=at(server)).asked == 0


def test_equal_contests_are_asked_once(server):
    assert judge([ROWS[0]] * 5, judge=at(server)).asked == 2


def test_a_half_written_line_is_asked_again_and_does_not_spoil_the_next(server, tmp_path):
    judge(ROWS[:1], judge=at(server), folder=tmp_path)
    for file in [tmp_path / "verdicts.jsonl", *(tmp_path / "cache" / "verdicts").iterdir()]:
        text = file.read_text()
        file.write_text(text[: len(text) - 20])  # killed while it wrote the second reply
    assert judge(ROWS[:1], judge=at(server), folder=tmp_path).asked == 1
    assert judge(ROWS[:1], judge=at(server), folder=tmp_path).asked == 0


def test_the_key_is_sent_and_never_written(server, tmp_path):
    found = judge(ROWS, judge=at(server, key_env="JUDGE_KEY"), folder=tmp_path)
    assert server.headers[0]["Authorization"] == "Bearer sk-very-secret"
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert files
    assert not any(b"sk-very-secret" in file.read_bytes() for file in files)
    assert "sk-very-secret" not in repr(found)


# -- replies


@pytest.mark.parametrize(
    ("text", "value"),
    [("A", 1.0), (" B.\n", 0.0), ("**A**", 1.0), ("(B)", 0.0), ("<think>B or A?</think>\nA", 1.0), ("a", None),
     ("Answer A", None), ("A or B", None), ("", None), ("AB", None)],
)  # fmt: skip
def test_a_letter_is_read_strictly(text, value):
    assert endpoint.letter(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 0.0), ("10", 1.0), ("7", 6 / 9), ("7/10", 6 / 9), ("**4**", 3 / 9), ("11", None), ("0", None),
     ("-5", None), ("7.5", None), ("seven", None)],
)  # fmt: skip
def test_a_number_is_read_strictly(text, value):
    assert endpoint.grade(text) == (None if value is None else pytest.approx(value))


def test_unreadable_replies_are_counted_kept_and_never_guessed(tmp_path):
    with serving(lambda text: "I like both." if "fruit" in text else longer(text)) as server:
        found = judge(ROWS[:2], judge=at(server), folder=tmp_path)
    assert [v.winner for v in found.verdicts] == ["a", "tie"]
    assert found.ties["unread"] == 1
    assert (tmp_path / "verdicts.jsonl").read_text().count("I like both.") == 2


def test_parameters_reach_the_request_and_null_leaves_one_out(server):
    judge(ROWS[:1], judge=at(server, parameters={"max_tokens": None, "max_completion_tokens": 99}))
    body = server.bodies[0]
    assert body["max_completion_tokens"] == 99
    assert "max_tokens" not in body
    assert body["temperature"] == 0
    assert server.paths[0] == "/v1/chat/completions"


# -- patience and errors


def scripted(*first):
    """Give these answers one after the other, then judge by length."""
    rest = list(first)
    return lambda text: rest.pop(0) if rest else longer(text)


def test_a_busy_server_is_asked_again_as_late_as_it_says(waits):
    with serving(
        scripted((429, {"error": {"message": "slow down"}}, {"retry-after": "70"}), (503, "x", {}))
    ) as server:
        found = judge(ROWS[:1], judge=at(server, parallel=1))
    assert found.counts["a"] == 1
    assert len(server.bodies) == 4
    assert waits[0] == 70.0  # longer than any wait of our own (at most 60)
    assert 0 <= waits[1] <= 2.0  # full jitter: second wait is drawn from 0 to 2 s


def test_retry_after_may_be_a_date(monkeypatch):
    monkeypatch.setattr(endpoint.time, "time", lambda: 1_700_000_000.0)
    assert endpoint._retry_after_s("Tue, 14 Nov 2023 22:14:20 GMT") == 60.0  # 1_700_000_060
    assert endpoint._retry_after_s("") == endpoint._retry_after_s("soon") == 0.0


def test_an_unreachable_endpoint_says_how_much_is_stored_and_the_next_call_goes_on(waits, tmp_path):
    with serving(scripted("A", "B", *[(500, "broken", {})] * 6)) as server:
        with pytest.raises(
            RunError, match=r"did not answer in 6 tries: 500 broken\. 2 of 6 replies are stored in"
        ) as told:
            judge(ROWS, judge=at(server, parallel=1), folder=tmp_path)
        assert "run the same again" in told.value.instead
        assert len(waits) == 5
        assert len(server.bodies) == 8
        found = judge(ROWS, judge=at(server, parallel=1), folder=tmp_path)
    assert found.asked == 4
    assert found.counts == {"a": 1, "b": 1, "tie": 2}


def test_a_server_that_is_not_there_is_told(waits):
    with pytest.raises(RunError, match=r"did not answer in 6 tries: ConnectError.*0 of 2 replies are stored"):
        judge(ROWS[:1], judge={"base_url": "http://127.0.0.1:9/v1", "model": "m", "parallel": 1})


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ((401, {"error": {"message": "bad key sk-very-secret"}}, {}), "refuses the key in JUDGE_KEY"),
        ((404, {"error": {"message": "no such model"}}, {}), "no model 'wise' .404 no such model"),
        ((400, {"error": {"message": "max_tokens unsupported for sk-very-secret"}}, {}), r"refuses: 400 max_tokens unsupported for \*\*\*"),
        ((429, {"error": {"message": "pay", "code": "insufficient_quota"}}, {}), "refuses: 429 pay"),
        ((429, {"error": {"message": "wait"}}, {"retry-after": "3600"}), "refuses: 429 wait"),
        ((200, "hello", {}), "does not answer like an OpenAI-compatible endpoint"),
    ],
)  # fmt: skip
def test_what_cannot_get_better_fails_at_once(answer, problem, waits):
    with serving(lambda _: answer) as server, pytest.raises(RunError, match=problem) as told:
        judge(ROWS[:1], judge=at(server, key_env="JUDGE_KEY", parallel=1))
    assert len(server.bodies) == 1
    assert waits == []
    assert "sk-very-secret" not in str(told.value)


def test_replies_under_way_when_one_fails_are_kept(waits, tmp_path):
    answers = scripted((401, "", {}))
    with serving(answers) as server, pytest.raises(RunError, match="refuses requests without a key"):
        judge(ROWS, judge=at(server, parallel=4), folder=tmp_path)
    stored = (
        len((tmp_path / "verdicts.jsonl").read_text().splitlines())
        if (tmp_path / "verdicts.jsonl").exists()
        else 0
    )
    assert stored == len(server.bodies) - 1


# -- settings


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"base_url": "http://x/v1", "model": "m", "api_key": "sk-very-secret"}, "unknown key 'api_key'"),
        ({"base_url": "http://x/v1", "model": "m", "key_env": "sk-very-secret"}, "key_env is no name"),
        ({"base_url": "http://me:sk-very-secret@x/v1", "model": "m"}, "holds a user, password or query"),
        ({"base_url": "localhost:8000", "model": "m"}, "no http address"),
        ({"base_url": "http://x/v1"}, "no model is named"),
        ({"model": "demo", "key_env": "JUDGE_KEY"}, "key_env belongs to an endpoint"),
        ({"base_url": "http://x/v1", "model": "m", "paralel": 2}, "Did you mean 'parallel'"),
        (3, "a int is no model"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused_without_showing_secrets(given, problem):
    with pytest.raises(SpecError, match=problem) as told:
        settings.read(given)
    assert "sk-very-secret" not in str(told.value)


def test_a_missing_key_is_told_before_anything_is_sent(server, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(SpecError, match="environment variable JUDGE_KEY is not set"):
        judge(ROWS, judge=at(server, key_env="JUDGE_KEY"))
    assert not server.bodies


def test_a_key_that_cannot_be_sent_is_refused_without_being_shown(server, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-very\nsecret")
    with pytest.raises(SpecError, match="JUDGE_KEY holds no key") as told:
        judge(ROWS, judge=at(server, key_env="JUDGE_KEY"))
    assert "secret" not in str(told.value)
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret\n")  # as files end; the line break is not part of it
    judge(ROWS[:1], judge=at(server, key_env="JUDGE_KEY"))
    assert server.headers[0]["Authorization"] == "Bearer sk-very-secret"


def test_a_judge_travels_to_another_process_as_plain_values(tiny):
    for given in (str(tiny), {"base_url": "http://h/v1/", "model": "m", "parameters": {"top_p": 0.5}}):
        who = settings.read(given, "Brevity")
        assert settings.Judge.from_dict(json.loads(json.dumps(who.to_dict()))) == who


# -- inside a training


def test_prefer_gives_0_1_and_minus_1_and_stores_every_reply_in_the_run_folder(server, tmp_path):
    prompts, a, b = ([row[key] for row in ROWS] for key in ("prompt", "a", "b"))
    assert prefer(at(server), prompts, a, b, folder=tmp_path) == [0, 1, -1, -1]
    assert prefer(at(server), prompts, a, b, folder=tmp_path) == [0, 1, -1, -1]
    assert len(server.bodies) == 6
    assert len((tmp_path / "verdicts.jsonl").read_text().splitlines()) == 6


def test_score_turns_grades_into_0_to_1_and_gives_unreadable_ones_the_mean(tmp_path):
    def grades(text):
        return {"good": "10", "bad": "1", "odd": "well..."}[text.split("Answer:\n")[1].split("\n")[0]]

    told = []
    with serving(grades) as server:
        found = score(at(server), ["p"] * 3, ["good", "bad", "odd"], folder=tmp_path, say=told.append)
    assert found == [1.0, 0.0, 0.5]
    assert told == ["1 of 3 replies of judge wise cannot be read, the first: 'well...'."]


# -- a local judge


def test_a_local_judge_reads_log_odds_that_agree_with_a_plain_forward_pass(tiny):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ft_magic.template import Tokenizer

    light = Tokenizer.load(tiny)
    ids = [local.question_ids(light, text) for text in ("Which one?", "A longer question, is it not?")]
    a, b = local.word_tokens(light, "A", "B")
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()
    found = local.log_odds(model, ids, [(a, b)] * 2)
    slow = AutoTokenizer.from_pretrained(tiny)
    for odds, tokens in zip(found, ids, strict=True):
        with torch.no_grad():
            shares = model(input_ids=torch.tensor([tokens])).logits[0, -1].softmax(0)
        # The tiny tokenizer begins " A" and " B" with the same space token, so one token is left for each.
        expected = math.log(shares[slow.convert_tokens_to_ids("A")] / shares[slow.convert_tokens_to_ids("B")])
        assert odds == pytest.approx(expected, abs=1e-4)


def test_a_local_judge_is_asked_in_the_warm_process_and_is_the_same_twice(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "_warm", None)
    rows = [{"prompt": "Name a colour.", "a": f"Blue {i}", "b": "Dog " * i} for i in range(3)]
    try:
        first = judge(rows, judge=str(tiny), folder=tmp_path / "one")
        assert first.asked == 6
        assert judge(rows, judge=str(tiny)).asked == 0
        monkeypatch.setenv("FT_MAGIC_CACHE", str(tmp_path / "empty"))
        jobs.unload()
        fresh = judge(rows, judge=str(tiny))
    finally:
        jobs.unload()
    assert fresh.asked == 6
    assert [v.winner for v in fresh.verdicts] == [v.winner for v in first.verdicts]
    assert first.verdicts[0].first == pytest.approx(fresh.verdicts[0].first)


def test_a_question_longer_than_the_judge_reads_is_not_cut_but_counted(tiny, tmp_path):
    who = settings.read(str(tiny))
    got = {}
    question = Question("pair", "p", "word " * 300, "b")
    local.ask(who, who.source, [question], lambda i, reply: got.update({i: reply}))
    assert got[0].value is None
    assert "the judge reads 256" in got[0].raw
    assert preferences.verdict(got[0], Reply(1.0, "")) == preferences.TIE


def test_a_local_score_is_the_share_of_yes(tiny, tmp_path):
    found = score(str(tiny), ["p", "p"], ["one", "another"], folder=tmp_path)
    assert all(0 < value < 1 for value in found)
    assert found == score(str(tiny), ["p", "p"], ["one", "another"], folder=tmp_path)


def test_a_judge_with_learned_tokens_in_front_is_read_with_them(tiny):
    import torch
    from peft import PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    torch.manual_seed(0)
    model = get_peft_model(plain, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    prompts, words = [[5, 6, 7], [8, 9, 10, 11, 12]], ([40], [41])
    found = local.log_odds(model, prompts, [words] * 2)
    for odds, tokens in zip(found, prompts, strict=True):
        with torch.no_grad():
            last = model(input_ids=torch.tensor([tokens])).logits[0, -1]
        assert odds == pytest.approx(float(last[40] - last[41]), abs=1e-4)


def test_a_reward_run_compares_by_its_scores_and_scores_each_answer_once(monkeypatch, tmp_path):
    scored = []

    class Lengths:
        def ids(self, prompt, answer):
            return [ord(letter) for letter in answer]

        def scores(self, texts):
            scored.extend(texts)
            return [len(text) / 10 for text in texts]

    monkeypatch.setattr(reward_run, "_load", lambda path: Lengths())
    who = settings.Judge(settings.RewardRun("liked", str(tmp_path)))
    got = {}
    questions = [
        Question("pair", "p", "four", "sevens!"),
        Question("pair", "p", "sevens!", "four"),
        Question("good", "p", ""),
    ]
    replies._ask(who, questions, lambda i, reply: got.update({i: reply.value}))
    # Bradley-Terry: 1 / (1 + exp(0.7 - 0.4)) = 0.4256, the other order the rest; no text scores 0: one half
    assert [got[i] for i in range(3)] == pytest.approx([0.42556, 0.57444, 0.5], abs=1e-5)
    assert len(scored) == 3
    assert settings.Judge.from_dict(who.to_dict()) == who


def test_a_changed_model_folder_is_another_judge(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "copy")
    who = settings.read(str(folder))
    before = who.source.identity
    os.utime(folder / "config.json", ns=(1, 1))
    assert who.source.identity != before


def test_public_names():
    assert judgement.judge is judge
    assert Store(settings.Judge(settings.Endpoint("http://x", "m")), None).path.parent.name == "verdicts"


# -- as typed


@pytest.fixture
def shell():
    made = NotebookShell()
    yield made
    made.close()


def test_the_verb_judges_variables_and_binds_the_decided_pairs(shell, server):
    shell.variables.update({"rows": ROWS, "server": at(server), "mine": ["a", "b", "tie", "tie"]})
    found = shell.run("found = %ft judge $rows --judge $server --votes $mine -o prefs\nfound")
    assert found.counts == {"a": 1, "b": 1, "tie": 2}
    assert found.agreement.share == 1.0
    assert [row["chosen"] for row in shell.variables["prefs"]] == [
        "Blue is a colour.",
        "An apple is a fruit.",
    ]


def test_a_cells_body_is_the_criteria(shell, server):
    shell.variables.update({"rows": ROWS, "server": at(server)})
    assert shell.run("%%ft judge $rows --judge $server\nPoliteness first").criteria == "Politeness first"


def test_the_command_line_takes_an_endpoint_and_writes_a_file(server, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(
            json.dumps({"prompt": r["prompt"], "chosen": r["a"], "rejected": r["b"]}) + "\n" for r in ROWS
        )
    )
    out = tmp_path / "decided.jsonl"
    words = ["judge", str(rows), "--judge", f"{{base_url: {server.url}, model: wise}}"]
    assert cli.main([*words, "-o", str(out)]) == 0
    assert "Cohen's kappa" in capsys.readouterr().out
    assert len(out.read_text().splitlines()) == 2
    assert cli.main([*words, "-o", "prefs"]) == cli.FAILED  # there are no variables
    assert "-o prefs is no file" in capsys.readouterr().err
