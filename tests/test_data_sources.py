"""Every kind of source beside plain text files: whole, damaged, and asked for a part it does not have."""

import gzip
import importlib.machinery
import json
import sqlite3
import sys
import types

import httpx
import pytest
import zstandard
from spreadsheet_files import write_ods, write_xls, write_xlsx

from ft_magic.data import load_data
from ft_magic.data.reading import arrow, web
from ft_magic.errors import DataError

QA = [{"question": "Who?", "answer": "Me"}, {"question": "Where?", "answer": "Here"}]
TABLE = [["question", "answer"], ["Who?", "Me"], ["Where?", "Here"]]
WANTED = ({"prompt": "Who?", "completion": "Me"}, {"prompt": "Where?", "completion": "Here"})
LINES = "".join(json.dumps(row) + "\n" for row in QA)


def message(src, **options):
    with pytest.raises(DataError) as caught:
        load_data(src, **options)
    return str(caught.value)


def without(monkeypatch, package):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *more: None if name == package else found(name, *more)
    )


# --- zstd


def zst(content):
    return zstandard.ZstdCompressor().compress(content.encode())


def test_every_text_kind_is_read_through_zstd(tmp_path):
    contents = {
        "a.json.zst": json.dumps(QA), "a.jsonl.zst": LINES, "a.csv.zst": "question,answer\nWho?,Me\nWhere?,Here\n",
        "a.TSV.ZST": "question\tanswer\nWho?\tMe\nWhere?\tHere\n",
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_bytes(zst(content))
        data = load_data(tmp_path / name)
        assert (data.name, data.rows) == ("a", WANTED)
        assert load_data(tmp_path / name, limit=1).rows == WANTED[:1]
    (tmp_path / "b.txt.zst").write_bytes(zst("One.\nTwo.\n"))
    assert load_data(tmp_path / "b.txt.zst").rows == ({"text": "One."}, {"text": "Two."})


def test_zstd_files_of_several_frames_are_read_to_their_end(tmp_path):
    lines = LINES.splitlines(keepends=True)
    (tmp_path / "a.jsonl.zst").write_bytes(zst(lines[0]) + zst(lines[1]))
    assert load_data(tmp_path / "a.jsonl.zst").rows == WANTED


@pytest.mark.parametrize("damage", ["cut", "changed", "other"])
def test_a_damaged_zstd_file_is_said_so_and_never_read_in_part(tmp_path, damage):
    whole = zst(LINES * 2000)
    content = {"cut": whole[:-9], "changed": whole[:20] + b"\x00" * 40 + whole[60:], "other": b"[{}]"}[damage]
    (tmp_path / "a.jsonl.zst").write_bytes(content)
    assert "a.jsonl.zst is no complete zstd file" in message(tmp_path / "a.jsonl.zst")


def test_zstd_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl.zst").write_bytes(zst(LINES))
    without(monkeypatch, "zstandard")
    assert "pip install zstandard" in message(tmp_path / "a.jsonl.zst")


def test_kinds_that_are_compressed_inside_are_not_read_compressed_again(tmp_path):
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(b"x"))
    assert "a parquet file compressed as a whole" in message(tmp_path / "a.parquet.gz")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.jsonl.gz", "a.jsonl.zst", "a.csv.zst"])
def test_reading_the_first_rows_of_a_large_file_does_not_read_the_rest(tmp_path, name):
    bad = b"\xff{ no row of any kind , , ,\n"
    start = LINES if "json" in name else "question,answer\nWho?,Me\nWhere?,Here\n"
    content = start.encode() + LINES.encode() * 20_000 + bad
    if name.endswith(".gz"):
        content = gzip.compress(content)[:-8]
    elif name.endswith(".zst"):
        content = zstandard.ZstdCompressor().compress(content)[:-8]
    (tmp_path / name).write_bytes(content)
    assert load_data(tmp_path / name, limit=2).rows == WANTED


# --- arrow


def test_arrow_files_of_both_formats_and_feather_are_read(tmp_path):
    import pyarrow as pa
    from pyarrow import feather

    table = pa.Table.from_pylist(QA)
    with pa.ipc.new_file(tmp_path / "file.arrow", table.schema) as file:
        file.write(table)
    with pa.ipc.new_stream(tmp_path / "stream.arrow", table.schema) as stream:
        stream.write(table)
    feather.write_feather(table, str(tmp_path / "new.feather"), compression="lz4")
    for name in ("file.arrow", "stream.arrow", "new.feather"):
        assert load_data(tmp_path / name).rows == WANTED, name
        assert load_data(tmp_path / name, limit=1).rows == WANTED[:1], name


@pytest.mark.parametrize("content", [b"no arrow at all", b"ARROW1\0\0 and then nothing", b"FEA1xxxx"])
def test_a_damaged_arrow_file_is_said_so(tmp_path, content):
    (tmp_path / "a.arrow").write_bytes(content)
    assert "a.arrow is no readable arrow file" in message(tmp_path / "a.arrow")


def test_a_limit_reads_no_more_batches_of_parquet_than_needed(tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(QA * 100), tmp_path / "a.parquet", row_group_size=10)
    given = []
    whole = pq.ParquetFile.iter_batches

    def counted(self, **options):
        for batch in whole(self, **options):
            given.append(len(batch))
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    monkeypatch.setattr(arrow, "_BATCH_ROWS", 10)
    assert len(load_data(tmp_path / "a.parquet", limit=15)) == 15
    assert given == [10, 10]


# --- spreadsheets


@pytest.mark.parametrize(("name", "write"), [("a.xlsx", write_xlsx), ("a.ods", write_ods)])
def test_the_first_sheet_with_rows_is_read_and_another_on_request(tmp_path, name, write):
    path = write(
        tmp_path / name,
        {"Cover": [["Our questions"]], "Main": TABLE, "More": [["question", "answer"], ["How?", "So"]]},
    )
    data = load_data(path)
    assert data.rows == WANTED
    assert "sheet 'Main'; not read: Cover, More (sheet=)" in data.lineage
    assert load_data(path, sheet="More").rows == ({"prompt": "How?", "completion": "So"},)
    assert load_data(path, limit=1).rows == WANTED[:1]
    text = message(path, sheet="main")
    assert "no sheet 'main'. Did you mean 'Main'?" in text
    assert "Cover, Main, More" in text


def test_the_old_binary_format_is_read_too(tmp_path):
    assert load_data(write_xls(tmp_path / "a.xls")).rows == WANTED


def test_numbers_and_gaps_of_a_sheet_keep_their_meaning(tmp_path):
    rows = [["question", "answer", "n"], [None, None, None], ["Half of 7?", 3.5, 1], ["Half of 6?", 3, None]]
    data = load_data(write_xlsx(tmp_path / "a.xlsx", {"S": rows}), signal="prompt")
    assert data.rows == (
        {"prompt": "Half of 7?", "answer": "3.5", "n": 1},
        {"prompt": "Half of 6?", "answer": "3", "n": None},
    )


@pytest.mark.parametrize("name", ["a.xlsx", "a.xls", "a.ods"])
def test_a_damaged_spreadsheet_is_said_so(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04 cut")
    assert f"{name} is no readable spreadsheet" in message(tmp_path / name)


def test_empty_sheets_and_a_missing_package_are_said_so(tmp_path, monkeypatch):
    path = write_xlsx(tmp_path / "a.xlsx", {"S": [["question", "answer"]]})
    assert "holds no rows" in message(path)
    without(monkeypatch, "python_calamine")
    assert "pip install python-calamine" in message(path)


# --- SQLite


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "a.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table talks (question text, answer text, stars integer)")
        connection.executemany(
            "insert into talks values (?, ?, ?)", [("Who?", "Me", 5), ("Where?", "Here", 1)]
        )
    connection.close()
    return path


def test_the_only_table_of_a_database_is_read_and_a_query_selects_of_it(database):
    data = load_data(database)
    assert data.rows == WANTED
    assert "table 'talks'" in data.lineage
    assert load_data(database, limit=1).rows == WANTED[:1]
    asked = load_data(database, query="select question, answer from talks where stars < 3")
    assert asked.rows == WANTED[1:]
    assert any(note.startswith("query: select question") for note in asked.lineage)


def test_of_several_tables_one_must_be_named(database):
    with sqlite3.connect(database) as connection:
        connection.execute("create view good as select question, answer from talks where stars = 5")
    connection.close()
    text = message(database)
    assert "2 tables: talks, good" in text
    assert "table='talks'" in text
    assert load_data(database, table="good").rows == WANTED[:1]
    assert "no table 'god'. Did you mean 'good'?" in message(database, table="god")
    assert "both given" in message(database, table="good", query="select 1")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("select * from nowhere", "no such table: nowhere"),
        ("delete from talks", "readonly"),
        ("select question, stars as question from talks", "two columns called 'question'"),
        ("select 1; select 2", "one statement"),
        ("", "selects nothing"),
    ],
)
def test_a_query_that_cannot_be_answered_is_said_and_changes_nothing(database, query, said):
    before = database.read_bytes()
    assert said in message(database, query=query)
    assert database.read_bytes() == before
    assert [path.name for path in database.parent.iterdir()] == ["a.db"]


def test_a_file_that_is_no_database_or_holds_no_table_is_said_so(tmp_path):
    (tmp_path / "a.sqlite").write_bytes(b"no database" * 100)
    assert "not a database" in message(tmp_path / "a.sqlite")
    sqlite3.connect(tmp_path / "b.sqlite3").execute("pragma user_version = 1").connection.close()
    assert "no table" in message(tmp_path / "b.sqlite3")


# --- options that do not fit


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"sheet": "S"}, "sheet= goes with spreadsheets"),
        ({"table": "t"}, "table= goes with SQLite files"),
        ({"query": "select 1"}, "query= goes with SQLite files"),
        ({"split": "train"}, "split= goes with hub ids"),
        ({"revision": "main"}, "revision= goes with hub ids"),
        ({"subset": "en"}, "subset= goes with hub ids"),
    ],
)
def test_an_option_that_means_nothing_for_a_source_is_an_error(tmp_path, option, said):
    (tmp_path / "a.csv").write_text("question,answer\nWho?,Me\n", encoding="utf-8")
    for source in (tmp_path / "a.csv", QA, load_data(QA)):
        assert said in message(source, **option)


def test_a_hub_id_is_not_asked_for_a_sheet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "sheet= is given, but 'org/name', a hub id, has no use for it" in message("org/name", sheet="S")


# --- folders


def shards(folder, names, kind=".jsonl"):
    for number, name in enumerate(names):
        path = folder / f"{name}{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps({"question": f"q{number}", "answer": f"a{number}"}) + "\n", encoding="utf-8"
        )
    return folder


def test_a_folder_of_shards_is_one_data_set_in_the_order_of_names(tmp_path):
    shards(tmp_path, ["part-2", "part-0", "part-1"])
    (tmp_path / "README.md").write_text("# What this is", encoding="utf-8")
    (tmp_path / ".cache").write_text("x", encoding="utf-8")
    data = load_data(tmp_path)
    assert [row["prompt"] for row in data] == ["q1", "q2", "q0"]
    assert "3 of 3 files read, in the order of their names" in data.lineage
    first = load_data(tmp_path, limit=2)
    assert [row["prompt"] for row in first] == ["q1", "q2"]
    assert "2 of 3 files read, in the order of their names" in first.lineage


def test_splits_of_a_folder_are_never_mixed(tmp_path):
    shards(tmp_path, ["data/train-00000-of-00002", "data/train-00001-of-00002", "data/test-00000-of-00001"])
    data = load_data(tmp_path)
    assert [row["prompt"] for row in data] == ["q0", "q1"]
    assert "split train by the names of the files; not read: test" in data.lineage
    assert [row["prompt"] for row in load_data(tmp_path, split="test")] == ["q2"]
    assert "no split 'tset'. Did you mean 'test'?" in message(tmp_path, split="tset")
    other = shards(tmp_path / "other", ["dev/0", "test/0"])
    assert "several splits, no 'train'" in message(other)


def test_what_datasets_saves_to_disk_is_read_back(tmp_path):
    import datasets

    datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(QA), "test": datasets.Dataset.from_list(QA[:1])}
    ).save_to_disk(tmp_path / "saved")
    assert load_data(tmp_path / "saved").rows == WANTED
    assert load_data(tmp_path / "saved", split="test").rows == WANTED[:1]


def test_a_broken_shard_is_named(tmp_path):
    shards(tmp_path, ["a", "b"])
    (tmp_path / "b.jsonl").write_text('{"question": ', encoding="utf-8")
    assert "b.jsonl, line 1" in message(tmp_path)
    (tmp_path / "none").mkdir()
    assert "holds no file that is read" in message(tmp_path / "none")


# --- datasets and the hub


def test_streamed_data_sets_are_read_up_to_the_limit():
    import datasets

    taken = []

    def endless():
        for number in range(10**9):
            taken.append(number)
            yield {"question": f"q{number}", "answer": "a"}

    stream = datasets.IterableDataset.from_generator(endless)
    assert [row["prompt"] for row in load_data(stream, limit=3)] == ["q0", "q1", "q2"]
    assert len(taken) <= 10
    both = {"train": stream, "test": stream}
    assert len(load_data(datasets.IterableDatasetDict(both), split="test", limit=2)) == 2


def test_a_split_of_a_datasets_object_is_chosen_by_name():
    import datasets

    splits = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(QA), "dev": datasets.Dataset.from_list(QA[:1])}
    )
    assert load_data(splits, split="dev").rows == WANTED[:1]
    assert "other splits, not read: dev (split=)" in load_data(splits).lineage
    assert "no split 'devv'. Did you mean 'dev'?" in message(splits, split="devv")
    assert "a datasets object of one split" in message(splits["dev"], split="dev")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that notes what it is asked for and answers with two rows."""
    monkeypatch.chdir(tmp_path)
    fake = types.ModuleType("datasets")
    fake.__spec__ = importlib.machinery.ModuleSpec("datasets", None)
    fake.asked = []

    def load_dataset(path, **options):
        fake.asked.append((path, options))
        return QA if "split" in options else {"train": QA, "test": QA[:1]}

    fake.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", fake)
    monkeypatch.setattr("ft_magic.models.hub.has_answer", lambda _name: True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return fake


def test_split_revision_and_subset_reach_the_hub_and_the_lineage(hub):
    data = load_data("org/name", split="test", revision="abc123", subset="en")
    assert hub.asked == [("org/name", {"name": "en", "split": "test", "revision": "abc123"})]
    assert {"split test", "revision abc123", "subset en"} <= set(data.lineage)
    assert "other splits, not read: test (split=)" in load_data("org/name").lineage


def test_the_first_rows_of_a_hub_data_set_are_streamed(hub, monkeypatch):
    assert len(load_data("org/name", limit=1)) == 1
    load_data("org/name", limit=1, split="train[:10]")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    load_data("org/name", limit=1)
    assert [options.get("streaming", False) for _, options in hub.asked] == [True, False, False]


# --- web addresses


class Server:
    """Answers from memory; notes every request."""

    def __init__(self):
        self.files, self.requests, self.offline = {}, [], False

    def __call__(self, request):
        self.requests.append(request)
        if self.offline:
            raise httpx.ConnectError("no route to host", request=request)
        status, headers, content = self.files.get(request.url.path, (404, {}, b""))
        if "etag" in headers and request.headers.get("if-none-match") == headers["etag"]:
            return httpx.Response(304)
        return httpx.Response(status, headers=headers, content=content)


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("FT_MAGIC_CACHE", str(tmp_path / "cache"))
    made = Server()
    monkeypatch.setattr(
        web, "_client", lambda: httpx.Client(transport=httpx.MockTransport(made), follow_redirects=True)
    )
    return made


def test_an_address_is_fetched_once_while_the_server_calls_it_unchanged(server):
    server.files["/a.jsonl"] = (200, {"etag": '"1"'}, LINES.encode())
    data = load_data("https://host.example/a.jsonl")
    assert (data.rows, data.source, data.name) == (WANTED, "https://host.example/a.jsonl", "a")
    assert "fetched" in data.lineage
    again = load_data("https://host.example/a.jsonl")
    assert again.rows == WANTED
    assert "the copy fetched before is still the same" in again.lineage
    server.files["/a.jsonl"] = (200, {"etag": '"2"'}, LINES.splitlines()[0].encode())
    assert load_data("https://host.example/a.jsonl").rows == WANTED[:1]
    server.offline = True
    offline = load_data("https://host.example/a.jsonl")
    assert offline.rows == WANTED[:1]
    assert any("did not answer (ConnectError): the copy" in note for note in offline.lineage)


def test_the_kind_of_an_address_comes_from_its_name_its_redirect_or_its_type(server):
    server.files["/get"] = (302, {"location": "/files/a.csv?sig=1"}, b"")
    server.files["/files/a.csv"] = (200, {"content-type": "text/plain"}, b"question,answer\nWho?,Me\n")
    server.files["/typed"] = (
        200,
        {"content-type": "application/json; charset=utf-8"},
        json.dumps(QA).encode(),
    )
    disposition = {"content-disposition": 'attachment; filename="b.jsonl.gz"'}
    server.files["/export"] = (200, disposition, gzip.compress(LINES.encode()))
    assert load_data("https://host.example/get").rows == WANTED[:1]
    assert load_data("https://host.example/typed").rows == WANTED
    assert load_data("https://host.example/export").rows == WANTED
    server.files["/odd"] = (200, {"content-type": "video/mp4"}, b"x")
    assert "no file of a kind that is read (video/mp4)" in message("https://host.example/odd")


def test_what_is_secret_in_an_address_is_not_kept(server):
    server.files["/a.jsonl"] = (200, {}, LINES.encode())
    data = load_data("https://me:word@host.example/a.jsonl?token=hidden")
    assert data.source == "https://host.example/a.jsonl?…"
    assert "hidden" not in str(data.lineage)
    assert "word" not in str(data.lineage)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((404, {}, b""), "answers 404 Not Found"),
        ((403, {}, b""), "wants a login"),
        ((200, {"content-type": "text/html; charset=utf-8"}, b"<html>"), "a web page, not a data file"),
        ((200, {}, b""), "empty (0 bytes)"),
        ((200, {}, b"{"), "a.jsonl, line 1"),
    ],
)
def test_addresses_that_give_no_data_are_said_so(server, answer, said):
    server.files["/a.jsonl"] = answer
    assert said in message("https://host.example/a.jsonl")


def test_the_page_of_a_hub_data_set_names_its_id(server):
    server.files["/datasets/org/name"] = (200, {"content-type": "text/html"}, b"<html>")
    assert "Give the hub id: org/name" in message("https://huggingface.co/datasets/org/name")
    server.files["/datasets/org/name/blob/main/a.json"] = (200, {"content-type": "text/html"}, b"<html>")
    assert "/resolve/ in place" in message("https://huggingface.co/datasets/org/name/blob/main/a.json")


def test_without_a_network_an_address_is_one_clear_error(server, monkeypatch):
    server.offline = True
    text = message("https://host.example/a.jsonl")
    assert "cannot be fetched: no route to host" in text
    assert len(text.splitlines()) == 2
    without(monkeypatch, "httpx")
    assert "pip install httpx" in message("https://host.example/a.jsonl")


def test_a_download_tells_how_far_it_is_and_leaves_nothing_when_it_breaks(server, tmp_path):
    def breaking():
        yield LINES.encode()
        raise httpx.ReadError("the line broke")

    told = []
    server.files["/a.jsonl"] = (200, {}, LINES.encode())
    load_data("https://host.example/a.jsonl", progress=lambda *what: told.append(what))
    assert told[-1] == ("downloading a.jsonl (bytes)", len(LINES), len(LINES))
    server.files["/b.jsonl"] = (200, {}, breaking())
    assert "the line broke" in message("https://host.example/b.jsonl")
    assert not list(tmp_path.rglob("*b.jsonl*"))
