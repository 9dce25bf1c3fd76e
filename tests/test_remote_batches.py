"""Rows of one request: in their order, whatever stands beside them, and of the model checked."""

import pytest

from evalkit.check import check
from evalkit.data import ServerFailed, item_key
from evalkit.errors import IntegrityError, MissingError, RefusedModelError
from evalkit.reward_models import load
from evalkit.reward_models.remote import client
from evalkit.reward_models.remote.client import Client
from evalkit.reward_models.remote.probes import PROBES, mixed_up
from evalkit.reward_models.remote.served import ServedRewardModel
from evalkit.scoring import RunSettings, noise, score
from evalkit.store import Store
from tests.endpoints import KINDS, chat, declare, truth
from tests.reward_server import RewardServer

CHATS = [chat(f"answer{' word' * (i % 7)} {i}") for i in range(40)]
# Dialects whose replies name no row.
BY_PLACE = ("sglang-classify", "tei-predict", "openrlhf", "infinity-classify")
# Dialects whose replies name no model.
NAMELESS = ("sglang-classify", "tei-predict", "tei-rerank", "openrlhf")


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.01)


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store.db") as found:
        yield found


class Disordered(RewardServer):
    """Gives the results of a request in another order than its rows stood in."""

    order = staticmethod(lambda rows: rows[::-1])

    def answer(self, path, body, headers):
        found = super().answer(path, body, headers)
        if body is None:
            return found
        if isinstance(found, list):
            return self.order(found)
        return {k: self.order(v) if isinstance(v, list) else v for k, v in found.items()}


class Sorting(Disordered):
    """By length, as batches are made, and never put back."""

    order = staticmethod(lambda rows: sorted(rows, key=repr))


def of(dialect, kind, **options):
    regression = dialect.startswith("infinity")
    return kind(KINDS[dialect], regression=regression, **options)


@pytest.mark.parametrize("kind", [Disordered, Sorting])
@pytest.mark.parametrize("dialect", BY_PLACE)
def test_a_server_that_gives_rows_in_another_order_is_refused(tmp_path, dialect, kind):
    with of(dialect, kind) as server:
        spec = declare(tmp_path / "w", server.url, dialect)
        with pytest.raises(RefusedModelError, match="do not stand in the order of the rows"):
            load(spec)
        (finding,) = check(spec).findings
    assert (finding.code, finding.unit) == ("row-order", "rows in another's place")
    # of two times four, reversed each is another row, sorted at least half of them
    assert finding.number == 8 if kind is Disordered else 4 <= finding.number <= 7


def test_where_results_have_an_index_their_order_says_nothing(tmp_path):
    for dialect in sorted({*KINDS} - {*BY_PLACE}):
        with of(dialect, Disordered) as server:
            load(declare(tmp_path / "w", server.url, dialect))


@pytest.mark.parametrize(
    ("together", "code"),
    [
        ([1.0, 2.0, 4.0, 9.0] * 2, None),
        ([1.3, 2.3, 4.3, 9.3] * 2, None),  # arithmetic, however crude
        ([4.0, 2.0, 1.0], "row-order"),
        ([1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 9.0, 9.0], "row-order"),
        ([9.2, 4.2, 2.2, 1.2] * 2, "row-order"),  # with arithmetic on top
        ([3.4, 4.4, 6.4, 11.4] * 2, "moves-with-batch"),
        ([0.0] * 8, "moves-with-batch"),
    ],
)
def test_scores_together_are_held_against_those_alone(together, code):
    fault = mixed_up([1.0, 2.0, 4.0, 9.0], together)
    assert (fault and fault.code) == code


class Company(RewardServer):
    """allenai/reward-bench#137, served: each row of a request moves all of them."""

    by = 0.0

    def answer(self, path, body, headers):
        found = super().answer(path, body, headers)
        rows = found["data"] if body else []
        for row in rows if len(rows) > 1 else []:
            row["data"] = [row["data"][0] + self.by * len(rows)]
        return found


@pytest.fixture
def moving(monkeypatch):
    def server(by):
        monkeypatch.setattr(Company, "by", by)
        return Company("vllm")

    return server


def test_a_server_whose_scores_move_far_with_their_company_is_refused(tmp_path, moving):
    with moving(1.0) as server:
        spec = declare(tmp_path / "w", server.url)
        with pytest.raises(RefusedModelError, match="with the rows beside it in one request"):
            load(spec)
        (finding,) = check(spec).findings
    assert (finding.code, finding.number) == ("moves-with-batch", pytest.approx(8))


def test_check_and_noise_see_what_moves_a_little_at_any_concurrency(tmp_path, moving):
    for concurrency in (1, 8, 64):
        with moving(0.01) as server:
            spec = declare(tmp_path / "w", server.url, dtype="float32", concurrency=concurrency)
            (finding,) = check(spec).findings
            band = noise.measure(spec, CHATS[:16]).band
        assert (finding.code, finding.number) == ("moves-with-batch", pytest.approx(0.08))
        assert band == pytest.approx(0.08)


def test_a_server_that_takes_one_row_a_request_gets_one(tmp_path, store):
    def single(texts, times):
        return "413" if len(texts) > 1 else None

    with RewardServer("openrlhf", misbehave=single) as server:
        spec = declare(tmp_path / "w", server.url, "openrlhf")
        scored = run_small(spec, store, CHATS[:4])
    assert (len(scored.rewards), scored.problems) == (4, {})


# A server that comes back as another


class Swapped(RewardServer):
    """Loses a connection after a dozen rows, and comes back with other weights or not."""

    def __init__(self, kind, *, other=True, renamed=False, loses=True, **options):
        super().__init__(kind, misbehave=self.swap, **options)
        self.other, self.renamed, self.loses, self.back = other, renamed, loses, False

    def swap(self, texts, times):
        ours = sum("answer" in text for text in texts)
        if self.back or not ours or sum("answer" in text for text in self.rows) < 12:
            return None
        self.back = True
        if self.renamed:
            self.models = ("org/other-rm",)
        return "closed" if self.loses else None

    def _score(self, ids, raw):
        value = super()._score(ids, raw)
        return super()._score([9, *ids], raw) if self.back and self.other else value


def run_small(spec, store, items):
    return score(spec, items, store, settings=RunSettings(batch_tokens=128, progress=False))


@pytest.mark.parametrize("loses", [True, False])
@pytest.mark.parametrize("dialect", NAMELESS)
def test_rewards_of_a_server_that_comes_back_as_another_model_are_not_kept(
    tmp_path, store, dialect, loses
):
    with of(dialect, Swapped, loses=loses, renamed=True) as server:
        spec = declare(tmp_path / "w", server.url, dialect)
        with pytest.raises(IntegrityError, match="not the one any more") as refusal:
            run_small(spec, store, CHATS)
    assert server.url in str(refusal.value)
    known = store.lookup(spec.fingerprint, map(item_key, CHATS))
    assert 4 <= len(known) < 40
    with of(dialect, RewardServer) as before:
        first = {k: r.reward for k, r in run_small_elsewhere(tmp_path, before, dialect).items()}
    assert all(row.reward == first[key] for key, row in known.items())


def run_small_elsewhere(folder, server, dialect):
    with Store(folder / "true.db") as other:
        return run_small(declare(folder / "t", server.url, dialect), other, CHATS).rewards


def test_a_server_with_another_name_and_the_same_numbers_is_another(tmp_path, store):
    for dialect in ("sglang-classify", "tei-predict"):
        with of(dialect, Swapped, other=False, renamed=True) as server:
            spec = declare(tmp_path / "w", server.url, dialect)
            with pytest.raises(IntegrityError, match="org/other-rm"):
                run_small(spec, store, CHATS)


@pytest.mark.parametrize("dialect", sorted(KINDS))
def test_a_server_that_loses_a_connection_and_stays_the_same_is_the_same(tmp_path, store, dialect):
    with of(dialect, Swapped, other=False) as server:
        scored = run_small(declare(tmp_path / "w", server.url, dialect), store, CHATS)
        assert server.back
    assert (len(scored.rewards), scored.problems) == (40, {})
    if "rerank" not in dialect:
        assert all(
            scored.rewards[item_key(messages)].reward == truth(server, messages)
            for messages in CHATS
        )


def test_check_finds_a_server_that_drifts_while_it_is_asked(tmp_path):
    class Drifting(RewardServer):
        def _score(self, ids, raw):
            return super()._score(ids, raw) + 0.1 * len(self.requests)

    with Drifting("openrlhf") as server:
        checked = check(declare(tmp_path / "w", server.url, "openrlhf"))
    (finding,) = checked.findings
    assert (finding.code, finding.here) == ("drifts", True)
    assert "a probe had" in finding.what


class Unsealed(ServedRewardModel):
    """The control: what asked the server once, when it was loaded."""

    def _check_same(self, seal):
        pass


def test_without_another_look_the_swap_is_stored(tmp_path, store):
    def once(spec, *, device):
        model = Unsealed(spec, Client(spec.endpoint))
        model.check()
        return model

    with of("openrlhf", Swapped) as server:
        spec = declare(tmp_path / "w", server.url, "openrlhf")
        settings = RunSettings(batch_tokens=128, progress=False, load=once)
        scored = score(spec, CHATS, store, settings=settings)
    wrong = [c for c in CHATS if scored.rewards[item_key(c)].reward != truth(server, c)]
    assert 12 < len(wrong) < 40


def test_rewards_for_which_it_cannot_be_told_are_not_kept(tmp_path, store):
    """The probes fail from some row on, and nothing else does."""
    (probe,) = {messages[-1].content for messages in PROBES[:1]}

    def later(texts, times):
        begun = any("answer" in text for text in server.rows)
        return "html" if begun and any(probe in text for text in texts) else None

    with RewardServer("openrlhf", misbehave=later) as server:
        spec = declare(tmp_path / "w", server.url, "openrlhf")
        scored = run_small(spec, store, CHATS[:4])
    assert scored.rewards == {}
    assert [type(why) for why in scored.problems.values()] == [ServerFailed] * 4


def test_a_reply_under_another_name_says_where(tmp_path):
    with (
        RewardServer("vllm", answers_as="org/else") as server,
        pytest.raises(MissingError, match="answers as 'org/else'") as refusal,
    ):
        load(declare(tmp_path / "w", server.url))
    assert f"at {server.url}/pooling" in str(refusal.value)
