"""Families that read two answers at once and say which is better.

The number of an ordered pair is the log-odds that its first answer is the better one. Both orders
of a pair are asked for by whoever compares; what one order alone says depends on the order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from evalkit.data import Item, Message, Pair
from evalkit.errors import InputError
from evalkit.reward_models import Rendered
from evalkit.reward_models.batch import Batch, TorchRewardModel, at, logits_at
from evalkit.reward_models.checkpoint import Checkpoint
from evalkit.reward_models.heads import build_net, outputs
from evalkit.reward_models.rendering import Encoder
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.reward_models.tokenizer import load_tokenizer, refuse
from evalkit.reward_models.trunk import load_head, load_model

TEXT = "{{ messages[0].content }}"


class PromptRenderer(Encoder):
    """Both answers inside one prompt that asks which is better."""

    def render(self, items: Sequence[Item]) -> list[Rendered]:
        """Token ids of each ordered pair, or why it cannot be scored."""
        return [self._render(pair) for pair in _pairs(items)]

    def _render(self, pair: Pair) -> Rendered:
        setting = self.spec.family.setting
        try:
            context = self.text(setting("context"), pair.prompt)
            answers = {"context": context, "first": pair.first, "second": pair.second}
            content = self.text(setting("template"), pair.prompt, **answers)
        except Exception as error:  # a template may raise whatever it likes
            return Rendered([], problem=f"the template refuses it: {error}")
        template = self.template if setting("chat") else TEXT
        (body,) = self.encode(template, [(Message("user", content),)])
        return Rendered([], problem=body) if isinstance(body, str) else self.fit(body)


class PromptModel(TorchRewardModel):
    """A language model whose next token names the better answer.

    Args:
        spec: The reward model.
        model: A causal or sequence-to-sequence model of transformers.

    Raises:
        RefusedModelError: One of its two answers is not one token.
    """

    def __init__(self, spec: RewardModelSpec, model: Any) -> None:
        super().__init__(spec, model)
        tokenizer = load_tokenizer(spec)
        self.renderer = PromptRenderer(spec, tokenizer, self.vocabulary)
        texts = spec.family.setting("tokens")
        tokens = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        if any(len(ids) != 1 for ids in tokens):
            raise refuse(spec, [f"{texts} are the tokens {tokens}, not one each"])
        self._tokens = [ids[0] for ids in tokens]

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B, 1) log-odds of the first answer against the second."""
        if self.spec.family.setting("seq2seq"):
            begin = self.model.config.decoder_start_token_id
            start = torch.full((len(batch.rows), 1), begin, device=self.device)
            logits = self.model(**batch.inputs, decoder_input_ids=start).logits[:, 0].float()
        else:
            columns, which = torch.unique(batch.last, return_inverse=True)
            logits = at(logits_at(self.model, batch, columns), which)
        first, second = self._tokens
        found: torch.Tensor = logits[:, first] - logits[:, second]
        return found[:, None]


def load_prompt(spec: RewardModelSpec, *, device: str = "auto") -> PromptModel:
    """RLHFlow's pair preference, SteamSHP.

    Raises:
        RefusedModelError: A tensor, class or file that nothing explains.
    """
    part = "seq2seq" if spec.family.setting("seq2seq") else "language-model"
    loaded = PromptModel(spec, load_model(spec, part, device=device))
    loaded.check_company()
    return loaded


class SideBySideRenderer(Encoder):
    """Source and both candidates, each framed by itself, one after another (PairRM).

    The marks are the positions of the three tokens that begin the parts.
    """

    def __init__(self, spec: RewardModelSpec, tokenizer: Any, vocabulary: int) -> None:
        super().__init__(spec, tokenizer, vocabulary)
        config = Checkpoint(spec.path, spec.name).config
        names = ("source_prefix_id", "cand1_prefix_id", "cand2_prefix_id")
        if missing := [name for name in names if not isinstance(config.get(name), int)]:
            raise refuse(spec, [f"config.json lacks {', '.join(missing)}"])
        self._prefixes = [config[name] for name in names]

    def render(self, items: Sequence[Item]) -> list[Rendered]:
        """Token ids of each ordered pair, or why it cannot be scored."""
        return [self._render(pair) for pair in _pairs(items)]

    def _render(self, pair: Pair) -> Rendered:
        setting = self.spec.family.setting
        first, second = pair.conversations()
        bodies = [
            *self.encode(self.template, [pair.prompt]),
            *self.encode(setting("answer"), [first], slot=1),
            *self.encode(setting("answer"), [second], slot=2),
        ]
        longest, source = setting("lengths")
        longest = min(longest, self.spec.max_length)
        ids: list[int] = []
        marks: list[int] = []
        cut, limit = 0, min(source, longest)
        for prefix, body in zip(self._prefixes, bodies, strict=True):
            if isinstance(body, str):
                return Rendered([], problem=body)
            if body[:1] != [prefix]:
                return Rendered([], problem=f"a part does not begin with token {prefix}")
            kept = self._cut(body, limit - len(self.before) - len(self.after))
            if len(kept) < len(body) and self.spec.overlong == "error":
                length = len(self.before) + len(body) + len(self.after)
                what = f"a part of {length} tokens, more than {limit}"
                return Rendered([], len(body) - len(kept), what)
            cut += len(body) - len(kept)
            marks.append(len(ids) + len(self.before))
            ids += [*self.before, *kept, *self.after]
            if len(marks) == 1:
                limit = (longest - len(ids)) // 2
        return Rendered(ids, cut, marks=tuple(marks))

    def _cut(self, body: list[int], room: int) -> list[int]:
        """The part without what does not fit; the token that begins it stays."""
        if len(body) <= room:
            return body
        right = self.spec.overlong != "truncate-left"
        return body[:room] if right else [body[0], *body[len(body) - room + 1 :]]


class SideBySideModel(TorchRewardModel):
    """A head on the states of source and candidate, for each candidate; the difference counts.

    Args:
        spec: The reward model.
        model: The trunk.
        head: From twice its width to the tasks, whose mean is taken.
    """

    def __init__(self, spec: RewardModelSpec, model: Any, head: nn.Module) -> None:
        super().__init__(spec, model)
        self._head = head
        self.renderer = SideBySideRenderer(spec, load_tokenizer(spec), self.vocabulary)

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B, 1) log-odds of the first candidate against the second."""
        hidden = self.model(**batch.inputs).last_hidden_state
        source, first, second = (at(hidden, batch.mark(number)) for number in range(3))
        head = self._head.to(hidden.device)
        left, right = (head(torch.cat([source, c], dim=-1)) for c in (first, second))
        found: torch.Tensor = (left - right).mean(dim=-1, keepdim=True)
        return found

    def probe(self, length: int) -> Rendered:
        """A row of that many tokens, for `check_company`."""
        return super().probe(length)._replace(marks=(0, 1, length - 1))


def load_head_model(spec: RewardModelSpec, *, device: str = "auto") -> SideBySideModel:
    """PairRM and Better-PairRM.

    Raises:
        RefusedModelError: A tensor, class or file that nothing explains.
    """
    model = load_model(spec, "trunk", device=device)
    head = build_net(spec, "head", load_head(spec), 2 * model.config.hidden_size)
    tasks = getattr(model.config, "n_tasks", None)
    if outputs(head) != tasks:
        raise refuse(spec, [f"its head gives {outputs(head)} values, where n_tasks is {tasks}"])
    loaded = SideBySideModel(spec, model, head)
    loaded.check_company()
    return loaded


def _pairs(items: Sequence[Item]) -> list[Pair]:
    found = [item for item in items if isinstance(item, Pair)]
    if len(found) < len(items):
        raise InputError(
            "a pair-preference model scores two answers against each other, not one alone",
            fix="compare two sets of completions: evalkit compare --model A --ref B",
        )
    return found
