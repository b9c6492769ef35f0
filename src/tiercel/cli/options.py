"""Options that several commands share: written once as a group, spread over the commands that take the group."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import typer


class Group(NamedTuple):
    """Options that go together: parameters of a command, and how the values that were given become one object."""

    parameters: tuple[inspect.Parameter, ...]
    build: Callable[[dict[str, Any]], object]


def option(name: str, kind: object, *spellings: str, **details: Any) -> inspect.Parameter:
    """A parameter that typer shows as an option; None, or an empty list, where it was not given."""
    annotation = Annotated[kind, typer.Option(*spellings, **details)]  # type: ignore[valid-type]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def takes(**groups: Group) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorates a command: each parameter named here is replaced by the options of its group, and receives what they build."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_groups(**values: Any) -> None:
            for name, group in groups.items():
                options = {p.name: values.pop(p.name) for p in group.parameters}
                values[name] = group.build({k: v for k, v in options.items() if v is not None and v != []})
            command(**values)

        own = [p for name, p in inspect.signature(command).parameters.items() if name not in groups]
        spread = [p for group in groups.values() for p in group.parameters]
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *spread)]
        vars(with_groups)["__signature__"] = inspect.Signature(parameters)
        return with_groups

    return decorate
