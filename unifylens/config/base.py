"""What all settings have in common: they are frozen, refuse what they do not know, and go through JSON and back."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from unifylens.arguments import plain, shown
from unifylens.config.sentences import sentences, setting
from unifylens.errors import suggest


class Config(BaseModel):
    """Frozen settings that refuse unknown fields by name, and values of another kind or beyond what is allowed.

    Raises ValueError, whose sentences name the setting, the value and what is allowed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    def __init__(self, **values: Any) -> None:
        with _told_in_sentences(type(self)):
            super().__init__(**values)

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # else pydantic calls it for every part

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Let the class's docstring, which `help()` and Shift+Tab show, list its settings."""
        settings = "\n".join(setting(name, field) for name, field in cls.model_fields.items())
        cls.__doc__ = f"{inspect.cleandoc(cls.__doc__ or '')}\n\nSettings:\n\n{settings}"

    @classmethod
    def model_validate(cls, *args: Any, **kwargs: Any) -> Self:
        """Settings from a dict. Raises ValueError as the class itself does."""
        with _told_in_sentences(cls):
            return super().model_validate(*args, **kwargs)

    @classmethod
    def model_validate_json(cls, *args: Any, **kwargs: Any) -> Self:
        """Settings from what `model_dump_json` gave. Raises ValueError as the class itself does."""
        with _told_in_sentences(cls):
            return super().model_validate_json(*args, **kwargs)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy with some fields changed. Raises ValueError as the class itself does."""
        return self.model_validate({**dict(self), **(update or {})})

    @model_validator(mode="before")
    @classmethod
    def _name_unknown_fields(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        for name in data:
            if name not in cls.model_fields:
                leaf = str(name).rpartition(".")[2]
                parts = [(part, of) for part, of in cls.parts().items() if leaf in of.model_fields]
                inside = [f"{part}={of.__name__}({leaf}=...)" for part, of in parts]
                hint = f" Write {inside[0]}." if inside else ""
                raise ValueError(
                    f"{cls.__name__} has no field {shown(name)}.{hint}{suggest(str(name), list(cls.model_fields))}"
                )
        return {name: plain(value) for name, value in data.items()}

    @classmethod
    def parts(cls) -> dict[str, type[Config]]:
        """Fields that hold settings of their own."""
        kinds = {name: field.annotation for name, field in cls.model_fields.items()}
        return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Config)}

    def differences(self) -> dict[str, Any]:
        """What differs from the defaults, by the names that `replace` takes."""
        values: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name in self.parts():
                values |= {f"{name}.{inner}": v for inner, v in value.differences().items()}
            elif value != field.default:
                values[name] = value
        return values

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        yield from self.differences().items()

    def __str__(self) -> str:
        return repr(self)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in type(self).model_fields:
            return super().__setattr__(name, value)
        from unifylens.config.experiment import Experiment  # which is made of settings

        part = next((f"{part}." for part, of in Experiment.parts().items() if of is type(self)), "")
        if isinstance(self, Experiment):
            copy = f"experiment.replace({name}={shown(value)})"
        else:
            copy = (
                f"experiment.replace(**{{{part + name!r}: {shown(value)}}})" if part else f"a new {type(self).__name__}"
            )
        raise ValueError(f"settings are frozen; make a changed copy: {copy}.")

    def __delattr__(self, name: str) -> None:
        raise ValueError(f"settings are frozen: {name!r} cannot be deleted.")


@contextmanager
def _told_in_sentences(kind: type[Config]) -> Iterator[None]:
    """Refusals as sentences of this library, without pydantic's frame around them."""
    try:
        yield
    except ValidationError as error:
        raise ValueError(sentences(error, kind)) from None
