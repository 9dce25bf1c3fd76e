"""`check`: each planted fault is found by its code, with its number, and clean models have none.

The faults are planted by one change to a copy of a clean checkpoint, or to what was loaded from
it; their numbers are held against transformers' own model on token ids written out here.
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Gemma2Config,
)
from transformers import Gemma2ForSequenceClassification as Gemma2
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from evalkit.check import CHECKS, check, of_refusal
from evalkit.check.probes import probe_conversations, verdicts
from evalkit.data import Message
from evalkit.errors import MissingError, RefusedModelError
from evalkit.report.check import to_json
from evalkit.reward_models import load
from evalkit.reward_models.batch import at
from tests.fake_reward_model import FakeRewardModel, fake_spec
from tests.shared_data import DEMO_RM, FIXTURES, needs_shared, spec_of
from tests.test_families import PAIRWISE, SCORES
from tests.tiny_checkpoints import CHATS, change, randomised

BOS, END = 1, 2
CODES = {*CHECKS, "random-head"}


@pytest.fixture
def folder(tmp_path):
    """A copy of the embedded reward model, to plant faults into."""
    shutil.copytree(DEMO_RM, tmp_path / "rm")
    return tmp_path / "rm"


def edit(path, *changes):
    text = path.read_text()
    for before, after in changes:
        assert text.count(before) == 1
        text = text.replace(before, after)
    path.write_text(text)


def tokenizer_edit(folder, change_of):
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    change_of(content)
    path.write_text(json.dumps(content))


def found(folder, conversations=(), **how):
    """All findings, and that each says what to do."""
    checked = check(spec_of(folder), conversations, device="cpu", **how)
    assert all(f.what and f.fix and f.code in CODES for f in checked.findings)
    assert checked.exit_code == (3 if checked.findings else 0)
    return checked.findings


def the_finding(folder, conversations=(), **how):
    (finding,) = found(folder, conversations, **how)
    return finding


def rewards_by_hand(texts):
    """(N,) rewards of the clean model for whole texts, its last token read without any padding."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO_RM)
    return rewards_of_ids(
        [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    )


def rewards_of_ids(rows):
    model = AutoModelForSequenceClassification.from_pretrained(DEMO_RM, dtype=torch.float32).eval()
    with torch.inference_mode():
        hidden = [model.model(torch.tensor([ids])).last_hidden_state[0, -1] for ids in rows]
        return np.array([float(model.score(h)) for h in hidden])


def turns(chat):
    """A conversation as the embedded reward model's template writes it."""
    return "<|bos|>" + "".join(f"<|{m.role}|>{m.content}<|end|>" for m in chat)


def moved(before, after):
    """The largest change of a reward between two ways to write the conversations."""
    rewards = [rewards_by_hand([write(chat) for chat in CHATS]) for write in (before, after)]
    return pytest.approx(np.abs(rewards[1] - rewards[0]).max(), rel=1e-3, abs=2e-5)


# Clean models


NAMED = {  # what their files alone do not tell
    "deberta_pair": {"family": "openassistant-deberta"},
    "nemotron_hf": {"family": "nemotron"},
    "pairpref": {"family": "pair-preference"},
    "dpo/policy": {"family": "logprob"},
}
FOLDERS = sorted({folder for folder, _, _ in SCORES.values()} | set(PAIRWISE))


@needs_shared
@pytest.mark.parametrize("folder", FOLDERS)
def test_a_clean_model_of_any_family_has_no_findings(folder):
    checked = check(spec_of(FIXTURES / folder, **NAMED.get(folder, {})), device="cpu")
    assert checked.findings == ()
    assert {*checked.clean, *checked.inapplicable} == CODES
    assert checked.pairs >= 12


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_rounding_of_a_smaller_dtype_is_no_finding(dtype):
    assert check(spec_of(DEMO_RM, dtype=dtype), device="cpu").findings == ()


def test_the_embedded_model_has_no_findings_and_is_left_as_it_was_loaded():
    models = []

    def loader(spec, *, device):
        models.append(load(spec, device=device))
        return models[-1]

    checked = check(spec_of(DEMO_RM), device="cpu", load=loader)
    assert (checked.findings, checked.exit_code) == ((), 0)
    assert set(checked.inapplicable) == {"soft-cap-kernel", "squashed"}
    assert {model.padding_side for model in models} == {"right"}


def test_a_template_and_a_tokenizer_that_both_write_bos_are_no_fault(folder):
    edit(folder / "chat_template.jinja", ("{%- for message", "{{- bos_token -}}{%- for message"))
    assert found(folder, CHATS) == ()


def test_probes_ask_for_several_verdicts_and_an_empty_answer():
    chats = probe_conversations()
    assert len(set(chats)) == len(chats) == 17
    assert {len(chat) for chat in chats} == {2, 3, 4}
    assert any(not chat[-1].content for chat in chats)
    assert len(verdicts(chats)) == 5 * 3 + 1


# The tokenizer and the template


def test_a_tokenizer_that_adds_bos_twice(folder):
    tokenizer_edit(
        folder, lambda t: t["post_processor"]["single"].insert(0, t["post_processor"]["single"][0])
    )
    finding = the_finding(folder, CHATS)
    assert (finding.code, finding.unit, finding.here) == ("double-bos", "max |Δ|", True)
    assert finding.number == moved(turns, lambda chat: "<|bos|>" + turns(chat))


def test_a_template_that_writes_bos_twice_is_wrong_elsewhere(folder):
    edit(folder / "chat_template.jinja", ("{%- for m", "{{- bos_token + bos_token -}}{%- for m"))
    finding = the_finding(folder, CHATS)
    assert (finding.code, finding.here) == ("double-bos", False)
    assert finding.number == moved(turns, lambda chat: "<|bos|>" + turns(chat))


def test_an_answer_that_is_left_open(folder):
    edit(folder / "chat_template.jinja", ("'<|end|>'", "('' if loop.last else '<|end|>')"))
    finding = the_finding(folder, CHATS)
    assert (finding.code, finding.here) == ("missing-eos", True)
    assert "<|end|>" in finding.what
    assert finding.number == moved(turns, lambda chat: turns(chat).removesuffix("<|end|>"))


def test_turns_that_are_never_closed_are_said_to_tell_nothing(folder):
    edit(folder / "chat_template.jinja", (" + '<|end|>'", ""))
    checked = check(spec_of(folder), CHATS, device="cpu")
    assert checked.findings == ()
    why = checked.inapplicable["missing-eos"]
    bare = [turns(chat).replace("<|end|>", "") for chat in CHATS]
    by = rewards_by_hand([f"{text}<|end|>" for text in bare]) - rewards_by_hand(bare)
    assert f"with <|end|> after it a reward moves by up to {np.abs(by).max():.3g}," in why


def test_an_eos_that_the_template_writes_and_the_tokenizer_lacks(folder):
    path = folder / "chat_template.jinja"
    edit(path, (" + '<|end|>' -}}", " -}}{{- eos_token -}}"))
    assert found(folder, CHATS) == ()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    finding = the_finding(folder, CHATS)
    assert (finding.code, "tokenizer has none" in finding.what) == ("missing-eos", True)
    open_turns = [turns(chat).replace("<|end|>", "") for chat in CHATS]
    difference = rewards_by_hand([f"{text}<|end|>" for text in open_turns]) - rewards_by_hand(
        open_turns
    )
    assert finding.number == pytest.approx(np.abs(difference).max(), rel=1e-3, abs=2e-5)


def test_a_generation_prompt_that_is_left_on(folder):
    edit(folder / "chat_template.jinja", ("if add_generation_prompt", "if true"))
    finding = the_finding(folder, CHATS)
    assert (finding.code, finding.here) == ("generation-prompt", True)
    assert "<|assistant|>" in finding.what
    assert finding.number == moved(turns, lambda chat: turns(chat) + "<|assistant|>")


def test_padding_that_is_eos(folder):
    change(folder / "config.json", pad_token_id=END)
    change(folder / "tokenizer_config.json", pad_token="<|end|>")
    finding = the_finding(folder, CHATS)
    assert (finding.code, finding.here) == ("pad-is-eos", False)
    assert f"<|end|> ({END})" in finding.what
    first = [turns(chat).partition("<|end|>")[0] for chat in CHATS]
    last = [turns(chat).removesuffix("<|end|>") for chat in CHATS]
    right = rewards_by_hand(map(turns, CHATS))
    wrong = max(np.abs(rewards_by_hand(texts) - right).max() for texts in (first, last))
    assert finding.number == pytest.approx(wrong, rel=1e-3, abs=2e-5)


def test_transformers_itself_reads_the_wrong_token_where_padding_is_eos(folder):
    change(folder / "config.json", pad_token_id=END)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(folder)(turns(CHATS[0]), add_special_tokens=False)[
        "input_ids"
    ]
    with torch.inference_mode():
        pooled = float(model(torch.tensor([ids])).logits)
    assert pooled == pytest.approx(rewards_of_ids([ids[:-1]])[0], abs=1e-5)
    assert abs(pooled - rewards_of_ids([ids])[0]) > 1e-3


def test_control_tokens_that_are_not_marked_special(folder):
    def plain(tokenizer):
        for token in tokenizer["added_tokens"]:
            token["special"] = token["special"] and token["content"] != "<|user|>"

    tokenizer_edit(folder, plain)
    change(folder / "tokenizer_config.json", extra_special_tokens=["<|system|>", "<|assistant|>"])
    finding = the_finding(folder, CHATS)
    assert (finding.code, finding.number, finding.here) == ("special-tokens-parsed", 1, True)
    assert finding.what.startswith("<|user|> in an answer")


def test_a_template_that_moves_with_the_date(folder):
    edit(
        folder / "chat_template.jinja",
        ("{%- for message", "{{- strftime_now('%d %b %Y') -}}{%- for message"),
    )
    finding = the_finding(folder, CHATS)
    assert (finding.code, finding.here) == ("moving-date", False)

    def on(date):
        return lambda chat: turns(chat).replace("<|bos|>", f"<|bos|>{date}")

    assert finding.number == moved(on("26 Jul 2024"), on("03 Dec 2031"))


def test_a_date_that_is_never_written_is_no_fault(folder):
    edit(
        folder / "chat_template.jinja",
        ("{%- for m", "{%- if tools -%}{{ strftime_now('%Y') }}{%- endif -%}{%- for m"),
    )
    assert found(folder, CHATS) == ()


# What is cut off


def test_conversations_that_are_too_long(folder):
    tokenizer = AutoTokenizer.from_pretrained(DEMO_RM)
    lengths = [len(tokenizer(turns(chat), add_special_tokens=False)["input_ids"]) for chat in CHATS]
    limit = sorted(lengths)[-2]
    spec = spec_of(folder)
    for policy, said in (("error", "no reward"), ("truncate-right", "closes the answer")):
        (finding,) = check(
            replace(spec, max_length=limit, overlong=policy), CHATS, device="cpu"
        ).findings
        assert (finding.code, finding.number) == ("truncated-tail", 1 / len(CHATS))
        assert said in finding.what


@pytest.mark.parametrize(
    ("place", "limits", "least"),
    [("tokenizer_config.json", {}, "8192"), ("tokenizer.json", {"n_positions": 8000}, "8000")],
)
def test_a_limit_at_which_others_cut_in_silence(folder, place, limits, least):
    change(folder / "config.json", **limits)
    if place == "tokenizer.json":
        how = {"direction": "Right", "max_length": 500, "strategy": "LongestFirst", "stride": 0}
        change(folder / place, truncation=how)
    else:
        change(folder / place, model_max_length=500)
    finding = the_finding(folder, CHATS)
    assert (finding.code, finding.number, finding.unit) == ("truncated-tail", 500, "tokens")
    assert (place in finding.what, least in finding.what, finding.here) == (True, True, False)


@pytest.mark.parametrize("stated", [500, 1e30])
def test_a_tokenizers_limit_is_no_fault_where_the_model_states_none(folder, stated):
    edit(folder / "config.json", ('  "max_position_embeddings": 8192,\n', ""))
    change(folder / "tokenizer_config.json", model_max_length=stated)
    spec = spec_of(folder, max_length=500)
    assert check(spec, CHATS, device="cpu").findings == ()


# Rewards


def reading(column_of):
    """A loader whose model reads another column."""

    def loader(spec, *, device):
        model = load(spec, device=device)

        def read(whole, batch):
            hidden = whole.model(**batch.inputs, use_cache=False).last_hidden_state
            return whole.score(at(hidden, column_of(batch)))

        model._read = read
        return model

    return loader


def last_column(batch):
    return torch.full_like(batch.length, batch.inputs["input_ids"].shape[1] - 1)


def test_reward_bench_137_rewards_that_move_with_the_batch_size():
    """allenai/reward-bench#137: the last column of a batch is padding for all but the longest."""
    finding = the_finding(DEMO_RM, CHATS, load=reading(last_column))
    assert (finding.code, finding.here) == ("moves-with-batch", True)
    ids = AutoTokenizer.from_pretrained(DEMO_RM)(
        [turns(c) for c in CHATS], add_special_tokens=False
    )
    longest = max(map(len, ids["input_ids"]))
    padded = [row + [0] * (longest - len(row)) for row in ids["input_ids"]]
    model = AutoModelForSequenceClassification.from_pretrained(DEMO_RM, dtype=torch.float32).eval()
    mask = torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in ids["input_ids"]])
    with torch.inference_mode():
        states = model.model(torch.tensor(padded), attention_mask=mask).last_hidden_state
        wrong = model.score(states[:, -1]).flatten().numpy()
    alone = rewards_of_ids(ids["input_ids"])
    assert finding.number == pytest.approx(np.abs(wrong - alone).max(), rel=1e-3)
    verdict = np.sign(wrong[[0, 0, 1]] - wrong[[1, 3, 3]]) != np.sign(
        alone[[0, 0, 1]] - alone[[1, 3, 3]]
    )
    assert f"{verdict.sum()} of 3 pair verdicts flip" in finding.what


def test_rewards_that_move_with_the_padding_side():
    finding = the_finding(DEMO_RM, CHATS, load=reading(lambda batch: batch.length - 1))
    assert (finding.code, finding.here) == ("moves-with-padding-side", False)
    assert finding.number > 0.1


class Company(FakeRewardModel):
    def rewards(self, batch):
        return super().rewards(batch) + 0.5 * (len(batch) - 1)


def test_any_model_of_the_protocol_is_checked_for_its_batches():
    checked = check(fake_spec(), load=Company().load)
    (finding,) = checked.findings
    assert (finding.code, finding.number) == ("moves-with-batch", pytest.approx(3.5))
    assert "moves-with-padding-side" in checked.inapplicable


class Neighbours(FakeRewardModel):
    """A reward moves where the row before it is another than it was when all were rendered."""

    def render(self, items):
        rows = super().render(items)
        self.place = {tuple(row.ids): i for i, row in enumerate(rows)}
        return rows

    def rewards(self, batch):
        places = [self.place[tuple(row.ids)] for row in batch]
        return super().rewards(batch) + 0.5 * bool(np.any(np.diff(places) != 1))


def test_batches_are_tried_in_another_order_too():
    (finding,) = check(fake_spec(), load=Neighbours().load).findings
    assert (finding.code, finding.number) == ("moves-with-batch", pytest.approx(0.5))


@pytest.mark.parametrize(("reward", "codes"), [(0.0, ["moves-with-batch"]), (1000.0, [])])
def test_what_moves_is_held_against_the_reward_s_own_size(reward, codes):
    """Of 1,000 float32 tells 1e-4 parts; of rewards below 8 a step of 0.02 is beyond that."""

    class Rounding(FakeRewardModel):
        def rewards(self, batch):
            return super().rewards(batch) + 0.02 * (len(batch) > 1)

    checked = check(fake_spec(), load=Rounding(drift=reward).load)
    assert [finding.code for finding in checked.findings] == codes


def test_a_refusal_for_moving_rewards_is_the_same_finding():
    def refuse(spec, *, device):
        model = load(spec, device=device)
        reading(last_column)(spec, device=device)
        model._read = reading(last_column)(spec, device=device)._read
        model.check_company()

    finding = the_finding(DEMO_RM, CHATS, load=refuse)
    assert (finding.code, finding.unit) == ("moves-with-batch", "max |Δ|")
    assert f"{finding.number:.3g} with the rows beside it" in finding.what


def test_a_model_of_its_own_that_renders_bos_twice():
    class Twice(FakeRewardModel):
        def render(self, items):
            return [row._replace(ids=[7, 7, *row.ids]) for row in super().render(items)]

    (finding,) = check(fake_spec(), load=Twice().load).findings
    assert (finding.code, finding.here) == ("double-bos", True)


@needs_shared
def test_reward_bench_164_the_bos_that_its_pipeline_doubles():
    """allenai/reward-bench#164: rendered text that begins with BOS is tokenised with another."""
    spec = spec_of(FIXTURES / "dpo", parameters={"rewardbench_compatible": True})
    findings = {f.code: f for f in check(spec, device="cpu").findings}
    assert set(findings) == {"double-bos", "special-tokens-parsed"}
    assert (findings["double-bos"].here, findings["double-bos"].number > 0.1) == (True, True)


def squash(value):
    return 1 / (1 + np.exp(-value))


class Served(FakeRewardModel):
    """An endpoint with what its server does to a reward; far out a sigmoid saturates to a tie."""

    def __init__(self, activation, shift=0.0):
        super().__init__(drift=shift)
        self.activation = activation

    def rewards(self, batch):
        return self.activation(super().rewards(batch))


def test_an_endpoint_that_squashes():
    (finding,) = check(fake_spec(), load=Served(squash).load).findings
    assert (finding.code, "use_activation=false" in finding.fix) == ("squashed", True)
    raw = check(fake_spec(), load=Served(lambda x: x).load)
    assert (raw.findings, "squashed" in raw.clean) == ((), True)


def test_an_endpoint_whose_rewards_are_all_one():
    for value in (1, -3):
        checked = check(fake_spec(), load=Served(lambda x, v=value: np.full_like(x, v)).load)
        (finding,) = checked.findings
        assert (finding.code, finding.number, finding.here) == ("constant", 17, True)
        assert f"all 17 conversations have the reward {value}" in finding.what
        assert "see constant" in checked.inapplicable["squashed"]


def test_a_head_of_zeros(folder):
    tensors = load_file(folder / "model.safetensors")
    zeros = {"score.weight": torch.zeros_like(tensors["score.weight"])}
    save_file({**tensors, **zeros}, folder / "model.safetensors")
    finding = the_finding(folder)
    assert (finding.code, finding.number, finding.unit) == ("constant", 17, "equal rewards")
    assert "constant" in check(spec_of(folder), CHATS, device="cpu").inapplicable  # 4 tell nothing


def test_an_endpoint_that_is_declared_bounded_may_be():
    checked = check(fake_spec(output="absolute"), load=Served(squash).load)
    assert (checked.findings, "squashed" in checked.inapplicable) == ((), True)


# The head


def test_a_head_that_is_missing(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in tensors.items() if k != "score.weight"}, folder / "model.safetensors"
    )
    finding = the_finding(folder)
    assert (finding.code, finding.number, finding.unit) == ("random-head", 1, "faults of tensors")
    assert "score.weight" in finding.what


def test_a_head_with_a_tensor_that_nothing_explains(folder):
    tensors = load_file(folder / "model.safetensors")
    more = {"weights.fc.0.weight": torch.ones(2, 2), "weights.fc.0.bias": torch.ones(2)}
    save_file({**tensors, **more}, folder / "model.safetensors")
    assert (the_finding(folder).code, the_finding(folder).number) == ("random-head", 2)


@needs_shared
@pytest.mark.parametrize(
    ("name", "tensors", "settings"),
    [("inform", ["score.0.weight"], {}), ("athene", ["v_head.weight"], {}),
     ("armorm", ["reward_transform_matrix", "gating.logit_scale"], {}),
     ("ldl", ["gating_layer.pt"], {"family": "ldl"})],
)  # fmt: skip
def test_a_head_that_is_not_whole(tmp_path, name, tensors, settings):
    shutil.copytree(FIXTURES / name, tmp_path / "rm")
    path = tmp_path / "rm" / "model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if k not in tensors}, path)
    for file in tensors:
        (tmp_path / "rm" / file).unlink(missing_ok=True)
    with pytest.raises(RefusedModelError) as refusal:
        spec_of(tmp_path / "rm", **settings)
    (finding,) = of_refusal("rm", refusal.value).findings
    assert (finding.code, finding.unit, finding.here) == ("random-head", "faults of tensors", False)
    assert finding.number >= len(tensors)
    assert all(tensor.partition(".")[0] in finding.what for tensor in tensors)


@needs_shared
@pytest.mark.parametrize(
    ("name", "tensor", "family"),
    [("grm", "v_head.summary.2.weight", "grm"), ("grm", "v_head.summary.0.bias", "grm"),
     ("armorm", "gating.logit_scale", "armorm"), ("armorm", "gating.layers.3.weight", "armorm"),
     ("armorm", "reward_transform_matrix", "armorm")],
)  # fmt: skip
def test_one_tensor_that_is_gone_is_one_fault_of_the_closest_family(tmp_path, name, tensor, family):
    shutil.copytree(FIXTURES / name, tmp_path / "rm")
    path = tmp_path / "rm" / "model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if k != tensor}, path)
    with pytest.raises(RefusedModelError) as refusal:
        spec_of(tmp_path / "rm")
    (finding,) = of_refusal("rm", refusal.value).findings
    assert (finding.code, finding.number) == ("random-head", 1)
    (line,) = [line for line in finding.what.splitlines() if "declares" in line]
    assert f"of family {family}, but:" in line
    assert tensor in line


@needs_shared
def test_a_refusal_for_another_reason_stays_one():
    with pytest.raises(RefusedModelError) as refusal:
        spec_of(FIXTURES / "nemotron_hf")  # a language model must be told how it scores
    with pytest.raises(RefusedModelError, match="shows no family"):
        of_refusal("nemotron", refusal.value)


@pytest.mark.parametrize("tensor", ["score.weight", "model.embed_tokens.weight"])
def test_weights_that_are_not_finite(folder, tensor):
    tensors = load_file(folder / "model.safetensors")
    tensors[tensor] = torch.full_like(tensors[tensor], float("nan"))
    save_file(tensors, folder / "model.safetensors")
    checked = check(spec_of(folder), device="cpu")
    (finding,) = checked.findings
    assert (finding.code, finding.number) == ("not-finite", 2)
    assert finding.unit == "rewards that are not finite"
    assert "fetch the checkpoint again" in finding.fix
    assert "--family" not in finding.fix
    assert json.loads(to_json(checked))["findings"][0]["number"] == 2


def test_a_number_that_is_not_finite_is_none():
    refusal = RefusedModelError("it moves", code="moves-with-batch", number=float("nan"))
    checked = of_refusal("rm", refusal)
    assert checked.findings[0].number is None
    assert json.loads(to_json(checked))["findings"][0]["number"] is None


def test_a_head_that_is_another_at_each_load():
    weights = iter((0.5, 0.75))

    def loader(spec, *, device):
        model = load(spec, device=device)
        model.model.score.weight.data.mul_(next(weights))
        return model

    finding = the_finding(DEMO_RM, CHATS, load=loader)
    assert (finding.code, finding.unit) == ("random-head", "max |Δ|")
    largest = np.abs(rewards_by_hand(map(turns, CHATS))).max()
    assert finding.number == pytest.approx(0.25 * largest, rel=1e-3)


# Capped attention


@pytest.fixture(scope="module")
def capped(tmp_path_factory):
    """A random Gemma 2 whose cap is small enough to show."""
    where = tmp_path_factory.mktemp("capped") / "rm"
    shutil.copytree(DEMO_RM, where)
    (where / "model.safetensors").unlink()
    config = Gemma2Config(
        vocab_size=5120, hidden_size=48, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=6, num_key_value_heads=3, head_dim=8, query_pre_attn_scalar=8,
        attn_logit_softcapping=1.0, max_position_embeddings=8192, num_labels=1, pad_token_id=0,
        bos_token_id=BOS, eos_token_id=END,
    )  # fmt: skip
    randomised(Gemma2._from_config(config, attn_implementation="eager")).save_pretrained(where)
    return where


def test_capped_attention_under_a_kernel_that_knows_the_cap(capped):
    assert found(capped, CHATS) == ()


def test_capped_attention_under_a_kernel_that_leaves_the_cap_out(capped):
    def capless(*args, softcap=None, **how):  # what `sdpa` did before it refused
        return sdpa_attention_forward(*args, **how)

    AttentionInterface.register("capless", capless)
    AttentionMaskInterface.register("capless", sdpa_mask)

    def forced(spec, *, device):
        model = load(spec, device=device)
        model.model.config._attn_implementation_internal = "capless"
        return model

    finding = the_finding(capped, CHATS, load=forced)
    assert (finding.code, "in use here, capless" in finding.what) == ("soft-cap-kernel", True)
    assert finding.here
    eager, uncapped = (rewards_of_gemma(capped, cap) for cap in (1.0, None))
    assert finding.number == pytest.approx(np.abs(eager - uncapped).max(), rel=1e-3)


def rewards_of_gemma(folder, cap):
    """By transformers under eager attention, with the cap or without."""
    model = Gemma2.from_pretrained(
        folder, attn_logit_softcapping=cap, attn_implementation="eager", dtype=torch.float32
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer(turns(chat), add_special_tokens=False)["input_ids"] for chat in CHATS]
    with torch.inference_mode():
        return np.array([float(model(torch.tensor([row])).logits) for row in ids])


def test_a_kernel_that_config_json_asks_for_is_wrong_elsewhere(capped, tmp_path):
    shutil.copytree(capped, tmp_path / "rm")
    change(tmp_path / "rm" / "config.json", _attn_implementation="sdpa")
    finding = the_finding(tmp_path / "rm", CHATS)
    assert (finding.code, finding.here) == ("soft-cap-kernel", False)
    capped, uncapped = (rewards_of_gemma(capped, cap) for cap in (1.0, None))
    assert finding.number == pytest.approx(np.abs(capped - uncapped).max(), rel=1e-3)


# Several at once


def test_all_of_several_planted_faults_are_found(folder):
    change(folder / "config.json", pad_token_id=END)
    change(folder / "tokenizer_config.json", model_max_length=500)
    edit(
        folder / "chat_template.jinja",
        ("{%- for m", "{{- bos_token + bos_token + strftime_now('%Y') -}}{%- for m"),
        ("if add_generation_prompt", "if true"),
    )
    assert {f.code for f in found(folder, CHATS, load=reading(last_column))} == {
        "double-bos", "generation-prompt", "moving-date", "moves-with-batch", "pad-is-eos",
        "truncated-tail",
    }  # fmt: skip


# Bad input


def test_without_a_single_reward_nothing_is_said_to_be_clean():
    chats = [(Message("user", "Q"), Message("assistant", "a"))]
    model = FakeRewardModel(unrenderable=["a"])
    with pytest.raises(MissingError, match="none of these conversations"):
        check(fake_spec(), chats, load=model.load)


def test_a_reward_that_is_not_finite_is_counted_and_named():
    model = FakeRewardModel(nonfinite={"42": float("nan")})
    checked = check(fake_spec(), load=model.load)
    assert (checked.findings, checked.conversations) == ((), 16)
    assert list(checked.unscored.values()) == [1]
    assert "not finite" in next(iter(checked.unscored))
