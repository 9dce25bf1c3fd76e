"""References: named completion sets whose rewards are cached for good."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.data import CompletionSet, Prompt
from evalkit.errors import InputError
from evalkit.files import slug, write_atomic
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.scoring import RunSettings, Scored, score
from evalkit.sets import read_prompts, read_set
from evalkit.store import Store, find_packs, write_pack
from evalkit.text import listing
from evalkit.workspace import REFERENCE_SCHEMA, Workspace, read_manifest


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a reference's completions come from, as its manifest states it.

    Attributes:
        generator: What wrote them.
        source: Where they were got.
        licence: Under which terms.
        stand_in: Set if they only stand in for the set they are named after, e.g. "stand-in, not
            GPT-4 output".
    """

    generator: str = ""
    source: str = ""
    licence: str = ""
    stand_in: str = ""


def add(
    name: str,
    file: str,
    workspace: Workspace,
    *,
    benchmark: str | None = None,
    origin: Origin | None = None,
    replace: bool = False,
) -> Path:
    """Make a named reference of a file of completions.

    Args:
        name: Letters, digits, `.`, `_`, `-`.
        file: Any format `compare` reads.
        workspace: Where it goes.
        benchmark: Whose prompts it answers; its texts are then not repeated.
        origin: Where the completions come from.
        replace: Whether an existing reference may be replaced, rewards and all.

    Returns:
        The reference's folder, whole or untouched.

    Raises:
        InputError: A bad or taken name, or a malformed file.
    """
    if slug(name) != name:
        raise InputError(
            f"{name!r} is no name for a reference",
            fix=f"use letters, digits and . _ -: {slug(name)}",
        )
    if name in workspace.config["refs"]:
        raise InputError(
            f"reference {name!r} is defined in evalkit.toml, which goes first",
            fix="choose another name, or remove it there",
        )
    target = workspace.references / name
    if target.exists() and not replace:
        raise InputError(
            f"reference {name!r} exists", where=str(target), fix="replace it with --replace"
        )
    completions, source = read_set(file, "reference", workspace, benchmark)
    benchmark = benchmark or source.benchmark
    prompts = read_prompts(benchmark, workspace)
    origin = origin or Origin()
    manifest = {
        "schema": REFERENCE_SCHEMA,
        "name": name,
        "benchmark": benchmark,
        "prompts": len(completions.prompts),
        "completions": sum(len(answers) for answers in completions.completions),
        "digest": completions.digest,
        "generator": origin.generator,
        "source": origin.source or Path(file).name,
        "licence": origin.licence,
        "stand_in": origin.stand_in or None,
    }
    _install(target, _lines(completions, prompts), manifest)
    return target


def cache_rewards(
    name: str,
    reward_model: RewardModelSpec,
    workspace: Workspace,
    store: Store,
    settings: RunSettings,
) -> tuple[Path | None, Scored]:
    """Score a reference and put its rewards beside it as a pack.

    Args:
        name: Of a reference, or its folder.
        reward_model: Whose rewards.
        workspace: Where the name is looked up.
        store: Known rewards; new ones are added.
        settings: How to score.

    Returns:
        The pack, or None if some completions have no reward; and what was scored.

    Raises:
        InputError: A pair-preference model, or completions that have no folder of their own.
    """
    if reward_model.is_pairwise:
        raise InputError(
            f"{reward_model.name!r} scores pairs of answers; a reference alone has no rewards",
            fix="compare with it: what is known of each ordered pair is kept in the live store",
        )
    found = read_set(name, "reference", workspace)
    folder = found.source.folder
    if folder is None:
        raise InputError(
            f"nothing could carry the rewards of {name!r}, which is no folder of a reference",
            where=found.source.path,
            fix=f"make it one: evalkit refs add NAME {found.source.path} --reward-model …; its "
            "rewards are kept in the live store without that",
        )
    conversations = list(found.completions.conversations())
    scored = score(reward_model, conversations, store, packs=found.packs(), settings=settings)
    if scored.problems:
        return None, scored
    about = {"name": reward_model.name, **reward_model.manifest}
    return write_pack(folder, reward_model.fingerprint, about, scored.rewards.values()), scored


def remove(name: str, workspace: Workspace) -> None:
    """Delete a reference with its rewards; rewards in the live store stay.

    Raises:
        InputError: There is none of that name.
    """
    shutil.rmtree(_folder(name, workspace))


def describe(name: str, workspace: Workspace) -> dict[str, Any]:
    """The manifest of a reference, its prompts per subset, and whose rewards it has."""
    folder = _folder(name, workspace)
    completions = read_set(str(folder), "reference", workspace).completions
    return {
        **read_manifest(folder),
        "subsets": dict(sorted(Counter(p.subset for p in completions.prompts).items())),
        "rewards": {pack.fingerprint[:16]: pack.name for pack in find_packs(folder)},
    }


def verify(name: str, workspace: Workspace) -> list[str]:
    """Check a reference against its digests.

    Returns:
        A line per thing checked.

    Raises:
        IntegrityError: Naming what does not match.
    """
    folder = _folder(name, workspace)
    manifest = read_manifest(folder)
    read_set(str(folder), "reference", workspace)  # holds the completions against their digest
    lines = [f"completions: {manifest['completions']} match digest {manifest['digest'][:12]}"]
    lines += [f"rewards of {p.name}: {p.verify()} rows intact" for p in find_packs(folder)]
    return lines


def _folder(name: str, workspace: Workspace) -> Path:
    known = workspace.reference_names()
    if name not in known:
        raise InputError(
            f"reference {name!r} not found",
            where=str(workspace.references),
            fix=f"known references: {listing(known)}",
        )
    return workspace.references / name


def _lines(completions: CompletionSet, prompts: dict[str, Prompt]) -> bytes:
    lines = []
    for prompt, answers in completions.by_prompt():
        known = prompt.prompt_id in prompts
        for index, answer in enumerate(answers):
            row: dict[str, object] = {"prompt_id": prompt.prompt_id}
            if len(answers) > 1:
                row["index"] = index
            if not known:
                row["messages"] = [message._asdict() for message in prompt.messages]
                row |= {"subset": prompt.subset} if prompt.subset else {}
            lines.append(json.dumps({**row, "completion": answer}, ensure_ascii=False) + "\n")
    return "".join(lines).encode()


def _install(target: Path, lines: bytes, manifest: Mapping[str, object]) -> None:
    """Build the folder beside its place and swap it in, so that it is never half there."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise InputError(
            f"cannot write to {target.parent}: {error.strerror}", fix="make it a writable folder"
        ) from None
    try:
        write_atomic(building / "completions.jsonl", lines)
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        write_atomic(building / "manifest.json", text.encode())
        building.chmod(0o755)
        if target.exists():
            old = building.with_name(f"{building.name}.old")
            target.rename(old)
            building.rename(target)
            shutil.rmtree(old)
        else:
            building.rename(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
