"""Bytes by key, outside the engine's memory."""

from tiercel.stores.base import Entry, Read, Result, Status, Store, Usage, Write

__all__ = ["Entry", "Read", "Result", "Status", "Store", "Usage", "Write"]
