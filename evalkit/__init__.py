"""evalkit: is this checkpoint better than that reference, by how much, and how sure are we?

Every public name is resolved on first use, so that importing evalkit imports none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from evalkit.version import __version__

if TYPE_CHECKING:
    from evalkit.comparison import Comparison, Options
    from evalkit.errors import EvalkitError, InputError, IntegrityError, MissingError
    from evalkit.reward_models.lookup import find_reward_model
    from evalkit.reward_models.spec import RewardModelSpec
    from evalkit.scoring import RunSettings
    from evalkit.signature import Signature
    from evalkit.statistics.intervals import Estimate
    from evalkit.store import Store
    from evalkit.workspace import Workspace

_HOME = {
    "Comparison": "evalkit.comparison",
    "Estimate": "evalkit.statistics.intervals",
    "EvalkitError": "evalkit.errors",
    "InputError": "evalkit.errors",
    "IntegrityError": "evalkit.errors",
    "MissingError": "evalkit.errors",
    "Options": "evalkit.comparison",
    "RewardModelSpec": "evalkit.reward_models.spec",
    "RunSettings": "evalkit.scoring",
    "Signature": "evalkit.signature",
    "Store": "evalkit.store",
    "Workspace": "evalkit.workspace",
    "find_reward_model": "evalkit.reward_models.lookup",
}

__all__ = [
    "Comparison",
    "Estimate",
    "EvalkitError",
    "InputError",
    "IntegrityError",
    "MissingError",
    "Options",
    "RewardModelSpec",
    "RunSettings",
    "Signature",
    "Store",
    "Workspace",
    "__version__",
    "find_reward_model",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'evalkit' has no attribute {name!r}")
