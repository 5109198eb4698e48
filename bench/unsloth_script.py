"""The same work with Unsloth, on a machine without a GPU through its CPU backend.

python bench/unsloth_script.py WORK.json
"""

from __future__ import annotations

import sys

from unsloth import FastLanguageModel  # isort: skip  # it rewrites the libraries below when imported
import torch
from datasets import Dataset
from meter import Meter
from trl import SFTTrainer
from trl_script import arguments
from work import Work, conversations

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main() -> None:
    work = Work.read(sys.argv[1])
    model, tokenizer = FastLanguageModel.from_pretrained(
        work.model, max_seq_length=work.max_length_tokens, dtype=torch.float32, load_in_4bit=False
    )
    own = {} if work.checkpointing is None else {"use_gradient_checkpointing": work.checkpointing}
    model = FastLanguageModel.get_peft_model(
        model,
        r=work.rank,
        lora_alpha=2 * work.rank,
        lora_dropout=0,
        target_modules=TARGETS,
        random_state=work.seed,
        **own,
    )
    trainer = SFTTrainer(
        model=model,
        args=arguments(work),
        train_dataset=Dataset.from_list(conversations(work)),
        processing_class=tokenizer,
        callbacks=[Meter(work.result, work.began_t)],
    )
    trainer.train()


if __name__ == "__main__":
    main()
