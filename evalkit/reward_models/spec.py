"""What a reward model is: everything that can move a reward, by content, and nothing else.

Batch size, device, attention kernel, library versions, names and paths are not part of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from evalkit.data import digest
from evalkit.reward_models.families import Family
from evalkit.reward_models.settings import Overlong

# Raised whenever the code of this package computes something else from the same files.
ABI = 2
RENDERING = "template once; one frame; special tokens in text literal; date 2024-07-26"


def is_commit(revision: str, *, whole: bool = False) -> bool:
    """Whether a revision is the digest of a commit; a branch or a tag moves.

    Args:
        revision: As it is declared.
        whole: Whether all of its 40 digits must be there. Else 7 do if a letter is among them:
            digits alone are a date, as tags have it.
    """
    if re.fullmatch("[0-9a-f]{40}", revision):
        return True
    return not whole and bool(re.fullmatch("(?=.*[a-f])[0-9a-f]{7,64}", revision))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a served reward model answers, and what its server is declared to serve.

    Attributes:
        url: Root of the server, without a slash at its end.
        model: As the server calls it.
        revision: As declared; empty if none is.
        key_env: The environment variable that holds the bearer key; empty for none.
        timeout: Seconds a request may take, from connecting to the last byte.
        concurrency: Requests under way at once.
    """

    url: str
    model: str
    revision: str = ""
    key_env: str = ""
    timeout: float = 60.0
    concurrency: int = 8

    @property
    def identity(self) -> dict[str, str]:
        """What of it can move a reward: the host too, unless a commit says what it serves."""
        where = {} if is_commit(self.revision) else {"url": self.url}
        what = {"revision": self.revision} if self.revision else {}
        return {"model": self.model, **what, **where}


@dataclass(frozen=True)
class RewardModelSpec:
    """One reward-model set-up.

    Attributes:
        name: How reports call it; not part of the fingerprint.
        path: The folder of its files; not part of the fingerprint.
        family: How it turns text into a number.
        weights: SHA-256 of each file of weights, in the order of the file names.
        config: Digest of config.json without library versions and names.
        tokenizer: Digest of the tokenizer's files.
        template: The template conversations are rendered with.
        dtype: Of the trunk; the head always computes in float32.
        max_length: Tokens, template included.
        overlong: What becomes of a conversation beyond `max_length`.
        notice: What a reader must know about it; not part of the fingerprint.
        reference: The reference model of a DPO policy.
        code: SHA-256 of each Python file that may run: of a user's own family, or of a pinned Hub
            revision whose remote code is allowed. Empty for everything else.
        endpoint: Who computes it where it is served and its weights are not here; `weights` and
            `config` are empty then, for its identity is declared.
        segments: Whether its trunk tells two texts that are encoded as a pair apart by segment ids.
    """

    name: str
    path: Path
    family: Family
    weights: tuple[str, ...]
    config: str
    tokenizer: str
    template: str
    dtype: str
    max_length: int
    overlong: Overlong
    notice: str = ""
    reference: RewardModelSpec | None = None
    code: tuple[str, ...] = ()
    endpoint: Endpoint | None = None
    segments: bool = False

    @cached_property
    def manifest(self) -> dict[str, object]:
        """Everything the fingerprint is over."""
        found: dict[str, object] = {
            "family": self.family.name,
            "abi": ABI,
            "rendering": RENDERING,
            "weights": list(self.weights),
            "config": self.config,
            "tokenizer": self.tokenizer,
            "template": digest("template", self.template),
            "dtype": self.dtype,
            "max_length": self.max_length,
            "overlong": self.overlong,
        }
        more = {
            "parameters": {
                k: v
                for k, v in self.family.parameters.items()
                if k != "reference" or self.reference is None  # which is there by its content
            },
            "reference": self.reference and [*self.reference.weights, self.reference.config],
            "code": list(self.code),
            "endpoint": self.endpoint and self.endpoint.identity,
            "segments": self.segments,
        }
        return found | {key: value for key, value in more.items() if value}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the manifest, 64 hex digits."""
        return digest("reward-model", self.manifest)

    @property
    def label(self) -> str:
        """Name and the first 16 digits of the fingerprint, joined by `#`: as signatures say it."""
        return f"{self.name}#{self.fingerprint[:16]}"

    @property
    def objectives(self) -> int:
        """How many named values its reward is made of."""
        return len(self.family.attributes)

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of what each reward comes with, in order: values, for a mixture its gates too."""
        names = self.family.attributes
        if self.family.kind != "gated":
            return names
        bins = tuple(f"bin/{i + 1}" for i in range(self.family.setting("bins")))
        return (*names, *(f"gate/{name}" for name in names), *bins, *(("sd",) if bins else ()))

    @property
    def runs_remote_code(self) -> bool:
        """Whether transformers may run the code that lies in its pinned revision."""
        return bool(self.code) and self.family.kind != "own"

    @property
    def is_pairwise(self) -> bool:
        """Whether it scores ordered pairs of answers and not single ones."""
        return self.family.output == "preference"

    @property
    def is_judge(self) -> bool:
        """Whether it is asked for verdicts, each a request that somebody pays for."""
        return self.family.kind == "judge"

    @property
    def tolerance(self) -> float:
        """How far two scorings of one conversation may lie apart, relative to max(1, |reward|).

        Batch composition moves the last bits: in float32 by 8e-6 of a standard deviation, in
        float16 by 0.012, in bfloat16 by 0.1 (SmolLM2-135M, 20 chats, batch 8 against 1).
        """
        return {"float32": 1e-4, "float16": 0.05, "bfloat16": 0.25}[self.dtype]
