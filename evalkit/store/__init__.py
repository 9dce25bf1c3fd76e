"""Rewards on disk: one live SQLite file, and immutable packs that travel with a reference."""

from evalkit.store.live import Store
from evalkit.store.packs import Pack, find_packs, write_pack
from evalkit.store.rows import StoredReward

__all__ = ["Pack", "Store", "StoredReward", "find_packs", "write_pack"]
