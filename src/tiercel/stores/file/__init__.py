"""Objects as files, shared by the processes of one user."""

from tiercel.stores.file.store import FileStore

__all__ = ["FileStore"]
