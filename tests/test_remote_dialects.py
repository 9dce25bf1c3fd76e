"""Served reward models: every dialect gets the raw number of exactly our tokens, or is refused."""

import json
import shutil

import pytest

from evalkit.data import Message, conversation_key
from evalkit.errors import InputError, MissingError, RefusedModelError
from evalkit.reward_models import Rendered, load
from evalkit.reward_models.lookup import find_reward_model
from evalkit.reward_models.remote import client, dialects
from evalkit.reward_models.remote.client import ReplyError
from evalkit.store import Store
from evalkit.workspace import Workspace
from tests.endpoints import KINDS, Raw, chat, declare, run, truth
from tests.reward_server import MODEL, RewardServer, reward_of
from tests.shared_data import DEMO_RM, FIXTURES, conversations_of, file_digest, needs_shared

TEXTS = [
    "Because it rains.",
    "  Two spaces before, one after ",
    "ñandú 日本 😀",
    "",
    "line\nline\n\n",
    "longer " * 40,
]
CHATS = [
    *(chat(text) for text in TEXTS),
    (Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello."),
     Message("user", "Bye?"), Message("assistant", "Bye.")),
]  # fmt: skip
SPECIAL = chat("it ends <|end|> here, <|bos|> it does not")
MULTI_TURN = len(CHATS) - 1


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.01)


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store.db") as found:
        yield found


def served(kind, **options):
    return RewardServer(kind, regression=kind == "infinity", **options)


@pytest.mark.parametrize("dialect", [name for name in KINDS if "rerank" not in name])
def test_a_dialect_gives_the_raw_number_of_our_tokens(tmp_path, store, dialect):
    with served(KINDS[dialect]) as server:
        scored = run(declare(tmp_path / "w", server.url, dialect), store, CHATS)
        expected = {conversation_key(c): truth(server, c) for c in CHATS}
    assert scored.problems == {}
    assert {key: row.reward for key, row in scored.rewards.items()} == expected


@pytest.mark.parametrize("dialect", ["tei-rerank", "infinity-rerank"])
def test_a_reranker_gets_question_and_answer_and_its_sorted_ranks_are_taken_by_index(
    tmp_path, store, dialect
):
    chats = [chat(text, question) for question in ("Why?", "How?") for text in "abcdef"]
    with served(KINDS[dialect]) as server:
        scored = run(declare(tmp_path / "w", server.url, dialect), store, chats)
        for question, answer in chats:
            ids = server.tokenizer.encode(question.content, answer.content).ids
            found = scored.rewards[conversation_key((question, answer))]
            assert found.reward == reward_of(ids)
        queries = [body["query"] for path, _, body in server.requests if path == "/rerank"]
        assert {"Why?", "How?"} <= set(queries)


def test_a_label_is_taken_by_its_name_and_not_by_its_rank(tmp_path, store):
    with served("infinity", labels=("good", "bad", "ugly")) as server:
        spec = declare(tmp_path / "w", server.url, "infinity-classify")
        with pytest.raises(MissingError, match=r"parameters\.label must name one"):
            load(spec)
        for label in ("gut", "bad"):  # unknown, and the same number for every conversation
            parameters = Raw(f'{{label = "{label}"}}')
            spec = declare(tmp_path / "w", server.url, "infinity-classify", parameters=parameters)
            with pytest.raises((MissingError, RefusedModelError)):
                load(spec)
        good = Raw('{label = "good"}')
        spec = declare(tmp_path / "w", server.url, "infinity-classify", parameters=good)
        scored = run(spec, store, CHATS)
        for messages in CHATS:
            assert scored.rewards[conversation_key(messages)].reward == truth(server, messages)


def test_what_a_reranker_cannot_take_is_a_problem_of_its_row(tmp_path, store):
    chats = [chat("good"), chat(""), CHATS[MULTI_TURN]]
    with served("tei") as server:
        scored = run(declare(tmp_path / "w", server.url, "tei-rerank"), store, chats)
    assert [conversation_key(c) in scored.rewards for c in chats] == [True, False, False]
    assert "no text makes the server read" in scored.problems[conversation_key(chats[1])]
    assert "one question and one answer" in scored.problems[conversation_key(chats[2])]


@pytest.mark.parametrize(
    ("dialect", "sent"), [("vllm-pooling", True), ("sglang-classify", True),
                          ("vllm-classify", False), ("tei-predict", False),
                          ("openrlhf", False), ("infinity-classify", False)],
)  # fmt: skip
def test_a_special_token_in_a_message_stays_text_or_is_never_sent(tmp_path, store, dialect, sent):
    with served(KINDS[dialect]) as server:
        scored = run(declare(tmp_path / "w", server.url, dialect), store, [SPECIAL, CHATS[0]])
        key = conversation_key(SPECIAL)
        assert (key in scored.rewards) == sent
        assert conversation_key(CHATS[0]) in scored.rewards
        if (
            sent
        ):  # one turn more than its own <|end|> would be a conversation the user did not write
            (body,) = [b for p, _, b in server.requests[-1:]]
            rows = body.get("input") or body.get("input_ids")
            end = server.tokenizer.token_to_id("<|end|>")
            assert {row.count(end) for row in rows} == {2}
        else:
            assert "no text makes the server read exactly" in scored.problems[key]
            assert not any("it ends" in text for text in server.rows)


@needs_shared
@pytest.mark.parametrize("dialect", ["vllm-pooling", "vllm-classify", "tei-predict"])
def test_a_template_with_its_own_bos_gets_one_and_not_two(tmp_path, store, dialect):
    # the fixture's template writes a BOS, and its tokenizer adds one as well
    folder = FIXTURES / "seqcls"
    chats = conversations_of(folder / "conversations.jsonl")
    with served(KINDS[dialect], folder=folder) as server:
        spec = declare(tmp_path / "w", server.url, dialect, tokenizer=str(folder))
        scored = run(spec, store, chats)
        assert not scored.problems
        for messages in chats:
            text = "<|begin_of_text|>" + "".join(
                f"<|start_header_id|>{m.role}<|end_header_id|>\n\n{m.content.strip()}<|eot_id|>"
                for m in messages
            )
            ids = server.tokenizer.encode(text, add_special_tokens=False).ids
            assert scored.rewards[conversation_key(messages)].reward == reward_of(ids)


@pytest.mark.parametrize("policy", ["truncate-left", "truncate-right"])
@pytest.mark.parametrize("dialect", ["vllm-pooling", "vllm-classify", "tei-predict"])
def test_a_cut_is_made_here_and_counted(tmp_path, store, dialect, policy):
    messages = chat("one two three four five six seven eight nine ten " * 4)
    with served(KINDS[dialect]) as server:
        spec = declare(tmp_path / "w", server.url, dialect, max_length=32, overlong=policy)
        (row,) = run(spec, store, [messages]).rewards.values()
        text = "".join(f"<|{m.role}|>{m.content}<|end|>" for m in messages)
        body = server.tokenizer.encode(text, add_special_tokens=False).ids
    bos, room = [1], 31
    kept = body[-room:] if policy == "truncate-left" else body[:room]
    assert (row.tokens, row.cut) == (32, len(body) - room)
    assert row.reward == reward_of(bos + kept)


def test_an_over_long_row_is_never_sent(tmp_path, store):
    with served("vllm") as server:
        spec = declare(tmp_path / "w", server.url, max_length=32)
        scored = run(spec, store, [chat("word " * 99), chat("short")])
        assert len(scored.rewards) == 1
        (problem,) = scored.problems.values()
        assert "more than the 32 allowed" in problem
        assert not any("word word" in text for text in server.rows)


# Raw, shown and not believed


@pytest.mark.parametrize("dialect", sorted(KINDS))
def test_a_server_that_squashes_whatever_it_is_asked_is_refused(tmp_path, dialect):
    with RewardServer(KINDS[dialect], squash=True) as server:
        spec = declare(tmp_path / "w", server.url, dialect)
        with pytest.raises(RefusedModelError, match="as if squashed") as refusal:
            load(spec)
        assert dialects.dialects()[dialect].raw in str(refusal.value)


def test_infinity_squashes_in_spite_of_raw_scores_unless_its_model_is_a_regression(tmp_path):
    # infinity_emb 0.0.78, inference/batch_handler.py: `if raw_scores: pass`
    with RewardServer("infinity") as server, pytest.raises(RefusedModelError, match="squashed"):
        load(declare(tmp_path / "w", server.url, "infinity-classify"))


def test_a_softmax_over_one_label_is_refused(tmp_path):
    # SGLang's v1/classify, and anything else that gives every conversation 1.0
    class Softmax(RewardServer):
        def _score(self, ids, raw):
            return 1.0

    for dialect in ("vllm-pooling", "sglang-classify", "openrlhf"):
        with Softmax(KINDS[dialect]) as server, pytest.raises(RefusedModelError, match=r"1\.0 to"):
            load(declare(tmp_path / "w", server.url, dialect, parameters=Raw("{identity = true}")))


def test_scores_between_0_and_1_are_raw_only_on_the_users_word(tmp_path, store):
    with RewardServer("sglang", squash=True) as server:
        spec = declare(
            tmp_path / "w", server.url, "sglang-classify", parameters=Raw("{identity = true}")
        )
        assert len(run(spec, store, CHATS).rewards) == len(CHATS)


def test_an_activation_that_can_be_switched_shows_which_scores_are_raw():
    from evalkit.reward_models.remote.probes import squashed

    inside, on = [0.2, 0.4, 0.9], [0.5498, 0.5987, 0.7109]  # σ of the first, by a table
    assert squashed(inside, on, identity=False) is None
    assert squashed([-3.0, 0.4, 0.9], [-3.0, 0.4, 0.9], identity=False) is None
    fault = squashed(inside, inside, identity=False)
    assert (fault.code, "as if squashed" in fault.what) == ("squashed", True)
    assert fault.number == pytest.approx(0.7)
    fault = squashed([2.0, 2.0], [2.0, 2.0], identity=True)
    assert (fault.code, fault.number, "softmax" in fault.what) == ("constant", 2, False)


@pytest.mark.parametrize("name", ["vllm-score", "vllm-rerank", "sglang-v1-classify"])
def test_a_dialect_that_cannot_give_raw_scores_is_refused_by_name(tmp_path, name):
    with pytest.raises(RefusedModelError, match="gives no raw scores") as refusal:
        declare(tmp_path / "w", dialect=name)
    assert "dialect =" in str(refusal.value)


# The model itself


@pytest.mark.parametrize("dialect", sorted(set(KINDS) - {"openrlhf"}))
def test_a_model_that_is_not_served_is_never_replaced(tmp_path, dialect):
    with RewardServer(KINDS[dialect], models=("org/another",)) as server:
        with pytest.raises(MissingError, match="never takes another model") as refusal:
            load(declare(tmp_path / "w", server.url, dialect))
        assert "org/another" in str(refusal.value)
        assert all(body is None for _, _, body in server.requests)


def test_a_reply_of_another_model_stops_the_run(tmp_path):
    # OpenDataArena's scorer took INF-ORM-Llama3.1-70B where a path did not load
    fallback = "infly/INF-ORM-Llama3.1-70B"
    with (
        RewardServer("vllm", answers_as=fallback) as server,
        pytest.raises(MissingError, match="answers as 'infly/INF-ORM"),
    ):
        load(declare(tmp_path / "w", server.url))


@pytest.mark.parametrize(
    ("kind", "dialect", "about", "says"),
    [
        ("vllm", "vllm-pooling", {"max_model_len": 511}, "511 tokens"),
        ("tei", "tei-predict", {"max_input_length": 128}, "128 tokens"),
        ("tei", "tei-predict", {"model_sha": "0123abc"}, "revision '0123abc'"),
        ("tei", "tei-predict", {"model_dtype": "float16"}, "computes in float16"),
        ("sglang", "sglang-classify", {"is_generation": True}, "--is-embedding"),
    ],
)
def test_what_a_server_says_of_its_model_must_be_what_is_declared(
    tmp_path, kind, dialect, about, says
):
    with RewardServer(kind, about=about) as server:
        with pytest.raises(RefusedModelError) as refusal:
            load(declare(tmp_path / "w", server.url, dialect))
        assert says in str(refusal.value)


def test_another_servers_dialect_is_told_apart_at_once(tmp_path):
    with RewardServer("openrlhf") as server, pytest.raises(MissingError, match="404"):
        load(declare(tmp_path / "w", server.url, "vllm-pooling"))


# Identity


def test_the_fingerprint_is_over_what_moves_a_reward_and_nothing_else(tmp_path):
    same = declare(tmp_path / "w").fingerprint
    unmoved = [
        {"timeout": 5.0}, {"concurrency": 2}, {"key_env": "KEY"}, {"notice": "x"},
        {"url": "http://elsewhere:1"},
    ]  # fmt: skip
    moved = [
        {"model": "org/b"}, {"revision": "r2"}, {"revision": None}, {"dialect": "vllm-classify"},
        {"max_length": 64}, {"overlong": "truncate-left"}, {"dtype": "float32"},
        {"parameters": Raw("{identity = true}")}, {"parameters": Raw("{frame = false}")},
    ]  # fmt: skip
    assert {declare(tmp_path / "w", **keys).fingerprint for keys in unmoved} == {same}
    others = {declare(tmp_path / "w", **keys).fingerprint for keys in moved}
    assert len(others | {same}) == len(moved) + 1
    without = [declare(tmp_path / "w", url, revision=None) for url in ("http://a", "http://b")]
    assert len({spec.fingerprint for spec in without}) == 2


def test_a_revision_that_moves_does_not_stand_for_a_server(tmp_path):
    """`main` is one thing here and another there; a commit is the same everywhere."""
    hosts = ("http://a", "http://b")
    moves = ("main", "v1.0", "decade", "20240726", "2024072", "202407261530")
    stays = ("0123abc", "2024072f", "f" * 40, "7" * 40, "f" * 64)
    for revision, kinds in [*((r, 2) for r in moves), *((r, 1) for r in stays)]:
        found = {declare(tmp_path / "w", h, revision=revision).fingerprint for h in hosts}
        assert len(found) == kinds, revision


def test_a_stated_commit_begins_as_the_declared_one_does(tmp_path, capsys):
    commit = "0123abc" + "0" * 33
    with RewardServer("tei", about={"model_sha": commit}) as server:
        for declared in ("0123abc", commit):
            load(declare(tmp_path / "w", server.url, "tei-predict", revision=declared))
        assert capsys.readouterr().err == ""
        for declared in ("0123abd", "012", "main"):
            with pytest.raises(RefusedModelError, match="revision"):
                load(declare(tmp_path / "w", server.url, "tei-predict", revision=declared))
        load(declare(tmp_path / "w", server.url, "tei-predict", revision=None))
    assert f"states revision {commit}; declare it in evalkit.toml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("dialect", "path"),
    [("vllm-pooling", "/v1/models"), ("tei-predict", "/info"),
     ("sglang-classify", "/get_model_info"), ("infinity-classify", "/models")],
)  # fmt: skip
@pytest.mark.parametrize("garbage", [["x"], "x", 7, {}, {"data": 5}, {"data": [7, "x", None]}])
def test_a_server_that_says_garbage_of_itself_is_told_apart(tmp_path, dialect, path, garbage):
    class Garbled(RewardServer):
        def answer(self, asked, body, headers):
            return garbage if asked == path else super().answer(asked, body, headers)

    with Garbled(KINDS[dialect]) as server, pytest.raises(MissingError, match="serve"):
        load(declare(tmp_path / "w", server.url, dialect))


@pytest.mark.parametrize("garbage", [{"data": 5}, {"data": "x"}, ["x"], {}])
def test_a_judges_server_that_lists_garbage_is_said_to_list_nothing(tmp_path, garbage):
    class Garbled(RewardServer):
        def answer(self, asked, body, headers):
            return garbage if asked == "/v1/models" else super().answer(asked, body, headers)

    silent = pytest.raises(MissingError, match="it serves what it does not say")
    with Garbled("openai", models=()) as server, silent:
        load(declare(tmp_path / "w", server.url, "openai-judge"))


def test_tokenizer_and_template_enter_by_content(tmp_path):
    found = set()
    for text in ("a", "b"):
        folder = tmp_path / text
        shutil.copytree(DEMO_RM, folder)
        path = folder / "chat_template.jinja"
        path.write_text(path.read_text() + text)
        found.add(declare(tmp_path / "w", tokenizer=str(folder)).fingerprint)
    config = tmp_path / "a" / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "add_bos_token": False}))
    found.add(declare(tmp_path / "w", tokenizer=str(tmp_path / "a")).fingerprint)
    assert len(found) == 3


def test_a_relative_tokenizer_lies_beside_evalkit_toml(tmp_path, monkeypatch):
    shutil.copytree(DEMO_RM, tmp_path / "w" / "tok")
    spec = declare(tmp_path / "w", tokenizer="tok")
    monkeypatch.chdir(tmp_path)
    again = find_reward_model("served", Workspace(tmp_path / "w"), file_digest)
    assert spec.fingerprint == again.fingerprint == declare(tmp_path / "v").fingerprint


def test_every_output_says_that_the_identity_is_declared(tmp_path):
    assert "declared and not verified" in declare(tmp_path / "w").notice
    assert declare(tmp_path / "w", notice="mine").notice.endswith("; mine")


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"dialect": "vllm-poling"}, "did you mean: vllm-pooling"),
        ({"dialect": None}, "must name its dialect"),
        ({"url": "gpu1:8000"}, "no address"),
        ({"url": "http://user:secret@gpu1"}, "holds a user or password"),
        ({"url": "http://gpu1/?key=secret"}, "no address"),
        ({"url": "http://gpu1:99999"}, "no address"),
        ({"url": None}, "and none is named"),
        ({"model": None}, "names no model"),
        ({"tokenizer": None}, "names no tokenizer"),
        ({"timeout": 0.0}, "timeout must lie above 0"),
        ({"concurrency": 0}, "concurrency must lie above 0"),
        ({"output": "preference"}, "cannot have 'preference' output"),
        ({"family": "pairrm"}, "compares two answers"),
        ({"family": "openassistant-deberta"}, "takes one text"),
        ({"parameters": Raw("{indentity = true}")}, "did you mean: identity"),
        ({"trust_remote_code": True}, "no use for trust_remote_code"),
        ({"attributes": Raw('["a"]')}, "no use for attributes"),
        ({"max_length": 9999}, "beyond the model's 8192 tokens"),
    ],
)  # fmt: skip
def test_a_declaration_that_cannot_hold_is_refused(tmp_path, keys, says):
    with pytest.raises(InputError) as refusal:
        declare(tmp_path / "w", **keys)
    assert says in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_a_number_is_a_number():
    assert dialects.number(-3) == -3.0
    for value in ("1.0", "NaN", True, None, [1.0], {}, float("nan"), float("inf")):
        with pytest.raises(ReplyError):
            dialects.number(value)


def test_the_names_of_models():
    from evalkit.reward_models.remote.asking import check_same_model

    dates = (f"{MODEL}-{date}" for date in ("2024-08-06", "20240806", "0806"))
    for same in (MODEL, f"{MODEL}@main", *dates):
        check_same_model({"model": same}, MODEL)
    versions = (f"{MODEL}{end}" for end in ("-5", "-3-7", "-70", "-20240", "-2024-08", "5"))
    for other in ("org/other", f"{MODEL}-mini", f"x{MODEL}", "", *versions):
        with pytest.raises(MissingError):
            check_same_model({"model": other}, MODEL)


def test_text_embeddings_inference_is_told_to_cut_nothing():
    """Without it a server started with --auto-truncate, its default, cuts and says nothing."""
    for name, texts in (("tei-predict", ("a",)), ("tei-rerank", ("q", "a"))):
        asked = dialects.Request("m", [Rendered([1], texts=texts)], raw=True)
        assert dialects.dialects()[name].body(asked)["truncate"] is False


def test_infinity_strips_what_it_reads():
    for name in ("infinity-classify", "infinity-rerank"):
        assert dialects.dialects()[name].text_as_read(" Paris. \n", None) == "Paris."


def test_true_is_no_index():
    with pytest.raises(ReplyError, match="index true"):
        dialects.by_index([{"index": True}, {"index": 0}], 2)


def test_tokens_are_counted_where_every_row_says_its_own():
    rows = [{"meta_info": {"prompt_tokens": n}} for n in (3, 4)]
    tokens = dialects.dialects()["sglang-classify"].tokens
    assert tokens(rows) == 7
    assert tokens([*rows, {"meta_info": {}}]) is None
