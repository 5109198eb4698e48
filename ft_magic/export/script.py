"""The same run as a plain TRL script that needs no ft_magic: to read, to learn from, to leave with."""

from __future__ import annotations

from pathlib import Path

from ft_magic.backends.arguments import training_arguments
from ft_magic.planning.plans import Plan

_HEAD = '''"""{title}

The same training as run {name}, in plain TRL. Rows: {rows}
"""

import json

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import {config}, {trainer}
{imports}
tokenizer = AutoTokenizer.from_pretrained({model!r})
model = AutoModelForCausalLM.from_pretrained({model!r}, dtype={dtype}{quantized})

rows = [json.loads(line) for line in open({rows!r}, encoding="utf-8")]
'''

_SHAPES = {
    "demo": '''

def conversation(row):
    """Prompt and completion turns: the loss is on the completion alone."""
    turns = row.get("messages") or [
        {"role": "user", "content": row["prompt"]},
        {"role": "assistant", "content": row["completion"]},
    ]
    return {"prompt": turns[:-1], "completion": turns[-1:]}


data = Dataset.from_list([conversation(row) for row in rows])
''',
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
}

_TAIL = """
trainer = {trainer}(
    model=model,
    args={config}(
{arguments}    ),
    train_dataset=data,
    processing_class=tokenizer,
{adapter})
trainer.train()
trainer.save_model("result")
"""


def script(plan: Plan, run_folder: Path) -> str:
    """Return Python source that trains the same rows with the same settings.

    Args:
        plan: of the run.
        run_folder: where its rows are.
    """
    settings = plan.settings
    trainer, config = plan.method.trainer.split(":")[1], plan.method.config.split(":")[1]
    imports = "from peft import LoraConfig\n" if plan.update.peft else ""
    quantized = ""
    if plan.update.bits:
        imports += "from transformers import BitsAndBytesConfig\n"
        quantized = f", quantization_config={_NF4}"
    values = training_arguments(plan) | dict(plan.spec.trainer)
    head = _HEAD.format(
        title=f"{plan.method.title} {plan.update.title}",
        name=run_folder.name,
        rows=str(run_folder / "data" / "train.jsonl"),
        config=config,
        trainer=trainer,
        imports=imports,
        model=plan.model_folder,
        dtype="torch.float32" if settings.weight_bytes == 4 else f"torch.{_TORCH[settings.precision]}",
        quantized=quantized,
    )
    arguments = "".join(
        f"        {name}={value!r},\n" for name, value in ({"output_dir": "out"} | values).items()
    )
    tail = _TAIL.format(trainer=trainer, config=config, arguments=arguments, adapter=_adapter(plan))
    return head + _SHAPES[plan.method.signal] + tail


_NF4 = 'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)'
_TORCH = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def _adapter(plan: Plan) -> str:
    if not plan.update.peft:
        return ""
    targets = plan.spec.target_modules or "all-linear"
    more = "".join(f", {name}={value!r}" for name, value in plan.update.settings.items())
    return (
        f"    peft_config=LoraConfig(r={plan.spec.lora_r}, lora_alpha={plan.settings.lora_alpha}, "
        f'lora_dropout={plan.spec.lora_dropout}, target_modules={targets!r}, task_type="CAUSAL_LM"{more}),\n'
    )
