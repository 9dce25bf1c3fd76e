"""Every family against what the public reference implementations printed, and what is refused."""

import json
import shutil
from functools import cache
from itertools import product

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from evalkit.data import Message, Pair
from evalkit.errors import EvalkitError, InputError, RefusedModelError
from evalkit.reward_models import load
from evalkit.reward_models.families import family
from evalkit.reward_models.lookup import find_reward_model
from evalkit.reward_models.pointwise import weighted
from evalkit.scoring import RunSettings, score
from evalkit.store import Store
from evalkit.workspace import Workspace
from tests.shared_data import FIXTURES, conversations_of, file_digest, needs_shared, spec_of
from tests.tiny_checkpoints import change

COMPATIBLE = {"rewardbench_compatible": True}


def log_probability(norm):
    return {"family": "logprob", "parameters": {"norm": norm, **COMPATIBLE}}


# Folder below the fixtures, column of the expected rows, settings.
SCORES = {
    "armorm": ("armorm", "score", {}),
    "athene": ("athene", "score_single_bos", {}),
    "beaver": ("beaver", "end_score", {}),
    "beaver_cost": ("beaver_cost", "rewardbench_pipeline", {}),
    "deberta_pair": ("deberta_pair", "score", {"family": "openassistant-deberta"}),
    "dpo ratio": ("dpo", "ratio", {"parameters": COMPATIBLE}),
    "dpo sum": ("dpo/policy", "sum", log_probability("sum")),
    "dpo avg": ("dpo/policy", "avg", log_probability("avg")),
    "dpo norm": ("dpo/policy", "norm", log_probability("norm")),
    "grm": ("grm", "score", {}),
    "grm_linear": ("grm_linear", "score", {}),
    "inform": ("inform", "score", {}),
    "ldl": ("ldl", "score", {}),
    "nemotron_hf": ("nemotron_hf", "score", {"family": "nemotron"}),
    "openassistant": ("openassistant", "score", {}),
    "openrlhf": ("openrlhf", "score", {}),
    "qrm": ("qrm", "score", {}),
    "seqcls": ("seqcls", "score", {}),
    "starling": ("starling", "score", {}),
    "ultrarm": ("ultrarm", "score", {}),
    "urm": ("urm", "score", {}),
}
PAIRWISE = {"pairpref": {"family": "pair-preference"}, "pairrm": {}}
SIDES = ("right", "left")


@cache
def loaded(case):
    folder, _, settings = SCORES.get(case) or (case, "", PAIRWISE[case])
    return load(spec_of(FIXTURES / folder, **settings), device="cpu")


@cache
def chats():
    """The six conversations that every fixture holds, by id."""
    path = FIXTURES / "seqcls" / "conversations.jsonl"
    ids = [json.loads(line)["id"] for line in path.read_text("utf-8").splitlines()]
    return dict(zip(ids, conversations_of(path), strict=True))


@cache
def printed(name):
    """What the reference implementation printed, without the line on the head."""
    lines = (FIXTURES / f"{name}.expected.jsonl").read_text("utf-8").splitlines()[1:]
    return [json.loads(line) for line in lines]


def near(expected):
    return pytest.approx(np.asarray(expected), rel=2e-5, abs=2e-5)


def rows_of(model, items, *, side="right", batch=8, seed=0):
    """(N, 1 + A) what a model makes of items, in batches of a shuffled order."""
    model.padding_side = side
    rendered = model.render(items)
    assert [row.problem for row in rendered] == [""] * len(items)
    order = np.random.default_rng(seed).permutation(len(items))
    parts = [order[i : i + batch] for i in range(0, len(order), batch)]
    found = np.concatenate([model.rewards([rendered[i] for i in part]) for part in parts])
    return found[np.argsort(order)]


def columns_of(case, prefix=""):
    """The attributes of each conversation of which the name begins so, or those without one."""
    model = loaded(case)
    names = ("reward", *model.spec.attributes)
    kept = [name.startswith(prefix) if prefix else "/" not in name for name in names]
    kept[0] = False
    return rows_of(model, list(chats().values()))[:, kept]


# deberta_pair's native pooler reads column 0, which padding on the left would fill.
PADDED = [
    pytest.param(*case, id=f"{case[0]}-{case[1]}-{case[2]}")
    for case in product(SCORES, (1, 8), SIDES)
    if case[0] != "deberta_pair" or case[2] == "right"
]


@needs_shared
@pytest.mark.parametrize(("case", "batch", "side"), PADDED)
def test_a_reward_is_what_the_reference_implementation_printed(case, batch, side):
    folder, column, _ = SCORES[case]
    expected = printed(folder.partition("/")[0])
    items = [chats()[row["id"]] for row in expected]
    found = rows_of(loaded(case), items, side=side, batch=batch, seed=batch)
    assert found[:, 0] == near([row[column] for row in expected])


@needs_shared
def test_every_fixture_is_held_against_its_reference():
    covered = {folder.partition("/")[0] for folder, _, _ in SCORES.values()} | set(PAIRWISE)
    assert covered == {path.name for path in FIXTURES.iterdir() if path.is_dir()}


DETECTED = {
    "armorm": "armorm", "athene": "athene", "beaver": "beaver-reward",
    "beaver_cost": "beaver-cost", "dpo": "dpo", "grm": "grm", "grm_linear": "grm",
    "inform": "inf-orm", "ldl": "ldl", "openassistant": "openassistant", "openrlhf": "openrlhf",
    "pairrm": "pairrm", "qrm": "qrm", "seqcls": "sequence-classifier", "starling": "starling",
    "ultrarm": "ultrarm", "urm": "urm",
}  # fmt: skip


@needs_shared
@pytest.mark.parametrize("name", DETECTED)
def test_a_family_is_told_from_the_files_alone(name):
    assert spec_of(FIXTURES / name).family.name == DETECTED[name]


# What comes beside the reward


@needs_shared
def test_armorm_gives_its_objectives_and_their_gates():
    assert columns_of("armorm") == near([row["rewards"] for row in printed("armorm")])
    gates = columns_of("armorm", "gate/")
    assert gates == near([row["gating"] for row in printed("armorm")])
    assert gates.sum(axis=1) == near([1.3] * 6)


@needs_shared
def test_armorm_reads_its_gate_where_the_last_question_ends():
    rendered = loaded("armorm").render(list(chats().values()))
    expected = [((row["gate_pos"],), row["n_tokens"]) for row in printed("armorm")]
    assert [(row.marks, len(row.ids)) for row in rendered] == expected


@needs_shared
def test_qrm_gives_its_objectives_after_their_transform():
    assert columns_of("qrm") == near([row["rewards"] for row in printed("qrm")])


@needs_shared
def test_urm_gives_its_attributes_and_raw_weights():
    assert columns_of("urm") == near([row["attributes"] for row in printed("urm")])
    assert columns_of("urm", "gate/") == near([row["weights"] for row in printed("urm")])


@needs_shared
def test_ldl_gives_its_gates_and_the_distribution_they_make():
    gates, bins = columns_of("ldl", "gate/"), columns_of("ldl", "bin/")
    assert bins == near([row["dist"] for row in printed("ldl")])
    assert gates[:, :3] == near([row["weights_head"] for row in printed("ldl")])
    assert gates.sum(axis=1) == near([row["weights_sum"] for row in printed("ldl")])
    assert bins.sum(axis=1) == near(gates.sum(axis=1))


@needs_shared
def test_openrlhf_normalises_when_asked_with_what_its_config_says():
    # what the reference printed is garbage: its buffers are uninitialised under transformers 5
    expected = [-0.121530, 0.297879, 0.210947, 0.378894, 0.233186, -0.216377]
    model = load(spec_of(FIXTURES / "openrlhf", parameters={"normalize": True}), device="cpu")
    assert rows_of(model, list(chats().values()))[:, 0] == near(expected)


# Pairs


def pairs():
    c0, c1, c2 = (chats()[name] for name in ("c0", "c1", "c2"))
    return [Pair(c0[:-1], c0[-1].content, c1[-1].content), Pair(c2[:-1], c2[-1].content, "Cats.")]


def both_orders(case, items, **how):
    """Log-odds of the first answer when it is read first, and when it is read second."""
    swapped = [Pair(p.prompt, p.second, p.first) for p in items]
    found = rows_of(loaded(case), [*items, *swapped], **how)[:, 0]
    return found[: len(items)], -found[len(items) :]


def probability(case, items, **how):
    first, second = both_orders(case, items, **how)
    return (1 / (1 + np.exp(-first)) + 1 / (1 + np.exp(-second))) / 2


@needs_shared
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("batch", [1, 8])
def test_a_pair_preference_is_what_the_reference_implementation_gave_in_both_orders(batch, side):
    expected = json.loads((FIXTURES / "pairpref.expected.jsonl").read_text().splitlines()[0])
    orders = both_orders("pairpref", pairs(), batch=batch, side=side)
    found = np.stack([1 / (1 + np.exp(-odds)) for odds in orders], axis=1)
    assert found == pytest.approx(np.array(expected["p_first_by_order"]), abs=1e-5)
    mean = probability("pairpref", pairs(), batch=batch, side=side)
    assert mean == pytest.approx(np.array(expected["p_first_mean"]), abs=1e-5)


@needs_shared
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("batch", [1, 8])
def test_pairrm_gives_both_numbers_of_its_reference_implementation(batch, side):
    (expected,) = printed("pairrm")
    first, second = both_orders("pairrm", pairs(), batch=batch, side=side)
    assert first == near(expected["logit_AB_only"])
    assert first + second == near(expected["delta_AB_minus_BA"])


@needs_shared
@pytest.mark.parametrize("case", PAIRWISE)
def test_the_two_answers_of_a_pair_share_one_probability(case):
    swapped = [Pair(p.prompt, p.second, p.first) for p in pairs()]
    there = probability(case, pairs(), batch=1)
    back = probability(case, swapped, batch=8, side="left")
    assert there + back == pytest.approx(np.ones(2), abs=1e-5)
    assert np.all(np.abs(there - 0.5) > 1e-3)


# Answers as text and as ids


@needs_shared
def test_rewardbenchs_own_way_of_log_probabilities_is_reproduced_token_by_token():
    expected = printed("dpo")[0]
    (row,) = loaded("dpo ratio").render([chats()["c0"]])
    begin, end = row.marks
    assert end - begin == expected["n_label_tokens"]
    assert row.ids[: len(expected["first_ids"])] == expected["first_ids"]
    assert row.ids[-len(expected["last_ids"]) :] == expected["last_ids"]


@needs_shared
def test_rewardbench_keeps_the_end_of_a_long_prompt_and_the_start_of_a_long_answer():
    model = loaded("dpo ratio")
    ask, tell = "why " * 1500, "because " * 1500
    chat = (Message("user", ask), Message("assistant", tell))
    (alone,) = model.render([(Message("user", "why"), Message("assistant", tell))])
    (row,) = model.render([chat])
    assert (row.marks, len(row.ids)) == ((128, 2048), 2048)
    assert row.ids[128:] == alone.ids[alone.marks[0] :][:1920]
    assert row.ids[127] == alone.ids[alone.marks[0] - 1]


@needs_shared
def test_a_cut_on_the_right_gives_what_opendataarena_gives():
    settings = {"max_length": 64, "overlong": "truncate-right"}
    model = load(spec_of(FIXTURES / "inform", **settings), device="cpu")
    (row,) = model.render([chats()["c5"]])
    assert (len(row.ids), row.cut) == (64, 282 - 64)
    assert model.rewards([row])[0, 0] == pytest.approx(0.880, abs=5e-4)


@needs_shared
@pytest.mark.parametrize("overlong", ["truncate-left", "truncate-right"])
def test_no_cut_takes_the_token_that_athene_reads(overlong):
    spec = spec_of(FIXTURES / "athene", max_length=40, overlong=overlong)
    (row,) = load(spec, device="cpu").render([chats()["c5"]])
    assert (len(row.ids), row.ids[0], row.ids[-1]) == (40, 0, 6)


def padded_with_end_of_turn(name, folder):
    shutil.copytree(FIXTURES / name, folder)
    change(folder / "config.json", pad_token_id=2)
    change(folder / "tokenizer_config.json", pad_token="<|eot_id|>")
    return folder


@needs_shared
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", ["inform", "ldl", "armorm"])
def test_padding_with_the_end_of_turn_moves_no_reward(tmp_path, name, side):
    model = load(spec_of(padded_with_end_of_turn(name, tmp_path / "rm")), device="cpu")
    found = rows_of(model, list(chats().values()), side=side)[:, 0]
    assert found == near([row["score"] for row in printed(name)])
    assert abs(found[0] - found[1]) > 0.01


# Where ArmoRM's gate reads


@needs_shared
@pytest.mark.parametrize(
    ("name", "length", "overlong"),
    [("c5", 64, "truncate-left"), ("c5", 12, "truncate-right"), ("c2", 46, "truncate-right")],
)
def test_a_conversation_whose_last_header_is_cut_off_has_no_reward(name, length, overlong):
    spec = spec_of(FIXTURES / "armorm", max_length=length, overlong=overlong)
    (row,) = load(spec, device="cpu").render([chats()[name]])
    assert (row.ids, bool(row.problem)) == ([], True)


HEADER = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"


@needs_shared
@pytest.mark.parametrize("newlines", ["\n\n", "\n"])
@pytest.mark.parametrize("trim", [" | trim", ""])
@pytest.mark.parametrize(
    "answer", ["\nYes", "\n\nYes", "\n\n\n\nYes", "\n", f"Yes{HEADER}No", f"{HEADER}Yes", HEADER]
)
def test_whatever_an_answer_holds_the_gate_reads_the_real_header(tmp_path, newlines, trim, answer):
    folder = tmp_path / "rm"
    shutil.copytree(FIXTURES / "armorm", folder)
    template = folder / "chat_template.jinja"
    text = template.read_text().replace("\n\n", newlines).replace(" | trim", trim)
    template.write_text(text)
    model = load(spec_of(folder), device="cpu")
    (row,) = model.render([(*chats()["c0"][:-1], Message("assistant", answer))])
    assert row.marks == (14,)
    assert row.ids[14:17] == [2, 3, 76]
    assert np.all(np.isfinite(model.rewards([row])))


# Refusals


def edited(name, folder, edit):
    """A copy of a fixture whose tensors were edited."""
    shutil.copytree(FIXTURES / name, folder)
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def refusal(folder, error=RefusedModelError, **settings):
    with pytest.raises(error) as caught:
        load(spec_of(folder, **settings), device="cpu")
    assert caught.value.exit_code == 2
    return str(caught.value)


def without(*names):
    def edit(tensors):
        for name in names:
            del tensors[name]

    return edit


def with_shape(name, *shape, **more):
    def edit(tensors):
        for key, size in {name: shape, **more}.items():
            tensors[key] = next(iter(tensors.values())).new_ones(size)

    return edit


WRONG_HEADS = {
    "inform, first weight missing": ("inform", without("score.0.weight")),
    "inform, first bias missing": ("inform", without("score.0.bias")),
    "inform, last weight missing": ("inform", without("score.2.weight")),
    "inform, last bias missing": ("inform", without("score.2.bias")),
    "inform, first layer missing": ("inform", without("score.0.weight", "score.0.bias")),
    "inform, last layer missing": ("inform", without("score.2.weight", "score.2.bias")),
    "inform, a further tensor": ("inform", with_shape("score.0.scale", 32)),
    "inform, a further layer": (
        "inform",
        with_shape("score.4.weight", 1, 1, **{"score.4.bias": (1,)}),
    ),
    "inform, a further head": ("inform", with_shape("v_head.weight", 1, 32)),
    "inform, two values": ("inform", with_shape("score.2.weight", 2, 32)),
    "inform, another width": ("inform", with_shape("score.0.weight", 32, 31)),
    "inform, layers that do not follow": ("inform", with_shape("score.2.weight", 1, 31)),
    "inform, another bias": ("inform", with_shape("score.0.bias", 31)),
    "inform, one bias for all": ("inform", with_shape("score.0.bias", 1)),
    "inform, two last biases": ("inform", with_shape("score.2.bias", 2)),
    "inform, trunk incomplete": ("inform", without("model.layers.1.mlp.up_proj.weight")),
    "urm, no gate": ("urm", without(*(f"weights.fc.{i}.{p}" for i in (0, 2, 4)
                                     for p in ("weight", "bias")))),
    "armorm, no transform": ("armorm", without("reward_transform_matrix")),
    "armorm, no scale": ("armorm", without("gating.logit_scale")),
    "armorm, a gate's layer missing": ("armorm", without("gating.layers.2.weight",
                                                         "gating.layers.2.bias")),
    "armorm, another transform": ("armorm", with_shape("reward_transform_matrix", 19, 18)),
    "qrm, no running mean": ("qrm", without("gating.layers.5.running_mean")),
    "qrm, no running variance": ("qrm", without("gating.layers.5.running_var")),
    "qrm, quantiles that do not divide": ("qrm", with_shape("regression_layer.weight", 360, 32)),
    "beaver_cost, no variance": ("beaver_cost", without("normalizer.var")),
    "grm, no layer": ("grm", without("v_head.summary.0.weight", "v_head.summary.0.bias")),
    "pairrm, no last layer": ("pairrm", without("head_layer.4.weight", "head_layer.4.bias")),
    "athene, no head": ("athene", without("v_head.weight")),
}  # fmt: skip


@needs_shared
@pytest.mark.parametrize("case", WRONG_HEADS)
def test_a_head_that_is_not_whole_is_refused(tmp_path, case):
    name, edit = WRONG_HEADS[case]
    refusal(edited(name, tmp_path / "rm", edit))


@needs_shared
@pytest.mark.parametrize("name", ["inform", "seqcls", "pairrm"])
def test_a_further_file_of_weights_that_nothing_explains_is_refused(tmp_path, name):
    shutil.copytree(FIXTURES / name, tmp_path / "rm")
    tensor = next(iter(load_file(tmp_path / "rm" / "model.safetensors").values()))
    save_file({"another.weight": tensor}, tmp_path / "rm" / "more.safetensors")
    assert "another.weight" in refusal(tmp_path / "rm")


@needs_shared
@pytest.mark.parametrize("file", ["regression_layer.pt", "gating_layer.pt"])
def test_ldl_without_one_of_its_files_is_refused(tmp_path, file):
    shutil.copytree(FIXTURES / "ldl", tmp_path / "rm")
    (tmp_path / "rm" / file).unlink()
    refusal(tmp_path / "rm")


@needs_shared
@pytest.mark.parametrize("name", ["nemotron_hf", "pairpref", "dpo/policy"])
def test_a_language_model_must_be_told_how_it_scores(name):
    assert "--family" in refusal(FIXTURES / name)


@needs_shared
@pytest.mark.parametrize(
    ("file", "keys"), [("tokenizer.json", {"version": "9"}),
                       ("tokenizer_config.json", {"unk_token": "<|reward|>"})],
)  # fmt: skip
def test_a_policy_and_a_reference_with_different_tokenizers_are_refused(tmp_path, file, keys):
    shutil.copytree(FIXTURES / "dpo", tmp_path / "rm")
    change(tmp_path / "rm" / "ref" / file, **keys)
    assert "different tokenizers" in refusal(tmp_path / "rm")


@needs_shared
def test_a_log_ratio_without_reference_is_refused(tmp_path):
    assert "needs a reference" in refusal(FIXTURES / "dpo" / "policy", family="dpo")
    shutil.copytree(FIXTURES / "dpo", tmp_path / "rm")
    shutil.rmtree(tmp_path / "rm" / "ref")
    assert "needs a reference" in refusal(tmp_path / "rm")


@needs_shared
def test_a_reference_that_would_be_ignored_is_refused():
    settings = {"family": "simpo", "parameters": {"reference": str(FIXTURES / "dpo" / "ref")}}
    assert "no use for a reference" in refusal(FIXTURES / "dpo" / "policy", **settings)


@needs_shared
@pytest.mark.parametrize(
    ("name", "given", "meant"),
    [("openrlhf", "normalise", "normalize"), ("armorm", "temprature", "temperature"),
     ("dpo", "betta", "beta"), ("pairrm", "length", "lengths")],
)  # fmt: skip
def test_an_unknown_parameter_is_refused_with_the_one_that_was_meant(name, given, meant):
    found = refusal(FIXTURES / name, InputError, parameters={given: 1})
    assert repr(given) in found
    assert f"did you mean: {meant}" in found


@needs_shared
@pytest.mark.parametrize(
    ("name", "parameters"),
    [("openrlhf", {"normalize": "yes"}), ("openrlhf", {"normalize": 1}), ("dpo", {"beta": "0.1"}),
     ("dpo", {"beta": True}), ("armorm", {"temperature": [3]}), ("pairrm", {"lengths": 2048}),
     ("inform", {"head": 0}), ("openrlhf", {"mean": {"value": 3}})],
)  # fmt: skip
def test_a_parameter_of_another_type_is_refused(name, parameters):
    found = refusal(FIXTURES / name, InputError, parameters=parameters)
    assert repr(next(iter(parameters))) in found


@needs_shared
@pytest.mark.parametrize(
    ("name", "parameters"),
    [("dpo", {"norm": "mean"}), ("inform", {"pool": "first"}), ("inform", {"activation": "gelu"}),
     ("armorm", {"column": "median"}), ("armorm", {"gate_at": "start"}),
     ("armorm", {"kept": "all"}), ("pairrm", {"lengths": [2048]})],
)  # fmt: skip
def test_a_value_that_means_nothing_is_refused(name, parameters):
    refusal(FIXTURES / name, EvalkitError, parameters=parameters)


# A family of one's own

OWN = """
import numpy as np
from evalkit.reward_models import Rendered

class Length:
    device = "cpu"

    def render(self, items):
        return [Rendered(list(chat[-1].content.encode())) for chat in items]

    def rewards(self, batch):
        return np.array([[len(row.ids) * FACTOR, len(row.ids)] for row in batch], dtype=float)

def load(spec, *, device="auto"):
    return Length()
"""
TABLE = """
[reward_models.length]
family = "PACKAGE.length:load"
output = "relative"
attributes = ["bytes"]
max_length = 100
"""


def own(root, factor=2, table=TABLE):
    package = root / f"own_{root.name}"  # one of its own: imported modules outlive a test
    package.mkdir(exist_ok=True)
    (package / "__init__.py").touch()
    (package / "length.py").write_text(OWN.replace("FACTOR", str(factor)))
    (root / "evalkit.toml").write_text(table.replace("PACKAGE", package.name))
    return find_reward_model("length", Workspace(root), file_digest)


def test_a_family_of_ones_own_scores_like_any_other(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    spec = own(tmp_path)
    assert (spec.family.output, spec.attributes) == ("relative", ("bytes",))
    items = [(Message("user", "Q"), Message("assistant", "x" * n)) for n in (3, 5, 8)]
    with Store(tmp_path / "store.db") as store:
        scored = score(spec, items, store, settings=RunSettings(progress=False))
    assert sorted((r.reward, tuple(r.attributes)) for r in scored.rewards.values()) == [
        (6, (3,)),
        (10, (5,)),
        (16, (8,)),
    ]


def test_the_source_of_ones_own_family_is_part_of_its_fingerprint(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    before = own(tmp_path).fingerprint
    assert own(tmp_path).fingerprint == before
    assert own(tmp_path, factor=3).fingerprint != before


@pytest.mark.parametrize("output", ["", 'output = "probability"\n'])
def test_a_family_of_ones_own_must_say_what_its_number_is(tmp_path, monkeypatch, output):
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="bradley-terry, relative, absolute, preference") as error:
        own(tmp_path, table=TABLE.replace('output = "relative"\n', output))
    assert error.value.exit_code == 2


def test_a_family_of_ones_own_that_cannot_be_found_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be imported"):
        own(tmp_path)


# Published numbers


def test_the_published_example_of_nemotron_4_340b_comes_out_exactly():
    attributes = (0, 0, 0, 0, 1.6171875, 1.6484375, 3.3125, 0.546875, 0.515625)
    assert weighted(attributes, family("nemotron-4-340b").setting("weights")) == 3.315625
    assert weighted(attributes[4:], family("helpsteer").setting("weights")) == 3.315625
