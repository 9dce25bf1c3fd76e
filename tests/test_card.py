"""Metric cards: what is measured of a reward model, and how it is written down."""

import itertools
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings

from evalkit.card import Options, Signature, measure
from evalkit.cli import run
from evalkit.data import Message
from evalkit.errors import InputError, MissingError
from evalkit.report import card as report
from evalkit.report.card import words
from evalkit.report.card.document import document as card_document
from evalkit.reward_models import Rendered
from evalkit.reward_models.families import families, family, published
from evalkit.reward_models.lookup import stated
from evalkit.scoring import RunSettings
from evalkit.statistics.length_diagnostics import reward_length_slope
from evalkit.statistics.reward_scale import quantiles, same_prompt_margins, spread
from evalkit.store import Store
from evalkit.workspace import Workspace
from tests.fake_reward_model import FakeRewardModel, expected, fake_spec, hashed
from tests.shared_data import DEMO_RM, REPOSITORY, spec_of
from tests.workspace_copy import copy_workspace, evalkit

QUIET = RunSettings(progress=False, device="cpu")
PLAIN = Options(throughput=False)
CARDS = REPOSITORY / "docs" / "cards"
SECTIONS = [
    "Type", "Range", "Higher is better", "Inputs", "Formal definition", "Comparability",
    "Ties and noise", "Length and position", "Accuracy and calibration", "Rows", "Throughput",
    "Limits", "Biases", "Citation", "How it was measured",
]  # fmt: skip


class Stub(FakeRewardModel):
    """The reward is what the table says of the answer, else a hash."""

    def __init__(self, table=None, **how):
        super().__init__(**how)
        self.table = table or {}

    def _reward(self, text):
        return self.table.get(text.rpartition("assistant:")[2], super()._reward(text))


class Pairs(FakeRewardModel):
    """The log-odds are a hash of both answers in their order, plus a bias to the first."""

    bias = 0.0

    def render(self, items):
        return [
            Rendered(list(f"{p.prompt[0].role}{p.first}\x1f{p.second}".encode())) for p in items
        ]

    def _reward(self, text):
        first, second = text.split("\x1f")
        return (hashed(first[-2:]) - hashed(second[-2:])) / 8 + self.bias


def write(path, answers):
    rows = [
        {"messages": [{"role": "user", "content": prompt}], "completion": text, "index": k}
        for prompt, texts in answers.items()
        for k, text in enumerate(texts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


ANSWERS = {f"Q{i}": [f"{'x' * k} {i}{k}" for k in range(4)] for i in range(12)}


@pytest.fixture
def card(tmp_path):
    """A card of a stub on answers."""

    def make(answers, model=None, *, spec=None, options=PLAIN, name="a"):
        files = answers if isinstance(answers, list) else [answers]
        data = [write(tmp_path / f"{name}{i}.jsonl", one) for i, one in enumerate(files)]
        with Store(tmp_path / "store.db") as store:
            return measure(
                spec or fake_spec(), data, Workspace(tmp_path), store, options=options,
                settings=replace(QUIET, load=(model or Stub()).load),
            )  # fmt: skip

    return make


# The figures


def test_quantiles_are_those_of_all_rewards(card):
    found = card(ANSWERS)
    rewards = [
        expected((Message("user", q), Message("assistant", a)))
        for q, t in ANSWERS.items()
        for a in t
    ]
    assert found.rewards.n == 48 == found.rows.items
    assert (found.rewards.low, found.rewards.high) == (min(rewards), max(rewards))
    wanted = np.percentile(rewards, [1, 5, 25, 50, 75, 95, 99])
    assert found.rewards.at == pytest.approx(wanted.tolist())


def test_quantiles_lie_between_two_values():
    found = quantiles(np.array([0.0, 10.0, 20.0, 30.0, 40.0]))
    assert found.at == pytest.approx((0.4, 2.0, 10.0, 20.0, 30.0, 38.0, 39.6))
    assert quantiles(np.zeros(0)) is None
    with pytest.raises(ValueError, match="NaN"):
        quantiles(np.array([1.0, np.nan]))


def test_spread_within_and_between_prompts_by_hand():
    nan = np.nan
    found = spread(np.array([[1.0, 3.0, nan], [2.0, 4.0, 9.0], [7.0, nan, nan], [nan] * 3]))
    # squares within: 2 and 9 + 1 + 16 over 1 + 2 degrees of freedom; means 2, 5, 7
    assert found.within == pytest.approx((28 / 3) ** 0.5)
    assert found.between == pytest.approx((19 / 3) ** 0.5)
    assert (found.prompts, found.completions, found.means) == (2, 5, 3)


def test_without_two_completions_or_prompts_there_is_no_spread():
    found = spread(np.array([[1.0]]))
    assert (found.within, found.between) == (None, None)


def test_margins_are_of_every_two_completions_that_have_rewards():
    rewards = np.array([[1.0, 4.0, np.nan], [2.0, 2.0, 0.5]])
    lengths = np.array([[10.0, 30.0, 5.0], [1.0, 2.0, 3.0]])
    found = same_prompt_margins(rewards, lengths)
    rows = sorted(zip(found.prompt, found.margin, found.difference, strict=True))
    assert rows == [(0, -3, -20), (1, 0, -1), (1, 1.5, -2), (1, 1.5, -1)]


def test_the_slope_is_least_squares_with_an_effect_for_each_prompt():
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 300, (30, 4)).astype(float)
    rewards = 0.002 * lengths + rng.normal(size=(30, 1)) + rng.normal(size=(30, 4))
    rewards[3, 1] = rewards[5] = np.nan
    rewards[4, 1:] = np.nan
    known = ~np.isnan(rewards)
    known[4] = False
    prompt = np.nonzero(known)[0]
    dummies = (prompt[:, None] == np.unique(prompt)).astype(float)
    columns = np.column_stack([lengths[known] / 100, dummies])
    plain = sm.OLS(rewards[known], columns).fit()
    x, y = (
        np.concatenate([t[i][known[i]] - t[i][known[i]].mean() for i in np.unique(prompt)])
        for t in (lengths / 100, rewards)
    )
    clustered = sm.OLS(y, sm.add_constant(x)).fit(
        cov_type="cluster", cov_kwds={"groups": prompt}, use_t=True
    )
    found = reward_length_slope(rewards, lengths)
    assert found.value == pytest.approx(plain.params[0])
    assert found.stderr == pytest.approx(clustered.bse[1])
    assert (found.low, found.high) == pytest.approx(tuple(clustered.conf_int()[1]))
    assert (found.n, found.clusters) == (111, 28)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_slope_knows_neither_a_prompts_level_nor_its_usual_length(seed):
    rng = np.random.default_rng(seed)
    rewards, lengths = rng.normal(size=(8, 3)), rng.integers(1, 500, (8, 3)).astype(float)
    found = reward_length_slope(rewards, lengths)
    moved = reward_length_slope(
        rewards + rng.normal(size=(8, 1)), lengths + rng.integers(0, 99, (8, 1))
    )
    assert moved.value == pytest.approx(found.value)
    assert moved.stderr == pytest.approx(found.stderr)


def test_no_slope_where_lengths_do_not_differ_and_none_of_rounding():
    assert reward_length_slope(np.array([[1.0, 2.0]]), np.array([[5.0, 5.0]])).value is None
    flat = reward_length_slope(np.full((3, 3), 0.1), np.arange(9.0).reshape(3, 3))
    assert flat.value == 0
    assert flat.low is None
    with pytest.raises(ValueError, match="unequal"):
        reward_length_slope(np.zeros((1, 2)), np.zeros((2, 1)))


def test_equal_rewards_tie_and_equal_texts_are_one(card):
    table = {"a": 1.0, "bb": 1.0, "ccc": 2.0}
    found = card([{"Q": ["a", "bb"]}, {"Q": ["ccc", "a"]}], Stub(table))
    assert (found.rows.completions, found.rows.repeats) == (3, 1)
    pairs = found.same_prompt
    assert (pairs.pairs, pairs.tied.value) == (3, pytest.approx(1 / 3))
    assert pairs.longer.value == pytest.approx((0.5 + 1 + 1) / 3)


STEP = 1 / 64  # exact in binary, so that a margin may be as large as the noise and no larger


class Noisy(Stub):
    """A reward moves by a step in company."""

    def rewards(self, batch):
        return super().rewards(batch) + STEP * (len(batch) > 1)


def test_margins_within_the_noise_are_counted_with_those_of_zero(card):
    table = {"a": 0.0, "b": 0.0, "c": STEP, "d": 5.0}
    found = card({"Q": list(table)}, Noisy(table), options=Options(throughput=False, noise_rows=4))
    assert found.noise.band == STEP
    assert found.same_prompt.tied.value == pytest.approx(1 / 6)
    assert found.same_prompt.within_noise.value == pytest.approx(3 / 6)


def test_the_pairs_of_a_prompt_are_one_cluster(card):
    found = card(ANSWERS).same_prompt
    shares = []
    for q, texts in ANSWERS.items():
        rewards = [expected((Message("user", q), Message("assistant", a))) for a in texts]
        pairs = itertools.combinations(sorted(zip(map(len, texts), rewards, strict=True)), 2)
        shares.append(np.mean([longer > shorter for (_, shorter), (_, longer) in pairs]))
    assert found.longer.value == pytest.approx(np.mean(shares))
    assert found.longer.stderr == pytest.approx(np.std(shares, ddof=1) / 12**0.5)
    for share in (found.tied, found.within_noise, found.longer):
        assert (share.n, share.clusters) == (72, 12)


def test_a_planted_love_of_length_is_found_and_named(card):
    table = {text: float(len(text)) for texts in ANSWERS.values() for text in texts}
    found = card(ANSWERS, Stub(table))
    assert found.alone.correlation.value == pytest.approx(1)
    assert found.alone.slope.value == pytest.approx(100)  # the stub's tokens are bytes
    assert "leans to the longer of two answers" in report.to_markdown(found).decode()


def test_rows_without_a_reward_are_counted_by_reason_and_stand_for_nothing(card):
    class Cut(Stub):
        def render(self, items):
            return [r._replace(cut=7 * (b"x" * 3 in bytes(r.ids))) for r in super().render(items)]

    model = Cut(unrenderable=["Q3"], nonfinite={"Q5": float("nan")})
    found = card(ANSWERS, model)
    assert found.rows.unscored == {"no ids": 4, "the reward is not finite (nan)": 4}
    assert found.rewards.n == 40
    assert found.rows.truncated == 10
    text = report.to_markdown(found).decode()
    assert "| without a reward | 8 (16.7 %) | 48 |" in text
    assert "| truncated | 10 (25.0 %) | 40 |" in text


def test_single_completions_have_no_scale_and_say_so(card):
    text = report.to_markdown(card({"Q": ["a"], "R": ["b"]})).decode()
    assert "not measured: no prompt has two completions" in text
    assert "| tie rate, exact | not measured: there are none | 0 pairs, 0 prompts |" in text
    assert "Length: not measured: no interval" in text


def test_known_rewards_are_not_computed_again(card):
    model = Stub()
    card(ANSWERS, model)
    assert model.rows == 48 + 3 * 48
    card(ANSWERS, again := Stub(), options=Options(noise_rows=10))
    assert again.rows == 4 * 10  # three times for noise, once by the clock


def test_labelled_pairs_without_a_reward_are_left_out_and_said(card, tmp_path):
    lines = (REPOSITORY / "benchmarks" / "starter" / "pairs.jsonl").read_text().splitlines()[:30]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    model = Stub(unrenderable=[json.loads(lines[0])["messages"][-1]["content"]])
    found = card(ANSWERS, model, options=replace(PLAIN, pairs=str(tmp_path / "pairs.jsonl")))
    assert found.calibration.overall.n == 29
    assert "1 of 30 pairs left out: no reward" in found.notices


def test_what_a_user_must_know_of_the_family_is_said(card):
    spec = fake_spec()
    noted = replace(spec, family=replace(spec.family, note="trained on one language"))
    assert "fake: trained on one language" in card(ANSWERS, spec=noted).notices


def test_the_model_is_loaded_once_for_it_may_fill_its_device(card):
    starter = REPOSITORY / "benchmarks" / "starter" / "pairs.jsonl"
    suite = REPOSITORY / "benchmarks" / "suites" / "starter.toml"
    model = Stub()
    options = Options(pairs=str(starter), suites=((str(suite), str(starter)),))
    found = card(ANSWERS, model, options=options)
    assert found.calibration is not None
    assert len(found.accuracies) == 1
    assert model.loads == 1


def test_neither_the_order_of_rows_nor_of_files_moves_a_figure(card):
    one, other = dict(list(ANSWERS.items())[:7]), dict(list(ANSWERS.items())[7:])
    turned = {q: texts[::-1] for q, texts in reversed(other.items())}
    found = card([one, other], name="l")
    assert Signature.parse(str(found.signature)) == found.signature
    left = card_document(found)
    right = card_document(card([turned, one], name="r"))
    for document in (left, right):
        for key in ("data", "signature"):
            del document[key]
    assert left == right


# Pair-preference models


def pairwise(bias):
    model = Pairs()
    model.bias = bias
    return model


def test_a_bias_to_the_first_answer_is_measured(card):
    spec = fake_spec("pairs", output="preference")
    fair = card(ANSWERS, pairwise(0.0), spec=spec)
    assert fair.position.first.value == pytest.approx(0.5)
    assert fair.position.gap.value == pytest.approx(0, abs=1e-12)
    biased = card(ANSWERS, pairwise(2.0), spec=replace(spec, weights=("other",)), name="b")
    assert biased.position.first.low > 0.5
    assert biased.position.first.value == pytest.approx(1 / (1 + np.exp(-2)), abs=0.05)
    assert biased.position.flips.value > 0.5
    # the bias is in neither order's half difference
    assert biased.same_prompt.size.at == pytest.approx(fair.same_prompt.size.at)
    text = report.to_markdown(biased).decode()
    assert "Position: it leans to the first of two answers" in text
    assert "P\\(" not in text
    assert biased.rows.items == 12 * 12


def test_a_pair_model_needs_two_completions_and_takes_no_pairs(card):
    spec = fake_spec("pairs", output="preference")
    with pytest.raises(InputError, match="no prompt has two completions"):
        card({"Q": ["a"]}, pairwise(0.0), spec=spec)
    with pytest.raises(InputError, match="probabilities of its own"):
        card(ANSWERS, pairwise(0.0), spec=spec, options=Options(pairs="pairs.jsonl"))


# What is refused


def test_nothing_with_a_reward_is_an_error_that_says_why(card):
    with pytest.raises(MissingError, match="no ids"):
        card({"Q": ["a"]}, Stub(unrenderable=["Q"]))


@pytest.mark.parametrize("wrong", [{"level": 1.0}, {"noise_rows": 0}, {"seed": -1}])
def test_choices_out_of_range_are_refused(wrong):
    with pytest.raises(InputError):
        Options(**wrong)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "card.txt"], "unknown suffix '.txt'"),
        (["-d", "nothing"], "checkpoint 'nothing' not found"),
        (["-b", "nothing"], "benchmark 'nothing' not found"),
        (["--accuracy", "nothing"], "suite 'nothing' not found"),
        (["--pairs", "p.jsonl", "-o", "p.jsonl"], "unknown suffix"),
        (["-d", "evalkit.json", "-o", "evalkit.json"], "is an input"),
        ([], "no completions are named"),
    ],
)
def test_what_the_command_refuses(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evalkit.json").write_text("[]")
    assert run(["reward-models", "card", "demo-rm", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_the_command_prints_itself_and_writes_what_it_prints(tmp_path):
    data = write(tmp_path / "it's.jsonl", {"Q": ["a", "bb"]})
    done = evalkit(
        tmp_path, "reward-models", "card", "demo-rm", "--data", data, "--ci", "0.9",
        "--overlong=truncate-left", "--max-length", "40", "--no-throughput", "-o", "c.md",
        "-o", "c.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "c.md").read_text("utf-8") == done.stdout
    found = json.loads((tmp_path / "c.json").read_text("utf-8"))
    assert shlex.split(found["command"]) == [
        "evalkit", "reward-models", "card", "demo-rm", "--max-length", "40", "--overlong",
        "truncate-left", "--data", data, "--no-throughput", "--ci", "0.9",
    ]  # fmt: skip
    assert f"    {found['command']}\n" in done.stdout
    assert found["same_prompt"]["tied"]["level"] == 0.9


# What is written


def test_the_sections_are_those_of_metric_cards(card):
    text = report.to_markdown(card(ANSWERS)).decode()
    assert re.findall(r"^## (.*)$", text, re.M) == SECTIONS
    head, *rest = [x for x in text.splitlines() if x.startswith("| ") and "sha256" not in x]
    assert head == "| measure | value | n | how it was measured |"
    for line in rest:
        cells = re.split(r"(?<!\\)\|", line)[1:-1]
        assert all(cell.strip() for cell in cells), line


def test_without_throughput_the_bytes_are_the_same_on_every_run(card):
    first, second = card(ANSWERS), card(ANSWERS)
    assert report.to_markdown(first) == report.to_markdown(second)
    assert report.to_json(first) == report.to_json(second)
    timed = card(ANSWERS, options=Options())
    assert timed.throughput.conversations == 48
    assert timed.throughput.tokens == sum(
        len(f"user:{q}\nassistant:{a}") for q, texts in ANSWERS.items() for a in texts
    )
    plain = report.to_markdown(first).decode().split("## Throughput")
    clocked = report.to_markdown(timed).decode().split("## Throughput")
    assert plain[0] == clocked[0]
    assert plain[1].partition("## Limits")[2] == clocked[1].partition("## Limits")[2]
    assert "By the clock of one machine" in clocked[1]


def test_names_and_notices_of_others_do_not_act(card):
    hostile = "<script>alert(1)</script> | # `x`\n# [y](javascript:z)\x1b[2J"
    spec = replace(fake_spec(hostile), notice=hostile)
    found = card(ANSWERS, spec=spec, options=replace(PLAIN, command=f"evalkit {hostile}"))
    lines = report.to_markdown(found).decode().splitlines()
    titles = [x for x in lines if x.startswith("#")]
    assert len(titles) == len(SECTIONS) + 1
    outside = [x for x in lines if not x.startswith(("    ", "- signature"))]
    assert not any(re.search(r"(?<!\\)[<\]]", x) for x in outside if "script" in x)
    assert not any("\x1b" in x for x in lines)
    assert json.loads(report.to_json(found))["reward_model"]["name"] == hostile


def test_the_json_holds_every_figure_with_its_n(card):
    found = json.loads(report.to_json(card(ANSWERS, options=Options())))
    assert found["rewards"]["n"] == 48
    assert list(found["rewards"]["quantiles"]) == [
        "0.01",
        "0.05",
        "0.25",
        "0.5",
        "0.75",
        "0.95",
        "0.99",
    ]
    assert found["same_prompt"]["tied"]["n"] == 12 * 6
    assert found["throughput"]["seconds"] > 0
    assert found["position"] is None


class Systems(Stub):
    """What becomes of a system turn."""

    how = "read"

    def render(self, items):
        kept = [
            tuple(m for m in messages if m.role != "system" or self.how != "dropped")
            for messages in items
        ]
        refused = [self.how == "refused" and x[0].role == "system" for x in items]
        return [
            Rendered([], problem="no") if no else one
            for no, one in zip(refused, super().render(kept), strict=True)
        ]


@pytest.mark.parametrize("how", ["read", "dropped", "refused"])
def test_a_system_turn_is_tried(how, card):
    model = Systems()
    model.how = how
    assert card({"Q": ["a", "b"]}, model).system_turn == how


# What is stated


def resolved(one):
    """The family with the defaults for whatever a config.json would say."""
    defaults = {k: v["default"] if isinstance(v, dict) else v for k, v in one.parameters.items()}
    return replace(one, parameters=defaults)


def test_every_family_and_published_model_has_a_definition():
    known = [*families(), *(model.family for model in published().values())]
    for one in known:
        lines = words.definition(replace(fake_spec(), family=resolved(one)))
        assert all(lines)
        assert one.kind in words.DEFINITIONS
    assert set(words.TYPE) == set(words.RANGE) == {one.output for one in known}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("beaver-cost", "−z(x, y)"),
        ("nemotron", "row 0 of the head 'lm_head'"),
        ("odin", "label 1"),
        ("helpsteer", "0.74 · correctness"),
        ("dpo", "β = 0.1"),
        ("simpo", "β = 2"),
        ("armorm", "softmax of a gate read at the prompt's end"),
        ("pair-preference", "logit('A') − logit('B')"),
    ],
)
def test_the_definition_is_the_familys_own(name, said):
    lines = words.definition(replace(fake_spec(), family=resolved(family(name))))
    assert any(said in line for line in lines)


def test_a_win_probability_is_defined_for_bradley_terry_rewards_alone():
    def said(output):
        return any("σ(m" in line for line in words.definition(fake_spec(output=output)))

    assert said("bradley-terry")
    assert not said("relative")


def test_the_citation_is_the_cards_or_the_published_models_or_none(tmp_path):
    assert "train_demo_rm" in stated(spec_of(DEMO_RM)).citation
    hub = replace(fake_spec("Skywork/Skywork-Reward-V2-Qwen3-0.6B@abc"), path=tmp_path)
    assert stated(hub).citation.endswith("huggingface.co/Skywork/Skywork-Reward-V2-Qwen3-0.6B")
    assert stated(replace(fake_spec(), path=tmp_path)).citation == ""
    (tmp_path / "card.toml").write_text("citation = 3\n")
    with pytest.raises(InputError, match="citation"):
        stated(hub)


# The cards in the repository


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory):
    """The card of demo-rm by the very command that it prints, less the clock."""
    folder = copy_workspace(tmp_path_factory.mktemp("card"))
    done = evalkit(folder, *shlex.split(command_of(CARDS / "demo-rm.md"))[1:], "--no-throughput")
    assert done.returncode == 0, done.stderr
    return done.stdout


def command_of(path):
    (found,) = re.findall(r"^    (evalkit .*)$", path.read_text("utf-8"), re.M)
    return found


def without_the_clock(text):
    before, _, after = text.partition("## Throughput")
    after = after.partition("## Limits")[2].replace(" --no-throughput", "")
    # the noise is the machine's own last bits
    return re.sub(r"at most [0-9.e-]+ \| 64 items", "at most NOISE | 64 items", before + after)


def test_the_card_of_demo_rm_is_what_the_command_writes(rebuilt):
    committed = without_the_clock((CARDS / "demo-rm.md").read_text("utf-8"))
    now = without_the_clock(rebuilt)
    number = r"(?<![\w.#])-?\d+\.\d+(?![\w.])"
    assert re.sub(number, "0", committed) == re.sub(number, "0", now)
    both = [[float(x) for x in re.findall(number, text)] for text in (committed, now)]
    assert both[0] == pytest.approx(both[1], abs=2e-3, rel=2e-3)
    assert len(both[0]) > 30


@pytest.mark.parametrize("name", ["demo-rm", "smollm2-rm"])
def test_a_committed_card_is_whole(name):
    text = (CARDS / f"{name}.md").read_text("utf-8")
    assert re.findall(r"^## (.*)$", text, re.M) == SECTIONS
    assert "tokens per second" in text
    assert command_of(CARDS / f"{name}.md").startswith("evalkit reward-models card ")
    assert Path(CARDS / "README.md").is_file()
