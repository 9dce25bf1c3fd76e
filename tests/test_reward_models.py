import json
import shutil
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from evalkit.data import Message
from evalkit.errors import MissingError, RefusedModelError
from evalkit.reward_models import load
from evalkit.reward_models.lookup import find_reward_model
from evalkit.workspace import Workspace
from tests.shared_data import (
    DEMO_RM,
    FIXTURES,
    conversations_of,
    file_digest,
    needs_shared,
    spec_of,
)

SEQCLS = FIXTURES / "seqcls"
CUSTOM = {
    "armorm": "gating.layers.0.bias",
    "athene": "v_head.weight",
    "beaver": "score_head.weight",
    "beaver_cost": "normalizer.mean",
    "grm": "v_head.summary.0.weight",
    "grm_linear": "v_head.summary.weight",
    "inform": "score.0.weight",
    "ldl": "gating_layer.pt, regression_layer.pt",
    "nemotron_hf": "lm_head.weight",
    "openassistant": "gpt_neox.embed_in.weight",
    "openrlhf": "score.weight",
    "pairpref": "lm_head.weight",
    "pairrm": "head_layer.1.bias",
    "qrm": "gating.layers.0.weight",
    "starling": "transformer.embed_tokens.weight",
    "ultrarm": "regression_head.weight",
    "urm": "weights.fc.0.bias",
}


def rewards(model, conversations, order=None, batch=8):
    order = list(order or range(len(conversations)))
    rendered = model.render(conversations)
    found = np.empty(len(rendered))
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        found[rows] = model.rewards([rendered[row] for row in rows])[:, 0]
    return found


def expected_scores():
    lines = (FIXTURES / "seqcls.expected.jsonl").read_text().splitlines()[1:]
    return np.array([json.loads(line)["score"] for line in lines])


def edited(source: Path, target: Path, **files) -> Path:
    """A copy of a checkpoint with keys of its JSON files replaced."""
    shutil.copytree(source, target)
    for name, changes in files.items():
        path = target / f"{name}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return target


@pytest.fixture(scope="module")
def demo():
    return load(spec_of(DEMO_RM), device="cpu")


@needs_shared
def test_rewards_equal_those_of_the_reference_implementation():
    model = load(spec_of(SEQCLS), device="cpu")
    found = rewards(model, conversations_of(SEQCLS / "conversations.jsonl"))
    expected = expected_scores()
    assert np.all(np.abs(found - expected) <= 2e-5 * np.maximum(1, np.abs(expected)))


@needs_shared
def test_a_tokenizer_whose_pad_is_its_end_of_turn_changes_nothing(tmp_path):
    folder = edited(
        SEQCLS,
        tmp_path / "rm",
        config={"pad_token_id": 2},
        tokenizer_config={"pad_token": "<|eot_id|>"},
    )
    model = load(spec_of(folder), device="cpu")
    found = rewards(model, conversations_of(SEQCLS / "conversations.jsonl"))
    assert found == pytest.approx(expected_scores(), abs=1e-5)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    texts=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=9),
    batch=st.sampled_from([1, 2, 3, 8]),
    seed=st.integers(0, 1000),
)
def test_a_reward_depends_on_its_conversation_alone(demo, texts, batch, seed):
    conversations = [(Message("user", a), Message("assistant", b)) for a, b in texts]
    alone = rewards(demo, conversations, batch=1)
    order = np.random.default_rng(seed).permutation(len(conversations)).tolist()
    assert rewards(demo, conversations, order, batch) == pytest.approx(alone, abs=1e-5)


@needs_shared
@pytest.mark.parametrize("family", CUSTOM)
def test_a_custom_head_is_refused_and_its_tensors_named(family):
    with pytest.raises(RefusedModelError) as error:
        load(spec_of(FIXTURES / family, family="sequence-classifier"), device="cpu")
    assert CUSTOM[family] in str(error.value)
    assert error.value.exit_code == 2


@needs_shared
def test_a_classifier_without_a_chat_template_is_refused():
    with pytest.raises(RefusedModelError, match="no chat template"):
        spec_of(FIXTURES / "deberta_pair")


def test_a_missing_head_is_refused_and_never_made_up(tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(DEMO_RM, tmp_path / "rm")
    tensors = load_file(tmp_path / "rm" / "model.safetensors")
    del tensors["score.weight"]
    save_file(tensors, tmp_path / "rm" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RefusedModelError, match=r"missing tensors: score\.weight"):
        load(spec_of(tmp_path / "rm"), device="cpu")


def test_a_misshapen_tensor_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(DEMO_RM, tmp_path / "rm")
    tensors = load_file(tmp_path / "rm" / "model.safetensors")
    tensors["score.weight"] = tensors["score.weight"].repeat(2, 1)
    save_file(tensors, tmp_path / "rm" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RefusedModelError, match=r"another shape: score\.weight"):
        load(spec_of(tmp_path / "rm"), device="cpu")


def test_several_labels_are_refused(tmp_path):
    labels = {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}
    folder = edited(DEMO_RM, tmp_path / "rm", config=labels)
    with pytest.raises(RefusedModelError, match="2 labels"):
        load(spec_of(folder), device="cpu")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "head.pt", "weights.pkl"])
def test_pickles_beside_the_weights_are_refused_unopened(tmp_path, name):
    shutil.copytree(DEMO_RM, tmp_path / "rm")
    canary = tmp_path / "canary"
    code = f"cbuiltins\neval\n(Vopen({str(canary)!r}, 'w')\ntR."
    (tmp_path / "rm" / name).write_bytes(code.encode())
    with pytest.raises(RefusedModelError, match=name):
        load(spec_of(tmp_path / "rm"), device="cpu")
    assert not canary.exists()


def test_the_pickle_of_the_test_above_would_have_run(tmp_path):
    import pickle

    canary = tmp_path / "canary"
    pickle.loads(f"cbuiltins\neval\n(Vopen({str(canary)!r}, 'w').close()\ntR.".encode())
    assert canary.exists()


def test_remote_code_is_never_imported(tmp_path):
    canary = tmp_path / "canary"
    auto_map = {
        "auto_map": {"AutoModelForSequenceClassification": "evil.Model"},
        "model_type": "evil",
    }
    folder = edited(DEMO_RM, tmp_path / "rm", config=auto_map)
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w').close()\nclass Model: pass\n")
    with pytest.raises(RefusedModelError):
        load(spec_of(folder), device="cpu")
    assert not canary.exists()


TINY = {
    "vocab_size": 6000, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "num_labels": 1, "pad_token_id": 0,
}  # fmt: skip


def tiny(folder, architecture, **config):
    """demo-rm's tokenizer and template around a random model of another architecture."""
    import torch
    import transformers

    torch.manual_seed(0)
    cls = getattr(transformers, f"{architecture}ForSequenceClassification")
    model = cls(getattr(transformers, f"{architecture}Config")(**{**TINY, **config})).eval()
    model.save_pretrained(edited(DEMO_RM, folder))
    return model


ARCHITECTURES = {
    "Bert": {},
    "Roberta": {"max_position_embeddings": 514},
    "ModernBert": {},
    "ModernBertDecoder": {},
    "GPTNeoX": {},
    "OPT": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "Qwen2": {"num_key_value_heads": 4},
}
CHATS = [(Message("user", "Hi"), Message("assistant", "x " * n)) for n in (1, 9, 30)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_common_architecture_is_read_as_it_reads_a_row_alone(tmp_path, architecture):
    import torch

    reference = tiny(tmp_path / "rm", architecture, **ARCHITECTURES[architecture])
    model = load(spec_of(tmp_path / "rm"), device="cpu")
    with torch.inference_mode():
        expected = [
            reference(torch.tensor([item.ids])).logits.item() for item in model.render(CHATS)
        ]
    assert rewards(model, CHATS) == pytest.approx(expected, abs=1e-5)
    halved = load(spec_of(tmp_path / "rm", dtype="bfloat16"), device="cpu")
    assert rewards(halved, CHATS) == pytest.approx(expected, abs=0.25)


def test_a_model_whose_reward_depends_on_its_company_is_refused(tmp_path):
    tiny(tmp_path / "rm", "XLNet", d_model=32, n_layer=2, n_head=4, d_inner=64)
    with pytest.raises(RefusedModelError, match="with the rows beside it"):
        load(spec_of(tmp_path / "rm"), device="cpu")


def test_what_a_trainer_leaves_behind_is_no_part_of_a_checkpoint(tmp_path):
    shutil.copytree(DEMO_RM, tmp_path / "rm")
    (tmp_path / "rm" / "training_args.bin").write_bytes(b"never opened")
    load(spec_of(tmp_path / "rm"), device="cpu")


@pytest.mark.parametrize("name", ["adapter_config.json", "tokenizer.json"])
def test_an_adapter_or_no_tokenizer_json_is_refused(tmp_path, name):
    shutil.copytree(DEMO_RM, tmp_path / "rm")
    path = tmp_path / "rm" / name
    path.unlink() if path.exists() else path.write_text("{}")
    with pytest.raises(RefusedModelError, match=name.split("_")[0]):
        spec_of(tmp_path / "rm")


def test_a_model_larger_than_its_device_is_spread_and_scores_the_same(demo):
    from evalkit.reward_models.pointwise import load_classifier

    spread = load_classifier(spec_of(DEMO_RM), max_memory={"cpu": "1MB"})
    assert "disk" in set(spread.model.hf_device_map.values())
    conversations = [(Message("user", "Hi"), Message("assistant", "x " * n)) for n in (1, 9, 30)]
    assert rewards(spread, conversations) == pytest.approx(rewards(demo, conversations), abs=1e-6)


def test_the_head_computes_in_float32_under_a_bfloat16_trunk():
    import torch

    model = load(spec_of(DEMO_RM, dtype="bfloat16"), device="cpu")
    kinds = {name: p.dtype for name, p in model.model.named_parameters()}
    assert kinds.pop("score.weight") == torch.float32
    assert set(kinds.values()) == {torch.bfloat16}


FACTORS = {
    "weights": lambda folder: (folder / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()[:-1] + b"\x01"
    ),
    "config": lambda folder: change(folder / "config.json", "rms_norm_eps", 0.5),
    "tokenizer": lambda folder: change(folder / "tokenizer.json", "version", "9"),
    "tokenizer settings": lambda folder: change(folder / "tokenizer_config.json", "bos_token", "x"),
    "template": lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"),
}
SETTINGS = {"dtype": "bfloat16", "max_length": 77, "overlong": "truncate-left"}
NOT_KEYED = {
    "library version": lambda folder: change(folder / "config.json", "transformers_version", "0"),
    "name or path": lambda folder: change(folder / "config.json", "_name_or_path", "elsewhere"),
    "card": lambda folder: (folder / "card.toml").write_text('notice = "another"'),
    "readme": lambda folder: (folder / "README.md").write_text("another"),
}


def change(path: Path, key: str, value: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))


@pytest.mark.parametrize("factor", FACTORS)
def test_whatever_can_move_a_reward_moves_the_fingerprint(tmp_path, factor):
    shutil.copytree(DEMO_RM, tmp_path / "rm")
    before = spec_of(tmp_path / "rm").fingerprint
    FACTORS[factor](tmp_path / "rm")
    assert spec_of(tmp_path / "rm").fingerprint != before


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_moves_the_fingerprint(setting):
    changed = spec_of(DEMO_RM, **{setting: SETTINGS[setting]})
    assert changed.fingerprint != spec_of(DEMO_RM).fingerprint


@pytest.mark.parametrize("factor", NOT_KEYED)
def test_what_cannot_move_a_reward_leaves_the_fingerprint(tmp_path, factor):
    shutil.copytree(DEMO_RM, tmp_path / "another name")
    NOT_KEYED[factor](tmp_path / "another name")
    assert spec_of(tmp_path / "another name").fingerprint == spec_of(DEMO_RM).fingerprint


def test_a_hub_reward_model_is_found_in_the_local_cache_by_revision(tmp_path, monkeypatch):
    import huggingface_hub.constants

    cache = tmp_path / "hub"
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = cache / "models--org--rm"
    shutil.copytree(DEMO_RM, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    workspace = Workspace(tmp_path)
    for name in ("org/rm", "org/rm@main", f"org/rm@{commit}"):
        spec = find_reward_model(name, workspace, file_digest)
        assert spec.fingerprint == spec_of(DEMO_RM).fingerprint
    with pytest.raises(MissingError, match=r"org/rm@v2 is neither"):
        find_reward_model("org/rm@v2", workspace, file_digest)


def test_an_unknown_reward_model_is_missing_and_never_another(tmp_path):
    with pytest.raises(MissingError, match="did you mean: demo-rm"):
        find_reward_model("demo_rm", Workspace(tmp_path), file_digest)
