"""Kinds of values that settings take. Equal values are one: `1` and `1.0`, `0.0` and `-0.0`, numpy's and Python's.

Nothing else is turned into what is due: `True` is no number, `"1"` and `b"1"` are none, and a set has no order.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticKnownError

Tuple = TypeVar("Tuple")


def _whole(value: Any) -> Any:
    """Columns of tables hold whole numbers as floats where one is missing: `3.0` is 3."""
    return int(value) if type(value) is float and value.is_integer() else value


def _ordered(values: Any) -> Any:
    """JSON has lists for tuples."""
    return tuple(values) if isinstance(values, list) else values


def _plain_text(value: str) -> str:
    """Files cannot hold half of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise PydanticKnownError("string_unicode") from None
    return str.__str__(value)


Whole = Annotated[int, Field(strict=True), BeforeValidator(_whole)]
Number = Annotated[float, Field(strict=True), AfterValidator(lambda value: value + 0.0)]  # -0.0 becomes 0.0
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(strict=True), AfterValidator(_plain_text)]
Ordered = Annotated[Tuple, Field(strict=True), BeforeValidator(_ordered)]
"""`Ordered[tuple[Text, ...]]`: a tuple, or a list."""

Share = Annotated[Number, Field(ge=0.0, le=1.0)]
MANY = 100_000_000
"""More facts, steps or the like than any machine gets through."""
