"""What a setting allows, in words, and what is wrong with a value, as a sentence."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, ForwardRef, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from unifylens.arguments import shown

MOST = 5
"""Sentences of one error."""
LIMITS = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}
NAMES = {int: "whole number", float: "number", bool: "True or False", str: "text", NoneType: "None"}


def setting(name: str, field: FieldInfo) -> str:
    """One setting in a docstring: its name, default, what is allowed, and its sentence."""
    made = field.default_factory or (type(field.default) if isinstance(field.default, BaseModel) else None)
    default = "" if field.is_required() else f" = {f'{made.__name__}()' if made else repr(field.default)}"
    head = f"{name}{default} ({allowed(field.annotation, field.metadata)})"
    indents = ((head, "", " " * 8), (" ".join((field.description or "").split()), " " * 4, " " * 4))
    return "\n".join(textwrap.fill(text, 110, initial_indent=a, subsequent_indent=b) for text, a, b in indents)


def allowed(hint: Any, bounds: Iterable[Any] = ()) -> str:
    """What a type with its bounds allows, in words."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind is Annotated:
        return allowed(inner[0], [bound for part in inner[1:] for bound in getattr(part, "metadata", [part])])
    if kind is Literal:
        return " or ".join(map(repr, inner))
    if kind is UnionType or kind is Union:
        return " or ".join(allowed(each, bounds if get_origin(each) is tuple else ()) for each in inner)
    bounds = list(bounds)
    least, most = (next((getattr(b, name) for b in bounds if hasattr(b, name)), None) for name in _LENGTHS)
    if kind is tuple:
        number = "any number of" if inner[-1] is Ellipsis else f"{len(inner)} of"
        if most is not None:
            number = f"{least or 0} to {most:,} of"
        return f"tuple, {number}: {allowed(inner[0])}"
    limits = [(word, getattr(bound, name)) for name, word in LIMITS.items() for bound in bounds if hasattr(bound, name)]
    texts = [f"{word} {limit:,}" if hint is int else f"{word} {limit:,.12g}" for word, limit in limits]
    texts += [] if most is None else [f"of up to {most:,} letters"]
    name = hint.__forward_arg__ if isinstance(hint, ForwardRef) else NAMES.get(hint) or hint.__name__
    return " ".join([name, *texts])


_LENGTHS = ("min_length", "max_length")


def sentences(error: ValidationError, kind: type[BaseModel]) -> str:
    """What is wrong, a sentence a line: the setting by its full name, the value, and what is allowed."""
    lines = list(dict.fromkeys(_sentence(dict(each), kind) for each in error.errors(include_url=False)))
    more = [f"(and {len(lines) - MOST} more of the kind)"] if len(lines) > MOST else []
    return "\n".join([*lines[:MOST], *more])


def _sentence(error: dict[str, Any], kind: type[BaseModel]) -> str:
    place, name = error["loc"], _name(error["loc"])
    if error["type"] == "value_error":
        return f"{name}: {error['ctx']['error']}" if name else str(error["ctx"]["error"])
    if error["type"] == "json_invalid":
        return f"{kind.__name__} from JSON: {error['msg']}; allowed: a text that `model_dump_json` gave."
    what = _what_is_allowed(place, kind)
    if error["type"] == "missing":
        return f"{name} is missing; allowed: {what}."
    return f"{name or kind.__name__}={shown(error['input'])}; allowed: {what}."


def _name(place: Sequence[str | int]) -> str:
    """A setting as one would write it: `changes[0].corpus.parallel`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def _what_is_allowed(place: Sequence[str | int], kind: type[BaseModel]) -> str:
    hint, bounds = kind, []
    for part in place:
        settings = next(_settings_in(hint), None)
        if isinstance(part, str) and settings is not None and part in settings.model_fields:
            field = settings.model_fields[part]
            hint, bounds = field.annotation, field.metadata
    settings = next(_settings_in(hint), None)
    if settings is not None and hint is settings:
        return f"{settings.__name__}(...), or a dict of its settings, {', '.join(settings.model_fields)}"
    return allowed(hint, bounds)


def _settings_in(hint: Any) -> Iterator[type[BaseModel]]:
    """Settings that a type is, or holds: `CorpusChange` of `tuple[CorpusChange, ...]`."""
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        yield hint
    for inner in get_args(hint):
        yield from _settings_in(inner)
