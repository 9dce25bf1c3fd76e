"""Which family a checkpoint shows itself to be of, or why it is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from evalkit.errors import RefusedModelError
from evalkit.reward_models.checkpoint import Checkpoint
from evalkit.reward_models.families import PLAIN, Family, families, family
from evalkit.text import listing

# A class that says nothing of a head: without one such a checkpoint is not broken.
LANGUAGE_MODELS = ("ForCausalLM", "ForConditionalGeneration")


def detect(checkpoint: Checkpoint) -> Family:
    """The family a checkpoint shows itself to be of.

    Raises:
        RefusedModelError: None or several fit; every tensor outside the trunk is named.
    """
    declared = checkpoint.architecture
    plain = family(PLAIN)
    likely = [f for f in families() if f.detect and f != plain and f.allows(declared)]
    against = {f.name: f.resolved(checkpoint).mismatches(checkpoint) for f in likely}
    fitting = [f for f in likely if not against[f.name]]
    if len(fitting) == 1:
        return fitting[0]
    lines, broken = [f"fits family {f.name}" for f in fitting], 0
    if closest := _closest(likely, against):
        lines += [
            f"declares {declared}, of family {closest.name}, but: {problem}"
            for problem in against[closest.name]
        ]
        if not declared.endswith(LANGUAGE_MODELS):
            broken = len(closest.resolved(checkpoint).head_problems(checkpoint))
    if not lines and plain.allows(declared):
        return plain
    raise refusal(checkpoint, lines or [f"declared class {declared or '(none)'}"], broken)


def _closest(likely: Sequence[Family], against: Mapping[str, list[str]]) -> Family | None:
    """Of the families that know the declared class and do not fit, the one with fewest problems."""
    known = [f for f in likely if f.classes and against[f.name]]
    return min(known, key=lambda f: len(against[f.name]), default=None)


def refusal(checkpoint: Checkpoint, lines: list[str], broken: int = 0) -> RefusedModelError:
    """No family, or too many, explain the checkpoint; `broken` of its tensors are at fault."""
    language_model = any(name.startswith("lm_head.") for name in checkpoint.shapes)
    named = [f.name for f in families() if not f.detect and f.kind != "classifier"]
    hint = (
        f"a language model's weights do not say how it scores: {', '.join(named)} …"
        if language_model
        else "its family must be told"
    )
    return RefusedModelError(
        f"reward model {checkpoint.name!r} shows no family that evalkit knows",
        where="\n     ".join([str(checkpoint.folder), *lines, f"tensors: {signature(checkpoint)}"]),
        fix=f"{hint}; name it with --family NAME (a family or the id of a published model), or "
        'write your own: family = "package.module:load" in evalkit.toml',
        code="random-head" if broken else "",
        number=broken,
    )


def signature(checkpoint: Checkpoint) -> str:
    """Names and shapes of the tensors that no layer of a trunk accounts for."""
    layered = re.compile(r"(^|\.)(layers?|h|block|blocks)\.\d+\.")
    outside = {
        name: shape
        for name, shape in checkpoint.shapes.items()
        if not layered.search(name) or name.startswith(("gating", "score", "weights", "v_head"))
    }
    return listing([f"{name} {list(shape)}" for name, shape in sorted(outside.items())], shown=30)
