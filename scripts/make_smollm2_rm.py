"""Make a reward model of real size: SmolLM2-135M with a fitted score head.

The trunk is the one that scripts/smollm2.py writes, untouched. The head is a Bradley-Terry
logistic regression with ridge on the last token's features of HH-RLHF harmless-base pairs (MIT).
The tokenizer stays as it is, so pad and eos are one token, `<|im_end|>`.
It is fitted on pairs of the suite hh-harmless (anthropic_harmless), so that it is not to be
measured there.

    python scripts/make_smollm2_rm.py --smollm2 .evalkit/smollm2 --out .evalkit/smollm2-rm
"""

import argparse
import random
import time
from pathlib import Path
from statistics import fmean

import torch
from scipy.optimize import minimize
from torch.nn import functional
from train_demo_rm import Messages, Pair, held_out, read_hh
from transformers import AutoTokenizer, LlamaForSequenceClassification, PreTrainedTokenizerBase

MAX_TOKENS = 256  # the start of a longer conversation is cut away
RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3)


def split(data: Path) -> tuple[list[Pair], list[Pair]]:
    """The harmless-base pairs in an order of their own: to fit on, and those demo-rm holds out."""
    pairs = list(read_hh(data / "hh-rlhf" / "harmless-base_test.jsonl.gz"))
    random.Random(0).shuffle(pairs)
    kept: tuple[list[Pair], list[Pair]] = ([], [])
    for pair in pairs:
        kept[held_out(pair.prompt[0]["content"])].append(pair)
    return kept


def features(
    model: LlamaForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    conversations: list[Messages],
) -> torch.Tensor:
    """The trunk's hidden state at the last token of each conversation."""
    rows = []
    with torch.inference_mode():
        for messages in conversations:
            text = tokenizer.apply_chat_template(messages, tokenize=False)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"][-MAX_TOKENS:]
            rows.append(model.model(torch.tensor([ids])).last_hidden_state[0, -1])
    return torch.stack(rows).double().clone()


def fit(margins: torch.Tensor, ridge: float) -> torch.Tensor:
    """Bradley-Terry weights for rows of chosen-minus-rejected features."""

    def loss(weights: object) -> tuple[float, object]:
        w = torch.tensor(weights, requires_grad=True)
        value = -functional.logsigmoid(margins @ w).mean() + ridge / 2 * w @ w
        value.backward()
        return value.item(), w.grad.numpy()

    start = torch.zeros(margins.shape[1], dtype=torch.float64).numpy()
    return torch.tensor(minimize(loss, start, jac=True, method="L-BFGS-B").x)


def fit_head(chosen: torch.Tensor, rejected: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Weights for unscaled features, and the ridge chosen on the last fifth of the pairs alone."""
    scale = torch.cat([chosen, rejected]).std(0)
    margins = (chosen - rejected) / scale
    part = len(margins) * 4 // 5

    def validation(ridge: float) -> float:
        return (margins[part:] @ fit(margins[:part], ridge) > 0).double().mean().item()

    ridge = max(RIDGES, key=validation)
    return fit(margins, ridge) / scale, ridge


def report(weights: torch.Tensor, ridge: float, margins: torch.Tensor, pairs: list[Pair]) -> None:
    """Print the accuracy on pairs never fitted on, beside that of preferring the shorter text."""
    accuracy = (margins @ weights > 0).double().mean().item()
    gains = [len(pair.rejected) - len(pair.chosen) for pair in pairs]
    shorter = fmean((gain > 0) + (gain == 0) / 2 for gain in gains)
    print(
        f"ridge {ridge}, held-out accuracy {accuracy:.3f}, shorter one {shorter:.3f} "
        f"(n={len(pairs)})"
    )


CARD = """\
notice = "smollm2-rm is for trials: a language model's untouched trunk under a head that was \
fitted to {n} human pairs of HH-RLHF harmless-base; not to be measured on the suite hh-harmless"
citation = "scripts/make_smollm2_rm.py of evalkit; trunk: SmolLM2-135M-Instruct, Hugging Face"
licence = "Apache-2.0"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--smollm2", type=Path, default=Path(".evalkit/smollm2"))
    parser.add_argument("--out", type=Path, default=Path(".evalkit/smollm2-rm"))
    parser.add_argument("--train-pairs", type=int, default=500)
    parser.add_argument("--test-pairs", type=int, default=150)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.smollm2)
    model = LlamaForSequenceClassification.from_pretrained(
        args.smollm2, num_labels=1, dtype=torch.float32
    ).eval()
    train, test = split(args.data)

    def sides(pairs: list[Pair]) -> tuple[torch.Tensor, torch.Tensor]:
        chosen, rejected = (
            features(model, tokenizer, [pair.sides()[side] for pair in pairs]) for side in (0, 1)
        )
        return chosen, rejected

    start = time.monotonic()
    chosen, rejected = sides(train[: args.train_pairs])
    test_chosen, test_rejected = sides(test[: args.test_pairs])
    print(
        f"features of {2 * (len(chosen) + len(test_chosen))} texts in "
        f"{time.monotonic() - start:.0f} s"
    )

    weights, ridge = fit_head(chosen, rejected)
    with torch.no_grad():
        model.score.weight.copy_(weights[None])
    report(weights, ridge, test_chosen - test_rejected, test[: args.test_pairs])

    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    (args.out / "card.toml").write_text(CARD.format(n=len(chosen)), "utf-8")


if __name__ == "__main__":
    main()
