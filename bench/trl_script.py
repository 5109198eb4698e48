"""Supervised LoRA fine-tuning with plain TRL as its documentation shows it: the measure for the others.

python bench/trl_script.py WORK.json
"""

from __future__ import annotations

import sys

import torch
from datasets import Dataset
from meter import Meter
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer
from work import Work, conversations


def main() -> None:
    work = Work.read(sys.argv[1])
    torch.manual_seed(work.seed)
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(work.model, dtype=torch.float32),
        args=arguments(work),
        train_dataset=Dataset.from_list(conversations(work)),
        processing_class=AutoTokenizer.from_pretrained(work.model),
        peft_config=LoraConfig(
            r=work.rank, lora_alpha=2 * work.rank, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        callbacks=[Meter(work.result, work.began_t)],
    )
    if work.stop_is_last:
        stop = trainer.processing_class.eos_token_id
        trainer.train_dataset = trainer.train_dataset.map(
            lambda row: {"labels": up_to_stop(row["labels"], stop)}
        )
    trainer.train()


def arguments(work: Work) -> SFTConfig:
    """TRL's defaults but for what makes the work the same everywhere, and fp32 as on any CPU."""
    own = {} if work.checkpointing is None else {"gradient_checkpointing": work.checkpointing}
    return SFTConfig(
        output_dir=work.folder,
        max_steps=work.steps,
        per_device_train_batch_size=work.batch_examples,
        learning_rate=work.learning_rate,
        max_length=work.max_length_tokens,
        seed=work.seed,
        logging_steps=1,
        use_cpu=True,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
        **own,
    )


def up_to_stop(labels: list[int], stop: int) -> list[int]:
    """Leave what the template writes after the last stop token out of the loss."""
    last = len(labels) - 1 - labels[::-1].index(stop) if stop in labels else len(labels)
    return [label if place <= last else -100 for place, label in enumerate(labels)]


if __name__ == "__main__":
    main()
