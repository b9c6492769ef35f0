"""Bytes by key, outside the engine's memory."""

from tiercel.stores.base import Entry, Read, Result, Status, Store, Usage, Write
from tiercel.stores.file import FileStore
from tiercel.stores.memory import MemoryStore
from tiercel.stores.null import NullStore

__all__ = ["Entry", "FileStore", "MemoryStore", "NullStore", "Read", "Result", "Status", "Store", "Usage", "Write"]
