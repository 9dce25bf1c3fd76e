"""Train demo-rm, a small real reward model, and measure it on pairs it never saw.

demo-rm is a LlamaForSequenceClassification with one label, its own BPE tokenizer and its own chat
template; the reward is read at the `<|end|>` that closes the last assistant turn. It learns
Bradley-Terry preferences (and, beside them, to predict the next token of the chosen side) from

* HH-RLHF harmless-base, the test file (MIT): human preferences;
* answers of SmolLM2-135M-Instruct (Apache-2.0, made by scripts/smollm2.py) to prompts composed
  below: the lower temperature wins;
* HH chosen answers and SmolLM2 answers against damaged versions of themselves.

Held out, never trained on: every HH conversation whose first human turn, and every composed
prompt whose topic, falls into the fifth that `held_out` marks by a hash; all of LLMBar Natural.
These pairs are written to `--heldout`, for measuring, never to the repository.

    python scripts/train_demo_rm.py --smollm2 .evalkit/smollm2 --out evalkit/reward_models/demo-rm
"""

import argparse
import gzip
import hashlib
import json
import math
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
from sample_completions import CHECKPOINTS, load, sample
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional
from transformers import (
    AutoModel,
    AutoTokenizer,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

Messages = list[dict[str, str]]

SEED = 20240
COMPOSED_PROMPTS = 320
VOCABULARY = 5120
MAX_TOKENS = 384  # longer conversations are left out of training, not of the held-out pairs
BATCH_PAIRS = 32
PEAK_LR = 1.5e-3
LM_WEIGHT = 1.0
SPECIAL = ["<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] not in ['system', 'user', 'assistant'] -%}
{{- raise_exception('unknown role: ' + message['role']) -}}
{%- endif -%}
{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""
TEMPLATES = [
    "What is {}?",
    "Explain {} to a ten-year-old.",
    "Give me three tips about {}.",
    "Write a short story about {}.",
    "Write a poem about {}.",
    "What are the advantages and disadvantages of {}?",
    "I know nothing about {}. Where should I start?",
    "Write a polite email to a colleague about {}.",
    "How has {} changed over the last hundred years?",
    "List five facts about {}.",
    "Why do people care about {}?",
    "Can {} be dangerous? Please answer in two sentences.",
    "My friend asked me about {} and I had no idea. What should I say?",
    "Suggest a title and an opening sentence for an article on {}.",
    "How much money and time does {} take?",
    "Summarize what a beginner must know about {}.",
    "What equipment do I need for {}?",
    "Who invented {}, and when?",
    "Describe {} without using any technical words.",
    "Plan a one-day school lesson about {}.",
]
TOPICS = [
    "growing tomatoes", "baking bread", "the solar system", "learning the piano", "black holes",
    "riding a bicycle", "electric cars", "saving for retirement", "keeping a cat", "chess",
    "the French Revolution", "writing a resume", "volcanoes", "meditation", "sorting algorithms",
    "public libraries", "running a marathon", "photosynthesis", "job interviews", "beekeeping",
    "the Roman Empire", "coffee", "renewable energy", "learning Spanish", "vaccines",
    "watercolor painting", "camping in the rain", "the stock market", "Python programming",
    "sleep", "the Great Wall of China", "cooking pasta", "dinosaurs", "home insurance",
    "public speaking", "the human heart", "knitting", "airports", "fractions", "swimming",
    "antibiotics", "the moon landing", "raising chickens", "databases", "earthquakes",
    "moving to a new city", "tea ceremonies", "jazz", "plumbing", "glaciers",
]  # fmt: skip


class Pair(NamedTuple):
    """Two last turns for one prompt, the first better."""

    kind: str
    prompt: Messages
    chosen: str
    rejected: str

    def sides(self) -> tuple[Messages, Messages]:
        """The chosen and the rejected conversation."""
        return tuple(
            [*self.prompt, {"role": "assistant", "content": text}]
            for text in (self.chosen, self.rejected)
        )


class Answer(NamedTuple):
    """A prompt and one good answer, to be damaged."""

    prompt: Messages
    text: str


def held_out(key: str) -> bool:
    """The split rule: a fifth of all keys, by a hash, so that it needs no list."""
    digest = hashlib.sha256(f"demo-rm heldout {key}".encode()).digest()
    return int.from_bytes(digest[:4]) % 5 == 0


def user(text: str) -> Messages:
    return [{"role": "user", "content": text}]


def read_hh(path: Path) -> Iterator[Pair]:
    """HH pairs of proper conversations that differ in the last assistant turn alone."""

    def turns(text: str) -> Messages:
        parts = re.split(r"\n\n(Human|Assistant): ?", text)[1:]
        roles = {"Human": "user", "Assistant": "assistant"}
        return [
            {"role": roles[speaker], "content": content.strip()}
            for speaker, content in zip(parts[::2], parts[1::2], strict=True)
        ]

    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            chosen, rejected = turns(row["chosen"]), turns(row["rejected"])
            roles = [turn["role"] for turn in chosen]
            if (
                chosen[:-1] == rejected[:-1]
                and chosen[-1] != rejected[-1]
                and roles == ["user", "assistant"] * (len(roles) // 2)
                and rejected[-1]["role"] == "assistant"
                and all(turn["content"] for turn in [*chosen, rejected[-1]])
            ):
                yield Pair("hh", chosen[:-1], chosen[-1]["content"], rejected[-1]["content"])


def read_llmbar(path: Path) -> Iterator[Pair]:
    for row in json.loads(path.read_text("utf-8")):
        best, worst = row["label"], 3 - row["label"]
        yield Pair(
            "llmbar_natural", user(row["input"]), row[f"output_{best}"], row[f"output_{worst}"]
        )


def composed_samples(cache: Path, smollm2: Path, seed: int) -> list[dict]:
    """Composed prompts with one SmolLM2 answer per checkpoint setting; kept in `cache`."""
    if not cache.exists():
        combinations = [(topic, form) for topic in TOPICS for form in TEMPLATES]
        chosen = random.Random(seed).sample(combinations, COMPOSED_PROMPTS)
        rows = [{"topic": topic, "prompt": form.format(topic)} for topic, form in chosen]
        model, tokenizer = load(smollm2)
        for name, settings in CHECKPOINTS.items():
            prompts = [user(row["prompt"]) for row in rows]
            for row, text in zip(
                rows, sample(model, tokenizer, prompts, settings, seed), strict=True
            ):
                row[name] = text
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return [json.loads(line) for line in cache.read_text("utf-8").splitlines()]


def sentences(text: str) -> list[str]:
    """Sentences and, between them, the white space that parts them."""
    return re.split(r"(?<=[.!?])(\s+)", text)


def words(text: str) -> list[str]:
    """Words and, between them, the white space that parts them."""
    return re.split(r"(\s+)", text)


def first(parts: list[str], count: int) -> str:
    """The first `count` sentences or words."""
    return "".join(parts[: 2 * count - 1])


def shuffled(parts: list[str], rng: random.Random) -> str:
    """Sentences or words in random order; the white space stays, to give nothing away."""
    units = parts[::2]
    parts[::2] = rng.sample(units, len(units))
    return "".join(parts)


def whole_sentences(text: str) -> str:
    """The text up to its last full stop: sampling stops at a token limit."""
    end = max(text.rfind(mark) for mark in ".!?")
    return text[: end + 1] if end > 0 else text


# Damages: each takes a good answer, the answer to another prompt and a generator. Two lengthen,
# two shorten and the others keep the length, so that length alone tells nothing.


def mismatch(text: str, other: str, rng: random.Random) -> str:
    return other


def shuffle_words(text: str, other: str, rng: random.Random) -> str:
    return shuffled(words(text), rng)


def shuffle_sentences(text: str, other: str, rng: random.Random) -> str:
    return shuffled(sentences(text), rng)


def swap_words(text: str, other: str, rng: random.Random) -> str:
    """Replace some words with words of the other answer."""
    share, pool, parts = rng.uniform(0.1, 0.5), words(other)[::2], words(text)
    parts[::2] = [rng.choice(pool) if rng.random() < share else word for word in parts[::2]]
    return "".join(parts)


def noise(text: str, other: str, rng: random.Random) -> str:
    """Replace, drop or double characters."""
    share = rng.uniform(0.03, 0.2)

    def hit(character: str) -> str:
        if rng.random() > share:
            return character
        return rng.choice([rng.choice("abcdefghijklmnopqrstuvwxyz  "), "", character * 2])

    return "".join(map(hit, text))


def loop(text: str, other: str, rng: random.Random) -> str:
    """Get stuck on one sentence."""
    parts = sentences(text)
    stuck = rng.randrange(0, len(parts), 2)
    gap = parts[1] if len(parts) > 1 else " "
    return "".join(parts[:stuck]) + gap.join([parts[stuck]] * rng.randint(2, 6))


def tangent(text: str, other: str, rng: random.Random) -> str:
    """Run on into the answer to another prompt."""
    parts = sentences(text)
    gap = parts[1] if len(parts) > 1 else " "
    return first(parts, rng.randint(1, (len(parts) + 1) // 2)) + gap + other


def cut(text: str, other: str, rng: random.Random) -> str:
    parts = words(text)
    count = (len(parts) + 1) // 2
    return first(parts, max(1, int(count * rng.uniform(0.1, 0.9)))).rstrip(".!?")


def stub(text: str, other: str, rng: random.Random) -> str:
    return rng.choice(["", "Yes.", "No.", "Ok", "What?", rng.choice(words(text)[::2])])


Damage = Callable[[str, str, random.Random], str]
DAMAGES: tuple[Damage, ...] = (
    mismatch, shuffle_words, shuffle_sentences, swap_words, noise, loop, tangent, cut, stub,
)  # fmt: skip


def damaged(answer: Answer, answers: list[Answer], damage: Damage, rng: random.Random) -> Pair:
    """One answer, at times shortened to its first sentences, against a damaged version."""
    text = answer.text
    if rng.random() < 0.5:
        parts = sentences(text)
        text = first(parts, rng.randint(1, (len(parts) + 1) // 2))
    other = rng.choice(answers)
    while other.prompt == answer.prompt:
        other = rng.choice(answers)
    return Pair(damage.__name__, answer.prompt, text, damage(text, other.text, rng))


class Material(NamedTuple):
    """One side of the split: HH pairs, pairs of two temperatures, answers to be damaged."""

    hh: list[Pair]
    temperature: list[Pair]
    answers: list[Answer]


def material(hh: list[Pair], samples: list[dict], want_held_out: bool) -> Material:
    hh = [pair for pair in hh if held_out(pair.prompt[0]["content"]) == want_held_out]
    samples = [row for row in samples if held_out(row["topic"]) == want_held_out]
    answers = [Answer(pair.prompt, pair.chosen) for pair in hh]
    temperature = []
    for row in samples:
        prompt = user(row["prompt"])
        hot, warm, cold = (row[name] for name in CHECKPOINTS)
        temperature.append(Pair("temperature_low_mid", prompt, cold, warm))
        temperature.append(Pair("temperature_mid_high", prompt, warm, hot))
        answers += [Answer(prompt, whole_sentences(text)) for text in (cold, warm)]
    return Material(hh, temperature, answers)


def training_pair(train: Material, rng: random.Random) -> Pair:
    """A fifth HH, a fifth temperature, the rest freshly damaged answers."""
    draw = rng.random()
    if draw < 0.2:
        return rng.choice(train.hh)
    if draw < 0.4:
        return rng.choice(train.temperature)
    pair = damaged(rng.choice(train.answers), train.answers, rng.choice(DAMAGES), rng)
    if rng.random() < 0.1:
        system = {"role": "system", "content": "You are a helpful assistant."}
        pair = pair._replace(prompt=[system, *pair.prompt])
    return pair


def build_tokenizer(train: Material) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, learnt from the training texts, that adds one `<|bos|>`."""
    texts = [turn["content"] for pair in train.hh for turn in pair.sides()[0]]
    texts += [answer.text for answer in train.answers if len(answer.prompt) == 1]
    texts += [form.format(topic) for form in TEMPLATES for topic in TOPICS if not held_out(topic)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    bpe.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", bpe.token_to_id("<|bos|>"))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|bos|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=SPECIAL[3:],
        model_max_length=8192,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def projected_embeddings(
    tokenizer: PreTrainedTokenizerFast, smollm2: Path, size: int
) -> torch.Tensor:
    """SmolLM2's input embeddings of each token's text, on their `size` principal components."""
    teacher = AutoTokenizer.from_pretrained(smollm2)
    table = AutoModel.from_pretrained(smollm2).get_input_embeddings().weight.detach()
    rows = []
    for token_id in range(len(tokenizer)):
        ids = teacher(tokenizer.decode([token_id]), add_special_tokens=False)["input_ids"]
        rows.append(table[ids].mean(0) if ids else table.mean(0))
    rows = torch.stack(rows)
    rows -= rows.mean(0)
    components = torch.linalg.svd(rows, full_matrices=False).Vh[:size]
    projected = rows @ components.T
    return projected / projected.std() * 0.05


def build_model(
    tokenizer: PreTrainedTokenizerFast, smollm2: Path
) -> LlamaForSequenceClassification:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=8192,
        num_labels=1,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=False,
    )
    model = LlamaForSequenceClassification(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(projected_embeddings(tokenizer, smollm2, 128))
    return model


def token_ids(tokenizer: PreTrainedTokenizerFast, messages: Messages) -> list[int]:
    return tokenizer(tokenizer.apply_chat_template(messages, tokenize=False))["input_ids"]


def forward(
    model: LlamaForSequenceClassification, batch: list[list[int]]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Right-padded ids, all hidden states, and the rewards at each row's last token."""
    pad = model.config.pad_token_id
    longest = max(map(len, batch))
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in batch])
    hidden = model.model(input_ids=ids, attention_mask=(ids != pad).long()).last_hidden_state
    last = torch.tensor([len(row) - 1 for row in batch])
    rewards = model.score(hidden[torch.arange(len(batch)), last]).squeeze(-1)
    return ids, hidden, rewards


def pair_loss(
    model: LlamaForSequenceClassification, chosen: list[list[int]], rejected: list[list[int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The Bradley-Terry loss, and the next-token loss on the chosen side."""
    ids, hidden, rewards = forward(model, chosen + rejected)
    margins = rewards[: len(chosen)] - rewards[len(chosen) :]
    targets = ids[: len(chosen), 1:]
    known = targets != model.config.pad_token_id
    logits = hidden[: len(chosen), :-1][known] @ model.model.embed_tokens.weight.T
    return -functional.logsigmoid(margins).mean(), functional.cross_entropy(logits, targets[known])


def train_model(
    model: LlamaForSequenceClassification,
    tokenizer: PreTrainedTokenizerFast,
    train: Material,
    steps: int,
    rng: random.Random,
) -> None:
    """AdamW with warm-up and cosine decay on pairs drawn afresh in each step."""
    optimizer = torch.optim.AdamW(model.parameters(), PEAK_LR, (0.9, 0.98), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps)),
    )
    model.train()
    start, history = time.monotonic(), []
    for step in range(steps):
        batch: list[list[list[int]]] = []
        while len(batch) < BATCH_PAIRS:
            sides = training_pair(train, rng).sides()
            ids = [token_ids(tokenizer, side) for side in sides]
            if max(map(len, ids)) <= MAX_TOKENS and ids[0] != ids[1]:
                batch.append(ids)
        # Halves of similar length, to pad less; the gradients add up.
        batch.sort(key=lambda ids: max(map(len, ids)))
        half = BATCH_PAIRS // 2
        for part in (batch[:half], batch[half:]):
            preference, language = pair_loss(model, *map(list, zip(*part, strict=True)))
            ((preference + LM_WEIGHT * language) / 2).backward()
            history.append((preference.item(), language.item()))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if (step + 1) % 50 == 0:
            means = [fmean(column) for column in zip(*history, strict=True)]
            elapsed = time.monotonic() - start
            print(f"step {step + 1}: BT {means[0]:.3f} LM {means[1]:.3f} ({elapsed:.0f} s)")
            history.clear()
    model.eval()


def rewards_of(
    model: LlamaForSequenceClassification,
    tokenizer: PreTrainedTokenizerFast,
    conversations: list[Messages],
) -> list[float]:
    rows = [token_ids(tokenizer, messages) for messages in conversations]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    rewards = [0.0] * len(rows)
    with torch.inference_mode():
        for start in range(0, len(order), 32):
            batch = order[start : start + 32]
            for i, reward in zip(batch, forward(model, [rows[i] for i in batch])[2], strict=True):
                rewards[i] = reward.item()
    return rewards


def win(first: float, second: float) -> float:
    """1 if the first is higher, a half for a tie."""
    return (first > second) + (first == second) / 2


def evaluate(
    model: LlamaForSequenceClassification,
    tokenizer: PreTrainedTokenizerFast,
    heldout: dict[str, list[Pair]],
) -> None:
    """Print accuracies of the model and of length alone, for each set and kind of pair."""
    start = time.monotonic()
    outcomes: dict[str, list[tuple[float, float]]] = {"all": []}
    for name, pairs in heldout.items():
        rewards = rewards_of(model, tokenizer, [side for pair in pairs for side in pair.sides()])
        for pair, chosen, rejected in zip(pairs, rewards[::2], rewards[1::2], strict=True):
            outcome = win(chosen, rejected), win(len(pair.chosen), len(pair.rejected))
            for group in {"all", name, pair.kind}:
                outcomes.setdefault(group, []).append(outcome)
    seconds = time.monotonic() - start
    print(f"{2 * len(outcomes['all']) / seconds:.1f} conversations/s")
    for group in ["all", *heldout, *sorted(outcomes.keys() - {"all", *heldout})]:
        model_wins, longer_wins = map(fmean, zip(*outcomes[group], strict=True))
        print(
            f"{group:20} n={len(outcomes[group]):4}  model {model_wins:.3f}  "
            f"longer wins {longer_wins:.3f}  shorter wins {1 - longer_wins:.3f}"
        )


def write_pairs(folder: Path, name: str, pairs: list[Pair]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for side, label in enumerate(("chosen", "rejected")):
        with (folder / f"{label}_{name}.jsonl").open("w", encoding="utf-8") as file:
            for number, pair in enumerate(pairs):
                row = {"id": f"{pair.kind}-{number:04}", "messages": pair.sides()[side]}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--smollm2", type=Path, default=Path(".evalkit/smollm2"))
    parser.add_argument("--samples", type=Path, default=Path(".evalkit/demo-rm-samples.jsonl"))
    parser.add_argument("--heldout", type=Path, default=Path(".evalkit/demo-rm-heldout"))
    parser.add_argument("--out", type=Path, default=Path("evalkit/reward_models/demo-rm"))
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    samples = composed_samples(args.samples, args.smollm2, args.seed)
    hh = list(read_hh(args.data / "hh-rlhf" / "harmless-base_test.jsonl.gz"))
    train, test = (material(hh, samples, want_held_out=side) for side in (False, True))

    rng = random.Random(args.seed)
    pairs = [
        damaged(answer, test.answers, damage, rng)
        for answer in test.answers
        for damage in rng.sample(DAMAGES, 2)
    ]
    heldout = {
        "hh": test.hh,
        "llmbar_natural": list(read_llmbar(args.data / "llmbar" / "Natural" / "dataset.json")),
        "degraded": [pair for pair in pairs if pair.chosen != pair.rejected] + test.temperature,
    }
    for name, pairs in heldout.items():
        write_pairs(args.heldout, name, pairs)

    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer(train)
    model = build_model(tokenizer, args.smollm2)
    print(f"{model.num_parameters():,} parameters, {len(train.hh)} HH pairs for training")
    train_model(model, tokenizer, train, args.steps, rng)
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    evaluate(model, tokenizer, heldout)


if __name__ == "__main__":
    main()
