"""What these tests share with the others: settings of the environment and of hypothesis."""

from tests import conftest as _shared  # noqa: F401
