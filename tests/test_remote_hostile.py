"""A hostile server: every reward is right, or its row has none and says why; never a zero.

Beside the figures stands a control, a client that does what peers did: the same check catches it.
"""

import contextlib
import logging
import math
import threading
import time

import numpy as np
import pytest

from evalkit.data import conversation_key, item_key
from evalkit.errors import InputError, IntegrityError, MissingError
from evalkit.reward_models import PartialBatchError, load
from evalkit.reward_models.remote import client
from evalkit.reward_models.remote.client import Answer, Client, ReplyError, _retry_after
from evalkit.reward_models.remote.dialects import Request
from evalkit.reward_models.remote.served import ServedRewardModel
from evalkit.store import Store
from tests.endpoints import chat, declare, run, truth
from tests.reward_server import AFTER, BEFORE, MODEL, RewardServer

CHATS = [chat(f"answer {i}{' poison' if i == 7 else ''}") for i in range(16)]
POISONED = conversation_key(CHATS[7])
SECRET = "sk-verysecretkey-0123456789"
# what a request that is asked again may get over, and what it may not
PASSING = ("429", "500", "503", "slow", "drip", "drip headers", "closed", "cut short")
HARMLESS = ("reversed",)
FAILING = sorted({*map(str, BEFORE), *AFTER} - {"429", "503", *HARMLESS})


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(client, "LONGEST_PAUSE", 0.5)
    monkeypatch.setattr(client, "ATTEMPTS", 3)


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store.db") as found:
        yield found


def poison(mode, *, times=math.inf, mark="poison"):
    """Misbehaves towards requests that hold a marked row, for the first times."""
    return lambda texts, seen: mode if any(mark in t for t in texts) and seen < times else None


def patience(mode):
    """Short where the server takes its time on purpose, and only there."""
    return 0.5 if mode in {"slow", "drip", "drip headers"} else 10.0


def audit(server, scored, items):
    """Rows whose reward is wrong, and rows that have neither a reward nor a reason."""
    wrong = [
        key
        for messages in items
        if (key := conversation_key(messages)) in scored.rewards
        and scored.rewards[key].reward != truth(server, messages)
    ]
    keys = {conversation_key(messages) for messages in items}
    return wrong, keys - scored.rewards.keys() - scored.problems.keys()


@pytest.mark.parametrize("mode", FAILING)
def test_a_row_that_a_server_answers_badly_has_no_reward_and_says_why(tmp_path, store, mode):
    with RewardServer("vllm", misbehave=poison(mode)) as server:
        spec = declare(tmp_path / "w", server.url, timeout=patience(mode))
        begun = time.monotonic()
        scored = run(spec, store, CHATS)
        assert time.monotonic() - begun < 30
        assert audit(server, scored, CHATS) == ([], set())
    assert set(scored.problems) == {POISONED}
    assert scored.problems[POISONED].startswith("the server failed: ")
    assert len(scored.rewards) == len(CHATS) - 1
    with Store(store.path) as again:
        assert POISONED not in again.lookup(spec.fingerprint, [POISONED])


def test_a_bad_row_costs_the_rows_of_its_own_request_alone(tmp_path, store):
    chats = [chat(f"answer {i}{' poison' if i == 41 else ''}") for i in range(64)]
    asked = []

    class Counting(ServedRewardModel):
        def ask(self, rows):
            asked.append(len(rows))
            return super().ask(rows)

    with RewardServer("vllm", misbehave=poison("413")) as server:
        spec = declare(tmp_path / "w", server.url, concurrency=4)
        scored = run(spec, store, chats, load=loading(Counting))
        assert audit(server, scored, chats) == ([], set())
    assert list(scored.problems) == [conversation_key(chats[41])]
    # 4 requests of 16; these 16 in halves down to one; a probe, as a batch is one request by then
    assert (sum(asked), len(asked)) == (64 + 16 + 8 + 4 + 2 + 1, 4 + 2 + 2 + 2 + 2 + 1)


@pytest.mark.parametrize("mode", [*PASSING, *HARMLESS])
def test_a_failure_that_passes_costs_nothing_but_time(tmp_path, store, mode):
    with RewardServer("vllm", misbehave=poison(mode, times=1)) as server:
        scored = run(declare(tmp_path / "w", server.url, timeout=patience(mode)), store, CHATS)
        assert audit(server, scored, CHATS) == ([], set())
    assert scored.problems == {}


class ZeroFilling(ServedRewardModel):
    """What peers did: a failed call is a zero (verl-project/verl-omni#366)."""

    def ask(self, rows):
        try:
            return super().ask(rows)
        except ReplyError:
            return [0.0] * len(rows)


class TakingTheOrder(ServedRewardModel):
    """Results by their place, whatever index they have."""

    def _ask(self, rows, *, raw):
        reply = self.client.ask("/pooling", self.dialect.body(Request(MODEL, rows, raw)))
        return [row["data"][0] for row in reply["data"]]


def loading(kind):
    return lambda spec, *, device: kind(spec, Client(spec.endpoint))


@pytest.mark.parametrize(
    ("kind", "mode"),
    [*((ZeroFilling, mode) for mode in ("500", "html", "closed", "NaN")),
     (TakingTheOrder, "reversed")],
)  # fmt: skip
def test_verl_omni_366_a_client_that_fills_in_is_caught_by_the_same_audit(
    tmp_path, store, kind, mode
):
    items = CHATS[:2] if kind is TakingTheOrder else CHATS
    everywhere = lambda texts, seen: mode if "/v1/models" not in texts else None  # noqa: E731
    with RewardServer("vllm", misbehave=everywhere) as server:
        spec = declare(tmp_path / "w", server.url, concurrency=1)
        control = run(spec, store, items, load=loading(kind))
        assert audit(server, control, items)[0]
    with (
        RewardServer("vllm", misbehave=poison(mode, mark="answer")) as server,
        Store(tmp_path / "other.db") as other,
    ):
        spec = declare(tmp_path / "w", server.url, concurrency=1)
        try:
            scored = run(spec, other, items)
        except MissingError:
            assert other.lookup(spec.fingerprint, map(item_key, items)) == {}
        else:
            assert audit(server, scored, items) == ([], set())


# A server that goes away


@pytest.mark.parametrize("mode", ["html", "500", "closed", "too few"])
def test_a_server_that_goes_bad_stops_the_run_and_what_it_scored_is_kept(tmp_path, store, mode):
    good = 64
    chats = [chat(f"row {i:03}") for i in range(256)]

    def later(texts, seen):
        return mode if sum(server.rows.values()) > good else None

    with RewardServer("vllm", misbehave=later) as server:
        spec = declare(tmp_path / "w", server.url)
        with pytest.raises(MissingError, match="nothing usable any more"):
            run_small(spec, store, chats)
        asked = len(server.requests)
    known = store.lookup(spec.fingerprint, map(item_key, chats))
    assert 8 <= len(known) < 128
    assert asked < 300
    with RewardServer("vllm") as server:
        again = declare(tmp_path / "w", server.url)
        assert again.fingerprint == spec.fingerprint
        scored = run(again, store, chats)
        assert scored.forwards == len(chats) - len(known)
        assert audit(server, scored, chats) == ([], set())


def run_small(spec, store, items):
    from evalkit.scoring import RunSettings, score

    return score(spec, items, store, settings=RunSettings(batch_tokens=128, progress=False))


def test_after_three_batches_without_a_number_the_server_is_probed_and_then_counted_anew(tmp_path):
    with RewardServer("vllm", misbehave=poison("html")) as server:
        model = load(declare(tmp_path / "w", server.url))
        bad, good = model.render([CHATS[7], CHATS[0]])
        probes, told = [], []
        model.probe = lambda: probes.append(1)
        for row in (bad, bad, good, *[bad] * 7):
            with contextlib.suppress(PartialBatchError):
                model.rewards([row])
            told.append(len(probes))
    assert told == [0, 0, 0, 0, 0, 1, 1, 1, 2, 2]


def test_a_server_without_anybody_there_is_missing(tmp_path, store):
    with RewardServer("vllm") as server:
        pass
    with pytest.raises(MissingError, match="refused") as refusal:
        run(declare(tmp_path / "w", server.url), store, CHATS)
    assert server.url in str(refusal.value)
    assert "the same command goes on from there" in str(refusal.value)


@pytest.mark.parametrize("mode", ["429", "503"])
def test_a_server_that_stays_too_busy_stops_the_run(tmp_path, store, mode):
    with RewardServer("vllm", misbehave=poison(mode, mark="answer")) as server:
        spec = declare(tmp_path / "w", server.url)
        with pytest.raises(MissingError, match=mode):
            run(spec, store, CHATS)


def test_retry_after_is_waited_for(tmp_path, store):
    with RewardServer("vllm", misbehave=poison("429", times=1)) as server:
        begun = time.monotonic()
        scored = run(declare(tmp_path / "w", server.url, timeout=5.0), store, CHATS[7:8])
        assert time.monotonic() - begun >= 1
        assert not scored.problems


def test_retry_after_is_seconds_or_a_date_and_has_a_bound():
    assert _retry_after("7") == 7
    assert _retry_after("86400") == client.LONGEST_RETRY_AFTER
    assert _retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert _retry_after("Fri, 31 Dec 9999 23:59:59 GMT") == client.LONGEST_RETRY_AFTER
    for nothing in (None, "", "soon", "-3", "nan"):
        assert _retry_after(nothing) == 0


@pytest.mark.parametrize("date", ["31 Dec 99999999999999999999 23:59:59 GMT",
                                  "31 Dec 2031 23:59:59 +99999999999999999999"])  # fmt: skip
def test_a_date_beyond_all_dates_is_waited_for_no_longer_than_none(date):
    assert _retry_after(f"Fri, {date}") == 0


def test_which_failures_pass():
    known = (0, 200, 307, 400, 401, 404, 408, 413, 422, 429, 500, 502, 503, 504)
    assert [s for s in known if Answer(s).passes] == [0, 408, 429, 500, 502, 503, 504]


def test_patience_ends_before_all_attempts_are_made(tmp_path, monkeypatch):
    with RewardServer("vllm", misbehave=lambda texts, seen: "500") as server:
        asking = Client(declare(tmp_path / "w", server.url).endpoint)
        monkeypatch.setattr(asking, "_patience", 0.0)
        with pytest.raises(ReplyError, match="500"):
            asking.ask("/pooling", {"input": ["x"]})
        assert len(server.requests) == 1


def test_a_request_that_is_refused_is_not_sent_again(tmp_path):
    with RewardServer("vllm", misbehave=lambda texts, seen: "413") as server:
        asking = Client(declare(tmp_path / "w", server.url).endpoint)
        with pytest.raises(ReplyError, match="413"):
            asking.ask("/pooling", {"input": ["x"]})
        assert len(server.requests) == 1
    assert not asking._lines  # of a request that is over nothing is kept


def test_a_slow_drip_ends_with_the_deadline(tmp_path):
    for mode in ("drip", "drip headers", "slow"):
        with RewardServer("vllm", misbehave=lambda texts, seen, mode=mode: mode) as server:
            asking = Client(declare(tmp_path / "w", server.url, timeout=0.3).endpoint)
            # without a deadline the drip would end by itself, and be told otherwise
            with pytest.raises(ReplyError, match=r"no whole reply within 0\.3 s"):
                asking.ask("/v1/models")


def test_an_interrupt_hangs_up_on_what_is_under_way(tmp_path, monkeypatch):
    interrupted = threading.Event()
    monkeypatch.setitem(BEFORE, "held", lambda h: (interrupted.wait(10), h.send(500, b"")))
    with RewardServer("vllm", misbehave=poison("held", mark="answer")) as server:
        model = load(declare(tmp_path / "w", server.url, timeout=60.0))
        real, requests, rows = model.ask, len(server.requests), model.render(CHATS)
        problems = []

        def ask(asked):
            if asked[0] == rows[0]:  # presses Ctrl-C once the other request is under way
                while len(server.requests) == requests:
                    time.sleep(0.005)
                raise KeyboardInterrupt
            try:
                return real(asked)
            except ReplyError as error:
                problems.append(str(error))
                raise

        model.ask = ask
        with pytest.raises(KeyboardInterrupt):
            model.rewards(rows)
        interrupted.set()
    assert problems == ["no whole reply within 60 s"]  # and not the HTTP 500 of its own end


# Known rewards


def test_a_server_that_serves_other_weights_now_is_found_out(tmp_path, store):
    class Other(RewardServer):
        def _score(self, ids, raw):
            return super()._score([9, *ids], raw)

    with RewardServer("vllm") as server:
        run(declare(tmp_path / "w", server.url), store, CHATS[:12])
    with Other("vllm") as server, pytest.raises(IntegrityError, match="came out differently"):
        run(declare(tmp_path / "w", server.url), store, CHATS)


def test_a_server_that_fails_is_not_said_to_have_changed(tmp_path, store):
    with RewardServer("vllm") as server:
        run(declare(tmp_path / "w", server.url), store, CHATS[:12])
    with (
        RewardServer("vllm", misbehave=poison("html", mark="answer")) as server,
        pytest.raises(MissingError, match="fails on what it has scored before"),
    ):
        run(declare(tmp_path / "w", server.url), store, CHATS)


def test_known_rewards_need_no_server(tmp_path, store):
    with RewardServer("vllm") as server:
        first = run(declare(tmp_path / "w", server.url), store, CHATS)
    again = run(declare(tmp_path / "w", server.url), store, CHATS)
    assert (again.rewards, again.forwards) == (first.rewards, 0)


# Keys


@pytest.mark.parametrize("mode", [None, "echo", "echo 200", "html", "500", "redirect", "closed"])
def test_a_key_is_sent_to_its_server_and_shown_nowhere(
    tmp_path, store, monkeypatch, caplog, capsys, mode
):
    monkeypatch.setenv("RM_KEY", SECRET)
    caplog.set_level(logging.DEBUG)
    said = []
    with RewardServer("vllm", misbehave=poison(mode)) as server:
        server.key = SECRET
        spec = declare(tmp_path / "w", server.url, key_env="RM_KEY")
        scored = run(spec, store, CHATS)
        said += [str(scored), repr(spec), repr(load(spec)), str(vars(load(spec)))]
        assert {h.get("Authorization") for _, h, _ in server.requests} == {f"Bearer {SECRET}"}
    with Store(store.path) as found:
        said.append(str(found.lookup(spec.fingerprint, map(item_key, CHATS))))
    said += [
        caplog.text,
        *capsys.readouterr(),
        (tmp_path / "store.db").read_bytes().decode("latin1"),
    ]
    assert len(scored.rewards) >= len(CHATS) - 1
    assert not [text for text in said if SECRET in text]
    assert SECRET in str(server.requests)  # the check can see one


def test_a_key_is_sent_without_the_blanks_around_it(tmp_path, monkeypatch):
    """A file that is read into the environment ends its line."""
    monkeypatch.setenv("RM_KEY", f" {SECRET}\n")
    with RewardServer("vllm") as server:
        Client(declare(tmp_path / "w", server.url, key_env="RM_KEY").endpoint).ask("/v1/models")
        ((_, headers, _),) = server.requests
    assert headers["Authorization"] == f"Bearer {SECRET}"


def test_a_wrong_key_stops_at_once(tmp_path, store, monkeypatch):
    monkeypatch.setenv("RM_KEY", SECRET)
    with RewardServer("vllm") as server:
        server.key = "another"
        with pytest.raises(MissingError, match="401") as refusal:
            run(declare(tmp_path / "w", server.url, key_env="RM_KEY"), store, CHATS)
        assert len(server.requests) == 1
    assert SECRET not in str(refusal.value)
    assert "key_env" in str(refusal.value)


def test_a_key_that_is_not_there_or_no_header_is_refused_without_showing_it(tmp_path, monkeypatch):
    spec = declare(tmp_path / "w", key_env="RM_KEY")
    monkeypatch.delenv("RM_KEY", raising=False)
    with pytest.raises(MissingError, match="RM_KEY is not set"):
        load(spec)
    monkeypatch.setenv("RM_KEY", "secret\r\nX-Evil: 1")
    with pytest.raises(InputError) as refusal:
        load(spec)
    assert "secret" not in str(refusal.value)


def test_a_redirect_is_not_followed_and_no_proxy_is_asked(tmp_path, store, monkeypatch):
    with RewardServer("vllm") as thief:
        monkeypatch.setenv("http_proxy", thief.url)
        monkeypatch.setenv("HTTP_PROXY", thief.url)
        monkeypatch.setitem(
            BEFORE, "redirect", lambda h: h.send(307, b"", {"Location": thief.url + h.path})
        )
        with RewardServer("vllm", misbehave=poison("redirect")) as server:
            scored = run(declare(tmp_path / "w", server.url), store, CHATS)
        assert "307" in scored.problems[POISONED]
        assert thief.requests == []


def test_a_prefix_of_the_path_and_a_trailing_v1_are_understood(tmp_path, store):
    class Behind(RewardServer):
        def answer(self, path, body, headers):
            assert path.startswith("/proxy/")
            return super().answer(path.removeprefix("/proxy"), body, headers)

    with Behind("vllm") as server:
        for end in ("/proxy", "/proxy/", "/proxy/v1"):
            load(declare(tmp_path / "w", server.url + end))


def test_a_v1_is_a_prefix_where_a_dialect_has_none_of_its_own(tmp_path):
    """Infinity's `--url-prefix /v1`."""

    class Prefixed(RewardServer):
        def answer(self, path, body, headers):
            assert path.startswith("/v1/")
            return super().answer(path.removeprefix("/v1"), body, headers)

    with Prefixed("infinity", regression=True) as server:
        for end in ("/v1", "/v1/"):
            load(declare(tmp_path / "w", server.url + end, "infinity-classify"))


def test_rewards_do_not_depend_on_how_many_are_asked_at_once(tmp_path):
    found = []
    for concurrency in (1, 3, 64):
        with RewardServer("vllm") as server, Store(tmp_path / f"{concurrency}.db") as store:
            spec = declare(tmp_path / "w", server.url, concurrency=concurrency)
            scored = run(spec, store, CHATS)
            found.append({key: row.reward for key, row in scored.rewards.items()})
    assert found[0] == found[1] == found[2]
    assert np.std(list(found[0].values())) > 1
