"""``%ft data``: reads, repairs what it is told, reports on every row and shows it."""

import pytest
from notebook_shell import NotebookShell

from ft_magic.data import Data
from ft_magic.errors import DataError, SpecError

ROWS = [{"prompt": f"Question number {i}?", "completion": f"Answer number {i}."} for i in range(120)]


@pytest.fixture
def shell():
    made = NotebookShell()
    yield made
    made.close()


@pytest.fixture
def dirty():
    return [*ROWS, ROWS[0], {"prompt": "Ask joe@acme.io", "completion": "Fine."}]


def test_the_report_card_comes_with_the_data(shell, dirty):
    shell.variables["rows"] = dirty
    shell.run("ds = %ft data $rows")
    data = shell.variables["ds"]
    assert isinstance(data, Data)
    assert "1 row exactly equal" in str(data)
    assert "1 row with personal data" in data._repr_html_()
    assert len(data) == 122  # nothing is removed unasked


def test_fixes_are_made_where_asked(shell, dirty):
    shell.variables["rows"] = dirty
    data = shell.run("%ft data $rows --fix duplicates,pii")
    assert len(data) == 121
    assert data[-1]["prompt"] == "Ask [EMAIL]"
    with pytest.raises(DataError, match="Did you mean 'pii'"):
        shell.run("%ft data $rows --fix pi")


def test_held_out_data_are_compared(shell):
    shell.variables.update(rows=ROWS, kept=ROWS[3:5])
    data = shell.run("%ft data $rows --heldout $kept")
    assert "leakage" in {finding.name for finding in data.last_report.findings}
    assert "leakage" not in {finding.name for finding in data.report().findings}
    assert len(shell.run("%ft data $rows --heldout $kept --fix leakage")) == 118


def test_tokens_need_a_model(shell):
    shell.variables["rows"] = ROWS
    with pytest.raises(SpecError, match="no model says which"):
        shell.run("%ft data $rows --max-length 8")


def test_one_report_is_made_and_shared():
    data = Data(tuple(ROWS), "demo")
    assert data.last_report is None
    assert data.report() is data.report()
    assert data.last_report is data.report()
    assert data.fix("pii").last_report is None
    assert str(Data(tuple(ROWS), "demo")) == "Data(rows: 120 demo rows, shape given)"


def test_a_card_of_much_text_leaves_the_report_to_the_reader():
    data = Data(({"text": "x " * 10_000},) * 600, "text")
    assert "data.report() looks at every row" in data._repr_html_()
    assert data.last_report is None
