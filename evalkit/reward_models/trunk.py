"""The transformers side: a trunk or whole model of a checkpoint, every tensor accounted for.

Everything is first loaded onto the meta device, where no weight is read, and refused there unless
each tensor of the checkpoint belongs to the trunk or is claimed by the family's head.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

from evalkit.errors import EvalkitError, RefusedModelError
from evalkit.reward_models import RewardModelMemoryError
from evalkit.reward_models.checkpoint import Checkpoint, behaviour, pickles, read_json
from evalkit.reward_models.nets import below
from evalkit.reward_models.parameters import NETS
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.reward_models.tokenizer import quiet, refuse
from evalkit.text import first_line, listing

AUTO = {
    "trunk": AutoModel,
    "classifier": AutoModelForSequenceClassification,
    "language-model": AutoModelForCausalLM,
    "seq2seq": AutoModelForSeq2SeqLM,
}


def load_model(
    spec: RewardModelSpec,
    part: str,
    *,
    device: str = "auto",
    max_memory: dict[str | int, str] | None = None,
) -> Any:
    """A transformers model of the checkpoint, in evaluation mode.

    Args:
        spec: Which one.
        part: `trunk`, `classifier`, `language-model` or `seq2seq`.
        device: `auto` spreads it over all GPUs with accelerate, or takes the CPU if there is none.
        max_memory: Bytes accelerate may use per device; beyond them it goes to the next, and at
            last to disk.

    Raises:
        RefusedModelError: A tensor, file or class that nothing explains; or no such device.
    """
    with quiet():
        config = _config(spec)
        options: dict[str, Any] = {"config": config, **_source(spec, config)}
        _check(spec, part, options)
        if max_memory is not None or (device != "cpu" and torch.cuda.is_available()):
            options["device_map"] = "auto" if device in {"auto", "cuda"} else {"": device}
            options["max_memory"] = max_memory
            options["offload_folder"] = _offload_folder()
        elif device not in {"auto", "cpu"}:
            raise RefusedModelError(f"there is no device {device!r} here", fix="use --device cpu")
        torch.backends.cuda.matmul.allow_tf32 = False
        dtype = getattr(torch, spec.dtype)
        try:
            model = _class(part, options).from_pretrained(dtype=dtype, **options)
        except torch.OutOfMemoryError as error:
            raise RewardModelMemoryError(first_line(error)) from None
    return model.eval()


def load_head(spec: RewardModelSpec) -> dict[str, torch.Tensor]:
    """The tensors of the head in float32, from the safetensors and from the family's own files.

    Raises:
        RefusedModelError: A `.pt` file that holds anything but tensors; it is never executed.
    """
    found: dict[str, torch.Tensor] = {}
    row = spec.family.setting("row")
    for path in sorted(spec.path.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in filter(spec.family.claims, file.keys()):
                if name in (spec.family.setting("ignore") or ()):
                    continue
                one_row = row is not None and row >= 0
                part = file.get_slice(name)[row : row + 1] if one_row else file.get_tensor(name)
                found[name] = part.float()
    for name in spec.family.requires:
        state = _tensors_of(spec, name)
        found |= {f"{name.rpartition('.')[0]}.{k}": v.float() for k, v in state.items()}
    nets_of = [spec.family.setting(key) for key in NETS if spec.family.setting(key)]
    unknown = [name for name in found if not any(below(name, net) for net in nets_of)]
    if unknown:
        what = f"unexplained tensors: {listing(sorted(unknown))}"
        raise refuse(spec, [what], "random-head", len(unknown))
    return found


def _tensors_of(spec: RewardModelSpec, name: str) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(spec.path / name, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling foreign bytes may raise anything
        why = f"{name} is no plain file of tensors, and was not run: {first_line(error)}"
        raise refuse(spec, [why]) from None
    if not isinstance(state, Mapping) or not all(map(_is_plain, state.values())):
        raise refuse(spec, [f"{name} holds something other than tensors by name"])
    return dict(state)


def _class(part: str, options: Mapping[str, Any]) -> Any:
    """The Auto class; for converted tensors, which come from no path, the class itself."""
    if "state_dict" in options:
        return transformers.MODEL_MAPPING[type(options["config"])]
    return AUTO[part]


def _is_plain(value: object) -> bool:
    return torch.is_tensor(value) and value.layout is torch.strided and value.device.type == "cpu"


def _config(spec: RewardModelSpec) -> Any:
    """The trunk's config, without a say in how attention is computed: that is a run's choice."""
    try:
        found = _any_config(spec)
    except EvalkitError:
        raise
    except Exception as error:  # foreign values meet the library's own checks
        raise refuse(
            spec, [f"config.json is refused by transformers: {first_line(error)}"]
        ) from None
    found._attn_implementation = None
    return found


def _any_config(spec: RewardModelSpec) -> Any:
    model_type = spec.family.setting("model_type")
    if model_type:
        stated = behaviour(Checkpoint(spec.path, spec.name).config)
        return transformers.CONFIG_MAPPING[model_type](
            **{k: v for k, v in stated.items() if k not in {"model_type", "auto_map"}}
        )
    try:
        return AutoConfig.from_pretrained(
            spec.path, trust_remote_code=spec.runs_remote_code, local_files_only=True
        )
    except (ValueError, KeyError):
        lines = ["transformers knows no such model_type"]
        names = sorted(Checkpoint(spec.path, spec.name).shapes)
        raise refuse(spec, [*lines, f"unexplained tensors: {listing(names)}"]) from None


def _source(spec: RewardModelSpec, config: Any) -> dict[str, Any]:
    """Where the weights come from: the files, or what a conversion makes of them."""
    if spec.family.setting("convert"):
        state = internlm2_to_llama(spec, config)
        return {"pretrained_model_name_or_path": None, "state_dict": state}
    strip = spec.family.setting("strip")
    return {
        "pretrained_model_name_or_path": spec.path,
        "use_safetensors": True,
        "trust_remote_code": spec.runs_remote_code,
        "local_files_only": True,
        "key_mapping": {f"^{strip.replace('.', chr(92) + '.')}": ""} if strip else None,
    }


def internlm2_to_llama(spec: RewardModelSpec, config: Any) -> dict[str, torch.Tensor]:
    """InternLM2's tensors under the names of Llama, the joint wqkv taken apart.

    For each key-value head, wqkv holds the rows of its query heads, then of the key, then of the
    value (InternLM's own convert2llama.py; vLLM's and SGLang's loaders).
    """
    names = {
        "tok_embeddings": "embed_tokens", "attention.wo": "self_attn.o_proj",
        "feed_forward.w1": "mlp.gate_proj", "feed_forward.w3": "mlp.up_proj",
        "feed_forward.w2": "mlp.down_proj", "attention_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
    }  # fmt: skip
    queries = config.num_attention_heads // config.num_key_value_heads
    width = config.hidden_size // config.num_attention_heads
    found: dict[str, torch.Tensor] = {}
    for path in sorted(spec.path.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                if spec.family.claims(name):
                    continue
                tensor, short = file.get_tensor(name), name.removeprefix("model.")
                if ".attention.wqkv." in short:
                    parts = tensor.unflatten(0, (-1, queries + 2, width))
                    for letter, part in zip("qkv", parts.split([queries, 1, 1], 1), strict=True):
                        to = short.replace("attention.wqkv", f"self_attn.{letter}_proj")
                        found[to] = part.flatten(0, 2).contiguous()
                    continue
                for old, new in names.items():
                    short = short.replace(f"{old}.", f"{new}.")
                found[short] = tensor
    return found


def _check(spec: RewardModelSpec, part: str, options: Mapping[str, Any]) -> None:
    """Load onto the meta device and refuse whatever is not explained.

    Raises:
        RefusedModelError: A missing, unexplained or misshapen tensor; pickled files beside the
            weights; for a classifier another class than the native one, or another number of
            labels than its family has.
    """
    try:
        _, info = _class(part, options).from_pretrained(
            **options, device_map="meta", ignore_mismatched_sizes=True, output_loading_info=True
        )
    except (SafetensorError, OSError) as error:
        raise refuse(spec, [f"damaged safetensors: {error}"]) from None
    except ValueError:
        kind = "sequence-classification" if part == "classifier" else part
        what = f"no {kind} class of transformers has this model_type"
        names = sorted(Checkpoint(spec.path, spec.name).shapes)
        raise refuse(spec, [what, f"unexplained tensors: {listing(names)}"]) from None
    except Exception as error:  # sizes, quantisation and kernels that config.json asks for
        why = f"{type(error).__name__}: {first_line(error)}"
        raise refuse(spec, [f"transformers cannot build it: {why}"]) from None
    family = spec.family
    findings = {
        "unexplained tensors": [k for k in _unused(spec, info) if not family.claims(k)],
        "missing tensors": info["missing_keys"],
        "tensors of another shape": [key for key, *_ in info["mismatched_keys"]],
    }
    wrong = sum(map(len, findings.values()))
    findings["unexplained files"] = [n for n in pickles(spec.path) if n not in family.requires]
    lines = [f"{what}: {listing(sorted(keys))}" for what, keys in findings.items() if keys]
    if part == "classifier":
        lines += _classifier_problems(spec, options["config"])
    if lines:
        raise refuse(spec, lines, "random-head" if wrong else "", wrong)


def _unused(spec: RewardModelSpec, info: Mapping[str, Any]) -> set[str]:
    """Tensors that transformers did not place, or that lie in files it did not read."""
    index = spec.path / "model.safetensors.index.json"
    single = spec.path / "model.safetensors"
    unread: set[str] = set()
    if single.exists() or index.exists():
        read = {single.name} if single.exists() else _indexed(index)
        for path in spec.path.glob("*.safetensors"):
            if path.name not in read:
                with safe_open(path, framework="pt") as file:
                    unread.update(file.keys())
    return unread | set(info["unexpected_keys"])


def _indexed(index: Any) -> set[str]:
    return set(read_json(index).get("weight_map", {}).values())


def _classifier_problems(spec: RewardModelSpec, config: Any) -> Iterator[str]:
    try:
        native = transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    except KeyError:
        yield "no sequence-classification class of transformers has this model_type"
        return
    declared = (config.architectures or ["(none)"])[0]
    if declared != native.__name__:
        trunk = f"{native.base_model_prefix}."
        names = Checkpoint(spec.path, spec.name).shapes
        head = sorted(name for name in names if not name.startswith(trunk))
        yield f"declared class {declared}, where this trunk's is {native.__name__}"
        yield f"tensors that {declared} may read in its own way: {listing(head)}"
    labels = spec.family.setting("labels")
    if config.num_labels != labels:
        yield f"{config.num_labels} labels, where family {spec.family.name} has {labels}"
    if getattr(config, "is_encoder_decoder", False):
        yield "an encoder-decoder, whose pooling depends on token ids"


def _offload_folder() -> str:
    """Where accelerate puts what fits on no device; gone when the process ends."""
    folder = tempfile.mkdtemp(prefix="evalkit-offload-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
