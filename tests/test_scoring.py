"""Each conversation is computed once, ever; what cannot be scored is named and never a number."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.data import (
    Messages,
    ServerFailed,
    Unreadable,
    completion_set,
    conversation_key,
    item_key,
)
from evalkit.data import Row as FileRow
from evalkit.errors import IntegrityError
from evalkit.reward_models import PartialBatchError
from evalkit.scoring import (
    SENTINELS,
    RunSettings,
    Scored,
    ordered_pairs,
    preferences_of,
    rewards_of,
    score,
)
from evalkit.scoring.batches import plan
from evalkit.store import Pack, Store, write_pack
from tests.fake_reward_model import FakeRewardModel, chats, expected, fake_spec

SPEC = fake_spec()
NAN, INF = float("nan"), float("inf")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store.db") as store:
        yield store


def run(store, conversations, model, *, batch_tokens=256, packs=(), spec=SPEC) -> Scored:
    settings = RunSettings(batch_tokens=batch_tokens, progress=False, load=model.load)
    return score(spec, conversations, store, packs=packs, settings=settings)


def words(n: int, *, start: int = 0) -> list[Messages]:
    """N conversations of 19 to 62 tokens."""
    return chats(*(f"answer {i} " + "x" * (i * 7 % 43) for i in range(start, start + n)))


def in_store(store: Store, conversations: list[Messages]) -> dict[str, float]:
    found = store.lookup(SPEC.fingerprint, map(conversation_key, conversations))
    return {key: row.reward for key, row in found.items()}


def truth(conversations: list[Messages]) -> dict[str, float]:
    return {conversation_key(messages): expected(messages) for messages in conversations}


def rewards(scored: Scored) -> dict[str, float]:
    return {key: row.reward for key, row in scored.rewards.items()}


def no_load(*_: object, **__: object) -> FakeRewardModel:
    raise AssertionError("the reward model was loaded")


NO_LOAD = RunSettings(load=no_load)


# Once


def test_each_distinct_conversation_is_computed_once_and_kept(store):
    conversations, model = words(50), FakeRewardModel()
    scored = run(store, [*conversations, *conversations, *conversations[:7]], model)
    assert rewards(scored) == in_store(store, conversations) == truth(conversations)
    assert (model.rows, scored.forwards, scored.problems) == (50, 50, {})


def test_what_is_known_needs_no_reward_model(store):
    conversations = words(50)
    first = run(store, conversations, FakeRewardModel())
    again = score(SPEC, conversations[::-1], store, settings=NO_LOAD)
    assert (again.rewards, again.forwards) == (first.rewards, 0)
    assert score(SPEC, [], store, settings=NO_LOAD) == Scored({}, {}, 0)


def test_where_nothing_has_a_reward_there_is_no_store(store):
    scored = run(store, words(3), FakeRewardModel(poisoned=["answer"]))
    assert len(scored.problems) == 3
    assert not store.path.exists()


def test_a_model_that_asks_for_its_rows_again_and_again_is_asked_for_each_alone_at_last(store):
    class Insatiable(FakeRewardModel):
        def rewards(self, batch):
            self.rows += len(batch)
            raise PartialBatchError(np.full((len(batch), 1), NAN), {}, range(len(batch)))

    scored = run(store, words(4), model := Insatiable(), batch_tokens=10_000)
    assert len(scored.problems) == 4
    assert model.rows == 4 + 4 + 4


def test_rewards_in_packs_are_known(store, tmp_path):
    conversations = words(20)
    first = run(store, conversations, FakeRewardModel())
    pack = Pack(write_pack(tmp_path, SPEC.fingerprint, {}, first.rewards.values()))
    with Store(tmp_path / "empty.db") as empty:
        again = score(SPEC, conversations, empty, packs=[pack], settings=NO_LOAD)
    assert again.rewards == first.rewards


def test_another_reward_model_computes_everything_anew(store):
    conversations, model = words(10), FakeRewardModel(drift=1.0)
    run(store, conversations, FakeRewardModel())
    scored = run(store, conversations, model, spec=fake_spec("other"))
    assert (scored.forwards, model.rows) == (10, 10)
    assert in_store(store, conversations) == truth(conversations)


@pytest.mark.parametrize(("known", "new"), [(0, 5), (1, 1), (3, 40), (40, 1), (40, 25)])
def test_new_conversations_cost_themselves_and_a_few_sentinels(store, known, new):
    run(store, words(known), FakeRewardModel())
    model = FakeRewardModel()
    scored = run(store, words(known + new), model)
    assert (model.loads, scored.forwards) == (1, new)
    assert model.rows == new + min(known, SENTINELS)
    assert rewards(scored) == truth(words(known + new))


# Sentinels


@pytest.mark.parametrize(
    ("dtype", "drift", "refused"),
    [
        ("float32", 1e-3, True),
        ("float32", 1e-5, False),
        ("float16", 0.5, True),
        ("float16", 0.03, False),
        ("float32", -INF, True),
        pytest.param("float32", NAN, True),
    ],
)
def test_known_rewards_that_come_out_differently_stop_the_run(store, dtype, drift, refused):
    spec = fake_spec(dtype=dtype)
    run(store, words(20), FakeRewardModel(), spec=spec)
    model = FakeRewardModel(drift=drift)
    if not refused:
        assert run(store, words(25), model, spec=spec).forwards == 5
        return
    with pytest.raises(IntegrityError, match="came out differently") as refusal:
        run(store, words(25), model, spec=spec)
    assert refusal.value.exit_code == 5
    found = store.lookup(spec.fingerprint, map(conversation_key, words(25)))
    assert {key: row.reward for key, row in found.items()} == truth(words(20))


def test_a_changed_tokenisation_stops_the_run_even_if_no_reward_moved(store):
    class OtherTokenizer(FakeRewardModel):
        def render(self, conversations):
            return [item._replace(ids=[*item.ids, 32]) for item in super().render(conversations)]

        def _reward(self, text):
            return super()._reward(text[:-1])

    run(store, words(20), FakeRewardModel())
    with pytest.raises(IntegrityError):
        run(store, words(21), OtherTokenizer())


def test_a_sentinel_that_cannot_be_rendered_any_more_stops_the_run(store):
    run(store, words(5), FakeRewardModel())
    with pytest.raises(IntegrityError):
        run(store, words(6), FakeRewardModel(unrenderable=["answer 2"]))


@pytest.mark.parametrize(
    "model",
    [FakeRewardModel(cap=10), FakeRewardModel(poisoned=["answer"])],
    ids=["memory", "RuntimeError"],
)
def test_a_sentinel_that_fails_is_an_evalkit_error(store, model):
    run(store, words(5), FakeRewardModel())
    with pytest.raises(IntegrityError):
        run(store, words(6), model)


# What goes wrong


def test_a_lack_of_memory_changes_no_reward_and_is_not_met_again_at_every_batch(store):
    conversations, model = words(200), FakeRewardModel(cap=300)
    scored = run(store, conversations, model, batch_tokens=2048)
    assert rewards(scored) == in_store(store, conversations) == truth(conversations)
    assert (model.rows, scored.problems) == (200, {})
    assert 0 < model.memory_errors <= 4  # 2048 → 1024 → 512 → 256; a retry per batch: 20


def test_batches_that_finished_before_a_lack_of_memory_are_kept(store):
    conversations = words(40)

    class Shrinking(FakeRewardModel):
        def rewards(self, batch):
            if self.calls == 3:
                self.cap = 0  # other programs took it all
            if self.calls == 5:
                raise KeyboardInterrupt
            return super().rewards(batch)

    model = Shrinking()
    with pytest.raises(KeyboardInterrupt):
        run(store, conversations, model)
    assert len(in_store(store, conversations)) == model.rows > 0


def test_a_conversation_too_long_for_the_memory_fails_by_name_and_the_rest_is_scored(store):
    long = chats("y" * 500)[0]
    conversations = [*words(30), long]
    scored = run(store, conversations, FakeRewardModel(cap=300))
    problem = "the reward model failed: out of memory: tried to allocate 1 PiB"
    assert scored.problems == {conversation_key(long): problem}
    assert rewards(scored) == in_store(store, conversations) == truth(words(30))


@pytest.mark.parametrize("batch_tokens", [1, 300, 10**6])
def test_a_poisoned_conversation_is_bisected_to_and_the_rest_is_scored(store, batch_tokens):
    conversations = [*words(64), *chats("poison"), *words(64, start=64)]
    model = FakeRewardModel(poisoned=["poison"])
    scored = run(store, conversations, model, batch_tokens=batch_tokens)
    problem = "the reward model failed: device-side assert"
    assert scored.problems == {conversation_key(chats("poison")[0]): problem}
    assert rewards(scored) == in_store(store, conversations) == truth(words(128))
    assert model.rows == 128
    batches = plan({str(n): 62 for n in range(129)}, batch_tokens)
    assert model.calls <= len(batches) + 2 * 8  # 129 rows are halved eight times


def test_a_failure_without_a_message_is_named_too(store):
    class Mute(FakeRewardModel):
        def rewards(self, batch):
            raise RuntimeError

    assert len(run(store, words(2), Mute()).problems) == 2


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_reward_that_is_not_finite_is_reported_and_never_stored(store, value):
    conversations = words(30)
    model = FakeRewardModel(nonfinite={"answer 7 ": value, "answer 29 ": value})
    scored = run(store, conversations, model)
    failed = {conversation_key(conversations[i]) for i in (7, 29)}
    assert scored.problems == dict.fromkeys(failed, f"the reward is not finite ({value})")
    fine = {key: reward for key, reward in truth(conversations).items() if key not in failed}
    assert rewards(scored) == in_store(store, conversations) == fine
    assert rewards(run(store, conversations, FakeRewardModel())) == truth(conversations)


def test_a_conversation_without_token_ids_is_reported_and_not_computed(store):
    model = FakeRewardModel(unrenderable=["answer 3 "])
    scored = run(store, words(9), model)
    assert scored.problems == {conversation_key(words(9)[3]): "no ids"}
    assert (model.rows, len(in_store(store, words(9)))) == (8, 8)


# Batches


@given(st.dictionaries(st.text("abc", max_size=4), st.integers(1, 5000)), st.integers(1, 20_000))
def test_a_plan_holds_every_key_once_within_the_budget_longest_first(lengths, batch_tokens):
    batches = plan(lengths, batch_tokens)
    order = [key for batch in batches for key in batch]
    assert sorted(order) == sorted(lengths)
    assert [lengths[key] for key in order] == sorted(lengths.values(), reverse=True)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[k] for k in batch) <= batch_tokens
    for batch, after in itertools.pairwise(batches):
        longest = max(lengths[key] for key in batch)
        assert (len(batch) + 1) * longest > batch_tokens, f"{after} could have been joined"


@pytest.mark.parametrize("seed", range(10))
def test_each_conversation_gets_its_own_reward_whatever_its_company(tmp_path, seed):
    numbers = random.Random(seed)
    conversations = words(60)
    numbers.shuffle(conversations)
    chosen = conversations[: numbers.randint(1, 60)]
    model = FakeRewardModel(cap=numbers.choice([90, 400, INF]))
    with Store(tmp_path / "store.db") as store:
        run(store, chosen[: len(chosen) // 2], model, batch_tokens=numbers.randint(1, 999))
        scored = run(store, chosen, model, batch_tokens=numbers.randint(1, 999))
        assert rewards(scored) == in_store(store, conversations) == truth(chosen)


def test_rewards_of_a_set_stand_in_its_order_with_reasons_where_there_is_none(store):
    rows = [
        FileRow(prompt_id, chats("x")[0][:1], answer, index=index)
        for prompt_id, index, answer in [("b", 0, "one"), ("b", 1, "bad"), ("a", 0, "two")]
    ]
    completions = completion_set("set", rows)
    scored = run(store, list(completions.conversations()), FakeRewardModel(nonfinite={"bad": NAN}))
    found = rewards_of(completions, scored)
    assert found.prompt_id.tolist() == ["b", "b", "a"]
    one, two = (expected(messages) for messages in chats("one", "two"))
    np.testing.assert_array_equal(found.reward, [one, np.nan, two])
    assert found.failures == {1: "the reward is not finite (nan)"}
    assert (found.tokens > 0).tolist() == [True, False, True]


def test_of_two_orders_that_failed_the_unreadable_one_is_said():
    one, other = (completion_set(n, [FileRow("p", chats("x")[0][:1], n)]) for n in ("a", "b"))
    keys = [item_key(item) for item in ordered_pairs(one, other)[0]]
    for reasons in (ServerFailed("HTTP 500"), Unreadable("Hm.")), (Unreadable("Hm."), "too long"):
        found = preferences_of(one, other, Scored({}, dict(zip(keys, reasons, strict=True)), 0))
        assert found.failures == {0: "Hm."}
        assert isinstance(found.failures[0], Unreadable)


# Interruption


@pytest.mark.parametrize("at", [1, 2, 5])
def test_an_interrupted_run_keeps_its_batches_and_the_next_computes_only_the_rest(store, at):
    conversations = words(60)
    first = FakeRewardModel(interrupt_at=at)
    with pytest.raises(KeyboardInterrupt):
        run(store, conversations, first)
    kept = in_store(store, conversations)
    assert len(kept) == first.rows
    assert kept.items() <= truth(conversations).items()
    second = FakeRewardModel()
    scored = run(store, conversations, second)
    assert second.rows == scored.forwards + min(len(kept), SENTINELS)
    assert scored.forwards == 60 - len(kept)
    assert rewards(scored) == truth(conversations)


def test_a_batch_is_in_the_store_before_the_next_is_computed(store, tmp_path):
    conversations, seen = words(30), []

    class Watching(FakeRewardModel):
        def rewards(self, batch):
            with Store(tmp_path / "store.db") as other:
                seen.append(len(in_store(other, conversations)) == self.rows)
            return super().rewards(batch)

    run(store, conversations, Watching())
    assert len(seen) > 3
    assert all(seen)


@pytest.fixture
def overtaken(store, tmp_path) -> Scored:
    """A run during which another process stores slightly different rewards."""

    class Overtaken(FakeRewardModel):
        def render(self, conversations):
            with Store(tmp_path / "store.db") as other:
                run(other, conversations, FakeRewardModel(drift=1e-5))
            return super().render(conversations)

    return run(store, words(3), Overtaken())


def test_the_first_of_two_runs_at_once_decides_what_is_stored(store, overtaken):
    assert in_store(store, words(3)) == {key: r + 1e-5 for key, r in truth(words(3)).items()}
    assert store.conflicts == 0


def test_the_later_of_two_runs_at_once_reports_what_is_stored(store, overtaken):
    assert rewards(overtaken) == in_store(store, words(3))
