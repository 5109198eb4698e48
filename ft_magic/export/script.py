"""The same run as a plain TRL script that needs no ft_magic: to read, to learn from, to leave with."""

from __future__ import annotations

from pathlib import Path

from ft_magic.backends.arguments import training_arguments
from ft_magic.errors import ExportError
from ft_magic.export.script_update import update_lines
from ft_magic.planning.plans import Plan
from ft_magic.planning.smaller import with_settings

_HEAD = '''"""{title}

The same training as run {name}, in plain TRL. Rows: {rows}
"""

import json

import torch
from datasets import Dataset
from transformers import {model_class}, AutoTokenizer
from {module} import {config}, {trainer}
{imports}
tokenizer = AutoTokenizer.from_pretrained({model!r})
model = {model_class}.from_pretrained({model!r}, dtype={dtype}{more})
{prepared}
rows = [json.loads(line) for line in open({rows!r}, encoding="utf-8")]
'''

_DEMO = '''

def turns(row):
    """The conversation of a row."""
    return row.get("messages") or [
        {"role": "user", "content": row["prompt"]},
        {"role": "assistant", "content": row["completion"]},
    ]

{rows_of}
def plain(said):
    """A turn without its mark of what is trained."""
    return {key: value for key, value in said.items() if key != "train"}


data = Dataset.from_list([made for row in rows for made in examples(row)])
'''
_ONE_COMPLETION = '''
def examples(row):
    """One example an answer: TRL trains one completion a row, so a conversation of several becomes several."""
    said = turns(row)
    answers = [i for i, turn in enumerate(said) if turn["role"] == "assistant" and turn.get("train", True)]
    said, tools = [plain(turn) for turn in said], {"tools": row["tools"]} if row.get("tools") else {}
    return [{"prompt": said[:i], "completion": said[i : i + 1], **tools} for i in {answers}]

'''
_WHOLE = '''
def examples(row):
    """The whole conversation: every token is trained."""
    tools = {"tools": row["tools"]} if row.get("tools") else {}
    return [{"messages": [plain(turn) for turn in turns(row)], **tools}]

'''
# train_on -> how a demonstration becomes what TRL trains
_EXAMPLES = {
    "answers": _ONE_COMPLETION.replace("{answers}", "answers"),
    "last": _ONE_COMPLETION.replace("{answers}", "answers[-1:]"),
    "all": _WHOLE,
}
_SHAPES = {
    "demo": _DEMO,
    "text": "data = Dataset.from_list(rows)\n",
    "pair": '''

def turns(value, role):
    """Plain text as one turn; turns as they are."""
    return [{"role": role, "content": value}] if isinstance(value, str) else value


data = Dataset.from_list(
    [
        {
            "prompt": turns(row["prompt"], "user"),
            "chosen": turns(row["chosen"], "assistant"),
            "rejected": turns(row["rejected"], "assistant"),
        }
        for row in rows
    ]
)
''',
    "label": '''

def turns(value, role):
    """Plain text as one turn; turns as they are."""
    return [{"role": role, "content": value}] if isinstance(value, str) else value


data = Dataset.from_list(
    [
        {
            "prompt": turns(row["prompt"], "user"),
            "completion": turns(row["completion"], "assistant"),
            "label": row["label"],
        }
        for row in rows
    ]
)
''',
}

_TAIL = """
trainer = {trainer}(
    model=model,
    args={config}(
{arguments}    ),
    train_dataset=data,
    processing_class=tokenizer,
{extra})
trainer.train()
{save}
"""


def script(plan: Plan, run_folder: Path) -> str:
    """Return Python source that trains the same rows with the same settings.

    Args:
        plan: of the run.
        run_folder: where its rows are.

    Raises:
        ExportError: the training has parts that TRL and PEFT do not, or is not known before it has run.
    """
    _check(plan)
    plan = with_settings(
        plan, padding_free=False
    )  # it learns the same, and without it TRL cuts long rows itself
    settings, method = plan.settings, plan.method
    (module, trainer), config = method.trainer.split(":"), method.config.split(":")[1]
    update = update_lines(plan, run_folder)
    imports = "".join(f"{line}\n" for line in update.imports)
    more = ""
    if plan.update.bits:
        imports += "from transformers import BitsAndBytesConfig\n"
        more = f", quantization_config={_NF4}"
    if method.score_head:
        more += ", num_labels=1"
    if settings.attention != "sdpa":
        more += f", attn_implementation={settings.attention!r}"
    values = training_arguments(plan) | dict(plan.spec.trainer)
    head = _HEAD.format(
        title=f"{method.title} {plan.update.title}",
        name=run_folder.name,
        rows=str(run_folder / "data" / "train.jsonl"),
        module=module,
        config=config,
        trainer=trainer,
        imports=imports,
        model=plan.model_folder,
        model_class="AutoModelForSequenceClassification" if method.score_head else "AutoModelForCausalLM",
        dtype="torch.float32" if settings.weight_bytes == 4 else f"torch.{_TORCH[settings.precision]}",
        more=more,
        prepared=update.prepared,
    )
    arguments = "".join(
        f"        {name}={value!r},\n" for name, value in ({"output_dir": "out"} | values).items()
    )
    tail = _TAIL.format(
        trainer=trainer, config=config, arguments=arguments, extra=update.argument, save=update.save
    )
    shape = _SHAPES[method.signals[0]].replace("{rows_of}", _EXAMPLES[plan.spec.train_on])
    return head + shape + tail


def _check(plan: Plan) -> None:
    """Refuse what a plain TRL script cannot say."""
    method, update = plan.method, plan.update
    problem = ""
    if not method.trainer.startswith("trl"):
        problem = f"method '{method.name}' is trained by ft_magic's own loop, which TRL does not have."
    elif method.generates:
        problem = (
            f"method '{method.name}' answers while it trains, with rewards or models that are no part of TRL."
        )
    elif update.peft.startswith("ft_magic") and not update.merges:
        problem = f"PEFT has no layers for update '{update.name}', so a plain TRL script cannot train them."
    elif update.virtual_tokens and method.feed != "labels":
        problem = (
            f"TRL lines up virtual tokens with its logits in supervised training only, not in {method.name}."
        )
    if problem:
        raise ExportError(
            problem, "spec.yaml in the run folder is the same run: ft-magic finetune spec.yaml."
        )


_NF4 = 'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)'
_TORCH = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
