from __future__ import annotations

import html.parser
import re

import pytest
from ui_events import sample_run, write_run

from ft_magic.ui.report import write_report


class Checker(html.parser.HTMLParser):
    """Collects tags and checks that they are closed in order."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(page):
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    return checker


def test_a_full_run_tells_every_part(tmp_path):
    path = write_report(write_run(tmp_path / "run"))
    assert path == tmp_path / "run" / "report.html"
    text = " ".join(read(path.read_text(encoding="utf-8")).text)
    for expected in (
        "Evaluation: before and after", "valid JSON", "The capital of France is Paris.", "Certificate",
        "equal: every form answers as the trained model does", "q4_k_m", "gguf/run-Q4_K_M.gguf", "100.1 MiB",
        "What was asked", "this processor has no fast bf16", "2 rows were cut at 512 tokens.", "1.14.2",
        "3.50%",
    ):  # fmt: skip
        assert expected in text, expected


def test_the_page_stands_alone_and_runs_nothing(tmp_path):
    page = write_report(write_run(tmp_path / "run")).read_text(encoding="utf-8")
    found = read(page)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in found.seen}
    assert not re.search(r"(?:src|href)=[\"']?+(?!data:)", page)
    assert "@import" not in page
    assert "url(" not in page
    assert "prefers-color-scheme: dark" in page


def test_text_of_data_and_models_is_escaped(tmp_path):
    page = write_report(write_run(tmp_path / "run")).read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;house &amp; style&gt;" in page


@pytest.mark.parametrize("events", [[], sample_run(end="failed"), sample_run(end=None)[:20]])
def test_a_run_at_any_stage_has_a_report(tmp_path, events):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "events.jsonl").write_text("".join(event.to_json() + "\n" for event in events))
    text = " ".join(read(write_report(folder).read_text(encoding="utf-8")).text)
    assert "Certificate" not in text
    if events and events[-1].kind == "failed":
        assert "out of memory" in text
        assert "smaller batch" in text


def test_a_damaged_part_is_told_and_the_rest_is_there(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "certificate.json").write_text('{"verdict": ')
    text = " ".join(read(write_report(folder).read_text(encoding="utf-8")).text)
    assert "certificate.json cannot be read" in text
    assert "valid JSON" in text


def test_no_half_written_page_is_left_under_its_name(tmp_path):
    folder = write_run(tmp_path / "run")
    write_report(folder)
    write_report(folder)
    assert sorted(p.name for p in folder.iterdir() if "report" in p.name) == ["report.html"]


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run folder"):
        write_report(tmp_path / "missing")
