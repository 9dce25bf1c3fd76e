"""What a user declares: families of their own, parameters, outputs, and where files are found."""

import json
import shutil
import sys

import pytest

from evalkit.cli import run
from evalkit.data import Message
from evalkit.errors import InputError, MissingError, RefusedModelError
from evalkit.reward_models import load
from evalkit.reward_models.describe import describe
from evalkit.reward_models.families import published
from evalkit.reward_models.lookup import find_reward_model
from evalkit.scoring import RunSettings, score
from evalkit.store import Store
from evalkit.workspace import Workspace
from tests.shared_data import (
    DEMO_RM,
    FIXTURES,
    conversations_of,
    file_digest,
    needs_shared,
    spec_of,
)

QUIET = RunSettings(progress=False, device="cpu")
CHAT = (Message("user", "Q"), Message("assistant", "A"))
IMPLEMENTATION = """
import numpy as np
from evalkit.reward_models import Rendered

class Model:
    device = "cpu"
    def __init__(self, spec):
        self.value = float((spec.path / "head.txt").read_text())
    def render(self, items):
        return [Rendered([1, 2, 3]) for _ in items]
    def rewards(self, batch):
        return np.array([[self.value, 0.5] for _ in batch])
"""
LOADER = (
    "from ours.implementation import Model\ndef load(spec, *, device):\n    return Model(spec)\n"
)
TABLE = """[reward_models.{name}]
model = "models/{name}"
family = "ours:load"
output = "relative"
attributes = ["half"]
max_length = 99
"""


@pytest.fixture
def ours(tmp_path, monkeypatch):
    """A workspace with two reward models of one family, whose code is a package."""
    package = tmp_path / "code" / "ours"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(LOADER)
    (package / "implementation.py").write_text(IMPLEMENTATION)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    for module in ("ours", "ours.implementation"):  # of the test before this one
        sys.modules.pop(module, None)
    for name, value in (("a", "1.0"), ("b", "2.0")):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "head.txt").write_text(value)
    (tmp_path / "evalkit.toml").write_text(TABLE.format(name="a") + TABLE.format(name="b"))
    return tmp_path


def find(folder, name="a", **overrides):
    return find_reward_model(name, Workspace(folder), file_digest, overrides=overrides)


def test_two_models_of_one_own_family_never_share_a_reward(ours):
    with Store(ours / "store.db") as store:
        for name, value in (("a", 1.0), ("b", 2.0)):
            scored = score(find(ours, name), [CHAT], store, settings=QUIET)
            (row,) = scored.rewards.values()
            assert (row.reward, row.attributes) == (value, (0.5,))


@pytest.mark.parametrize("file", ["code/ours/implementation.py", "models/a/head.txt"])
def test_any_file_of_its_code_or_folder_is_part_of_its_identity(ours, file):
    before = find(ours).fingerprint
    (ours / file).write_text((ours / file).read_text() + "\n")
    assert find(ours).fingerprint != before


def test_its_parameters_are_part_of_its_identity_whatever_they_are_called(ours):
    found = {find(ours, parameters={"reference": text}).fingerprint for text in ("x", "y")}
    assert len(found) == 2


@pytest.mark.parametrize("name", ["max_position_embeddings", "n_positions"])
def test_its_length_is_at_most_what_its_config_has_positions_for(ours, name):
    (ours / "models" / "a" / "config.json").write_text(json.dumps({name: 64}))
    declare(ours, max_length="")
    assert find(ours).max_length == 64
    declare(ours, max_length="65")
    with pytest.raises(InputError, match="beyond the model's 64 tokens"):
        find(ours)


def declare(folder, **changes):
    lines = ["[reward_models.a]"]
    keys = {"family": '"ours:load"', "output": '"relative"', "attributes": '["half"]',
            "max_length": "99", "model": '"models/a"', **changes}  # fmt: skip
    lines += [f"{key} = {value}" for key, value in keys.items() if value]
    (folder / "evalkit.toml").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"model": '"models/gone"'}, MissingError, "models/gone"),
        ({"model": '"org/gone@main"'}, MissingError, "org/gone"),
        ({"output": ""}, InputError, "output = one of"),
        ({"output": '"nonsense"'}, InputError, "'nonsense'"),
        ({"family": '"a:b:c"'}, InputError, "names no function"),
        ({"family": '"nowhere.at.all:load"'}, InputError, "cannot be imported"),
        ({"family": '"sys:load"'}, InputError, "cannot be imported"),
        ({"parameters": "{ since = 2026-01-01 }"}, InputError, "has no digest"),
        ({"max_length": ""}, InputError, "no maximum length"),
    ],
)
def test_a_declaration_that_cannot_hold_is_refused(ours, changes, error, says):
    declare(ours, **changes)
    with pytest.raises(error) as refusal:
        find(ours)
    assert says in str(refusal.value)


@pytest.mark.parametrize(
    "changes", [{"family": '"ours:laod"'}, {"family": '"json:loads"'}, {"model": ""}]
)
def test_a_family_that_does_not_load_is_refused_by_its_name(ours, changes):
    declare(ours, **changes)
    with pytest.raises(RefusedModelError, match="failed to load"):
        load(find(ours), device="cpu")


def test_attributes_other_than_declared_are_refused_before_anything_is_kept(ours):
    declare(ours, attributes="")
    with (
        Store(ours / "store.db") as store,
        pytest.raises(RefusedModelError, match="computes 1 attributes"),
    ):
        score(find(ours), [CHAT], store, settings=QUIET)
    assert not (ours / "store.db").exists()


def test_a_declared_folder_is_the_same_model_from_everywhere(tmp_path, monkeypatch):
    # whose name is that of a published model with a template of its own
    shutil.copytree(DEMO_RM, tmp_path / "mightbe" / "Better-PairRM")
    (tmp_path / "below").mkdir()
    text = '[reward_models.mine]\nmodel = "mightbe/Better-PairRM"\n'
    (tmp_path / "evalkit.toml").write_text(text)
    found = set()
    for folder in (tmp_path, tmp_path / "below"):
        monkeypatch.chdir(folder)
        found.add(find(tmp_path, "mine").fingerprint)
    assert found == {spec_of(DEMO_RM).fingerprint}


def test_an_output_may_be_declared_and_moves_no_reward():
    declared = spec_of(DEMO_RM, output="absolute")
    assert declared.family.output == "absolute"
    assert declared.fingerprint == spec_of(DEMO_RM).fingerprint
    for output in ("nonsense", "preference"):
        with pytest.raises(InputError, match="cannot be"):
            spec_of(DEMO_RM, output=output)


@needs_shared
def test_a_copy_of_a_published_model_has_its_limits_and_its_note():
    id_ = "nvidia/Llama-3.1-Nemotron-70B-Reward-HF"
    assert published()[id_].max_length == 4096
    folder = FIXTURES / "nemotron_hf"
    assert spec_of(folder, family=id_).max_length == 2048  # the files' own limit is lower
    named = "nvidia/Qwen-3-Nemotron-32B-Reward"
    assert spec_of(DEMO_RM, family=named).family.note == published()[named].family.note != ""


@needs_shared
def test_trust_in_a_policys_code_is_no_trust_in_its_references(tmp_path):
    for name in ("policy", "ref"):
        shutil.copytree(FIXTURES / "dpo" / name, tmp_path / name)
        (tmp_path / name / "code.py").write_text("")
    settings = {
        "family": "dpo",
        "parameters": {"reference": str(tmp_path / "ref")},
        "trust_remote_code": True,
    }
    spec = describe(tmp_path / "policy", "rm", file_digest, settings)
    assert spec.runs_remote_code
    assert not spec.reference.runs_remote_code


@needs_shared
def test_a_first_token_without_anything_before_it_is_no_reward(tmp_path):
    # without a BOS in the frame, a cut to the answer alone would score its first token from nothing
    shutil.copytree(FIXTURES / "dpo" / "policy", tmp_path / "rm")
    path = tmp_path / "rm" / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "post_processor": None}))
    chat = conversations_of(FIXTURES / "dpo" / "conversations.jsonl")[0]
    whole = load(spec_of(tmp_path / "rm", family="logprob"), device="cpu").render([chat])[0]
    begin, end = whole.marks
    found = []
    for length in (end - begin, end - begin + 1):
        spec = spec_of(
            tmp_path / "rm", family="logprob", max_length=length, overlong="truncate-left"
        )
        (row,) = load(spec, device="cpu").render([chat])
        found.append(row)
    assert "no token of the answer" in found[0].problem
    assert found[1].marks == (1, end - begin + 1)


@needs_shared
@pytest.mark.parametrize("name", ["temperature", "other.weight"])
def test_a_tensor_of_ldls_files_that_nothing_explains_is_refused(tmp_path, name):
    import torch

    shutil.copytree(FIXTURES / "ldl", tmp_path / "rm")
    path = tmp_path / "rm" / "gating_layer.pt"
    torch.save({**torch.load(path, weights_only=True), name: torch.ones(2)}, path)
    with pytest.raises(RefusedModelError, match=name):
        load(spec_of(tmp_path / "rm"), device="cpu")


BAD_PARAMETERS = {
    "dpo/policy": ["beta=nan", "beta=inf", "reference=nowhere", "norm=median"],
    "openrlhf": ["mean=nan", "std=inf", "std=0", "sign=0", "index=1"],
    "seqcls": ["index=1.5", "index=-1", "index=3", "weights=[1, 2]", "labels=0"],
    "armorm": ["pool='mean'", "columns=0", "temperature=0"],
    "pairrm": ["lengths=[20.5, 10.5]", "append='x'", "lengths=[0, 0]"],
    "pairpref": ["tokens=[1, 2]", "tokens=['A']", "tokens=['A', 'longer text']"],
}
NAMED = {"dpo/policy": "dpo", "pairpref": "pair-preference"}


@needs_shared
@pytest.mark.parametrize(
    ("folder", "parameter"), [(f, p) for f, found in BAD_PARAMETERS.items() for p in found]
)
def test_a_parameter_that_means_nothing_is_refused_without_a_traceback(
    tmp_path, monkeypatch, capsys, folder, parameter
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"instruction": "Q", "output": "A"}\n')
    (tmp_path / "b.jsonl").write_text('{"instruction": "Q", "output": "B"}\n')
    named = ["--family", NAMED[folder]] if folder in NAMED else []
    command = ["compare", "-m", "a.jsonl", "-r", "b.jsonl", "--rm", str(FIXTURES / folder)]
    assert run([*command, *named, "--param", parameter, "--no-report"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert "fix: " in err


BAD_CONFIGS = [
    {"hidden_size": "32"}, {"num_attention_heads": 5}, {"num_hidden_layers": None},
    {"rope_parameters": {"rope_type": "nonsense"}}, {"hidden_act": "nonsense"},
    {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    {"model_type": "nonsense"},
]  # fmt: skip


@needs_shared
@pytest.mark.parametrize("changes", BAD_CONFIGS)
@pytest.mark.parametrize("name", ["inform", "seqcls"])
def test_a_config_that_transformers_cannot_build_is_refused(tmp_path, name, changes):
    shutil.copytree(FIXTURES / name, tmp_path / "rm")
    path = tmp_path / "rm" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(RefusedModelError):
        load(spec_of(tmp_path / "rm"), device="cpu")


@needs_shared
@pytest.mark.parametrize(
    "changes", [{"pad_token_id": -1}, {"_attn_implementation": "org/kernel"},
                {"attn_implementation": "org/kernel"}],
)  # fmt: skip
def test_padding_and_attention_of_a_config_move_nothing(tmp_path, changes):
    shutil.copytree(FIXTURES / "inform", tmp_path / "rm")
    path = tmp_path / "rm" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    model = load(spec_of(tmp_path / "rm"), device="cpu")
    chats = conversations_of(FIXTURES / "inform" / "conversations.jsonl")
    assert model.rewards(model.render(chats))[0, 0] == pytest.approx(0.5375432968139648, abs=2e-5)


@needs_shared
def test_an_empty_pt_file_is_refused(tmp_path):
    shutil.copytree(FIXTURES / "ldl", tmp_path / "rm")
    (tmp_path / "rm" / "gating_layer.pt").write_bytes(b"")
    with pytest.raises(RefusedModelError, match=r"gating_layer\.pt"):
        load(spec_of(tmp_path / "rm"), device="cpu")
