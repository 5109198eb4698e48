"""The verbs of ``%ft VERB`` and ``ft-magic VERB``: one table of rows, from which help and parsing come.

A verb's function gets parsed arguments and the notebook's variables (None on the command line) and returns
what is to be shown. ``live`` marks verbs that show their work themselves: nothing shows it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ft_magic.axes import METHODS, SIGNALS, UPDATES
from ft_magic.data.reading.asked import PARTS
from ft_magic.shell import actions, advise, calls, judging, making, memory, reading
from ft_magic.shell.verb import Argument, Verb
from ft_magic.template.script import TRAIN_ON

_RUN = Argument(
    ("run",), "variable, name or folder of a run; by default the last one", "run", settings={"nargs": "?"}
)
_KEYS = Argument(("pairs",), "settings of the run", "keys", settings={"nargs": "*", "metavar": "key=value"})
_SPEC = Argument(("--file",), "YAML file with further settings", "file", settings={"metavar": "SPEC"})


def _option(
    flags: str, text: str, kind: str = "", choices: tuple[str, ...] = (), **settings: Any
) -> Argument:
    return Argument(tuple(flags.split()), text, kind, choices, settings)


def _flag(name: str, text: str) -> Argument:
    return _option(name, text, action="store_true")


_ROWS = (
    Verb(
        "doctor",
        "What this machine can do, what is missing, and the one cell that fixes it.",
        (),
        actions.doctor,
    ),
    Verb(
        "data",
        "Read data, detect its shape, normalise it and show a report card.",
        (
            Argument(("source",), "path, URL or hub id; $name = a variable", "value"),
            _option("--signal", "what the rows are, where detection is wrong", choices=tuple(SIGNALS)),
            _option(
                "--columns", "which column is what: prompt=question,completion=answer", metavar="A=B,..."
            ),
            _option("--limit", "read the first N rows only", type=int, metavar="N"),
            *(_option(f"--{part}", f"of {what}", metavar=part.upper()) for part, what in PARTS.items()),
            _option("--fix", "repair these findings: duplicates,pii,...", metavar="A,B,..."),
            _option("--heldout", "data kept for evaluation: is any of it in here?", "value", metavar="DATA"),
            _option("--model", "model whose tokens lengths are counted in", "value", metavar="MODEL"),
            _option("--max-length", "tokens after which training cuts a row", type=int, metavar="N"),
        ),
        reading.data,
    ),
    Verb(
        "template",
        "Check on every row that the chat template trains what you think it trains.",
        (
            Argument(("model",), "'demo', a hub id, a folder, a GGUF file, or $run", "value"),
            Argument(
                ("data",),
                "path, URL or hub id; $name = a variable; without it a small conversation",
                "value",
                settings={"nargs": "?"},
            ),
            _option("--row", "show this row token by token", type=int, metavar="N"),
            _option("--train-on", "what carries loss", choices=TRAIN_ON, default="answers"),
            _option("--max-length", "where rows will be cut, in tokens", type=int, metavar="N"),
            _option(
                "--fix", "checks to repair, the data is returned: truncated,special_text", metavar="NAME,..."
            ),
        ),
        actions.template,
    ),
    Verb(
        "memory",
        "Estimate the peak memory of a training step, and what fits.",
        (
            Argument(
                ("model",),
                "'demo', a hub id, a folder or a config; $name = a variable",
                "value",
                settings={"nargs": "?"},
            ),
            _option("--gpu", "card it should fit on, such as T4, 4090 or A100-80", metavar="CARD"),
            _option("--method", "how it learns", choices=tuple(METHODS), metavar="METHOD"),
            _option("--update", "which weights change", choices=tuple(UPDATES), metavar="UPDATE"),
            _option("--max-length", "tokens of the longest sequence", type=int, metavar="N"),
            _option("--micro-batch-size", "sequences at once", type=int, metavar="N"),
            _option("--lora-r", "rank", type=int, metavar="N"),
            _option("--optim", "optimizer, such as adamw_8bit", metavar="NAME"),
            _option("--precision", "bf16, fp16, fp32 or pure", choices=("bf16", "fp16", "fp32", "pure")),
            _option("--attention", "how attention runs", choices=("sdpa", "flash", "eager")),
            _option(
                "--engine",
                "closed: from the config alone; trace: the installed libraries' own step, some 20 s",
                choices=("closed", "trace"),
            ),
            _flag("--no-checkpointing", "keep activations instead of computing them again"),
            _flag("--table", "the textbook table: 7B, 13B and 70B on usual cards"),
        ),
        memory.memory,
    ),
    Verb(
        "advise",
        "Prompting, retrieval or fine-tuning? Try the model and say why.",
        (
            Argument(
                ("model",),
                "'demo', a hub id, a folder, $run, or $settings of an endpoint",
                "value",
                settings={"nargs": "?"},
            ),
            Argument(("data",), "path, URL or hub id; $name = a variable", "value", settings={"nargs": "?"}),
            _option("--needs", "what to take from the rows", choices=("format", "style", "facts", "both")),
            _option(
                "--facts-change",
                "how often facts in the answers change",
                choices=("daily", "weekly", "monthly", "yearly", "never"),
            ),
            _option("--runtime", "where the model will answer", choices=("cloud", "own")),
            _option("--goal", "the task in words; a cell's body says it too", metavar="TEXT"),
            _option("--target", "score from which answers are good enough", type=float, metavar="SHARE"),
            _option(
                "--metric",
                "what decides; by default what fits the answers",
                choices=("fields", "json", "label", "number", "exact", "f1", "facts"),
                metavar="NAME",
            ),
            _option("--shots", "examples in a prompt", type=int, metavar="N"),
            _option("--examples", "held-out rows to try", type=int, metavar="N"),
            _option("--heldout", "rows of your own to try", "value", metavar="DATA"),
            _option("--seed", "decides which rows are tried and shown", type=int, metavar="N"),
            _flag("--no-measure", "count the rows and ask no model"),
            _flag("--rules", "show the table of rules alone"),
            _option("-o --out", "variable that gets the advice", metavar="NAME"),
        ),
        advise.advise,
        "goal",
    ),
    Verb(
        "plan",
        "Show what a run would do, every number with its reason.",
        (_KEYS, _SPEC),
        actions.plan,
        "pairs",
    ),
    Verb(
        "finetune",
        "Train as a YAML file says.",
        (
            Argument(("file",), "YAML file with the settings", "file", settings={"metavar": "spec.yaml"}),
            _KEYS,
            _flag("--detach", calls.OPTIONS["--detach"]),
            _flag("--dry-run", calls.OPTIONS["--dry-run"]),
        ),
        actions.finetune,
        live=True,
    ),
    Verb("runs", "List the runs, the latest first.", (), actions.runs),
    Verb("methods", "Show which method, update and backend go together, and why not.", (), actions.methods),
    Verb("attach", "Follow a run again, from any notebook or terminal.", (_RUN,), actions.attach, live=True),
    Verb(
        "stop",
        "Finish the step, save a checkpoint and stop.",
        (_RUN, _flag("--now", "stop at once; the last checkpoint stays")),
        actions.stop,
    ),
    Verb(
        "resume",
        "Go on exactly where a run stopped.",
        (_RUN, _flag("--detach", calls.OPTIONS["--detach"])),
        actions.resume,
        live=True,
    ),
    Verb(
        "logs",
        "Show the last lines a run's worker printed.",
        (_RUN, _option("-n --lines", "how many lines", type=int, default=40, metavar="N")),
        actions.logs,
    ),
    Verb(
        "evaluate",
        "Measure the held-out rows and show samples, before and after.",
        (
            _RUN,
            _option("--samples", "held-out prompts to answer", type=int, default=8, metavar="N"),
            _option(
                "--score",
                "$fn with fn(prompt, answer, expected) -> number, or $reward_run",
                kind="value",
                metavar="$FN",
            ),
        ),
        actions.evaluate,
    ),
    Verb(
        "compare",
        "Show the answers before and after training side by side.",
        (_RUN,),
        actions.compare,
        "prompts",
    ),
    Verb(
        "judge",
        "Compare two answers to each prompt by a model, each pair in both orders.",
        (
            Argument(("rows",), "rows with prompt, a, b, or preference rows; $name = a variable", "value"),
            _option("--judge", "a model, $run, or $settings of an endpoint", "value", required=True),
            _option("--criteria", "what makes an answer better; a cell's body says it too", metavar="TEXT"),
            _option("--votes", "your own verdicts: $list of a, b or tie", "value", metavar="$LIST"),
            _option("-o --out", "variable or .jsonl file that gets the decided pairs", metavar="NAME"),
        ),
        judging.judge,
        "criteria",
    ),
    Verb(
        "synthesise",
        "Let a model write rows like some examples, or from documents.",
        (
            Argument(
                ("seeds",),
                "examples: path, URL or hub id; $name = a variable; none with --documents",
                "value",
                settings={"nargs": "?"},
            ),
            _option("--documents", "texts to ask questions about: file, folder or $name", "value"),
            _option("--count", "rows wanted", type=int, default=32, metavar="N"),
            _option(
                "--model",
                "'demo', a hub id, a folder, $run, or $settings of an endpoint",
                "value",
                default="demo",
            ),
            _option(
                "--signal", "what the rows are", choices=("demo", "prompt", "pair", "text"), default="demo"
            ),
            _option("--instructions", "what to write; a cell's body says it too", metavar="TEXT"),
            _option("--seed", "decides what each request shows", type=int, default=0, metavar="N"),
            _option("--patience", "stop after N requests in a row without a new row", type=int, metavar="N"),
            _option("-o --out", "variable or .jsonl file that gets the rows", metavar="NAME"),
        ),
        making.synthesise,
        "instructions",
    ),
    Verb(
        "review",
        "Accept, edit or reject rows; each decision is on disk at once.",
        (
            Argument(("data",), "path, URL or hub id; $name = a variable", "value"),
            _option("--accept", "rows to accept: 0,3,5-9 or all", metavar="ROWS"),
            _option("--reject", "rows to reject, likewise", metavar="ROWS"),
            _option("--undo", "rows to decide about anew, likewise", metavar="ROWS"),
            _option("-o --out", "variable or .jsonl file that gets the accepted rows", metavar="NAME"),
        ),
        making.review,
    ),
    Verb("merge", "Fold the adapter into the base and write a plain model folder.", (_RUN,), actions.merge),
    Verb(
        "export",
        "Merge, quantize, write files for other programs and certify that they agree.",
        (
            _RUN,
            _option(
                "--gguf",
                "GGUF types to write: q4_k_m,q8_0",
                kind="gguf",
                metavar="TYPE,...",
                default="q4_k_m",
            ),
            _flag("--ollama", "write an Ollama Modelfile as well"),
            Argument(
                ("--folder",),
                "where to write; by default the run's folder",
                "file",
                settings={"metavar": "PATH"},
            ),
        ),
        actions.export,
    ),
    Verb(
        "chat",
        "Talk to a run's model, or to the GGUF file you will ship.",
        (
            _RUN,
            _option("--gguf", "talk to the GGUF file", kind="gguf", nargs="?", const="", metavar="TYPE"),
            _option("--say", "one message; the answer is shown", metavar="TEXT"),
        ),
        actions.chat,
        "say",
    ),
    Verb("report", "Write the run's report.html: asked, planned, happened, proven.", (_RUN,), actions.report),
    Verb("unload", "End the process that keeps a model loaded and free its memory.", (), actions.unload),
    Verb("script", "Show the same run as a plain TRL script.", (_RUN,), actions.script),
)
VERBS: Mapping[str, Verb] = MappingProxyType({row.name: row for row in _ROWS})
