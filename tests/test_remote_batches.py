"""Rows of one request: in their order, whatever stands beside them, and of the model checked."""

import pytest

from evalkit.check import check
from evalkit.errors import MissingError, RefusedModelError
from evalkit.reward_models import load
from evalkit.reward_models.remote import client
from evalkit.reward_models.remote.probes import mixed_up
from evalkit.scoring import RunSettings, noise, score
from evalkit.store import Store
from tests.endpoints import KINDS, chat, declare
from tests.reward_server import RewardServer

CHATS = [chat(f"answer{' word' * (i % 7)} {i}") for i in range(40)]
# Dialects whose replies name no row.
BY_PLACE = ("sglang-classify", "tei-predict", "openrlhf", "infinity-classify")


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


def run_small(spec, store, items):
    return score(spec, items, store, settings=RunSettings(batch_tokens=128, progress=False))


def test_a_reply_under_another_name_says_where(tmp_path):
    with (
        RewardServer("vllm", answers_as="org/else") as server,
        pytest.raises(MissingError, match="answers as 'org/else'") as refusal,
    ):
        load(declare(tmp_path / "w", server.url))
    assert f"at {server.url}/pooling" in str(refusal.value)
