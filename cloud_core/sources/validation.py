"""What pydantic found wrong with something from outside, in one line that names each key and the remedy."""

from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """pydantic's report as one line: each wrong key, what is wrong, and the keys there are."""
    problems = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"]) or model.__name__
        if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            owner = _owner(model, item["loc"])
            problems.append(f"'{key}' is not a key of {owner.__name__} (keys: {', '.join(_fields(owner))})")
        elif item["type"] == "missing":
            problems.append(f"'{key}' is missing")
        else:
            problems.append(f"'{key}': {item['msg']}, got {item.get('input')!r}")
    return "; ".join(problems)


def _owner(model: type, location: tuple[int | str, ...]) -> type:
    """The class, `model` or one inside it, that the key at the end of `location` was given to."""
    owner = model
    for part in location[:-1]:
        if part in (fields := _fields(owner)):
            owner = next(_classes(fields[part]), owner)
    return owner


def _fields(model: type) -> dict[Any, Any]:
    """Name -> type of a pydantic model or a dataclass."""
    if issubclass(model, BaseModel):
        return {name: field.annotation for name, field in model.model_fields.items()}
    return get_type_hints(model)


def _classes(annotation: Any) -> Iterator[type]:
    """Models and dataclasses that a type is made of: those of `dict[str, Window] | None` are Window."""
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or is_dataclass(annotation)):
        yield annotation
    for part in get_args(annotation):
        yield from _classes(part)
