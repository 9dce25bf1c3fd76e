"""Families that score an answer by how likely a language model finds it: DPO, SimPO, RRHF.

By default exactly the tokens of the last answer count, each once: from the end of the generation
prompt to the token that closes the turn. `rewardbench_compatible` does what RewardBench's
`dpo.py` does instead: a second BOS, an EOS after the closing token, the assistant's header scored
too, prompts beyond 2,048 tokens cut to their last 128, answers to 1,920, and no β.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from evalkit.data import Item, Messages, Pair
from evalkit.reward_models import Rendered
from evalkit.reward_models.batch import Batch, TorchRewardModel, logits_at
from evalkit.reward_models.rendering import Encoder
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.reward_models.tokenizer import load_tokenizer, refuse
from evalkit.reward_models.trunk import load_model

REWARDBENCH_LENGTH, REWARDBENCH_PROMPT = 2048, 128


class AnswerRenderer(Encoder):
    """Conversations whose marks are the first token of the answer and the one after its last."""

    def render(self, items: Sequence[Item]) -> list[Rendered]:
        """Token ids of each conversation, or why it cannot be scored."""
        conversations = [item for item in items if not isinstance(item, Pair)]
        if self.spec.family.setting("rewardbench_compatible"):
            return [self._as_rewardbench(messages) for messages in conversations]
        prompts = [messages[:-1] for messages in conversations]
        headers = self.encode(self.template, prompts, add_generation_prompt=True)
        bodies = self.encode(self.template, conversations)
        return [self._span(*parts) for parts in zip(headers, bodies, strict=True)]

    def _span(self, header: list[int] | str, body: list[int] | str) -> Rendered:
        if isinstance(header, str) or isinstance(body, str):
            return Rendered([], problem=next(p for p in (header, body) if isinstance(p, str)))
        begin = self._common(header, body)
        if begin is None:
            what = "the template's generation prompt is not how it begins the answer"
            return Rendered([], problem=what)
        end = self._closing(body, begin)
        found = self.fit(body)
        lost = found.cut if self.spec.overlong == "truncate-left" else 0
        shift = len(self.before) - lost
        stop = min(end + shift, len(found.ids) - len(self.after))
        if end == len(body) and not self.is_special(body[-1]):
            stop = len(found.ids)  # the closing token is the tokenizer's own
        # the first token of all has no probability: something must stand before it
        if found.problem or begin < lost or begin + shift < 1 or begin + shift >= stop:
            what = found.problem or "no token of the answer is left to score"
            return Rendered([], problem=what)
        return found._replace(marks=(begin + shift, stop))

    def _common(self, header: list[int], body: list[int]) -> int | None:
        """Where the answer begins: a token that joins header and answer is the answer's."""
        same = next(
            (i for i, (a, b) in enumerate(zip(header, body, strict=False)) if a != b),
            min(len(header), len(body)),
        )
        rest, text = self.tokenizer.decode(header[same:]), self.tokenizer.decode(body[same:])
        return same if text.startswith(rest) else None

    def _closing(self, body: list[int], begin: int) -> int:
        """One past the token that closes the turn; what a template writes after it is no answer."""
        special = [i for i in range(begin, len(body)) if self.is_special(body[i])]
        if special and not self.tokenizer.decode(body[special[-1] + 1 :]).strip():
            return special[-1] + 1
        return len(body)

    def _as_rewardbench(self, messages: Messages) -> Rendered:
        tokenizer = self.tokenizer
        try:
            prompt = self.text(self.template, messages[:-1])
            answer = self.text(self.template, messages).replace(prompt, "")
        except Exception as error:  # a template may raise whatever it likes
            return Rendered([], problem=f"the chat template refuses it: {error}")
        alone, joined = tokenizer([prompt, prompt + answer], add_special_tokens=False)["input_ids"]
        start = len(alone) - (alone != joined[: len(alone)])
        end = tokenizer.eos_token_id
        bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else end
        if end is None:
            return Rendered([], problem="the tokenizer has no EOS token, which RewardBench appends")
        before, after = [bos, *joined[:start]], [*joined[start:], end]
        length = len(before) + len(after)
        if length > REWARDBENCH_LENGTH:
            before = before[-REWARDBENCH_PROMPT:]
        if len(before) + len(after) > REWARDBENCH_LENGTH:
            after = after[: REWARDBENCH_LENGTH - REWARDBENCH_PROMPT]
        ids = [*before, *after]
        return Rendered(ids, length - len(ids), marks=(len(before), len(ids)))


class LogProbModel(TorchRewardModel):
    """A policy, and where the family has one its reference.

    Args:
        spec: The reward model.
        model: The policy.
        reference: The reference model; None without one.
    """

    def __init__(self, spec: RewardModelSpec, model: Any, reference: Any | None) -> None:
        super().__init__(spec, model)
        self._reference = reference
        self.renderer = AnswerRenderer(spec, load_tokenizer(spec), self.vocabulary)
        compatible = spec.family.setting("rewardbench_compatible")
        self._beta = 1.0 if compatible else float(spec.family.setting("beta"))

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B, 1) the reward of each answer."""
        found = [self._reduce(row) for row in _answer_log_probs(self.model, batch)]
        if self._reference is not None:
            other = _answer_log_probs(self._reference, batch)
            found = [ours - row.sum() for ours, row in zip(found, other, strict=True)]
        return self._beta * torch.stack(found)[:, None]

    def _reduce(self, log_probs: torch.Tensor) -> torch.Tensor:
        norm = self.spec.family.setting("norm")
        if norm == "avg":
            return log_probs.mean()
        return -log_probs.norm() if norm == "norm" else log_probs.sum()


def load(spec: RewardModelSpec, *, device: str = "auto") -> LogProbModel:
    """A language model as reward model, with its reference where `norm` is `ratio`.

    Raises:
        RefusedModelError: A tensor or file that nothing explains, or a reference that is missing or
            has no use.
    """
    norm = spec.family.setting("norm")
    if (norm == "ratio") != (spec.reference is not None):
        what = "needs a reference" if norm == "ratio" else "has no use for a reference"
        hint = "parameter reference = FOLDER of the model the policy was trained from"
        raise refuse(spec, [f"norm {norm!r} {what}: {hint}"])
    policy = load_model(spec, "language-model", device=device)
    reference = spec.reference and load_model(spec.reference, "language-model", device=device)
    loaded = LogProbModel(spec, policy, reference)
    loaded.check_company()
    return loaded


def _answer_log_probs(model: Any, batch: Batch) -> list[torch.Tensor]:
    """For each row, the (T,) float32 log-probabilities of the tokens of its answer."""
    begins, ends = batch.mark(0).tolist(), batch.mark(1).tolist()
    first = min(begins) - 1
    logits = logits_at(model, batch, torch.arange(first, max(ends) - 1))
    ids = batch.inputs["input_ids"].to(logits.device)
    found = []
    for row, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        step = logits[row, begin - 1 - first : end - 1 - first].float().log_softmax(dim=-1)
        found.append(step.gather(-1, ids[row, begin:end, None]).squeeze(-1).cpu())
    return found
