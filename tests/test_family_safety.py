"""No file of a checkpoint is executed, except the code of a pinned revision that a user trusts."""

import contextlib
import json
import os
import pickle
import shutil
import sys

import numpy as np
import pytest
import torch

from evalkit.errors import EvalkitError, InputError, RefusedModelError
from evalkit.reward_models import load
from evalkit.reward_models.lookup import find_reward_model
from evalkit.workspace import Workspace
from tests.shared_data import FIXTURES, conversations_of, file_digest, needs_shared, spec_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Trap:
    """Whoever unpickles it makes a folder."""

    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return os.mkdir, (self.canary,)


def set_pickle(path, canary):
    path.write_bytes(pickle.dumps(Trap(canary)))


def set_archive(path, canary):
    state = torch.load(path, weights_only=True)
    torch.save({**state, "trap": Trap(canary)}, path)


TRAPS = {"pickle": set_pickle, "torch archive": set_archive}


def copy(name, folder, **config):
    shutil.copytree(FIXTURES / name, folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return folder


# Pickles


@needs_shared
@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize("file", ["regression_layer.pt", "gating_layer.pt"])
def test_a_trapped_head_of_ldl_is_refused_and_does_not_run(tmp_path, file, trap):
    folder, canary = copy("ldl", tmp_path / "rm"), tmp_path / "canary"
    TRAPS[trap](folder / file, canary)
    with pytest.raises(RefusedModelError, match=file):
        load(spec_of(folder), device="cpu")
    assert not canary.exists()


@needs_shared
@pytest.mark.parametrize("trap", TRAPS)
def test_the_traps_of_the_test_above_would_have_run(tmp_path, trap):
    folder, canary = copy("ldl", tmp_path / "rm"), tmp_path / "canary"
    TRAPS[trap](folder / "gating_layer.pt", canary)
    if trap == "pickle":
        pickle.loads((folder / "gating_layer.pt").read_bytes())
    else:
        torch.load(folder / "gating_layer.pt", weights_only=False)
    assert canary.exists()


@needs_shared
@pytest.mark.parametrize("name", ["inform", "armorm", "starling", "pairrm", "nemotron_hf"])
@pytest.mark.parametrize("file", ["pytorch_model.bin", "regression_layer.pt"])
def test_a_pickle_beside_a_custom_head_is_refused_and_does_not_run(tmp_path, name, file):
    folder, canary = copy(name, tmp_path / "rm"), tmp_path / "canary"
    set_pickle(folder / file, canary)
    settings = {"family": "nemotron"} if name == "nemotron_hf" else {}
    with pytest.raises(RefusedModelError, match=file):
        load(spec_of(folder, **settings), device="cpu")
    assert not canary.exists()


@needs_shared
@pytest.mark.parametrize("content", [[torch.ones(2)], {"network.0.weight": 3}, torch.ones(2)])
def test_a_head_that_is_no_dictionary_of_tensors_is_refused(tmp_path, content):
    folder = copy("ldl", tmp_path / "rm")
    torch.save(content, folder / "gating_layer.pt")
    with pytest.raises(RefusedModelError, match="gating_layer"):
        load(spec_of(folder), device="cpu")


# Code

REMOTE = """
from transformers import LlamaConfig, LlamaModel
open({canary!r}, "w").close()
class Config(LlamaConfig):
    model_type = "remote-llama"
class Model(LlamaModel):
    config_class = Config
"""
AUTO_MAP = {"AutoConfig": "remote.Config", "AutoModel": "remote.Model"}


def with_code(folder, canary, **config):
    copy("inform", folder, auto_map=AUTO_MAP, **config)
    (folder / "remote.py").write_text(REMOTE.format(canary=str(canary)))
    return folder


@needs_shared
def test_code_beside_a_native_trunk_does_not_run(tmp_path):
    canary = tmp_path / "canary"
    model = load(spec_of(with_code(tmp_path / "rm", canary)), device="cpu")
    chats = conversations_of(FIXTURES / "inform" / "conversations.jsonl")
    assert np.all(np.isfinite(model.rewards(model.render(chats))))
    assert not canary.exists()


@needs_shared
def test_a_trunk_that_only_its_code_explains_is_refused_and_does_not_run(tmp_path):
    canary = tmp_path / "canary"
    folder = with_code(tmp_path / "rm", canary, model_type="remote-llama")
    with pytest.raises(RefusedModelError):
        load(spec_of(folder), device="cpu")
    assert not canary.exists()


@needs_shared
def test_code_of_a_tokenizer_does_not_run(tmp_path):
    folder, canary = copy("inform", tmp_path / "rm"), tmp_path / "canary"
    path = folder / "tokenizer_config.json"
    stated = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["remote.Evil", None]}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **stated}))
    (folder / "remote.py").write_text(REMOTE.format(canary=str(canary)))
    with contextlib.suppress(EvalkitError):
        load(spec_of(folder), device="cpu")
    assert not canary.exists()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A local cache of the Hub in which the one revision of org/rm holds code."""
    import huggingface_hub.constants

    cache = tmp_path / "hub"
    canary = tmp_path / "canary"
    repository = cache / "models--org--rm"
    with_code(repository / "snapshots" / COMMIT, canary, model_type="remote-llama")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    modules = str(tmp_path / "modules")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield repository / "snapshots" / COMMIT
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


def find(root, target, *, trusted=True):
    flag = "trust_remote_code = true\n" if trusted else ""
    (root / "evalkit.toml").write_text(f"[reward_models.mine]\nmodel = {target!r}\n{flag}")
    return find_reward_model("mine", Workspace(root), file_digest)


@needs_shared
@pytest.mark.parametrize(
    "target",
    [
        "rm",
        "./rm",
        "org/rm",
        "org/rm@main",
        f"org/rm@{COMMIT[:12]}",
        f"org/rm@{COMMIT}0",
        f"org/rm@{COMMIT}{COMMIT[:24]}",
        "demo-rm",
    ],
)
def test_code_is_trusted_only_at_a_pinned_revision(tmp_path, hub, target):
    shutil.copytree(hub, tmp_path / "rm")
    with pytest.raises(InputError, match="pinned revision") as error:
        find(tmp_path, target)
    assert error.value.exit_code == 2
    assert not (tmp_path / "canary").exists()


@needs_shared
def test_a_folder_named_like_a_pinned_revision_is_not_trusted(tmp_path, hub, monkeypatch):
    folder = tmp_path / "org" / f"rm@{COMMIT}"
    with_code(folder, tmp_path / "other canary", model_type="remote-llama")
    monkeypatch.chdir(tmp_path)
    spec = find(tmp_path, f"org/rm@{COMMIT}")
    assert spec.path == hub


@needs_shared
def test_without_trust_the_code_of_a_pinned_revision_does_not_run(tmp_path, hub):
    spec = find(tmp_path, f"org/rm@{COMMIT}", trusted=False)
    assert (spec.path, spec.code) == (hub, ())
    with pytest.raises(RefusedModelError):
        load(spec, device="cpu")
    assert not (tmp_path / "canary").exists()


@needs_shared
def test_the_code_of_a_trusted_revision_runs_and_scores(tmp_path, hub):
    spec = find(tmp_path, f"org/rm@{COMMIT}")
    assert not (tmp_path / "canary").exists()
    model = load(spec, device="cpu")
    assert (tmp_path / "canary").exists()
    lines = (FIXTURES / "inform.expected.jsonl").read_text().splitlines()[1:]
    chats = conversations_of(FIXTURES / "inform" / "conversations.jsonl")
    found = model.rewards(model.render(chats))[:, 0]
    assert found == pytest.approx(np.array([json.loads(x)["score"] for x in lines]), abs=2e-5)


@needs_shared
def test_the_code_of_a_trusted_revision_is_part_of_its_fingerprint(tmp_path, hub):
    before = find(tmp_path, f"org/rm@{COMMIT}")
    assert find(tmp_path, f"org/rm@{COMMIT}", trusted=False).fingerprint != before.fingerprint
    (hub / "remote.py").write_text(f"{(hub / 'remote.py').read_text()}# another\n")
    assert find(tmp_path, f"org/rm@{COMMIT}").fingerprint != before.fingerprint


@needs_shared
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("entry", ["other/repo--remote.Model", ["other/repo--remote.Model", None]])
def test_code_of_another_repository_is_refused(tmp_path, hub, file, entry):
    stated = {**json.loads((hub / file).read_text()), "auto_map": {"AutoModel": entry}}
    (hub / file).write_text(json.dumps(stated))
    with pytest.raises(RefusedModelError, match="other/repo--remote") as error:
        find(tmp_path, f"org/rm@{COMMIT}")
    assert error.value.exit_code == 2
    assert not (tmp_path / "canary").exists()
