"""What a reward model's number is rules what is made of it: fakes of each kind, real pairs."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from evalkit.compare import compare
from evalkit.comparison import Options
from evalkit.contrasts import compared
from evalkit.data import Message, Pair, completion_set
from evalkit.errors import InputError, MissingError
from evalkit.pairing import TieRule
from evalkit.report import comparisons as report
from evalkit.report import html
from evalkit.reward_models import Rendered
from evalkit.scoring import RunSettings, ordered_pairs, preferences_of, score
from evalkit.signature import Signature
from evalkit.store import Store
from evalkit.workspace import Workspace
from tests.fake_reward_model import FakeRewardModel, fake_spec, hashed
from tests.shared_data import FIXTURES, needs_shared, spec_of

QUIET = RunSettings(progress=False, device="cpu")


class FakePairs(FakeRewardModel):
    """The log-odds are a hash of both answers in their order, plus a bias to the first."""

    def render(self, items):
        texts = [f"{pair.first}\x1f{pair.second}" for pair in items]
        return [
            Rendered([], problem="too long") if "BAD" in text else Rendered(list(text.encode()))
            for text in texts
        ]

    def _reward(self, text):
        first, second = text.split("\x1f")
        return (hashed(first) - hashed(second)) / 8 + 0.3


def write(path, answers):
    rows = [
        {"prompt_id": p, "index": k, "messages": [{"role": "user", "content": p}], "completion": c}
        for p, completions in answers.items()
        for k, c in enumerate(completions)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


ANSWERS = {f"p{i}": [f"a{i}", f"other {i}"][: 1 + i % 2] for i in range(6)}
OTHERS = {f"p{i}": [f"b{i}"] for i in range(6)}


@pytest.fixture
def run(tmp_path):
    """Compare two files under a fake of some output; counts what was computed."""
    a, b = write(tmp_path / "a.jsonl", ANSWERS), write(tmp_path / "b.jsonl", OTHERS)

    def compare_as(output, left=a, right=b, **options):
        spec = fake_spec(output, output=output)
        model = FakePairs() if output == "preference" else FakeRewardModel()
        with Store(tmp_path / "store.db") as store:
            (found,) = compare(
                [left], [right], spec, Workspace(tmp_path), store,
                options=Options(**options), settings=replace(QUIET, load=model.load),
            )  # fmt: skip
        return found, model

    return compare_as


CAUTION = "comparable within one prompt"


@pytest.mark.parametrize(
    ("output", "probability", "cautioned"),
    [("bradley-terry", True, True), ("relative", False, True), ("absolute", False, False)],
)
def test_the_output_rules_the_win_probability_and_the_caution(run, output, probability, cautioned):
    found, _ = run(output)
    e = found.overall.estimates
    assert (e["win_probability"].value is not None) is probability
    assert any(CAUTION in notice for notice in found.notices) is cautioned
    assert any("no win probability" in notice for notice in found.notices) is not probability
    assert all(e[name].value is not None for name in ("mean_reward", "win_rate", "margin"))
    assert report.to_json(compared([found]))


@pytest.mark.parametrize("output", ["bradley-terry", "relative", "absolute"])
def test_a_stated_temperature_gives_a_win_probability(run, output):
    found, _ = run(output, temperature=2.0)
    pairs = [
        sigma((hashed(f"user:{p}\nassistant:{a}") - hashed(f"user:{p}\nassistant:{b}")) / 2)
        for p, completions in ANSWERS.items()
        for b in OTHERS[p]
        for a in completions
    ]
    by_prompt = {p: [] for p in ANSWERS}
    for p, value in zip((p for p, c in ANSWERS.items() for _ in c), pairs, strict=True):
        by_prompt[p].append(value)
    expected = np.mean([np.mean(values) for values in by_prompt.values()])
    assert found.overall.estimates["win_probability"].value == pytest.approx(expected, rel=1e-12)
    assert Signature.parse(str(found.signature)).temperature == "2.0"
    page = html.render(compared([found])).decode()
    assert "at the temperature that was given with --temperature" in page
    assert "It is not calibrated" not in page
    assert not any("no win probability" in notice for notice in found.notices)


def test_a_pair_model_has_no_temperature_and_no_rewards(run):
    with pytest.raises(InputError, match="no temperature"):
        run("preference", temperature=1.0)
    found, _ = run("preference")
    e = found.overall.estimates
    assert e["mean_reward"].value is e["margin"].value is None
    assert e["win_probability"].value is not None
    assert any("asked in both orders" in notice for notice in found.notices)


def sigma(x):
    return 1 / (1 + math.exp(-x))


def test_both_orders_are_averaged_and_their_gap_is_kept(run):
    found, model = run("preference")
    for i, prompt in enumerate(found.table.prompt_id.tolist()):
        games = [
            (
                sigma((hashed(a) - hashed(b)) / 8 + 0.3),
                1 - sigma((hashed(b) - hashed(a)) / 8 + 0.3),
            )
            for a in ANSWERS[prompt]
            for b in OTHERS[prompt]
        ]
        assert found.table.probability[i] == pytest.approx(np.mean(games), rel=1e-12)
        gaps = [one - other for one, other in games]
        assert found.table.order_gap[i] == pytest.approx(np.mean(gaps), rel=1e-12)
        wins = [np.mean(game) > 0.5 for game in games]
        assert found.table.outcome[i] == np.mean(wins)
    assert model.rows == 2 * 9
    share = [0.5 + gap / 2 for gap in found.table.order_gap]
    assert found.first_shown.value == pytest.approx(np.mean(share), rel=1e-12)
    assert any("shown first" in notice for notice in found.notices)


def test_each_ordered_pair_is_computed_once_ever_and_no_order_stands_for_the_other(run):
    first, model = run("preference")
    assert model.rows == 18
    again, unused = run("preference")
    assert (unused.loads, unused.rows) == (0, 0)
    assert report.to_json(compared([first])) == report.to_json(compared([again]))
    swapped, unused = run("preference", first.reference.source, first.checkpoint.source)
    assert (unused.loads, unused.rows) == (0, 0)
    assert swapped.table.probability + first.table.probability == pytest.approx(1)


def test_a_tie_rule_is_about_the_probability(run):
    found, _ = run("preference", ties=TieRule(margin=0.5))
    assert found.overall.ties == found.overall.n


def test_a_pair_without_a_number_is_named_and_stops_the_comparison(run, tmp_path):
    bad = write(tmp_path / "bad.jsonl", {**OTHERS, "p3": ["BAD"]})
    with pytest.raises(MissingError, match="too long"):
        run("preference", right=bad)
    found, _ = run("preference", right=bad, missing="drop")
    assert dict(found.table.unmatched.unscored) == {"p3": "too long"}
    assert found.overall.n == 5


def test_a_pair_model_is_asked_about_prompts_of_both_sets_only():
    one = completion_set("one", [])
    assert ordered_pairs(one, one) == []
    assert len(preferences_of(one, one, score_nothing()).probability) == 0


def score_nothing():
    from evalkit.scoring import Scored

    return Scored({}, {}, 0)


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".md", ".svg", ".html"])
@pytest.mark.parametrize("output", ["relative", "preference"])
def test_every_report_is_written_without_what_is_undefined(run, tmp_path, output, suffix):
    found, _ = run(output)
    path = tmp_path / f"out{suffix}"
    report.write(compared([found]), path)
    assert b"nan" not in path.read_bytes().lower().replace(b"provenance", b"")


def test_attributes_are_stored_and_served(tmp_path):
    class WithAttributes(FakeRewardModel):
        def rewards(self, batch):
            reward = super().rewards(batch)
            return np.hstack([reward, reward / 3, -reward])

    chat = (Message("user", "Q"), Message("assistant", "A"))
    spec = fake_spec(attributes=("third", "minus"))
    with Store(tmp_path / "store.db") as store:
        settings = replace(QUIET, load=WithAttributes().load)
        (fresh,) = score(spec, [chat], store, settings=settings).rewards.values()
        (known,) = score(spec, [chat], store, settings=replace(QUIET, load=None)).rewards.values()
    assert known == fresh
    assert known.attributes == (known.reward / 3, -known.reward)


def test_an_attribute_that_is_no_number_fails_its_row(tmp_path):
    class Broken(FakeRewardModel):
        def rewards(self, batch):
            reward = super().rewards(batch)
            return np.hstack([reward, np.full_like(reward, np.nan)])

    chat = (Message("user", "Q"), Message("assistant", "A"))
    with Store(tmp_path / "store.db") as store:
        scored = score(fake_spec(), [chat], store, settings=replace(QUIET, load=Broken().load))
    assert not scored.rewards
    assert "not finite" in next(iter(scored.problems.values()))


def test_a_pair_is_keyed_by_its_order_and_apart_from_conversations():
    from evalkit.data import item_key

    prompt = (Message("user", "Q"),)
    keys = {item_key(Pair(prompt, "a", "b")), item_key(Pair(prompt, "b", "a"))}
    keys.add(item_key((*prompt, Message("assistant", "a"))))
    assert len(keys) == 3


@needs_shared
@pytest.mark.parametrize(
    ("folder", "family", "expected"),
    [
        ("pairpref", "pair-preference", [0.5272711580016243, 0.5096202342665562]),
        # σ of the logits printed for AB alone, and for BA as AB minus the difference
        (
            "pairrm",
            "pairrm",
            [
                (sigma(0.18997758626937866) + sigma(-0.3210363388061523)) / 2,
                (sigma(-2.2684879302978516) + sigma(1.6994926929473877)) / 2,
            ],
        ),
    ],
)
def test_a_real_pair_model_goes_through_the_whole_comparison(tmp_path, folder, family, expected):
    lines = (FIXTURES / folder / "conversations.jsonl").read_text().splitlines()
    chats = {row["id"]: row["messages"] for row in map(json.loads, lines)}
    ours = [{"id": "c0", "messages": chats["c0"]}, {"id": "c2", "messages": chats["c2"]}]
    theirs = [
        {"id": "c0", "messages": chats["c1"]},
        {"id": "c2", "messages": [*chats["c2"][:-1], {"role": "assistant", "content": "Cats."}]},
    ]
    for name, rows in (("ours", ours), ("theirs", theirs)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    spec = spec_of(FIXTURES / folder, family=family)
    with Store(tmp_path / "store.db") as store:
        (found,) = compare(
            [str(tmp_path / "ours.jsonl")], [str(tmp_path / "theirs.jsonl")], spec,
            Workspace(tmp_path), store, settings=QUIET,
        )  # fmt: skip
    assert found.table.probability == pytest.approx(expected, abs=1e-5)
    assert replace(spec, name="x").fingerprint == spec.fingerprint
