"""How each server is asked for raw scores, and where they stand in its reply.

Fields as their documentation and sources have them: vLLM (entrypoints/pooling), SGLang
(EmbeddingReqInput), text-embeddings-inference (openapi.json), OpenRLHF (serve_rm), Infinity.
A score is a JSON number found under its row's index, or there is none: nothing is guessed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from evalkit.reward_models import Rendered
from evalkit.reward_models.remote.client import ReplyError
from evalkit.text import clip, listing

Body = dict[str, object]
Reads = Literal["ids", "text", "pair"]


class Served(NamedTuple):
    """What a server says of itself, as far as it does.

    Attributes:
        models: The names it serves.
        max_length: Tokens it takes.
        revision: Of the weights.
        dtype: Of the weights.
        problem: Why it scores nothing; empty if it may.
    """

    models: Sequence[str]
    max_length: int | None = None
    revision: str = ""
    dtype: str = ""
    problem: str = ""


class Request(NamedTuple):
    """What is asked: which model, which rows, and whether their raw scores."""

    model: str
    rows: Sequence[Rendered]
    raw: bool


@dataclass(frozen=True)
class Dialect:
    """One server's way of being asked.

    Attributes:
        name: As in evalkit.toml.
        title: For people.
        path: Where rows are sent.
        reads: Token ids, a text, or a question and an answer that the server encodes as a pair.
        body: The JSON of a request.
        scores: (reply, number of rows, label) -> a number for each row, in their order.
        text_as_read: What the server makes of a text before it tokenises it.
        special: Whether it then adds its tokenizer's special tokens.
        switch: Whether a request can turn the activation on and off.
        about: Path that tells what is served; empty if there is none.
        served: What the reply from there says, of the model asked for.
        tokens: How many tokens a reply says were read; None where it says nothing.
        raw: How a server of this kind is made to give raw scores.
    """

    name: str
    title: str
    path: str
    reads: Reads
    body: Callable[[Request], Body]
    scores: Callable[[Any, int, str], list[float]]
    raw: str
    text_as_read: Callable[[str, Any], str] = lambda text, _: text
    special: bool = True
    switch: bool = False
    about: str = ""
    served: Callable[[Any, str], Served] = lambda reply, model: Served([model])
    tokens: Callable[[Any], int | None] = lambda _: None


REFUSED = {
    "vllm-score": 'it always squashes; dialect = "vllm-pooling" gives the raw score',
    "vllm-rerank": 'it always squashes; dialect = "vllm-pooling" gives the raw score',
    "sglang-v1-classify": "it takes a softmax over the labels, which is 1.0 for every reward "
    'model of one label; dialect = "sglang-classify" is SGLang\'s native path and does not',
}


def dialects() -> dict[str, Dialect]:
    """The dialects by name."""
    return {dialect.name: dialect for dialect in DIALECTS}


# Requests


def _vllm_pooling(ask: Request) -> Body:
    ids = [row.ids for row in ask.rows]
    return {"model": ask.model, "input": ids, "task": "classify", "use_activation": not ask.raw}


def _vllm_classify(ask: Request) -> Body:
    texts = [row.texts[0] for row in ask.rows]
    options = {"use_activation": not ask.raw, "add_special_tokens": False}
    return {"model": ask.model, "input": texts, **options}


def _sglang(ask: Request) -> Body:
    return {"model": ask.model, "input_ids": [row.ids for row in ask.rows]}


def _tei_predict(ask: Request) -> Body:
    inputs = [list(row.texts) for row in ask.rows]
    return {"inputs": inputs, "raw_scores": ask.raw, "truncate": False}


def _tei_rerank(ask: Request) -> Body:
    query, texts = ask.rows[0].texts[0], [row.texts[1] for row in ask.rows]
    return {"query": query, "texts": texts, "raw_scores": ask.raw, "truncate": False}


def _openrlhf(ask: Request) -> Body:
    return {"query": [row.texts[0] for row in ask.rows]}


def _infinity(ask: Request) -> Body:
    return {"model": ask.model, "input": [row.texts[0] for row in ask.rows], "raw_scores": ask.raw}


def _infinity_rerank(ask: Request) -> Body:
    query, texts = ask.rows[0].texts[0], [row.texts[1] for row in ask.rows]
    return {"model": ask.model, "query": query, "documents": texts, "raw_scores": ask.raw}


# Replies


def number(value: object) -> float:
    """A JSON number.

    Raises:
        ReplyError: Anything else: "NaN" is text, and null is nothing.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ReplyError(f"{clip(value)} stands where a number must")
    return float(value)


def only(values: object) -> float:
    """The number of a list of one; a reward model has one label."""
    if isinstance(values, list) and len(values) == 1:
        return number(values[0])
    raise ReplyError(f"{clip(values)} stands where one number must: a reward model has one label")


def rows_of(value: object, n: int) -> list[Any]:
    """A list of one thing for each row.

    Raises:
        ReplyError: No list, or one of another length.
    """
    if not isinstance(value, list):
        raise ReplyError(f"{clip(value)} stands where a list of rows must")
    if len(value) != n:
        raise ReplyError(f"{len(value)} results for {n} rows")
    return value


def by_index(value: object, n: int) -> list[Mapping[str, Any]]:
    """A list of objects by the index of their row, whatever their order.

    Raises:
        ReplyError: An index that is missing, given twice, or of no row.
    """
    found: dict[int, Mapping[str, Any]] = {}
    for item in rows_of(value, n):
        index = item.get("index") if isinstance(item, dict) else None
        if type(index) is not int or not 0 <= index < n:
            raise ReplyError(f"index {clip(index)} for one of {n} rows")
        if index in found:
            raise ReplyError(f"index {index} is given twice")
        found[index] = item
    return [found[i] for i in range(n)]


def field(reply: object, name: str) -> Any:
    """A field of an object.

    Raises:
        ReplyError: There is none.
    """
    if not isinstance(reply, dict) or name not in reply:
        raise ReplyError(f"the reply has no {name!r}: {clip(reply)}")
    return reply[name]


def _last_token(data: object) -> float:
    """The number of a pooled row, or where each token has one, of the last."""
    return only(
        data[-1] if isinstance(data, list) and data and isinstance(data[-1], list) else data
    )


def _labelled(row: object, label: str) -> float:
    """The score of a label; of the only one where none is named. Servers sort them by score."""
    if not isinstance(row, list):
        raise ReplyError(f"{clip(row)} stands where the labels of a row must")
    found = [field(x, "score") for x in row if not label or field(x, "label") == label]
    if len(found) != 1 or (len(row) > 1 and not label):
        names = [str(field(x, "label")) for x in row]
        raise ReplyError(f"the labels {listing(names)}, of which parameters.label must name one")
    return number(found[0])


def _rewards(reply: Any, n: int, _: str) -> list[float]:
    name = "rewards" if isinstance(reply, dict) and "rewards" in reply else "scores"
    rows = rows_of(field(reply, name), n)
    return [only(row) if isinstance(row, list) else number(row) for row in rows]


# What a server tells of itself


def _listed(reply: Any, model: str) -> Served:
    """OpenAI's list of models, as vLLM and Infinity have it."""
    data = field(reply, "data")
    entries = [e for e in data if isinstance(e, dict) and "id" in e] if type(data) is list else []
    about = next((e for e in entries if e["id"] == model), {})
    longest = about.get("max_model_len")
    return Served(
        models=[str(e["id"]) for e in entries],
        max_length=longest if isinstance(longest, int) else None,
        revision=_text(about.get("revision")),
        dtype=_text(about.get("dtype")),
    )


def _tei_info(reply: Any, _: str) -> Served:
    models = [str(field(reply, "model_id"))]
    longest = reply.get("max_input_length")
    return Served(
        models=models,
        max_length=longest if isinstance(longest, int) else None,
        revision=_text(reply.get("model_sha")),
        dtype=_text(reply.get("model_dtype")),
    )


def _sglang_info(reply: Any, _: str) -> Served:
    models = [str(field(reply, "model_path"))]
    generates = reply.get("is_generation") is True
    problem = "it generates text: start it with --is-embedding" if generates else ""
    return Served(models=models, problem=problem)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _usage(reply: Any) -> int | None:
    usage = reply.get("usage") if isinstance(reply, dict) else None
    found = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return found if type(found) is int else None


def _sglang_tokens(reply: Any) -> int | None:
    metas = [row.get("meta_info") for row in reply if isinstance(row, dict)]
    counts = [meta.get("prompt_tokens") for meta in metas if isinstance(meta, dict)]
    known = [n for n in counts if type(n) is int]
    return sum(known) if known and len(known) == len(reply) else None


def _ending_in_eos(text: str, tokenizer: Any) -> str:
    """OpenRLHF takes padding and EOS off both ends, and puts one EOS at the end."""
    ends = [re.escape(t) for t in (tokenizer.eos_token, tokenizer.pad_token) if t]
    either = f"(?:{'|'.join(ends)})+" if ends else "(?!)"
    return re.sub(f"^{either}|{either}$", "", text) + (tokenizer.eos_token or "")


DIALECTS = (
    Dialect(
        "vllm-pooling", "vLLM, /pooling: token ids", "/pooling", "ids", _vllm_pooling,
        lambda reply, n, _: [
            _last_token(field(row, "data")) for row in by_index(field(reply, "data"), n)
        ],
        raw="serve it with a vLLM that knows use_activation, or with "
        "--pooler-config '{\"use_activation\": false}'",
        switch=True, about="/v1/models", served=_listed, tokens=_usage,
    ),
    Dialect(
        "vllm-classify", "vLLM, /classify: texts", "/classify", "text", _vllm_classify,
        lambda reply, n, _: [
            only(field(row, "probs")) for row in by_index(field(reply, "data"), n)
        ],
        raw="serve it with a vLLM that knows use_activation, or with "
        "--pooler-config '{\"use_activation\": false}'",
        special=False, switch=True, about="/v1/models", served=_listed, tokens=_usage,
    ),
    Dialect(
        "sglang-classify", "SGLang, native /classify: token ids", "/classify", "ids", _sglang,
        lambda reply, n, _: [only(field(row, "embedding")) for row in rows_of(reply, n)],
        raw="serve the reward model's own class with --is-embedding",
        about="/get_model_info", served=_sglang_info, tokens=_sglang_tokens,
    ),
    Dialect(
        "tei-predict", "text-embeddings-inference, /predict: texts", "/predict", "text",
        _tei_predict,
        lambda reply, n, label: [_labelled(row, label) for row in rows_of(reply, n)],
        raw="use a text-embeddings-inference that knows raw_scores",
        switch=True, about="/info", served=_tei_info,
    ),
    Dialect(
        "tei-rerank", "text-embeddings-inference, /rerank: question and answer", "/rerank", "pair",
        _tei_rerank, lambda reply, n, _: [number(field(r, "score")) for r in by_index(reply, n)],
        raw="use a text-embeddings-inference that knows raw_scores",
        switch=True, about="/info", served=_tei_info,
    ),
    Dialect(
        "openrlhf", "OpenRLHF serve_rm, /get_reward: texts", "/get_reward", "text", _openrlhf,
        _rewards, raw="serve it without --normalize_reward",
        text_as_read=_ending_in_eos, special=False,
    ),
    Dialect(
        "infinity-classify", "Infinity, /classify: texts", "/classify", "text", _infinity,
        lambda reply, n, label: [
            _labelled(row, label) for row in rows_of(field(reply, "data"), n)
        ],
        raw="Infinity ignores raw_scores here: its model's config.json must say "
        '"problem_type": "regression"',
        text_as_read=lambda text, _: text.strip(), switch=True, about="/models", served=_listed,
    ),
    Dialect(
        "infinity-rerank", "Infinity, /rerank: question and answer", "/rerank", "pair",
        _infinity_rerank,
        lambda reply, n, _: [
            number(field(r, "relevance_score")) for r in by_index(field(reply, "results"), n)
        ],
        raw="use an Infinity that knows raw_scores",
        text_as_read=lambda text, _: text.strip(), switch=True, about="/models", served=_listed,
    ),
)  # fmt: skip
