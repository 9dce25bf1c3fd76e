"""One stored reward and the checksum that travels with it."""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple


class StoredReward(NamedTuple):
    """The reward of one conversation or ordered pair under one reward model.

    Attributes:
        conversation: `item_key`, 64 hex digits.
        reward: Finite, in reward-model units; of an ordered pair, log-odds.
        tokens: Tokens scored, template included, after any cut.
        cut: Tokens lost to truncation.
        tokens_digest: SHA-256 of the token ids, 64 hex digits: tells a changed tokenisation from
            changed weights.
        attributes: What else the reward model's family computes, finite, in the family's order.
    """

    conversation: str
    reward: float
    tokens: int
    cut: int
    tokens_digest: str
    attributes: tuple[float, ...] = ()


def packed(attributes: tuple[float, ...]) -> bytes:
    """Attributes as little-endian doubles."""
    return struct.pack(f"<{len(attributes)}d", *(value + 0.0 for value in attributes))


def unpacked(data: bytes) -> tuple[float, ...]:
    """The attributes that `packed` made."""
    return struct.unpack(f"<{len(data) // 8}d", data)


def checksum(fingerprint: str, row: StoredReward) -> bytes:
    """Eight bytes over the row and the reward model it belongs to; it guards against damage."""
    data = b"".join(
        [
            bytes.fromhex(fingerprint),
            bytes.fromhex(row.conversation),
            struct.pack("<dqq", row.reward + 0.0, row.tokens, row.cut),  # SQLite knows no -0.0
            bytes.fromhex(row.tokens_digest),
            packed(row.attributes),
        ]
    )
    return hashlib.blake2b(data, digest_size=8).digest()
