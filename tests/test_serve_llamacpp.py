"""The runtime: a real llama.cpp process on a tiny file, asked, streamed, killed, refused."""

from __future__ import annotations

import io
import math
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from tiny_llama import make_model, write_gguf

from ft_magic.errors import ExportError
from ft_magic.serve import chat as chatting
from ft_magic.serve import process
from ft_magic.serve.chat import Chat
from ft_magic.serve.llamacpp import Runtime

pytest.importorskip("xllamacpp")
torch = pytest.importorskip("torch")

QUESTION = [{"role": "user", "content": "Name a colour."}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def gguf(folder, tmp_path_factory) -> Path:
    return write_gguf(folder, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def runtime(gguf):
    with Runtime(gguf, threads=1) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def tokenizer(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def alive(pid: int) -> bool:
    """Whether a process still runs; one that ended and was not collected counts as ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_greedy_answers_are_those_of_torch(runtime, model):
    prompt = [5, 6, 7, 80]
    with torch.no_grad():
        expected = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[
            0, len(prompt) :
        ]
    found = runtime.generate(prompt, 12)
    assert list(found.token_ids) == expected.tolist()
    assert found.stopped_by == "limit"
    assert found.prompt_tokens == len(prompt)
    assert str(found) == found.text


def test_log_probabilities_are_those_of_torch_at_every_position(runtime, model):
    ids = list(range(3, 60))
    with torch.no_grad():
        expected = torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)
    for end in range(1, len(ids)):
        # Most tokens of this vocabulary are single bytes, so many chosen tokens are unfinished characters.
        found = runtime.top_logprobs(ids[:end], 20)
        assert len(found) == 20
        for token, value in found.items():
            # llama.cpp keeps keys and values in float16: eleven bits.
            assert value == pytest.approx(float(expected[end - 1, token]), abs=0.02)
        assert float(expected[end - 1].max() - expected[end - 1, max(found, key=found.get)]) < 0.02


def test_all_probabilities_sum_to_one(runtime):
    assert sum(map(math.exp, runtime.top_logprobs([5, 6], 320).values())) == pytest.approx(1, abs=1e-4)


def test_text_becomes_the_tokenizers_tokens(runtime, tokenizer):
    for text in (
        "Name a colour, 1789.",
        "Caf\u00e9 \u4f60\u597d \U0001f680",
        "<|im_start|>user\nHi<|im_end|>\n",
    ):
        assert runtime.tokenize(text) == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert runtime.tokenize("<|im_end|>", parse_special=False) != [2]


def test_the_files_template_renders_as_the_tokenizer_does(runtime, tokenizer):
    expected = tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    assert runtime.apply_template(QUESTION) == expected


def test_a_streamed_answer_is_the_whole_one_in_pieces(runtime):
    stream = runtime.chat(QUESTION, stream=True, max_new_tokens=12)
    pieces = list(stream)
    assert len(pieces) > 1
    assert stream.stopped_by == "limit"
    assert "".join(pieces) == runtime.chat(QUESTION, max_new_tokens=12)


def test_a_broken_off_answer_leaves_the_runtime_free(runtime):
    stream = runtime.chat(QUESTION, stream=True, max_new_tokens=100)
    next(iter(stream))
    stream.close()
    assert runtime.generate([5, 6], 2).token_ids


def test_an_answer_ends_at_the_files_stop_token(folder, model, tmp_path):
    with torch.no_grad():
        tokens = model.generate(torch.tensor([[5, 6, 7, 80]]), max_new_tokens=6, do_sample=False)[
            0, 4:
        ].tolist()
    with Runtime(write_gguf(folder, tmp_path / "stops.gguf", eos=tokens[3]), threads=1) as runtime:
        found = runtime.generate([5, 6, 7, 80], 50)
    assert found.stopped_by == "eos"
    assert list(found.token_ids) == tokens[: tokens.index(tokens[3]) + 1]


def test_a_prompt_longer_than_the_context_names_both_numbers(runtime):
    assert runtime.context_tokens == 256  # the model's own, less than the 2048 asked for
    with pytest.raises(ExportError, match="300 tokens, but the context holds 256"):
        runtime.generate([5] * 300)


def test_the_port_answers_nobody_without_the_key(runtime):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with pytest.raises(urllib.error.HTTPError) as caught:
        opener.open(runtime._server._address + "/props", timeout=10)
    assert caught.value.code == 401


def test_a_proxy_of_the_environment_is_not_used(gguf, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with Runtime(gguf, threads=1) as runtime:
        assert runtime.tokenize("Hi")


def test_a_killed_runtime_is_noticed_and_named(gguf):
    with Runtime(gguf, threads=1) as runtime:
        os.kill(runtime.pid, signal.SIGKILL)
        with pytest.raises(
            ExportError, match=r"ended \(signal SIGKILL\) while tiny.gguf was in use"
        ) as caught:
            runtime.generate([5])
        assert "Load the file again" in caught.value.instead
        assert not runtime.alive


def test_a_closed_runtime_says_so_and_leaves_no_process(gguf):
    runtime = Runtime(gguf, threads=1)
    pid = runtime.pid
    runtime.close()
    runtime.close()
    assert not alive(pid)
    assert repr(runtime) == "Runtime(tiny.gguf, closed)"
    with pytest.raises(ExportError, match="was closed"):
        runtime.generate([5])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_runtime_dies_with_a_killed_parent(gguf):
    code = (
        "import sys; from ft_magic.serve.llamacpp import Runtime; "
        f"runtime = Runtime({str(gguf)!r}, threads=1); print(runtime.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    deadline_s = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline_s:
        threading.Event().wait(0.02)
    assert not alive(pid)


def test_a_damaged_file_shows_what_llama_cpp_said(gguf, tmp_path):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(gguf.read_bytes()[:3000])
    with pytest.raises(ExportError, match=r"could not load cut\.gguf") as caught:
        Runtime(cut)
    assert "gguf_init" in caught.value.problem
    assert "Traceback" not in caught.value.problem


def test_files_that_cannot_be_meant_are_refused_before_a_process_starts(tmp_path, gguf, monkeypatch):
    monkeypatch.setattr(process, "_spawn", None)
    with pytest.raises(ExportError, match="No file"):
        Runtime(tmp_path / "none.gguf")
    (tmp_path / "text.gguf").write_text("not a model")
    with pytest.raises(ExportError, match="is not a GGUF file"):
        Runtime(tmp_path / "text.gguf")
    monkeypatch.setattr(process.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match="is not installed") as caught:
        Runtime(gguf)
    assert "pip install 'ft-magic[gguf]'" in caught.value.instead


def test_an_illegal_instruction_is_explained_as_a_missing_avx2(gguf):
    assert "AVX2" in process._start_failure(gguf, -signal.SIGILL, "").instead


def test_the_kernel_imports_nothing_heavy_for_a_chat(gguf):
    code = (
        "import sys; from ft_magic.serve.chat import Chat; "
        "print([m for m in ('torch', 'transformers', 'numpy', 'xllamacpp', 'gguf') if m in sys.modules])"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "[]"


def test_progress_tells_what_is_loaded(gguf):
    seen = []
    Runtime(gguf, threads=1, progress=lambda *step: seen.append(step)).close()
    assert seen == [("loading tiny.gguf", 0, 1), ("loading tiny.gguf", 1, 1)]


@pytest.fixture
def chat(runtime):
    return Chat(runtime, max_new_tokens=6)


def test_a_chat_sends_its_history_along(chat, runtime):
    first = chat.say("Name a colour.")
    second = chat.say("And one more?")
    history = [
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "And one more?"},
    ]
    assert second == runtime.chat(history, max_new_tokens=6)
    chat.reset()
    assert chat.say("And one more?") == runtime.chat(history[-1:], max_new_tokens=6)


def test_a_system_message_stays_after_a_reset(runtime):
    chat = Chat(runtime, system="Be terse.", max_new_tokens=2)
    chat.reset()
    assert chat._messages("Hi")[0] == {"role": "system", "content": "Be terse."}


def test_an_answer_cut_at_its_limit_says_so(chat, capsys):
    answer = chat.say("Name a colour.", show=True)
    assert chat.turns[0].note == chatting.LIMIT_NOTE
    assert capsys.readouterr().out == f"{answer} ({chatting.LIMIT_NOTE})\n"


def test_a_full_context_is_refused_and_the_history_kept(chat):
    chat.say("Name a colour.")
    with pytest.raises(ExportError, match="the context holds 256") as caught:
        chat.say("colour " * 200)
    assert "chat.reset()" in caught.value.instead
    assert len(chat.turns) == 1
    # Room for an answer, but not for the whole of it: the note says what cut it.
    tokens = len(chat.runtime.tokenize(chat.runtime.apply_template(chat._messages("x " * 70))))
    assert 256 - tokens < 100
    chat.say("x " * 70, max_new_tokens=200)
    assert chat.turns[-1].note == chatting.CONTEXT_NOTE


def test_an_empty_question_is_refused(chat):
    with pytest.raises(ExportError, match="question is empty"):
        chat.say("  ")


def test_the_transcript_is_escaped(chat):
    chat.turns.append(chatting.Turn("<b>bold</b>", "<img src=x onerror=alert(1)>", "<i>"))
    shown = chat._repr_html_()
    assert "<b>" not in shown
    assert "<img" not in shown
    assert "&lt;b&gt;bold&lt;/b&gt;" in shown
    assert "you:   <b>bold</b>" in repr(chat)


def test_talking_goes_on_until_an_empty_line(chat, capsys):
    lines = iter(["Name a colour.", "colour " * 200, "/reset", "Hi", ""])
    chat.repl(read=lambda prompt: next(lines))
    assert [turn.question for turn in chat.turns] == ["Hi"]
    assert "no room for an answer" in capsys.readouterr().out


def test_where_nobody_can_type_talking_returns_at_once(chat, capsys, monkeypatch):
    monkeypatch.setattr(chatting, "somebody_can_type", lambda: False)
    monkeypatch.setattr("builtins.input", None)
    chat.repl()
    assert "chat.say('...')" in capsys.readouterr().out


def test_a_notebook_run_without_a_person_counts_as_nobody(monkeypatch):
    class Kernel:
        _allow_stdin = False

    class Shell:
        kernel = Kernel()

    class Module:
        @staticmethod
        def get_ipython():
            return Shell()

    monkeypatch.setitem(sys.modules, "IPython", Module)
    assert not chatting.somebody_can_type()
    Kernel._allow_stdin = True
    assert chatting.somebody_can_type()


def test_a_chat_closes_only_a_runtime_of_its_own(chat, gguf):
    chat.close()
    assert chat.runtime.alive
    with Chat(gguf, threads=1) as own:
        assert own.runtime.alive
    assert not own.runtime.alive


@pytest.mark.parametrize(
    "order",
    [
        ("LOG", "TRACE"),
        ("TRACE", "LOG"),
    ],
)
def test_last_words_are_llama_cpp_s_own_wherever_its_log_stands(order):
    said = {
        "LOG": "0.00.1 E gguf_init: cut short\n",
        "TRACE": 'Traceback (most recent call last):\n  File "a.py", line 1, in main\n    run()\n    ^^^^^\nRuntimeError: no\n',
    }
    errors = io.BytesIO("".join(said[part] for part in order).encode())
    assert process._last_lines(errors) == "gguf_init: cut short"


def test_last_words_are_the_error_itself_where_llama_cpp_said_nothing():
    errors = io.BytesIO(b"Traceback (most recent call last):\n  File x\nRuntimeError: no\n")
    assert process._last_lines(errors).endswith("RuntimeError: no")
    missing = io.BytesIO(b"Traceback (most recent call last):\n  File x\nModuleNotFoundError: xllamacpp\n")
    assert "ModuleNotFoundError" in process._last_lines(missing)
