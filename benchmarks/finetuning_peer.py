"""TRL's SFTTrainer with PEFT, run by the peers' own Python: SETTINGS, a JSON object on one line.

It tunes the model folder `model` on `rows`, a JSONL file of prompt and completion, in bf16 (autocast) and prints
{"rate": real tokens, without padding, a second of a step (median), "trainable": …}.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

SKIP = 3
"""Steps that warm up and are not counted."""


class Timed(SFTTrainer):
    """Notes what each step read and took; what it does is the trainer's own."""

    marks: list = []

    def training_step(self, model, inputs, *args, **more):
        real = int(inputs["attention_mask"].sum()) if "attention_mask" in inputs else inputs["input_ids"].numel()
        self.marks.append((time.perf_counter(), real))
        return super().training_step(model, inputs, *args, **more)


def main():
    s = json.loads(sys.argv[1])
    tokenizer = AutoTokenizer.from_pretrained(s["model"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    rows = [json.loads(line) for line in Path(s["rows"]).read_text(encoding="utf-8").splitlines()]
    lora = LoraConfig(
        r=s["rank"],
        lora_alpha=s["alpha"],
        lora_dropout=0.0,
        target_modules=["c_attn", "c_proj", "c_fc"],
        fan_in_fan_out=True,
        task_type="CAUSAL_LM",
    )
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=s["rows_a_step"],
            max_steps=s["steps"] + 1,  # the last one has no end
            max_length=s["length"],
            learning_rate=s["rate"],
            seed=s["seed"],
            use_cpu=True,
            bf16=True,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to=[],
            logging_steps=100,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = Timed(
            model=AutoModelForCausalLM.from_pretrained(s["model"]),
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=lora if s["lora"] else None,
        )
        trainer.train()
    steps = [(after[0] - before[0], before[1]) for before, after in zip(Timed.marks, Timed.marks[1:])][SKIP:]
    rate = sum(tokens for _, tokens in steps) / sum(seconds for seconds, _ in steps)
    trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    print(json.dumps({"rate": rate, "step": statistics.median(s for s, _ in steps), "trainable": trainable}))


if __name__ == "__main__":
    main()
