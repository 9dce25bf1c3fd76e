"""From a table of evalkit.toml with an `endpoint` to a spec; nothing is asked of the server here.

A served reward model is what it is declared to be: dialect, model and revision stand where the
digests of weights do, and the server's address as well unless the revision is a commit. Everything
that is done on this side enters by content, as for any other: tokenizer, template, lengths,
parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from evalkit.errors import InputError, RefusedModelError
from evalkit.reward_models import families
from evalkit.reward_models.checkpoint import Checkpoint, FileDigest, limit
from evalkit.reward_models.families import OUTPUTS, Family
from evalkit.reward_models.parameters import CONVERSATION
from evalkit.reward_models.remote import judge
from evalkit.reward_models.remote.dialects import REFUSED, dialects
from evalkit.reward_models.settings import dtype_of, max_length_of, overlong_of
from evalkit.reward_models.spec import Endpoint, RewardModelSpec
from evalkit.text import did_you_mean, listing
from evalkit.workspace import ENDPOINT

PAIRED = "openassistant-deberta"  # how a reranker's question and answer are rendered
LONGEST_PROMPT = 200_000  # bytes of a judge's prompt
MOST_AT_ONCE = 256
UNUSED = ("attributes", "trust_remote_code")


def describe_endpoint(
    name: str, settings: Mapping[str, Any], root: Path, file_digest: FileDigest
) -> RewardModelSpec:
    """The spec of a served reward model.

    Args:
        name: Of its table in evalkit.toml.
        settings: The table, with what the command line says.
        root: The folder of evalkit.toml, where relative paths begin.
        file_digest: SHA-256 of a file.

    Raises:
        InputError: A key is missing, wrong, or without use for an endpoint.
        RefusedModelError: A dialect that gives no raw scores, or no tokenizer where one is needed.
    """
    place = f"[reward_models.{name}] in evalkit.toml"
    for key in UNUSED:
        if settings.get(key):
            raise InputError(f"an endpoint has no use for {key}", where=place, fix=f"remove {key}")
    endpoint = _endpoint(settings, place)
    dialect = _dialect(settings.get("dialect"), place)
    if dialect == judge.NAME or dialects()[dialect].about.startswith("/v1/"):
        endpoint = replace(endpoint, url=endpoint.url.removesuffix("/v1"))
    build = _judge if dialect == judge.NAME else _served
    spec = build(name, settings, root, file_digest)
    where = f"{endpoint.model}{f' at {endpoint.revision}' if endpoint.revision else ''}"
    notice = f"{name} is served by {endpoint.url} as {where}, which is declared and not verified"
    return replace(
        spec,
        endpoint=endpoint,
        notice="; ".join(filter(None, [notice, str(settings.get("notice") or "")])),
    )


def _served(
    name: str, settings: Mapping[str, Any], root: Path, file_digest: FileDigest
) -> RewardModelSpec:
    """Rendered here, with the tokenizer that the server has."""
    place = f"[reward_models.{name}] in evalkit.toml"
    if not settings.get("tokenizer"):
        raise InputError(
            f"the endpoint of reward model {name!r} names no tokenizer",
            where=place,
            fix='tokenizer = "FOLDER" with the tokenizer.json, tokenizer_config.json and chat '
            "template of the served model: evalkit renders, so that no server can do it otherwise",
        )
    folder = root / str(settings["tokenizer"])
    checkpoint = Checkpoint(folder, name)
    tokenizer = checkpoint.tokenizer_digest(file_digest)
    family = _family(settings, place)
    template = family.setting("template") or checkpoint.chat_template()
    if not template:
        raise RefusedModelError(
            f"the tokenizer of reward model {name!r} has no chat template",
            where=str(folder),
            fix="add the template it was trained with as chat_template.jinja",
        )
    return RewardModelSpec(
        name=name,
        path=folder,
        family=family,
        weights=(),
        config="",
        tokenizer=tokenizer,
        template=template,
        dtype=dtype_of(settings.get("dtype") or "bfloat16"),
        max_length=max_length_of(
            settings.get("max_length"), [limit(checkpoint.tokenizer_config.get("model_max_length"))]
        ),
        overlong=overlong_of(settings.get("overlong") or "error"),
    )


def _judge(
    name: str, settings: Mapping[str, Any], root: Path, file_digest: FileDigest
) -> RewardModelSpec:
    """Asked about two answers with a prompt of ours or the user's."""
    del file_digest
    place = f"[reward_models.{name}] in evalkit.toml"
    for key in ("tokenizer", "family"):
        if settings.get(key):
            raise InputError(f"a judge has no use for {key}", where=place, fix=f"remove {key}")
    if (output := settings.get("output") or "preference") != "preference":
        raise InputError(
            f"a judge's output is a preference, not {output!r}", where=place, fix="remove output"
        )
    if overlong_of(settings.get("overlong") or "error") != "error":
        raise InputError(
            "a judge's prompt is never cut", where=place, fix='overlong = "error", or leave it out'
        )
    given = settings.get("parameters") or {}
    bare = Family(judge.NAME, "judge", "preference", {}, title="a chat model as a judge")
    brief = given.get("verdict") == "letter"
    usual = {"verdict": "last-line", "seed": 0, "max_tokens": 1 if brief else 1024}
    family = bare.with_parameters({**usual, **given}, place)
    kept = {k: v for k, v in family.parameters.items() if k != "prompt"}  # it is in the template
    return RewardModelSpec(
        name=name,
        path=root,
        family=replace(family, parameters=kept),
        weights=(),
        config="",
        tokenizer="",
        template=_prompt(given.get("prompt"), root, judge.LETTER_PROMPT if brief else judge.PROMPT),
        dtype=dtype_of(settings.get("dtype")),
        max_length=max_length_of(settings.get("max_length"), [], LONGEST_PROMPT),
        overlong="error",
    )


def _prompt(file: object, root: Path, ours: str) -> str:
    if not file:
        return ours
    path = root / str(file)
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise InputError(
            f"the prompt of a judge cannot be read: {error}",
            where=str(path),
            fix="parameters.prompt names a text file, from the folder of evalkit.toml",
        ) from None


def _family(settings: Mapping[str, Any], place: str) -> Family:
    """The dialect, with the rendering of a family where one is named."""
    name = str(settings["dialect"])
    paired = dialects()[name].reads == "pair"
    named = settings.get("family") or (PAIRED if paired else None)
    base = families.family(str(named)) if named else None
    if base and base.output == "preference":
        raise InputError(
            f"family {base.name} compares two answers, which no server of {name} does",
            where=place,
            fix=f'dialect = "{judge.NAME}", or another family',
        )
    output = settings.get("output") or (base.output if base else "bradley-terry")
    if output not in OUTPUTS or output == "preference":
        raise InputError(
            f"dialect {name} cannot have {output!r} output",
            where=place,
            fix=f"output = one of {', '.join(o for o in OUTPUTS if o != 'preference')}",
        )
    rendering = {k: v for k, v in base.parameters.items() if k in CONVERSATION} if base else {}
    bare = Family(name, "served", output, {}, title=dialects()[name].title)
    found = bare.with_parameters({**rendering, **(settings.get("parameters") or {})}, place)
    if bool(found.setting("answer")) != paired and name != "tei-predict":
        raise InputError(
            f"dialect {name} takes {'a question and an answer' if paired else 'one text'}",
            where=place,
            fix="name another family, or another dialect",
        )
    return found


def _endpoint(settings: Mapping[str, Any], place: str) -> Endpoint:
    if not settings.get("endpoint"):
        stray = ", ".join(key for key in ENDPOINT if key in settings)
        raise InputError(
            f"{stray}: of an endpoint, and none is named",
            where=place,
            fix='endpoint = "http://host:8000"; a revision of the Hub: model = "org/name@REVISION"',
        )
    url = str(settings["endpoint"])
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.port != 0 else None
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in {"http", "https"} or not host or parts.query or parts.fragment:
        raise InputError(
            "endpoint is no address of a server", where=place, fix='endpoint = "http://host:8000"'
        )
    if parts.username or parts.password:
        raise InputError(
            "endpoint holds a user or password, which every output would show",
            where=place,
            fix='key_env = "NAME" of the environment variable that holds the key',
        )
    model = settings.get("model")
    if not model:
        raise InputError(
            "endpoint names no model", where=place, fix='model = "as the server calls it"'
        )
    return Endpoint(
        url=url.rstrip("/"),
        model=str(model),
        revision=str(settings.get("revision") or ""),
        key_env=str(settings.get("key_env") or ""),
        timeout=_within(settings, "timeout", 60.0, place, 86_400),
        concurrency=int(_within(settings, "concurrency", 8, place, MOST_AT_ONCE)),
    )


def _within(
    settings: Mapping[str, Any], key: str, default: float, place: str, most: float
) -> float:
    value = float(settings.get(key, default))
    if not math.isfinite(value) or not 0 < value <= most:
        raise InputError(
            f"{key} must lie above 0 and be at most {most}, got {value:g}",
            where=place,
            fix=f"leave it out for {default:g}",
        )
    return value


def _dialect(name: object, place: str) -> str:
    known = [*dialects(), judge.NAME]
    if name in REFUSED:
        raise RefusedModelError(
            f"dialect {name} gives no raw scores: {REFUSED[str(name)]}",
            where=place,
            fix=f"dialects: {', '.join(known)}",
        )
    if name not in known:
        said = f"unknown dialect {name!r}" if name else "an endpoint must name its dialect"
        raise InputError(
            said,
            where=place,
            fix=f"dialects: {listing(known)}. {did_you_mean(str(name), known)}".strip(),
        )
    return str(name)
