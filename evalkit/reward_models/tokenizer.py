"""The tokenizer of a reward model, as its files say it, and the refusal of a checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import transformers
from transformers import PreTrainedTokenizerFast

from evalkit.errors import RefusedModelError
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.text import first_line


def load_tokenizer(spec: RewardModelSpec) -> Any:
    """What tokenizer.json says, with no length of its own: lengths are the renderer's.

    Not the class that transformers has for the trunk: some of these build a tokenizer of their own
    from the vocabulary, which gives other ids than the file that identifies the reward model.
    """
    with quiet():
        try:
            return PreTrainedTokenizerFast.from_pretrained(
                spec.path, local_files_only=True, model_max_length=int(1e30)
            )
        except Exception as error:  # the library raises whatever it likes for a damaged file
            why = f"its tokenizer cannot be read: {first_line(error)}"
            raise refuse(spec, [why]) from None


def refuse(
    spec: RewardModelSpec, lines: list[str], code: str = "", number: float = 0.0
) -> RefusedModelError:
    """The refusal of a checkpoint that is not what its family says; code and number as there."""
    return RefusedModelError(
        f"reward model {spec.name!r} is not of family {spec.family.name}, {spec.family.title}; "
        "loading it as one would score with a wrong or random head",
        where=f"{spec.path}\n     " + "\n     ".join(lines),
        fix="name the right --family, or fetch the checkpoint again; see "
        "`evalkit reward-models list`",
        code=code,
        number=number,
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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
