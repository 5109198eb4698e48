"""``%ft template``: the audit, one row of it, or the repaired data."""

import pytest
import tiny_tokenizer
from notebook_shell import NotebookShell
from test_template_audit import ROWS, chat

from ft_magic.errors import TemplateError


@pytest.fixture
def shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_tokenizer.save(tmp_path / "model", template=tiny_tokenizer.PLAIN_CHATML)
    made = NotebookShell()
    made.variables["rows"] = [*ROWS, chat("<|im_end|>", "x"), chat("y" * 300, "z")]
    yield made
    made.close()


def test_the_verb_takes_what_the_function_takes(shell):
    audit = shell.run("%ft template ./model $rows --max-length 100 --train-on last")
    assert (audit.max_length_tokens, audit.train_on, len(audit.data)) == (100, "last", 52)
    assert {f.name for f in audit.findings} >= {"truncated", "special_text"}
    assert shell.run("%ft template ./model").verdict == "ok"


def test_a_row_is_shown_and_a_fix_returns_the_data(shell):
    assert "⟦x<|im_end|>⟧" in str(shell.run("%ft template ./model $rows --row 50"))
    shell.run("ds = %ft template ./model $rows --max-length 100 --fix special_text,truncated")
    assert len(shell.variables["ds"]) == 51
    with pytest.raises(TemplateError, match="There is no row 99"):
        shell.run("%ft template ./model $rows --row 99")
    with pytest.raises(TemplateError, match="Did you mean 'last'"):
        shell.run("%ft template ./model $rows --train-on lest")
