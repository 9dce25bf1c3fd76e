"""The family `sequence-classifier`: any native `*ForSequenceClassification` with one label.

Decoders are read at the last attended token, found by the attention mask and never by token id;
encoders through their own pooling. The head computes in float32 whatever the trunk's dtype.
"""

from __future__ import annotations

import atexit
import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from evalkit.data import FloatArray, Messages
from evalkit.errors import RefusedModelError
from evalkit.reward_models import Rendered, RewardModelMemoryError
from evalkit.reward_models.rendering import Renderer
from evalkit.reward_models.spec import RewardModelSpec, pickles
from evalkit.text import listing


class SequenceClassifier:
    """A loaded sequence classifier.

    Attributes:
        model: The transformers model.
        device: Where its inputs go, such as `cpu` or `cuda:0`.
    """

    def __init__(self, spec: RewardModelSpec, model: Any, tokenizer: Any) -> None:
        self.model = model
        self._trunk = model.base_model
        self._head = _last_token_head(model)
        self._pad = model.config.pad_token_id or 0
        vocabulary = model.get_input_embeddings().num_embeddings
        self._renderer = Renderer(spec, tokenizer, vocabulary)
        self.device = str(model.get_input_embeddings().weight.device)
        if self.device == "meta":  # offloaded: accelerate moves what it needs to the CPU
            self.device = "cpu"

    def render(self, conversations: Sequence[Messages]) -> list[Rendered]:
        """Token ids of each conversation."""
        return self._renderer.render(conversations)

    def rewards(self, batch: Sequence[Sequence[int]]) -> FloatArray:
        """(len(batch),) rewards, independent of what else is in the batch.

        Raises:
            RewardModelMemoryError: The device is out of memory.
        """
        longest = max(len(ids) for ids in batch)
        ids = torch.full((len(batch), longest), self._pad, dtype=torch.long)
        mask = torch.zeros((len(batch), longest), dtype=torch.long)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        try:
            with torch.inference_mode():
                found = self._forward(ids.to(self.device), mask.to(self.device))
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise RewardModelMemoryError(str(error)) from None
        return np.asarray(found.double().cpu().numpy(), dtype=np.float64)

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self._head is None:
            logits: torch.Tensor = self.model(input_ids=ids, attention_mask=mask).logits
            return logits.float().squeeze(-1)
        hidden = self._trunk(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        last = mask.sum(dim=1) - 1
        rows = torch.arange(len(ids), device=hidden.device)
        rewards: torch.Tensor = self._head(hidden[rows, last.to(hidden.device)])
        return rewards.squeeze(-1)


def load(
    spec: RewardModelSpec, *, device: str = "auto", max_memory: dict[str | int, str] | None = None
) -> SequenceClassifier:
    """Load the checkpoint, or refuse it.

    Args:
        spec: Which one.
        device: `auto` spreads it over all GPUs with accelerate, or takes the CPU if there is none.
        max_memory: Bytes accelerate may use per device; beyond them it goes to the next, and at
            last to disk.

    Raises:
        RefusedModelError: See `_check`.
    """
    with _quiet():
        cls, config = _check(spec)
        placed = max_memory is not None or (device != "cpu" and torch.cuda.is_available())
        options: dict[str, Any] = {}
        if placed:
            options["device_map"] = "auto" if device in {"auto", "cuda"} else {"": device}
            options["max_memory"] = max_memory
            options["offload_folder"] = _offload_folder()
        elif device not in {"auto", "cpu"}:
            raise RefusedModelError(f"there is no device {device!r} here", fix="use --device cpu")
        torch.backends.cuda.matmul.allow_tf32 = False
        model = cls.from_pretrained(
            spec.path,
            config=config,
            dtype=getattr(torch, spec.dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            **options,
        )
        # the length is checked by the renderer; the tokenizer would only warn on the terminal
        tokenizer = AutoTokenizer.from_pretrained(
            spec.path,
            trust_remote_code=False,
            local_files_only=True,
            model_max_length=int(1e30),
        )
    model.eval()
    _keep_head_in_float32(model)
    loaded = SequenceClassifier(spec, model, tokenizer)
    _check_company(loaded, spec)
    return loaded


def _offload_folder() -> str:
    """Where accelerate puts what fits on no device; gone when the process ends."""
    folder = tempfile.mkdtemp(prefix="evalkit-offload-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _check(spec: RewardModelSpec) -> tuple[Any, Any]:
    """Load onto the meta device, where nothing is read, and refuse whatever is not explained.

    Raises:
        RefusedModelError: A missing, unexplained or misshapen tensor; a class other than the
            native one; pickled files beside the weights; several labels; an encoder-decoder.
    """
    native, config = _native_class(spec)
    try:
        _, info = AutoModelForSequenceClassification.from_pretrained(
            spec.path,
            config=config,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            device_map="meta",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (SafetensorError, OSError) as error:
        raise _refusal(spec, [f"damaged safetensors: {error}"]) from None
    findings = {
        "unexplained tensors": info["unexpected_keys"],
        "missing tensors": info["missing_keys"],
        "tensors of another shape": [key for key, *_ in info["mismatched_keys"]],
    }
    lines = [f"{what}: {listing(sorted(keys))}" for what, keys in findings.items() if keys]
    declared = (config.architectures or ["(none)"])[0]
    if declared != native.__name__:
        trunk = f"{native.base_model_prefix}."
        head = [name for name in _tensor_names(spec) if not name.startswith(trunk)]
        lines.append(f"declared class {declared}, where this trunk's is {native.__name__}")
        lines.append(f"tensors that {declared} may read in its own way: {listing(head)}")
    if extra := pickles(spec.path):
        lines.append(f"unexplained files: {listing(sorted(extra))}")
    if config.num_labels != 1:
        lines.append(f"{config.num_labels} labels, where a scalar reward has 1")
    if getattr(config, "is_encoder_decoder", False):
        lines.append("an encoder-decoder, whose pooling depends on token ids")
    if lines:
        raise _refusal(spec, lines)
    return native, config


def _native_class(spec: RewardModelSpec) -> tuple[Any, Any]:
    try:
        config = AutoConfig.from_pretrained(
            spec.path, trust_remote_code=False, local_files_only=True
        )
        mapping = transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
        return mapping[type(config)], config
    except (ValueError, KeyError):
        model_type = "no sequence-classification class of transformers has this model_type"
        lines = [model_type, f"unexplained tensors: {listing(_tensor_names(spec))}"]
        raise _refusal(spec, lines) from None


def _tensor_names(spec: RewardModelSpec) -> list[str]:
    names: set[str] = set()
    for path in spec.path.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            names.update(file.keys())
    return sorted(names)


def _refusal(spec: RewardModelSpec, lines: list[str]) -> RefusedModelError:
    return RefusedModelError(
        f"reward model {spec.name!r} is not a plain sequence classifier with one label; loading it "
        "as one would score with a wrong or random head",
        where=f"{spec.path}\n     " + "\n     ".join(lines),
        fix="use a checkpoint saved as *ForSequenceClassification with num_labels=1; other "
        "families are not supported yet",
    )


def _keep_head_in_float32(model: Any) -> None:
    """Let everything outside the trunk compute in float32, whatever the trunk gives it."""

    def widen(_: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(a.float() if torch.is_tensor(a) and a.is_floating_point() else a for a in args)

    for name, child in model.named_children():
        if name != model.base_model_prefix:
            child.float()
            child.register_forward_pre_hook(widen)


def _check_company(model: SequenceClassifier, spec: RewardModelSpec) -> None:
    """Refuse a model whose reward of one row depends on the rows beside it.

    Some classes pool at a token id or at the last column, and read padding in a batch.
    """
    probes = [[1, 2, 3], list(range(1, 10))]
    alone = np.concatenate([model.rewards([ids]) for ids in probes])
    moved = np.abs(model.rewards(probes) - alone)
    if not np.all(moved <= spec.tolerance * np.maximum(1.0, np.abs(alone))):
        raise _refusal(spec, [f"a reward moves by {moved.max():.3g} with the rows beside it"])


def _last_token_head(model: Any) -> Any:
    """The linear head of a decoder, read at the last token; None for an encoder's own head."""
    head = getattr(model, "score", None)
    return head if isinstance(head, torch.nn.Linear) else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No load report and no progress bar: what they would say is in the refusal."""
    log = transformers.utils.logging
    level, bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bar:
            log.enable_progress_bar()
