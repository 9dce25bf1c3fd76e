"""From the files of a checkpoint to a spec, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evalkit.data import digest
from evalkit.errors import InputError, RefusedModelError
from evalkit.files import check_types, read_toml
from evalkit.reward_models.checkpoint import Checkpoint, FileDigest, behaviour, limit
from evalkit.reward_models.detection import detect, refusal
from evalkit.reward_models.families import OUTPUTS, Family, family, published
from evalkit.reward_models.settings import dtype_of, max_length_of, overlong_of
from evalkit.reward_models.spec import RewardModelSpec

OWN_CARD: Mapping[str, type] = {"notice": str, "citation": str, "licence": str}


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


def _limits(checkpoint: Checkpoint, chosen: Family) -> list[int | None]:
    """How many tokens the files allow."""
    if lengths := chosen.setting("lengths"):
        return [int(lengths[0])]  # relative positions: what the family was trained on
    return [checkpoint.positions, limit(checkpoint.tokenizer_config.get("model_max_length"))]


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
