"""Layouts in sizes no fixture has, against the published arithmetic restated here."""

import json
import shutil
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import nn

from evalkit.data import Message
from evalkit.reward_models import load
from tests.shared_data import FIXTURES, needs_shared, spec_of
from tests.tiny_checkpoints import (
    BOS,
    CHATS,
    CLS,
    EOT,
    PAD,
    QUESTION,
    SIZES,
    TOKENIZER,
    TURNS,
    beaver,
    change,
    close,
    found_rows,
    gemma2,
    ids_of,
    llama3,
    oasst,
    publish,
    randomised,
    retokenised,
    rows_of,
    trunk_of,
    with_cls,
)

pytestmark = needs_shared


# Published heads


class Head(nn.Module):
    """A trunk and a head of linear layers, under the names they are published with."""

    def __init__(self, head, name, trunk_name="model", trunk=None, *, lm_head=False):
        super().__init__()
        if lm_head:
            self.lm_head = nn.Linear(48, 480, bias=False)  # published, and of no use
        self.trunk_name, self.name = trunk_name, name
        self.add_module(trunk_name, trunk_of() if trunk is None else trunk)
        *outer, last = name.split(".")
        holder = self
        for part in outer:
            holder.add_module(part, nn.Module())
            holder = holder.get_submodule(part)
        holder.add_module(last, head)

    def hidden(self, ids):
        return self.get_submodule(self.trunk_name)(ids).last_hidden_state

    def forward(self, ids, _):
        return self.get_submodule(self.name)(self.hidden(ids)[:, -1])


class Normalised(Head):
    """Beaver: the score less the running mean, over the running deviation."""

    def __init__(self, *, center):
        super().__init__(nn.Linear(48, 1), "score_head")
        self.center = center
        self.normalizer = nn.Module()
        for name, size in (("mean", 1), ("var", 1), ("count", 1)):
            self.normalizer.register_buffer(name, torch.ones(size))

    def forward(self, ids, gate):
        score, mean = super().forward(ids, gate), self.normalizer.mean
        deviation = self.normalizer.var.sqrt() + 1e-8
        return (score - mean) / deviation if self.center else -score / deviation


class Mean(Head):
    def forward(self, ids, _):
        return self.get_submodule(self.name)(self.hidden(ids).mean(dim=1))


class OpenRlhfNormalised(Head):
    def forward(self, ids, gate):
        return (super().forward(ids, gate) - -1.5) / 0.75


class Row(nn.Module):
    """A language model whose logit of the first word of the vocabulary is the reward."""

    def __init__(self):
        super().__init__()
        self.model, self.lm_head = trunk_of(), nn.Linear(48, 480, bias=False)

    def forward(self, ids, _):
        return self.lm_head(self.model(ids).last_hidden_state)[:, -1, 0]


class Labels(Head):
    """A plain classifier of several labels, of which a published rule makes one number."""

    def __init__(self, labels, rule, trunk=None):
        super().__init__(nn.Linear(48, labels, bias=False), "score", trunk=trunk)
        self.rule = rule

    def forward(self, ids, gate):
        return self.rule(super().forward(ids, gate)[0])


class Urm(Head):
    def __init__(self, width, trunk):
        super().__init__(nn.Linear(width, 10, bias=False), "score", trunk=trunk)
        self.weights = nn.Module()
        self.weights.fc = nn.Sequential(
            nn.Linear(width, 16), nn.SELU(), nn.Linear(16, 24), nn.SELU(), nn.Linear(24, 5)
        )

    def forward(self, ids, _):
        last = self.hidden(ids)[:, -1]
        means = self.score(last).view(5, 2)[:, 0]
        weights = self.weights.fc(last)[0]
        return torch.cat([(means * weights).sum()[None], means, weights])


class Gating(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.logit_scale = nn.Parameter(torch.ones(1))


class ArmoRM(Head):
    def __init__(self, objectives, layers, temperature, quantiles=1):
        super().__init__(nn.Linear(48, objectives * quantiles, bias=False), "regression_layer")
        self.reward_transform_matrix = nn.Parameter(torch.eye(objectives))
        self.gating = Gating(layers)
        self.temperature = temperature

    def gates(self, state):
        for layer in self.gating.layers[:-1]:
            state = layer(state).relu()
        logits = self.gating.layers[-1](state) / self.temperature
        return logits.softmax(-1) * self.gating.logit_scale

    def forward(self, ids, gate):
        hidden = self.hidden(ids)
        gates, raw = self.gates(hidden[:, gate])[0], self.regression_layer(hidden[0, -1])
        score = (gates * (raw @ self.reward_transform_matrix)).sum()
        return torch.cat([score[None], raw, gates])


class Qrm(ArmoRM):
    """Quantiles averaged; a batch normalisation after each ReLU."""

    def gates(self, state):
        for layer in self.gating.layers:
            state = layer(state)
        return (state / self.temperature).softmax(-1) * self.gating.logit_scale

    def forward(self, ids, gate):
        hidden = self.hidden(ids)
        n = len(self.reward_transform_matrix)
        quantiles = self.regression_layer(hidden[0, -1]).view(n, -1)
        values = quantiles.mean(dim=1) @ self.reward_transform_matrix
        gates = self.gates(hidden[:, gate])[0]
        return torch.cat([(gates * values).sum()[None], values, gates])


class Ldl(nn.Module):
    """Ten bins an objective; the temperature divides only what the softmax reads."""

    def __init__(self, *, softmax, temperature):
        super().__init__()
        self.trunk = gemma2()
        self.regression_layer = nn.Sequential(
            nn.Linear(48, 20), nn.LeakyReLU(), nn.Linear(20, 14), nn.LeakyReLU(), nn.Linear(14, 70)
        )
        self.gating_layer = nn.Sequential(
            *(nn.Linear(48, 12), nn.LeakyReLU(), nn.Dropout(0.5)),
            *(nn.Linear(12, 10), nn.LeakyReLU(), nn.Dropout(0.5)),
            nn.Linear(10, 7),
        )
        self.softmax, self.temperature = softmax, temperature

    def forward(self, ids, _):
        last = self.trunk(ids).last_hidden_state[0, -1]
        bins = self.regression_layer(last).view(-1, 10).softmax(-1)
        gates = self.gating_layer(last)
        if self.softmax:
            gates = (gates / self.temperature).softmax(-1)
        total, grid = gates @ bins, torch.linspace(0, 1, 10)
        spread = ((grid - (bins @ grid)[:, None]) ** 2 * bins).sum(-1)
        deviation = (gates**2 * spread).sum().sqrt()
        return torch.cat([(total @ grid)[None], bins @ grid, gates, total, deviation[None]])


def mlp(*widths):
    layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
    return nn.Sequential(*(m for layer in layers for m in (layer, nn.ReLU())))[:-1]


def wide():
    return trunk_of(hidden_size=64, num_attention_heads=4, num_key_value_heads=2)


def mistral():
    return trunk_of("Mistral", sliding_window=16)


def gate():
    return [nn.Linear(48, 20), nn.Linear(20, 12), nn.Linear(12, 7)]


def normalised_gate():
    return [
        *(nn.Linear(48, 9, bias=False), nn.ReLU(), nn.BatchNorm1d(9)),
        *(nn.Linear(9, 13, bias=False), nn.ReLU(), nn.BatchNorm1d(13)),
        nn.Linear(13, 5),
    ]


FIVE = torch.tensor([0.3, 0.74, 0.46, 0.47, -0.33])
SEVENTY = torch.tensor([0, 0, 0, 0, 0.65, 0.8, 0.45, 0.55, -0.4])


def weighed(weights, values):
    return torch.cat([(values * weights).sum()[None], values])


class Layout(NamedTuple):
    """A class name as published, how to make its module, and what stands beside the trunk."""

    declared: str
    module: Callable[[], nn.Module]
    text_of: Callable[..., str] = llama3
    config: Mapping[str, Any] = {}
    settings: Mapping[str, Any] = {}


PLAIN = "LlamaForSequenceClassification"
NORMALISING = {"do_normalize": True, "normalizer_type": "ExponentialMovingAverage"}
GPT_NEOX = {"model_type": "gpt_neox_reward_model"}
OPENRLHF = {"value_head_prefix": "value_head", "mean": -1.5, "std": 0.75}
QRM = {"num_objectives": 5, "num_quantiles": 7, "gating_temperature": 4}
LAYOUTS = {
    "INF-ORM, another width": Layout(
        "INFORMForSequenceClassification",
        lambda: Head(mlp(64, 64, 1), "score", trunk=wide()),
    ),
    "Qwen2 under a two-layer head": Layout(
        "Qwen2ForRewardModel", lambda: Head(mlp(48, 48, 1), "score", trunk=trunk_of("Qwen2"))
    ),
    "GRM, three layers of the value head": Layout(
        "GRewardModel",
        lambda: Head(mlp(48, 20, 20, 20, 1), "v_head.summary", lm_head=True),
        config={"vhead_num_layers": 3, "vhead_num_neurons": 20, "summary_dropout_prob": 0.5},
    ),
    "GRM, linear on Gemma 2": Layout(
        "GRewardModel",
        lambda: Head(nn.Linear(48, 1), "v_head.summary", trunk=gemma2()),
        config={"vhead_layer_type": "linear"},
    ),
    "Athene": Layout(
        "AtheneForSequenceClassification",
        lambda: Head(nn.Linear(48, 1, bias=False), "v_head"),
        with_cls,
    ),
    "Starling": Layout(PLAIN, lambda: Head(nn.Linear(48, 1, bias=False), "v_head", "transformer")),
    "UltraRM": Layout(
        "LlamaRewardModel", lambda: Head(nn.Linear(48, 1, bias=False), "regression_head")
    ),
    "Eurus, on Mistral": Layout(
        "EurusRewardModel",
        lambda: Head(nn.Linear(48, 1, bias=False), "regression_head", trunk=mistral()),
    ),
    "Beaver reward, normalised": Layout(
        "LlamaForScore",
        lambda: Normalised(center=True),
        beaver,
        {"score_type": "reward", **NORMALISING},
    ),
    "Beaver cost, normalised": Layout(
        "LlamaForScore",
        lambda: Normalised(center=False),
        beaver,
        {"score_type": "cost", **NORMALISING},
    ),
    "OpenAssistant, pooling last": Layout(
        "GPTNeoXRewardModel",
        lambda: Head(nn.Linear(48, 1), "out_proj", "gpt_neox", trunk_of("GPTNeoX")),
        oasst,
        {"pooling": "last", **GPT_NEOX},
    ),
    "OpenAssistant, pooling mean": Layout(
        "GPTNeoXRewardModel",
        lambda: Mean(nn.Linear(48, 1), "out_proj", "gpt_neox", trunk_of("GPTNeoX")),
        oasst,
        {"pooling": "mean", **GPT_NEOX},
    ),
    "OpenRLHF, another name of the head": Layout(
        "RewardModel",
        lambda: Head(nn.Linear(48, 1, bias=False), "value_head"),
        config=OPENRLHF,
    ),
    "OpenRLHF, normalised": Layout(
        "RewardModel",
        lambda: OpenRlhfNormalised(nn.Linear(48, 1, bias=False), "value_head"),
        config=OPENRLHF,
        settings={"parameters": {"normalize": True}},
    ),
    "Nemotron": Layout("LlamaForCausalLM", Row, settings={"family": "nemotron"}),
    "ArmoRM, 7 objectives": Layout(
        "LlamaForRewardModelWithGating",
        lambda: ArmoRM(7, gate(), 3.0),
        config={"num_objectives": 7, "gating_temperature": 3},
    ),
    "QRM, 5 objectives of 7 quantiles": Layout(
        "LlamaForRewardModelWithGating31", lambda: Qrm(5, normalised_gate(), 4.0, 7), config=QRM
    ),
    "URM": Layout("LlamaForSequenceClassificationWithNormal_Weights", lambda: Urm(64, wide())),
    "URM, fixed weights": Layout(
        PLAIN,
        lambda: Labels(10, lambda values: weighed(FIVE, values[::2])),
        config={"num_labels": 10},
        settings={"family": "urm-fixed"},
    ),
    "HelpSteer2 regressor": Layout(
        PLAIN,
        lambda: Labels(5, lambda values: weighed(FIVE, values)),
        config={"num_labels": 5},
        settings={"family": "helpsteer"},
    ),
    "SteerLM, 9 attributes": Layout(
        PLAIN,
        lambda: Labels(9, lambda values: weighed(SEVENTY, values)),
        config={"num_labels": 9},
        settings={"family": "steerlm-llama3-70b"},
    ),
    "ODIN": Layout(
        PLAIN,
        lambda: Labels(2, lambda values: values[1]),
        config={"num_labels": 2},
        settings={"family": "odin"},
    ),
}


def publish_layout(folder, name):
    """A random checkpoint of that layout, and the module it was made of."""
    layout = LAYOUTS[name]
    module = randomised(layout.module())
    fixture = "athene" if layout.text_of is with_cls else "inform"
    config = {"architectures": [layout.declared], **layout.config}
    return module, publish(folder, module, fixture, **config)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_of_other_sizes_gives_what_its_published_arithmetic_gives(tmp_path, layout):
    module, folder = publish_layout(tmp_path / "rm", layout)
    expected = rows_of(module, LAYOUTS[layout].text_of)
    assert np.ptp(expected[:, 0]) > 0.02
    assert found_rows(folder, **LAYOUTS[layout].settings) == close(expected)


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_ldl_reads_its_heads_from_the_files_beside_the_trunk(tmp_path, softmax, temperature):
    module = randomised(Ldl(softmax=softmax, temperature=temperature))
    folder = publish(
        tmp_path / "rm",
        module.trunk,
        "ldl",
        architectures=["Gemma2Model"],
        num_objectives=70,
        softmax=softmax,
        temperature=temperature,
    )
    for name in ("regression_layer", "gating_layer"):
        state = {f"network.{k}": v for k, v in module.get_submodule(name).state_dict().items()}
        torch.save(state, folder / f"{name}.pt")
    assert found_rows(folder) == close(rows_of(module))


def test_attributes_are_named_by_number_where_a_mixture_has_others_than_its_relatives(tmp_path):
    _, folder = publish_layout(tmp_path / "rm", "QRM, 5 objectives of 7 quantiles")
    numbers = [f"objective-{n}" for n in range(1, 6)]
    assert spec_of(folder).attributes == (*numbers, *(f"gate/{name}" for name in numbers))


def test_a_trl_value_head_lies_in_a_file_of_its_own(tmp_path):
    module = randomised(Head(nn.Linear(48, 1), "v_head.summary"))
    folder = publish(tmp_path / "rm", module, drop="v_head", architectures=["LlamaForCausalLM"])
    language_model = torch.randn(480, 48)
    trunk = {**{f"model.{k}": v for k, v in module.model.state_dict().items()}}
    save_file({**trunk, "lm_head.weight": language_model}, folder / "model.safetensors")
    head = {f"v_head.summary.{k}": v for k, v in module.v_head.summary.state_dict().items()}
    save_file(head, folder / "value_head.safetensors")
    assert found_rows(folder) == close(rows_of(module))


def test_a_checkpoint_in_several_files_is_read_whole(tmp_path):
    module = randomised(Head(mlp(48, 48, 1), "score"))
    declared = ["INFORMForSequenceClassification"]
    folder = publish(tmp_path / "rm", module, architectures=declared)
    (folder / "model.safetensors").unlink()
    names = sorted(module.state_dict())
    files = {name: f"model-0000{1 + n % 2}-of-00002.safetensors" for n, name in enumerate(names)}
    for file in set(files.values()):
        part = {k: v for k, v in module.state_dict().items() if files[k] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert found_rows(folder) == close(rows_of(module))


@pytest.mark.parametrize("layout", ["INF-ORM, another width", "QRM, 5 objectives of 7 quantiles"])
def test_a_custom_head_computes_in_float32_under_a_bfloat16_trunk(tmp_path, layout):
    module, folder = publish_layout(tmp_path / "rm", layout)
    module.model.save_pretrained(tmp_path / "trunk")
    trunk = transformers.AutoModel.from_pretrained(tmp_path / "trunk", dtype=torch.bfloat16)
    module.hidden = lambda ids: trunk(ids).last_hidden_state.float()
    model = load(spec_of(folder, dtype="bfloat16"), device="cpu")
    found = np.concatenate([model.rewards([row]) for row in model.render(CHATS)])
    assert found == close(rows_of(module))
    assert np.any(found != torch.tensor(found).bfloat16().double().numpy())


def internlm2_names(name):
    """A Llama tensor's name in InternLM2; empty for those that wqkv holds together."""
    if any(f"{letter}_proj" in name for letter in "qkv"):
        return ""
    for old, new in {
        "embed_tokens": "tok_embeddings", "self_attn.o_proj": "attention.wo",
        "mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3",
        "mlp.down_proj": "feed_forward.w2", "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
    }.items():  # fmt: skip
        name = name.replace(old, new)
    return f"model.{name}"


def publish_internlm2(folder, groups):
    """A Llama with that many key-value heads, under InternLM2's names; and that Llama."""
    rope = {"rope_type": "default", "rope_theta": 50000.0}
    trunk = trunk_of(num_key_value_heads=groups, rope_parameters=rope, rms_norm_eps=1e-3)
    module = randomised(Head(nn.Linear(48, 1, bias=False), "v_head", trunk=trunk))
    publish(folder, module)
    llama = module.model.state_dict()
    tensors = {"v_head.weight": module.v_head.weight.data.clone()}
    tensors |= {internlm2_names(k): v.clone() for k, v in llama.items() if internlm2_names(k)}
    for layer in range(3):
        parts = []
        for group in range(groups):  # the group's queries, then its key, then its value
            for letter, heads in (("q", 6 // groups), ("k", 1), ("v", 1)):
                weight = llama[f"layers.{layer}.self_attn.{letter}_proj.weight"]
                parts.append(weight[group * heads * 8 : (group + 1) * heads * 8])
        tensors[f"model.layers.{layer}.attention.wqkv.weight"] = torch.cat(parts)
    save_file(tensors, folder / "model.safetensors")
    config = {
        **SIZES,
        "num_key_value_heads": groups,
        "architectures": ["InternLM2ForRewardModel"],
        "auto_map": {"AutoModel": "modeling_internlm2.InternLM2ForRewardModel"},
        "bias": False,
        "hidden_act": "silu",
        "model_type": "internlm2",
        "reward_token_id": CLS,
        "rms_norm_eps": 1e-3,
        "rope_scaling": None,
        "rope_theta": 50000,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return module, folder


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_internlm2_is_the_llama_its_joint_weights_were_made_of(tmp_path, groups):
    module, folder = publish_internlm2(tmp_path / "rm", groups)
    assert found_rows(folder) == close(rows_of(module, with_cls))


def test_internlm2s_own_tokenizer_needs_no_code(tmp_path):
    module, folder = publish_internlm2(tmp_path / "rm", 2)
    code = {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]}
    change(folder / "tokenizer_config.json", tokenizer_class="InternLM2Tokenizer", auto_map=code)
    assert found_rows(folder) == close(rows_of(module, with_cls))


@pytest.mark.parametrize("architecture", ["Llama", "Mistral", "Gemma2", "Qwen2", "Qwen3"])
def test_a_text_becomes_the_ids_that_tokenizer_json_gives_it(tmp_path, architecture):
    sizes = {"head_dim": 8} if architecture in {"Gemma2", "Qwen3"} else {}
    head = Head(nn.Linear(48, 48), "score.0", trunk=trunk_of(architecture, **sizes))
    head.score.add_module("2", nn.Linear(48, 1))
    declared = ["INFORMForSequenceClassification"]
    folder = publish(tmp_path / "rm", randomised(head), architectures=declared)
    chat = (*QUESTION, Message("assistant", "In 1984 it was 9.11, don't you\n\n\nknow? ñandú"))
    (row,) = load(spec_of(folder), device="cpu").render([chat])
    assert row.ids == ids_of(llama3(chat))


def test_gpt2_reward_models_read_dialogue_and_answer_without_anything_between(tmp_path):
    config = transformers.GPT2Config(
        vocab_size=480, n_embd=24, n_layer=2, n_head=3, n_positions=512, num_labels=1,
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOT,
    )  # fmt: skip
    model = randomised(transformers.GPT2ForSequenceClassification(config))
    model.save_pretrained(tmp_path / "rm")
    for name in TOKENIZER[:2]:
        shutil.copy(FIXTURES / "inform" / name, tmp_path / "rm")
    retokenised(tmp_path / "rm")
    chats = [CHATS[0], CHATS[1], (*TURNS[1:], Message("assistant", "Saola"))]
    names = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: "}
    expected = []
    for chat in chats:
        dialogue = "".join(names[m.role] + m.content for m in chat[:-1]) + "\n\nAssistant:"
        ids = [*ids_of(dialogue), *ids_of(chat[-1].content)]
        with torch.inference_mode():
            states = model.transformer(torch.tensor([ids])).last_hidden_state
            expected.append(model.score(states[0, -1]).item())
    assert np.ptp(expected) > 0.05
    assert found_rows(tmp_path / "rm", chats, family="gpt2-hh")[:, 0] == close(expected)
