"""Servers of reward models on this machine, each answering as its own kind does, and misbehaving.

What a server computes is a hash of the token ids it reads, tokenised by `tokenizers` itself from
whatever it is sent: a text that is read otherwise than it was meant gives another number. Whatever
a real server does unasked (squash, add a BOS, sort, strip) is done here too.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tokenizers import Tokenizer

from tests.shared_data import DEMO_RM

MODEL = "org/served-rm"
SLOW = 3.0


def reward_of(ids) -> float:
    """A number in [-8, 8) that no other ids share."""
    data = hashlib.sha256(json.dumps(list(map(int, ids))).encode()).digest()
    return int.from_bytes(data[:6], "big") / 2**44 - 8


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


class StatusError(Exception):
    """A status, a body and headers in place of scores."""

    def __init__(self, status: int, body: object, headers=None) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, headers or {}


class RewardServer:
    """A server in a thread; use as a context manager.

    Args:
        kind: `vllm`, `sglang`, `tei`, `openrlhf`, `infinity`, `openai`.
        folder: Whose tokenizer it has.
        squash: Always squashes, whatever it is asked.
        regression: Never squashes.
        models: What it serves.
        about: More of what it says of itself.
        answers_as: The model its replies name.
        misbehave: Texts of a request -> what to do instead of answering, or None.
        judge: Prompt -> what the judge writes.
        labels: Of a classifier, at most three; the first one's score is the reward.
        reads: Ids as sent -> as its model reads them, of vLLM and SGLang.
    """

    def __init__(
        self,
        kind: str,
        *,
        folder=DEMO_RM,
        squash: bool = False,
        regression: bool = False,
        models=(MODEL,),
        about=None,
        answers_as: str | None = None,
        misbehave: Callable[[list[str], int], str | None] = lambda texts, times: None,
        judge: Callable[[str], object] = lambda prompt: "[[A]]",
        labels=("LABEL_0",),
        reads: Callable[[list[int]], list[int]] = lambda ids: ids,
    ) -> None:
        self.kind, self.squash, self.regression = kind, squash, regression
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        config = json.loads((folder / "tokenizer_config.json").read_text())
        self.eos = re.escape(config["eos_token"]), config["eos_token"]
        self.models, self.about, self.answers_as = models, about or {}, answers_as
        self.misbehave, self.judge, self.labels = misbehave, judge, labels
        self.reads = reads
        self.requests: list[tuple[str, dict, object]] = []
        self.seen: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        self.key: str | None = None
        handler = type("Handler", (_Handler,), {"server_of": self})
        self._http = _Quiet(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> RewardServer:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._http.shutdown()
        self._http.server_close()

    # What the servers answer

    def answer(self, path: str, body: dict | None, headers) -> object:
        if self.key is not None and headers.get("Authorization") != f"Bearer {self.key}":
            raise StatusError(401, {"error": "invalid key"})
        found = getattr(self, f"_{self.kind}")(path, body)
        if found is None:
            raise StatusError(404, {"error": f"no {path} here"})
        return found

    def _encode(self, text: str, *, special: bool) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=special).ids

    def _score(self, ids, raw: bool) -> float:
        text = self.tokenizer.decode(list(ids), skip_special_tokens=False)
        self.rows[text] += 1
        value = reward_of(ids)
        return sigmoid(value) if self.squash or not (raw or self.regression) else value

    def _listed(self) -> dict:
        return {"object": "list", "data": [{"id": m, **self.about} for m in self.models]}

    def _check_model(self, body: dict) -> None:
        if body["model"] not in self.models:
            raise StatusError(404, {"error": f"The model `{body['model']}` does not exist."})

    def _vllm(self, path, body):
        if path == "/v1/models":
            return self._listed()
        if path not in {"/pooling", "/classify"}:
            return None
        self._check_model(body)
        rows = body["input"]
        if path == "/classify" and not all(isinstance(row, str) for row in rows):
            raise StatusError(400, {"error": "input must be text"})
        special = body.get("add_special_tokens", True)
        ids = [
            self.reads(self._encode(r, special=special) if isinstance(r, str) else r) for r in rows
        ]
        raw = body.get("use_activation") is False
        scores = [self._score(x, raw) for x in ids]
        name = {"/pooling": "data", "/classify": "probs"}[path]
        data = [{"index": i, name: [s]} for i, s in enumerate(scores)]
        used = {"prompt_tokens": sum(map(len, ids))}
        model = self.answers_as or body["model"]
        return {"object": "list", "model": model, "data": data, "usage": used}

    def _sglang(self, path, body):
        if path == "/get_model_info":
            return {"model_path": self.models[0], "is_generation": False, **self.about}
        if path != "/classify":
            return None
        ids = list(map(self.reads, body["input_ids"]))
        return [
            {"embedding": [self._score(x, True)], "meta_info": {"prompt_tokens": len(x)}}
            for x in ids
        ]

    def _tei(self, path, body):
        if path == "/info":
            return {"model_id": self.models[0], "max_client_batch_size": 32, **self.about}
        if path == "/predict":
            rows = [self.tokenizer.encode(*row, add_special_tokens=True).ids
                    for row in body["inputs"]]  # fmt: skip
            raw = body.get("raw_scores", False)
            return [[{"score": self._score(ids, raw), "label": "LABEL_0"}] for ids in rows]
        if path != "/rerank":
            return None
        if any(not text for text in body["texts"]):
            raise StatusError(422, {"error": "`inputs` cannot be empty", "error_type": "Tokenizer"})
        ids = [self.tokenizer.encode(body["query"], t).ids for t in body["texts"]]
        raw = body.get("raw_scores", False)
        ranks = [{"index": i, "score": self._score(x, raw)} for i, x in enumerate(ids)]
        return sorted(ranks, key=lambda rank: -rank["score"])

    def _openrlhf(self, path, body):
        if path != "/get_reward":
            return None
        pattern, eos = self.eos
        texts = [re.sub(f"^({pattern})+|({pattern})+$", "", t) + eos for t in body["query"]]
        ids = [self._encode(text, special=False) for text in texts]
        return {"rewards": [self._score(x, True) for x in ids]}

    def _infinity(self, path, body):
        if path == "/models":
            return self._listed()
        self._check_model(body)
        if path == "/rerank":
            query = body["query"].strip()
            ids = [self.tokenizer.encode(query, t.strip()).ids for t in body["documents"]]
            scores = [self._score(x, body.get("raw_scores", False)) for x in ids]
            ranks = [{"index": i, "relevance_score": s} for i, s in enumerate(scores)]
            ranks.sort(key=lambda rank: -rank["relevance_score"])
            return {"object": "rerank", "model": body["model"], "results": ranks}
        if path != "/classify":
            return None
        ids = [self._encode(text.strip(), special=True) for text in body["input"]]
        # its raw_scores is read and not used: only a regression is not squashed
        return {
            "object": "classify",
            "model": body["model"],
            "data": [self._labels(self._score(x, False)) for x in ids],
        }

    def _labels(self, score: float) -> list[dict]:
        """Sorted by score, as the pipeline of transformers gives them."""
        found = [
            {"score": x, "label": name}
            for name, x in zip(self.labels, (score, -0.5, 0.5), strict=False)
        ]
        return sorted(found, key=lambda label: -label["score"])

    def _openai(self, path, body):
        if path == "/v1/models":
            return self._listed()
        if path != "/v1/chat/completions":
            return None
        self._check_model(body)
        (message,) = body["messages"]
        self.rows[message["content"]] += 1
        found = self.judge(message["content"])
        choice = found if isinstance(found, dict) else {
            "finish_reason": "stop", "message": {"role": "assistant", "content": found},
        }  # fmt: skip
        return {"model": self.answers_as or body["model"], "choices": [{"index": 0, **choice}]}

    # What they do instead

    def texts_of(self, path: str, body: object) -> list[str]:
        if not isinstance(body, dict):
            return [path]
        fields = ("texts", "documents", "input", "input_ids", "inputs", "query", "messages")
        rows = next((body[name] for name in fields if name in body), [])
        found = []
        for row in rows:
            if isinstance(row, dict):
                found.append(row["content"])
            elif isinstance(row, str):
                found.append(row)
            elif row and isinstance(row[0], str):
                found.append(row[-1])
            else:
                found.append(self.tokenizer.decode(row, skip_special_tokens=False))
        return found


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address) -> None:
        """A client that hung up is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server_of: RewardServer

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        self._serve(None)

    def do_POST(self) -> None:
        self._serve(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _serve(self, body) -> None:
        server = self.server_of
        server.requests.append((self.path, dict(self.headers), body))
        texts = server.texts_of(self.path, body)
        times = max(server.seen[text] for text in texts) if texts else 0
        server.seen.update(texts)
        mode = server.misbehave(texts, times)
        if mode in BEFORE:
            BEFORE[mode](self)
            return
        try:
            found = server.answer(self.path, body, self.headers)
        except StatusError as reply:
            self.send(reply.status, reply.body, reply.headers)
            return
        (AFTER[mode] if mode else _well)(self, found)

    def send(self, status: int, body: object, headers=None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def _well(handler: _Handler, found: object) -> None:
    handler.send(200, found)


def _drip(handler: _Handler) -> None:
    """Headers and a body that never come to an end, a byte at a time."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    for _ in range(120):
        handler.wfile.write(b" ")
        time.sleep(0.02)


def _drip_headers(handler: _Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for _ in range(120):
        handler.wfile.write(b"X-A: b\r\n"[_ % 8 : _ % 8 + 1])
        time.sleep(0.02)


def _close(handler: _Handler) -> None:
    # a reset and no orderly end
    handler.connection.setsockopt(1, 13, struct.pack("ii", 1, 0))
    handler.connection.close()


def _rows(found: object) -> list:
    return found["data"] if isinstance(found, dict) else found


def _replaced(found: dict, value: object) -> dict:
    rows = [{**row, "data": value} for row in _rows(found)]
    return {**found, "data": rows}


BEFORE: dict[str | None, Callable[[_Handler], None]] = {
    "slow": lambda h: (time.sleep(SLOW), h.send(500, b""))[0],
    "429": lambda h: h.send(429, {"error": "busy"}, {"Retry-After": "1"}),
    "500": lambda h: h.send(500, b"Internal Server Error"),
    "503": lambda h: h.send(503, b""),
    "413": lambda h: h.send(413, {"error": "too long"}),
    "html": lambda h: h.send(
        200, b"<html><body>Login</body></html>", {"Content-Type": "text/html"}
    ),
    "empty": lambda h: h.send(200, b""),
    "redirect": lambda h: h.send(307, b"", {"Location": "http://127.0.0.1:9/elsewhere"}),
    "drip": _drip,
    "drip headers": _drip_headers,
    "closed": _close,
    "huge": lambda h: h.send(200, b" " * (17 * 2**20)),
    "echo": lambda h: h.send(400, {"error": f"bad header: {h.headers.get('Authorization')}"}),
    "echo 200": lambda h: h.send(200, {"data": str(h.headers.get("Authorization"))}),
}
AFTER: dict[str, Callable[[_Handler, dict], None]] = {
    "truncated": lambda h, f: h.send(200, json.dumps(f).encode()[:-9]),
    "cut short": lambda h, f: h.send(200, json.dumps(f).encode(), {"Content-Length": "99999"}),
    "too few": lambda h, f: h.send(200, {**f, "data": _rows(f)[:-1]}),
    "too many": lambda h, f: h.send(200, {**f, "data": [*_rows(f), _rows(f)[0]]}),
    "reversed": lambda h, f: h.send(200, {**f, "data": _rows(f)[::-1]}),
    "duplicate": lambda h, f: (
        h.send(200, {**f, "data": [_rows(f)[0]] * len(_rows(f))})
        if len(_rows(f)) > 1
        else h.send(200, {**f, "data": [{**_rows(f)[0], "index": 1}]})
    ),
    "no index": lambda h, f: h.send(
        200, {**f, "data": [{k: v for k, v in r.items() if k != "index"} for r in _rows(f)]}
    ),
    "NaN": lambda h, f: h.send(200, json.dumps(_replaced(f, [math.nan])).encode()),
    "NaN text": lambda h, f: h.send(200, _replaced(f, ["NaN"])),
    "null": lambda h, f: h.send(200, _replaced(f, [None])),
    "true": lambda h, f: h.send(200, _replaced(f, [True])),
    "1e999": lambda h, f: h.send(
        200, json.dumps(_replaced(f, [7.0])).replace("7.0", "1e999").encode()
    ),
    "two labels": lambda h, f: h.send(200, _replaced(f, [0.25, 0.75])),
    "twice a key": lambda h, f: h.send(200, json.dumps(f)[:-1].encode() + b', "data": []}'),
    "an extra BOS": lambda h, f: h.send(
        200, {**f, "usage": {"prompt_tokens": f["usage"]["prompt_tokens"] + 1}}
    ),
}
