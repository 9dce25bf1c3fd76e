"""One stored reward and the checksum that travels with it."""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple


class StoredReward(NamedTuple):
    """The reward of one conversation under one reward model.

    Attributes:
        conversation: `conversation_key`, 64 hex digits.
        reward: Finite, in reward-model units.
        tokens: Tokens scored, template included, after any cut.
        cut: Tokens lost to truncation.
        tokens_digest: SHA-256 of the token ids, 64 hex digits: tells a changed tokenisation from
            changed weights.
    """

    conversation: str
    reward: float
    tokens: int
    cut: int
    tokens_digest: str


def checksum(fingerprint: str, row: StoredReward) -> bytes:
    """Eight bytes over the row and the reward model it belongs to; it guards against damage."""
    data = b"".join(
        [
            bytes.fromhex(fingerprint),
            bytes.fromhex(row.conversation),
            struct.pack("<dqq", row.reward + 0.0, row.tokens, row.cut),  # SQLite knows no -0.0
            bytes.fromhex(row.tokens_digest),
        ]
    )
    return hashlib.blake2b(data, digest_size=8).digest()
