"""What a reward model is: everything that can move a reward, by content, and nothing else.

Batch size, device, attention kernel, library versions, names and paths are not part of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from evalkit.data import digest
from evalkit.errors import InputError, RefusedModelError
from evalkit.reward_models.checkpoint import Checkpoint, FileDigest, behaviour
from evalkit.reward_models.detection import detect, refusal
from evalkit.reward_models.families import OUTPUTS, Family, family, published
from evalkit.text import did_you_mean
from evalkit.workspace import check_types, read_toml

Overlong = Literal["error", "truncate-left", "truncate-right"]
OVERLONG: tuple[Overlong, ...] = ("error", "truncate-left", "truncate-right")
DTYPES = ("float32", "bfloat16", "float16")

OWN_CARD: Mapping[str, type] = {"notice": str, "citation": str, "licence": str}

# Raised whenever the code below changes what a family computes from the same files.
ABI = 2
RENDERING = "template once; one frame; special tokens in text literal; date 2024-07-26"


def is_commit(revision: str) -> bool:
    """Whether a revision is the digest of a commit, or enough of it; a branch or a tag moves."""
    return bool(re.fullmatch("[0-9a-f]{7,64}", revision))


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
    def tolerance(self) -> float:
        """How far two scorings of one conversation may lie apart, relative to max(1, |reward|).

        Batch composition moves the last bits: in float32 by 8e-6 of a standard deviation, in
        float16 by 0.012, in bfloat16 by 0.1 (SmolLM2-135M, 20 chats, batch 8 against 1).
        """
        return {"float32": 1e-4, "float16": 0.05, "bfloat16": 0.25}[self.dtype]


def describe(
    folder: Path,
    name: str,
    file_digest: FileDigest,
    settings: Mapping[str, Any],
    *,
    id_: str = "",
) -> RewardModelSpec:
    """The spec of the checkpoint in `folder`, from its files alone.

    A folder that holds `policy/` and `ref/` is a DPO policy with its reference.

    Args:
        folder: With config.json, safetensors and a tokenizer.
        name: How reports call it.
        file_digest: SHA-256 of a file.
        settings: `dtype`, `max_length`, `overlong`, `notice`, `family`, `output` and `parameters`
            where they differ from what the files and the published tables say.
        id_: `org/name`, if it comes from the Hub.

    Raises:
        RefusedModelError: No safe, complete checkpoint of a family that evalkit knows.
        InputError: A setting out of range.
    """
    if (folder / "policy" / "config.json").is_file():
        given = settings.get("parameters") or {}
        beside = {"reference": str(folder / "ref")} if (folder / "ref").is_dir() else {}
        settings = {"family": "dpo", **settings, "parameters": {**beside, **given}}
        folder = folder / "policy"
    checkpoint = Checkpoint(folder, name)
    chosen = _family(checkpoint, settings, id_)
    known = published().get(str(settings.get("family") or id_))
    config = checkpoint.config
    dtype = dtype_of(settings.get("dtype") or config.get("dtype") or config.get("torch_dtype"))
    spec = RewardModelSpec(
        name=name,
        path=folder,
        family=chosen,
        weights=tuple(
            file_digest(path)
            for path in [*checkpoint.weights, *(folder / file for file in chosen.requires)]
        ),
        config=digest("config", behaviour(config)),
        tokenizer=checkpoint.tokenizer_digest(file_digest),
        template=_template(checkpoint, chosen),
        dtype=dtype,
        max_length=max_length_of(
            settings.get("max_length"),
            _limits(checkpoint, chosen),
            known.max_length if known else None,
        ),
        overlong=overlong_of(settings.get("overlong") or "error"),
        notice=str(settings.get("notice") or own_card(folder).get("notice", "")),
        code=_remote_code(checkpoint, file_digest) if settings.get("trust_remote_code") else (),
        segments=bool(chosen.setting("answer")) and (config.get("type_vocab_size") or 0) > 1,
    )
    reference = chosen.setting("reference")
    return (
        replace(spec, reference=_reference(spec, str(reference), file_digest))
        if reference
        else spec
    )


def _family(checkpoint: Checkpoint, settings: Mapping[str, Any], id_: str) -> Family:
    asked = settings.get("family")
    if asked:
        found = family(str(asked))
    else:
        found = published()[id_].family if id_ in published() else detect(checkpoint)
    parameters = settings.get("parameters") or {}
    found = found.with_parameters(parameters, str(checkpoint.folder)).resolved(checkpoint)
    found = _declared(found, settings)
    if problems := found.mismatches(checkpoint):
        lines = [f"is not of family {found.name}: {x}" for x in problems]
        raise refusal(checkpoint, lines, len(found.head_problems(checkpoint)))
    return found


def _declared(found: Family, settings: Mapping[str, Any]) -> Family:
    """The family with the output that the user declares; none turns single answers into pairs."""
    output = settings.get("output") or found.output
    if output not in OUTPUTS or (output == "preference") != (found.output == "preference"):
        raise InputError(
            f"family {found.name} has {found.output} output, which cannot be {output!r}",
            fix=f"output = one of {', '.join(o for o in OUTPUTS if o != 'preference')}",
        )
    attributes = tuple(settings.get("attributes") or found.attributes)
    if len(attributes) != len(found.attributes):
        raise InputError(
            f"family {found.name} has {len(found.attributes)} attributes, not {len(attributes)}",
            fix="name them all, in order",
        )
    return replace(found, output=output, attributes=attributes)


def _template(checkpoint: Checkpoint, chosen: Family) -> str:
    if chosen.kind != "pair-prompt" and chosen.setting("template"):
        return str(chosen.setting("template"))
    if chosen.setting("chat") is False:
        return ""  # the family's prompt is all there is
    found = checkpoint.chat_template()
    if found is None:
        raise RefusedModelError(
            f"reward model {checkpoint.name!r} has no chat template",
            where=str(checkpoint.folder),
            fix="add the template it was trained with as chat_template.jinja, or name the --family "
            "whose template is its own (openassistant-deberta, gpt2-hh …); evalkit never "
            "substitutes another",
        )
    return found


def _reference(spec: RewardModelSpec, folder: str, file_digest: FileDigest) -> RewardModelSpec:
    """The reference model of a policy, which must read the same tokens."""
    checkpoint = Checkpoint(Path(folder), f"{spec.name} (reference)")
    if not checkpoint.folder.is_dir():
        raise InputError(
            f"the reference {folder!r} of reward model {spec.name!r} is no folder",
            fix="--param reference=FOLDER: the model the policy was trained from",
        )
    tokenizer = checkpoint.tokenizer_digest(file_digest)
    if tokenizer != spec.tokenizer:
        raise RefusedModelError(
            f"policy and reference of reward model {spec.name!r} have different tokenizers",
            where=f"{spec.path} and {folder}",
            fix="name the reference the policy was trained from",
        )
    return replace(
        spec,
        name=checkpoint.name,
        path=checkpoint.folder,
        weights=tuple(file_digest(path) for path in checkpoint.weights),
        config=digest("config", behaviour(checkpoint.config)),
        code=(),  # that the policy's pinned code may run says nothing of this folder's
    )


def _remote_code(checkpoint: Checkpoint, file_digest: FileDigest) -> tuple[str, ...]:
    """Digests of the code a trusted repository may run; all of it must lie in that revision."""
    elsewhere = [v for v in _strings(checkpoint.config.get("auto_map")) if "--" in v]
    elsewhere += [v for v in _strings(checkpoint.tokenizer_config.get("auto_map")) if "--" in v]
    if elsewhere:
        raise RefusedModelError(
            f"reward model {checkpoint.name!r} wants code of another repository: {elsewhere[0]}",
            where=str(checkpoint.folder),
            fix="a pinned revision must hold all the code it runs; convert the checkpoint",
        )
    return tuple(file_digest(path) for path in sorted(checkpoint.folder.rglob("*.py")))


def _strings(value: object) -> list[str]:
    if isinstance(value, Mapping):
        return [text for item in value.values() for text in _strings(item)]
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    return [value] if isinstance(value, str) else []


def dtype_of(value: object) -> str:
    """A dtype by its name; float32 where none is stated.

    Raises:
        InputError: An unknown one.
    """
    name = str(value or "float32").removeprefix("torch.")
    if name not in DTYPES:
        raise InputError(
            f"unknown dtype {name!r}",
            fix=f"choose one of {', '.join(DTYPES)}. {did_you_mean(name, DTYPES)}".strip(),
        )
    return name


def max_length_of(asked: object, limits: Sequence[object], advised: int | None = None) -> int:
    """What is asked for, else what its authors use, else what its files allow.

    Args:
        asked: From the command line or evalkit.toml; None if not given.
        limits: What its files state; a tokenizer without a limit of its own states 1e30.
        advised: What its authors use.

    Raises:
        InputError: No integer of at least 1, beyond the limits, or nothing known at all.
    """
    known = [int(x) for x in limits if isinstance(x, int | float) and 1 < x < 1e9]
    if asked is None:
        if known or advised:
            return min([*known, *([advised] if advised else [])])
        raise InputError(
            "the reward model states no maximum length", fix="give one with --max-length"
        )
    if not isinstance(asked, int) or isinstance(asked, bool) or asked < 1:
        raise InputError(
            f"max_length must be an integer of at least 1, got {asked!r}",
            fix="correct --max-length, or max_length in evalkit.toml",
        )
    if known and asked > min(known):
        raise InputError(
            f"max_length {asked} is beyond the model's {min(known)} tokens",
            fix="choose a smaller one",
        )
    return asked


def overlong_of(value: object) -> Overlong:
    """An over-long policy by its name.

    Raises:
        InputError: An unknown one.
    """
    for policy in OVERLONG:
        if value == policy:
            return policy
    raise InputError(
        f"unknown over-long policy {value!r}", fix=f"choose one of {', '.join(OVERLONG)}"
    )


def _limits(checkpoint: Checkpoint, chosen: Family) -> list[object]:
    """How many tokens the files allow."""
    if lengths := chosen.setting("lengths"):
        return [lengths[0]]  # relative positions: what the family was trained on
    config = checkpoint.config
    stated = [config.get("max_position_embeddings"), config.get("n_positions")]
    return [*stated, checkpoint.tokenizer_config.get("model_max_length")]


def own_card(folder: Path) -> dict[str, str]:
    """What a model's own card.toml says of it: `notice`, `citation`, `licence`, whichever is there.

    A notice stands beside every number.

    Raises:
        InputError: It is malformed, or one of them is no text.
    """
    path = folder / "card.toml"
    found = read_toml(path) if path.is_file() else {}
    check_types(path, "the file", found, OWN_CARD)
    return {key: str(found[key]) for key in OWN_CARD if key in found}
