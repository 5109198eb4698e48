"""load_data: every source, every shape, and the messages for what cannot be read."""

import gzip
import importlib.machinery
import json
import os
import sys
import tracemalloc
import types

import pytest

from ft_magic.data import Data, load_data
from ft_magic.errors import DataError, SpecError

ALPACA = [
    {"instruction": "Add.", "input": "1, 2", "output": "3"},
    {"instruction": "Greet.", "input": "", "output": "Hi"},
]
QA = [{"question": "Who?", "answer": "Me"}, {"question": "Where?", "answer": "Here"}]
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
GPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def message(src, **options):
    with pytest.raises(DataError) as caught:
        load_data(src, **options)
    return str(caught.value)


# --- sources


def test_the_same_rows_come_from_every_kind_of_file(tmp_path):
    import pandas as pd

    lines = "".join(json.dumps(row) + "\n" for row in QA)
    table = "question,answer\nWho?,Me\nWhere?,Here\n"
    files = [
        write(tmp_path, "a.json", json.dumps(QA)),
        write(tmp_path, "a.jsonl", lines),
        write(tmp_path, "a.ndjson", lines),
        write(tmp_path, "b.json", lines),
        write(tmp_path, "a.json.gz", gzip.compress(json.dumps(QA).encode())),
        write(tmp_path, "a.jsonl.gz", gzip.compress(lines.encode())),
        write(tmp_path, "a.csv", table),
        write(tmp_path, "a.csv.gz", gzip.compress(table.encode())),
        write(tmp_path, "semicolon.csv", table.replace(",", ";")),
        write(tmp_path, "a.tsv", table.replace(",", "\t")),
        write(tmp_path, "bom.csv", b"\xef\xbb\xbf" + table.encode()),
        write(tmp_path, "bom.jsonl", b"\xef\xbb\xbf" + lines.encode()),
    ]
    pd.DataFrame(QA).to_parquet(tmp_path / "a.parquet")
    wanted = ({"prompt": "Who?", "completion": "Me"}, {"prompt": "Where?", "completion": "Here"})
    for file in [*files, tmp_path / "a.parquet"]:
        data = load_data(file)
        assert data.rows == wanted, file
        assert data.signal == "demo"
        assert data.columns == {"prompt": "question", "completion": "answer"}
        assert load_data(str(file), limit=1).rows == wanted[:1], file


def test_objects_in_memory_give_the_same_rows_as_files():
    import datasets
    import pandas as pd

    wanted = load_data(QA).rows
    dataset = datasets.Dataset.from_list(QA)
    splits = datasets.DatasetDict({"test": dataset.select([0]), "train": dataset})
    for source in (pd.DataFrame(QA), dataset, splits, tuple(QA)):
        assert load_data(source).rows == wanted
    assert "split train" in load_data(splits).lineage
    one = load_data(QA)
    assert load_data(one) is one
    assert len(load_data(one, limit=1)) == 1


def test_a_dict_of_splits_without_train_is_not_guessed():
    import datasets

    dataset = datasets.Dataset.from_list(QA)
    text = message(datasets.DatasetDict({"dev": dataset, "test": dataset}))
    assert "dev, test" in text
    assert "d['dev']" in text


def test_whole_numbers_beside_gaps_stay_whole_in_a_dataframe():
    import pandas as pd

    data = load_data(pd.DataFrame({"question": ["a", "b", "c"], "answer": [3, None, 5]}))
    assert [row["completion"] for row in data] == ["3", "5"]
    assert data.dropped.examples[0].row == 1


def test_text_files_say_what_a_row_is(tmp_path):
    lines = write(tmp_path, "lines.txt", "First document.\nSecond document.\n")
    data = load_data(lines)
    assert [row["text"] for row in data] == ["First document.", "Second document."]
    assert "one row a line" in data.lineage
    wrapped = write(tmp_path, "wrapped.txt", "A line\nwrapped.\n\n\nAnother\nparagraph.\n")
    data = load_data(wrapped)
    assert [row["text"] for row in data] == ["A line\nwrapped.", "Another\nparagraph."]
    assert any("paragraph" in note for note in data.lineage)
    long_lines = write(tmp_path, "long.txt", "word " * 100 + "\n\n" + "word " * 90 + "\n" + "word " * 80)
    assert len(load_data(long_lines)) == 3


def test_markdown_is_cut_at_headings_but_not_inside_code(tmp_path):
    text = "# Title\n\n## One\ntext\n```\n# no heading\n```\n\n## Two\nmore\n"
    data = load_data(write(tmp_path, "a.md", text))
    assert [row["text"] for row in data] == [
        "# Title\n\n## One\ntext\n```\n# no heading\n```",
        "## Two\nmore",
    ]


def test_a_folder_gives_one_row_a_text_file(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path, "b.txt", "bee")
    write(tmp_path / "sub", "a.md", "ay")
    write(tmp_path, "picture.png", b"\x89PNG")
    data = load_data(tmp_path)
    assert [row["text"] for row in data] == ["bee", "ay"]
    assert any("1 other files" in note for note in data.lineage)


def test_strings_are_text_and_bare_conversations_are_messages():
    assert load_data(["One.", "Two."]).rows == ({"text": "One."}, {"text": "Two."})
    assert load_data([CHAT]).rows == ({"messages": CHAT},)


# --- shapes


@pytest.mark.parametrize(
    ("rows", "shape", "wanted"),
    [
        (ALPACA, "alpaca", {"prompt": "Add.\n\n1, 2", "completion": "3"}),
        ([{"prompt": "P", "response": "R"}], "prompt and completion", {"prompt": "P", "completion": "R"}),
        ([{"Question": "P", "Answer": "R"}], "question and answer", {"prompt": "P", "completion": "R"}),
        ([{"input": "P", "output": "R"}], "question and answer", {"prompt": "P", "completion": "R"}),
        ([{"messages": CHAT}], "messages", {"messages": CHAT}),
        ([{"messages": json.dumps(CHAT)}], "messages", {"messages": CHAT}),
        ([{"conversations": GPT}], "sharegpt", {"messages": CHAT}),
        ([{"prompt": CHAT[:1], "completion": CHAT[1:]}], "prompt and completion", {"messages": CHAT}),
        ([{"text": "T"}], "text", {"text": "T"}),
        (
            [{"prompt": "P", "chosen": "C", "rejected": "R"}],
            "prompt, chosen and rejected",
            {"prompt": "P", "chosen": "C", "rejected": "R"},
        ),
        (
            [{"instruction": "P", "input": "X", "chosen": "C", "rejected": "R"}],
            "prompt, chosen and rejected",
            {"prompt": "P\n\nX", "chosen": "C", "rejected": "R"},
        ),
        (
            [{"chosen": CHAT, "rejected": [CHAT[0], {"role": "assistant", "content": "No"}]}],
            "chosen and rejected conversations",
            {"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": [{"role": "assistant", "content": "No"}]},
        ),
        (
            [{"prompt": "Hi", "chosen": CHAT, "rejected": [CHAT[0], {"role": "assistant", "content": "No"}]}],
            "prompt, chosen and rejected",
            {"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": [{"role": "assistant", "content": "No"}]},
        ),
        (
            [{"prompt": CHAT, "chosen": [{"role": "assistant", "content": "A"}], "rejected": "B"}],
            "prompt, chosen and rejected",
            {
                "prompt": CHAT,
                "chosen": [{"role": "assistant", "content": "A"}],
                "rejected": [{"role": "assistant", "content": "B"}],
            },
        ),
        (
            [{"conversations": GPT[:1], "chosen": GPT[1], "rejected": {"from": "gpt", "value": "No"}}],
            "sharegpt pairs",
            {"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": [{"role": "assistant", "content": "No"}]},
        ),
    ],
)  # fmt: skip
def test_shapes_are_detected_and_normalised(rows, shape, wanted):
    data = load_data(rows)
    assert data.shape == shape
    assert data[0] == wanted


def test_system_and_history_columns_become_turns():
    row = {"instruction": "Q2", "input": "", "output": "A2", "system": "S", "history": [["Q1", "A1"]]}
    turns = load_data([row])[0]["messages"]
    assert [(turn["role"], turn["content"]) for turn in turns] == [
        ("system", "S"), ("user", "Q1"), ("assistant", "A1"), ("user", "Q2"), ("assistant", "A2"),
    ]  # fmt: skip


def test_sharegpt_with_tools_keeps_its_turns_in_order():
    turns = [
        {"from": "system", "value": "S"},
        {"from": "human", "value": "Weather?"},
        {"from": "function_call", "value": "get()"},
        {"from": "observation", "value": "sun"},
        {"from": "gpt", "value": "Sunny"},
    ]
    data = load_data([{"conversations": turns, "tools": "[]"}])
    assert "tools" not in data[0]
    assert [turn["role"] for turn in data[0]["messages"]] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert data[0]["messages"][2] == {"role": "assistant", "content": "get()"}
    assert any("no JSON kept as the answer's text" in note for note in data.lineage)


def test_turns_after_the_last_answer_are_left_out_and_recorded():
    data = load_data([{"messages": [*CHAT, {"role": "user", "content": "Thanks"}]}])
    assert data[0]["messages"] == CHAT
    assert any("cut after their last answer" in note for note in data.lineage)


def test_content_parts_are_joined_and_images_refused():
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    picture = [{"type": "image_url", "image_url": {"url": "x"}}]
    rows = [
        {"messages": [{"role": "user", "content": parts}, CHAT[1]]},
        {"messages": [{"role": "user", "content": picture}, CHAT[1]]},
    ]
    data = load_data(rows)
    assert data[0]["messages"][0]["content"] == "Hello"
    assert "image" in data.dropped.examples[0].why


def test_columns_and_signal_overrule_the_guess():
    rows = [{"customer_message": "Broken!", "triage_json": {"queue": "repair"}, "text": "all of it", "id": 7}]
    data = load_data(rows, columns={"prompt": "customer_message", "completion": "triage_json"})
    assert data.rows == ({"prompt": "Broken!", "completion": '{"queue": "repair"}'},)
    assert data.columns == {"prompt": "customer_message", "completion": "triage_json"}
    assert any("objects written as JSON" in note for note in data.lineage)
    assert load_data(rows).signal == "text"
    both = [{"question": "Q", "answer": "A", "text": "T"}]
    assert load_data(both).signal == "demo"
    assert load_data(both, signal="text").rows == ({"text": "T"},)


def test_cells_that_are_no_text_are_written_out_and_counted():
    data = load_data([{"question": 17, "answer": 4.5}, {"question": "x", "answer": True}])
    assert data.rows == ({"prompt": "17", "completion": "4.5"}, {"prompt": "x", "completion": "True"})
    assert any(note.startswith("3 x numbers") for note in data.lineage)


def test_lone_surrogates_are_replaced_because_nothing_can_store_them(tmp_path):
    path = write(tmp_path, "a.json", '[{"question": "a\\ud83d b", "answer": "ok \\ud83d\\ude00"}]')
    data = load_data(path)
    assert data[0] == {"prompt": "a\ufffd b", "completion": "ok 😀"}
    data.to_jsonl(tmp_path / "out.jsonl")


def test_rows_that_cannot_be_used_are_kept_out_and_recorded():
    rows = [*QA, {"question": "Why?", "answer": None}, {"question": " ", "answer": "x"}, "not a row"]
    rows += [{"question": "a", "answer": float("nan")}]
    data = load_data(rows)
    assert len(data) == 2
    assert data.dropped.count == 4
    assert [example.row for example in data.dropped.examples] == [2, 3, 4, 5]
    assert data.dropped.reasons["empty answer"] == 2
    assert any("4 rows kept out" in note for note in data.lineage)
    assert any(finding.name == "dropped" for finding in data.report().findings)


def test_conversations_without_an_answer_are_kept_out():
    rows = [{"messages": CHAT}, {"messages": CHAT[:1]}, {"messages": [{"role": "bard", "content": "?"}]}]
    data = load_data(rows)
    assert list(data.dropped.reasons) == ["no assistant turn", "unknown role 'bard'"]


def test_reading_keeps_one_copy_of_the_rows_in_memory(tmp_path):
    turns = [{"role": "user", "content": "a" * 60}, {"role": "assistant", "content": "b" * 100}] * 3
    path = write(
        tmp_path, "a.jsonl", "".join(json.dumps({"messages": turns, "id": i}) + "\n" for i in range(2000))
    )
    load_data(path, limit=1)  # imports are no rows
    tracemalloc.start()
    try:
        data = load_data(path)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(data) == 2000
    assert peak < 1.5 * held  # 1.3; with the source's rows kept until the end it is 1.9


# --- messages for what cannot be read


def test_all_rows_bad_is_an_error_that_counts_why():
    text = message([{"question": "a", "answer": ""}] * 3)
    assert "none of 3 rows" in text
    assert "3 x empty answer" in text


def test_unknown_columns_are_shown_with_a_value_and_a_way_to_map_them():
    text = message([{"customer": "Anna", "note": "x" * 500, "city": "Ulm"}])
    assert "customer: Anna" in text
    assert "x" * 100 not in text
    assert 'columns={"prompt": "customer", "completion": "note"}' in text


def test_wrong_roles_and_columns_name_the_nearest():
    assert "Did you mean 'completion'" in message(QA, columns={"completon": "answer"})
    assert "Did you mean 'answer'" in message(QA, columns={"completion": "anwser"})
    with pytest.raises(SpecError, match="Did you mean 'demo'"):
        load_data(QA, signal="demos")


def test_bad_answers_are_imitated_only_where_that_is_asked_and_said():
    rows = [{"messages": CHAT, "label": True}, {"messages": CHAT, "label": False}]
    asked = load_data(rows, signal="demo")
    assert len(asked) == 2
    assert any("marks 1 of 2 answers as bad" in note for note in asked.lineage)
    assert load_data(rows).to("demo").rows == ({"messages": CHAT},)
    good = load_data([rows[0]], signal="demo")
    assert not any("bad" in note for note in good.lineage)


def test_a_broken_json_line_is_named_with_its_surroundings(tmp_path):
    path = write(
        tmp_path, "a.jsonl", '{"question": "a", "answer": "b"}\n{"question": "oops, "answer": "b"}\n'
    )
    text = message(path)
    assert "a.jsonl, line 2" in text
    assert "oops" in text
    text = message(write(tmp_path, "b.json", '[{"a": 1},\n {"b": }]'))
    assert "b.json, line 2, column 8" in text


def test_json_with_a_data_key_is_accepted_and_other_objects_are_not(tmp_path):
    data = load_data(write(tmp_path, "a.json", json.dumps({"version": 1, "data": QA})))
    assert len(data) == 2
    assert any("'data'" in note for note in data.lineage)
    assert "not a list of rows" in message(write(tmp_path, "b.json", '{"question": "a", "answer": "b"}'))
    assert "not a list of rows" in message(write(tmp_path, "c.json", "3"))


def test_empty_files_and_empty_data_are_said_so(tmp_path):
    assert "empty (0 bytes)" in message(write(tmp_path, "a.json", ""))
    assert "holds no rows" in message(write(tmp_path, "b.json", "[]"))
    assert "holds no rows" in message(write(tmp_path, "c.csv", "question,answer\n"))
    assert "holds no rows" in message(write(tmp_path, "d.txt", "\n \n"))
    assert "holds no rows" in message([])


def test_wrong_encoding_names_byte_line_and_a_likely_encoding(tmp_path):
    table = "question,answer\nWho?,Me\nCafé?,Yes\n"
    for name in ("a.csv", "a.txt"):
        text = message(write(tmp_path, name, table.encode("cp1252")))
        assert f"{name}, line 3: byte 0xe9 is not UTF-8 (perhaps cp1252)" in text
    lines = '{"question": "a", "answer": "b"}\n{"question": "é", "answer": "b"}\n'
    assert "line 2: byte 0xe9" in message(write(tmp_path, "a.jsonl", lines.encode("latin-1")))
    assert "utf-16" in message(write(tmp_path, "b.csv", table.encode("utf-16")))


def test_csv_faults_are_explained(tmp_path):
    assert "line 2: 3 cells for 2 columns" in message(write(tmp_path, "a.csv", "question,answer\na, b,c\n"))
    headless = "What is the capital of the country that lies south of Belgium and east of Spain?,Paris\nx,y\n"
    assert "looks like data" in message(write(tmp_path, "b.csv", headless))
    assert "looks like data" in message(write(tmp_path, "c.csv", "1,2\n3,4\n"))
    assert "'a' occurs twice" in message(write(tmp_path, "d.csv", "a,a\n3,4\n"))
    indexed = write(tmp_path, "e.csv", ",question,answer\n0,a,b\n")
    assert load_data(indexed).rows == ({"prompt": "a", "completion": "b"},)
    big = write(tmp_path, "f.csv", "question,answer\na," + "x" * 200_000 + "\n")
    assert len(load_data(big)[0]["completion"]) == 200_000


def test_a_missing_file_is_never_taken_for_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", "train.jsonl", "{}")
    text = message("data/trian.jsonl")
    assert "File not found: 'trian.jsonl'" in text
    assert "train.jsonl" in text
    assert "File not found" in message("data/train")
    assert "no such folder" in message("nowhere/deep/train.csv")
    assert "File not found" in message("imdb")
    assert "no data that can be read" in message({"question": "a"})
    assert "no data that can be read" in message(3)
    assert "not read ('.docx')" in message(write(tmp_path, "a.docx", "x"))
    assert "limit is 0" in message(QA, limit=0)


def test_a_folder_of_several_kinds_names_what_is_there(tmp_path):
    write(tmp_path, "a.jsonl", "{}")
    write(tmp_path, "b.csv", "x")
    text = message(tmp_path)
    assert "1 x JSON lines file, 1 x csv file" in text
    assert "a.jsonl" in text


def test_files_that_may_not_be_read_are_said_so(tmp_path):
    path = write(tmp_path, "a.json", "[]")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything (root)")
    assert "permission denied" in message(path)


def test_permission_and_gzip_faults_become_one_line(tmp_path, monkeypatch):
    assert "no complete gzip file" in message(write(tmp_path, "a.json.gz", "[]"))
    cut = gzip.compress(json.dumps(QA * 50).encode())[:-20]
    assert "no complete gzip file" in message(write(tmp_path, "b.json.gz", cut))
    path = write(tmp_path, "c.json", "[]")

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    assert "permission denied" in message(path)


def test_parquet_without_pyarrow_names_the_package(tmp_path, monkeypatch):
    path = write(tmp_path, "a.parquet", "no parquet")
    assert "no readable parquet" in message(path)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert "needs the package pyarrow" in message(path)


def test_a_hub_id_is_read_through_datasets_and_fails_with_a_way_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake = types.ModuleType("datasets")
    fake.__spec__ = importlib.machinery.ModuleSpec("datasets", None)
    fake.load_dataset = lambda name: {"org/name": {"train": QA}}[name]
    monkeypatch.setitem(sys.modules, "datasets", fake)
    data = load_data("org/name")
    assert (data.name, data.source, len(data)) == ("name", "hub data set org/name", 2)

    def offline(_name):
        raise ConnectionError("no route to host\nlong trace")

    fake.load_dataset = offline
    text = message("org/name")
    assert "no route to host" in text
    assert "local file" in text
    assert len(text.splitlines()) == 2


def test_given_data_cannot_be_reinterpreted():
    data = Data(({"text": "a"},), "text")
    assert "already read as text" in message(data, columns={"text": "b"})
    assert "already read as text" in message(data, signal="demo")
