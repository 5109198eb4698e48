"""Rows written by a model: what is asked, what stays, where it comes from, and that nothing is asked twice."""

import json
import re

import pytest
from judge_server import serving

import ft_magic as ft
from ft_magic import jobs
from ft_magic.errors import DataError, RunError, SpecError
from ft_magic.shell import requests
from ft_magic.synthesis.form import FORMS, rows_in
from ft_magic.synthesis.passages import passages_of
from ft_magic.synthesis.sieve import Sieve

DEMO = FORMS["demo"]
SEEDS = [
    {"prompt": "What is the capital of Norway?", "completion": "Oslo."},
    {"prompt": "Which colour do blue and yellow make?", "completion": "Green."},
    {"prompt": "Name a word that rhymes with cat.", "completion": "Hat."},
]
# Rows that share no three words in a row.
TOPICS = (
    "otter",
    "lamp",
    "river",
    "violin",
    "cheese",
    "engine",
    "cloud",
    "ticket",
    "garden",
    "needle",
    "planet",
    "rope",
)


def row(number):
    """Return one reply with one row; different numbers give rows that are not alike."""
    topic, other = TOPICS[number % 12], TOPICS[(number + 5) % 12]
    return f"Request: Where would a {topic} number {number} be found?\nAnswer: Next to some {other}, {number * 37} steps away."


class Script:
    """Replies in turn; keeps the chats."""

    def __init__(self, *replies):
        self.replies, self.asked = list(replies), 0

    def __call__(self, _):
        self.asked += 1
        return self.replies[self.asked - 1] if self.asked <= len(self.replies) else row(self.asked)


@pytest.fixture
def asked(runs_folder):
    """Give a function that runs a synthesis against an endpoint that answers as told."""

    def run(script, **more):
        with serving(script) as server:
            model = {"base_url": "http://127.0.0.1:9/v1", "model": "writer", "parallel": 1} | more.pop(
                "model", {}
            )
            model["base_url"] = server.url
            seeds = {} if "documents" in more else {"seeds": SEEDS}
            given = {**seeds, "model": model, "rows_asked": 1, "folder": runs_folder / "made"} | more
            return ft.synthesise(**given), server

    return run


# -- reading replies


@pytest.mark.parametrize(
    "reply",
    [
        "Request: Say A.\nAnswer: A\n",
        "Request 4: Say A.\nAnswer 4: A",
        "Sure, here it is!\n\n1. **Request:** Say A.\n   **Answer:** A",
        "Question: Say A.\nResponse: A",
        '{"prompt": "Say A.", "completion": "A"}',
        '[{"request": "Say A.", "answer": "A"}]',
        '```json\n{"examples": [{"instruction": "Say A.", "output": "A"}]}\n```',
        "<think>Request: no.\nAnswer: no</think>\nRequest: Say A.\nAnswer: A",
    ],
)
def test_rows_are_read_from_labelled_lines_and_from_json(reply):
    assert rows_in(reply, DEMO) == ([{"prompt": "Say A.", "completion": "A"}], 0)


def test_an_answer_of_several_lines_stays_whole():
    rows, unread = rows_in(
        "Request 1: Code?\nAnswer 1: a = 1\n\nb = 2\n\nRequest 2: Say B.\nAnswer 2: B", DEMO
    )
    assert [found["completion"] for found in rows] == ["a = 1\n\nb = 2", "B"]
    assert unread == 0


def test_what_cannot_be_read_is_counted():
    assert rows_in("I would rather not.", DEMO) == ([], 1)
    assert rows_in("", DEMO) == ([], 1)
    rows, unread = rows_in("Request 1: Say A.\nRequest 2: Say B.\nAnswer 2: B", DEMO)
    assert (rows, unread) == ([{"prompt": "Say B.", "completion": "B"}], 1)


def test_the_last_row_of_a_reply_that_was_cut_off_is_left_out():
    text = "Request 1: Say A.\nAnswer 1: A\n\nRequest 2: Say B.\nAnswer 2: B is the sec"
    assert rows_in(text, DEMO, whole=False) == ([{"prompt": "Say A.", "completion": "A"}], 1)


# -- what stays


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (
            {"prompt": "What is the capital of norway", "completion": "It is Oslo."},
            "same prompt as another row",
        ),
        (
            {"prompt": "Say it again, Sam.", "completion": "say it again, sam."},
            "the answer repeats the request",
        ),
        ({"prompt": "Greet a guest.", "completion": "Dear [Your Name], welcome!"}, "not filled in"),
        ({"prompt": "Greet {{name}} warmly.", "completion": "Welcome, dear guest!"}, "placeholders"),
        ({"prompt": "Greet a guest.", "completion": "..."}, "not filled in"),
        ({"prompt": "How is the weather?", "completion": "Sunny, 21 degrees."}, ""),
    ],
)
def test_rows_that_teach_nothing_do_not_stay(made, why):
    assert Sieve("demo", tuple(SEEDS)).take([made]) == [why]


def test_a_near_duplicate_of_a_row_made_before_does_not_stay():
    pytest.importorskip("rensa")
    sieve = Sieve("demo", tuple(SEEDS))
    words = "the old harbour has seven cranes that lift heavy boxes from long ships every single morning"
    first = {
        "prompt": "Describe the harbour in one sentence, please.",
        "completion": f"As you know, {words} at six.",
    }
    again = {**first, "prompt": "Kindly describe the harbour in one sentence, please."}
    assert sieve.take([first]) == [""]
    assert sieve.take([again]) == ["near duplicate of another row"]


# -- a synthesis


def test_rows_come_with_the_examples_and_the_request_they_were_made_from(asked):
    data, server = asked(Script(), count=5, instructions="Short questions.")
    assert (len(data), data.signal) == (5, "demo")
    first = data.provenance[0]
    assert first["model"] == "writer"
    assert first["request"] == 0
    chat = server.bodies[0]["messages"]
    shown = [turn["content"] for turn in chat if turn["role"] == "assistant"]
    assert shown == [
        f"Request: {SEEDS[i]['prompt']}\nAnswer: {SEEDS[i]['completion']}" for i in first["seeds"]
    ]
    assert chat[0]["content"].startswith("Short questions.")
    # Later requests show made rows too, one in four, and their record says which.
    assert any(record["made"] for record in data.provenance)


def test_the_record_of_a_row_follows_it_through_parts_and_files(asked, tmp_path):
    data, _ = asked(Script(), count=4)
    assert data[2:3].provenance[0]["request"] == data.provenance[2]["request"]
    again = ft.load_data(data.source)
    assert [record["request"] for record in again.provenance] == [0, 1, 2, 3]
    assert ft.load_data(SEEDS).provenance == (None,) * 3


def test_rows_are_plain_rows_that_a_trainer_takes(asked):
    data, _ = asked(Script(), count=3)
    assert all(set(made) == {"prompt", "completion"} for made in data)


def test_the_same_call_asks_nothing_twice_and_a_higher_count_goes_on(runs_folder):
    script = Script()
    with serving(script) as server:
        model = {"base_url": server.url, "model": "writer", "parallel": 1}
        first = ft.synthesise(SEEDS, model=model, count=3, rows_asked=1)
        asked = script.asked
        again = ft.synthesise(SEEDS, model=model, count=3, rows_asked=1)
        assert script.asked == asked
        assert again.rows == first.rows
        more = ft.synthesise(SEEDS, model=model, count=6, rows_asked=1)
    assert more.rows[:3] == first.rows
    assert len(more) == 6
    assert "3 of them stored before" in " ".join(more.lineage)
    # Other instructions are another synthesis, in a folder of its own.
    assert len(list(runs_folder.glob("synthetic-*"))) == 1


def test_replies_are_on_disk_before_an_endpoint_fails(asked, runs_folder):
    broken = Script(row(1), row(2), (400, {"error": {"message": "no more"}}, {}))
    with pytest.raises(RunError, match=r"2 rows are kept in .*made") as error:
        asked(broken, count=4)
    assert error.value.problem.startswith("model writer")
    replies = [json.loads(line) for line in (runs_folder / "made" / "replies.jsonl").read_text().splitlines()]
    assert [reply["number"] for reply in replies] == [0, 1]


def test_a_half_written_reply_is_asked_again(runs_folder):
    script = Script()
    with serving(script) as server:
        model = {"base_url": server.url, "model": "writer", "parallel": 1}
        given = {"model": model, "rows_asked": 1, "folder": runs_folder / "made"}
        ft.synthesise(SEEDS, count=2, **given)
        file = runs_folder / "made" / "replies.jsonl"
        file.write_text(file.read_text()[:-30])
        assert len(ft.synthesise(SEEDS, count=2, **given)) == 2
    assert script.asked == 3
    assert all(json.loads(line) for line in file.read_text().splitlines())


def test_asking_stops_after_fruitless_tries_and_says_so(asked):
    script = Script(row(1), *["I cannot think of anything."] * 50)
    data, _ = asked(script, count=10, patience=4)
    assert len(data) == 1
    assert script.asked == 5
    assert "stopped with 1 of 10 rows: 4 requests in a row brought nothing new" in " ".join(data.lineage)
    assert dict(data.dropped.reasons) == {"not readable as a row": 4}


def test_no_usable_row_is_an_error_that_counts_why(asked):
    with pytest.raises(DataError, match=r"No reply of writer .* 3 requests \(3 x not readable as a row\)"):
        asked(Script(*["No."] * 9), count=4, patience=3)


def test_rows_left_out_are_kept_apart_with_the_reason(asked, runs_folder):
    copied = f"Request: {SEEDS[0]['prompt']}\nAnswer: Oslo."
    data, _ = asked(Script(copied), count=2)
    left = [json.loads(line) for line in (runs_folder / "made" / "left_out.jsonl").read_text().splitlines()]
    assert [line["why"] for line in left] == ["same prompt as another row"]
    assert data.dropped.count == 1


def test_questions_about_documents_must_be_answered_by_their_passage(asked):
    text = "The mill at Bakken was built in 1911 by two sisters. It ground barley until the flood of 1953."
    good = "Request: When was the mill at Bakken built?\nAnswer: It was built in 1911 by two sisters."
    wrong = "Request: Who owns Bakken today?\nAnswer: Probably a hotel company from Copenhagen."
    data, server = asked(Script(wrong, good), count=1, documents=[text])
    assert [made["prompt"] for made in data] == ["When was the mill at Bakken built?"]
    assert data.provenance[0]["passage"] == text
    assert data.provenance[0]["document"] == 0
    assert dict(data.dropped.reasons) == {"answer not found in the passage": 1}
    assert text in server.bodies[0]["messages"][-1]["content"]


def test_several_rows_a_request_are_numbered(asked):
    two = "\n\n".join(re.sub(r"^(\w+):", rf"\1 {i}:", row(i), flags=re.MULTILINE) for i in (1, 2))
    data, server = asked(Script(two), count=2, rows_asked=2)
    assert len(data) == 2
    assert {record["request"] for record in data.provenance} == {0}
    assert "Write 2 new examples" in server.bodies[0]["messages"][-1]["content"]


def test_pairs_and_prompts_are_written_too(asked, tmp_path):
    pair = "Request: Greet me.\nGood answer: Welcome, friend!\nBad answer: Whatever."
    data, _ = asked(
        Script(pair), seeds=[{"prompt": "a", "chosen": "b", "rejected": "c"}], signal="pair", count=1
    )
    assert data.rows == ({"prompt": "Greet me.", "chosen": "Welcome, friend!", "rejected": "Whatever."},)
    sums = [{"prompt": "What is 2 + 2?", "answer": "4"}]
    found, _ = asked(
        Script("Request: What is 3 + 4?\nAnswer: 7"),
        seeds=sums,
        signal="prompt",
        count=1,
        folder=tmp_path / "p",
    )
    assert found.rows == ({"prompt": "What is 3 + 4?", "answer": "7"},)


def test_the_key_stays_in_the_environment(asked, runs_folder, monkeypatch):
    monkeypatch.setenv("WRITER_KEY", "sk-very-secret")
    _, server = asked(Script(), count=1, model={"api_key_env": "WRITER_KEY"})
    assert server.headers[0]["Authorization"] == "Bearer sk-very-secret"
    assert all("sk-very-secret" not in file.read_text() for file in (runs_folder / "made").iterdir())
    monkeypatch.delenv("WRITER_KEY")
    with pytest.raises(SpecError, match="model: the environment variable WRITER_KEY is not set"):
        asked(Script(), count=1, model={"api_key_env": "WRITER_KEY"})


def test_a_local_model_writes_in_the_warm_process(monkeypatch, tiny, runs_folder):
    calls = []

    def write(job, arguments, _progress):
        calls.append((job, arguments))
        return [{"text": row(len(calls) * 10 + i), "whole": True} for i in range(len(arguments["chats"]))]

    monkeypatch.setattr(jobs, "call", write)
    data = ft.synthesise(SEEDS, count=3, model=str(tiny))
    assert len(data) == 3
    job, arguments = calls[0]
    assert (job, arguments["model"]["base"]) == ("write", str(tiny))
    assert arguments["chats"][0][-1]["role"] == "user"
    assert len(set(arguments["seeds"])) == len(arguments["seeds"])


def test_the_job_of_a_local_model_samples_reproducibly_and_says_what_was_cut(tiny):
    pytest.importorskip("torch")
    from ft_magic.synthesis.local import write_job

    model = {"base": str(tiny), "adapter": None, "bits": 0, "precision": "fp32"}
    chats = [[{"role": "user", "content": "Say something."}]]
    given = {"model": model, "chats": chats, "max_new_tokens": 6, "temperature": 1.0}
    first, again = (write_job(seeds=[7], **given) for _ in range(2))
    assert first == again
    assert write_job(seeds=[8], **given) != first
    assert first[0]["whole"] is False


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({}, "neither seeds nor documents"),
        ({"seeds": SEEDS, "count": 0}, "count is 0"),
        ({"seeds": SEEDS, "signal": "label"}, "cannot be synthesised"),
        ({"documents": ["x" * 100], "signal": "text"}, "cannot be made from documents"),
        ({"documents": ["short"]}, "no passage of 60 characters"),
        (
            {"seeds": SEEDS, "model": {"base_url": "ftp://x", "model": "m"}},
            "model: base_url is no http address",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_made(given, problem, runs_folder):
    with pytest.raises((SpecError, DataError), match=problem):
        ft.synthesise(**given)
    assert not runs_folder.exists()


def test_another_synthesis_does_not_mix_into_a_folder(asked):
    asked(Script(), count=1)
    with pytest.raises(DataError, match="other settings"):
        asked(Script(), count=1, instructions="Something else.")


def test_passages_cover_a_document_in_its_order():
    text = "\n\n".join(f"Paragraph {i}. " + "It goes on for a while. " * 20 for i in range(9))
    found, _ = passages_of(text)
    assert all(60 <= len(passage.text) <= 1600 for passage in found)
    assert [passage.start for passage in found] == sorted(passage.start for passage in found)
    kept = "".join(passage.text for passage in found)
    assert re.sub(r"\s", "", kept) == re.sub(r"\s", "", text)


def test_the_verb_does_the_same(runs_folder, tmp_path):
    variables = {"seeds": SEEDS}
    with serving(Script()) as server:
        variables["writer"] = {"base_url": server.url, "model": "writer"}
        words = ["synthesise", "$seeds", "--count", "2", "--model", "$writer", "-o", "made"]
        found = requests.do(requests.read(words, "Short ones."), variables)
        assert server.bodies[0]["messages"][0]["content"].startswith("Short ones.")
    assert variables["made"] is found
    assert len(found) == 2
    with pytest.raises(SpecError, match="synthesise: -o 1x is no Python name"):
        requests.do(requests.read(["synthesise", "$seeds", "-o", "1x"]), variables)


@pytest.mark.slow
def test_the_bundled_model_writes_a_few_rows(runs_folder):
    data = ft.synthesise(SEEDS, count=2, patience=24)
    assert 1 <= len(data) <= 2
    assert all(made["prompt"].strip() and made["completion"].strip() for made in data)
    jobs.unload()
