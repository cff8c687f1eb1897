"""Cards: how things print, as a few lines of text and, in a notebook, as a small table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from itertools import pairwise
from typing import Any

FEW = 8
"""Values that are listed one by one."""


class Card:
    """Prints as a title and a few labelled lines; in a notebook as a table that takes the page's colours."""

    def _card(self) -> tuple[str, dict[str, str]]:
        """The title, and what stands below it by label."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return as_text(*self._card())

    def _repr_html_(self) -> str:
        return as_html(*self._card())


def as_text(title: str, lines: Mapping[str, str]) -> str:
    """A card for the terminal."""
    width = max(map(len, lines), default=0)
    return "\n".join([title, *(f"  {label:<{width}}  {value}" for label, value in lines.items())])


def as_html(title: str, lines: Mapping[str, str]) -> str:
    """A card for a notebook; no colours of its own, so that it reads on light and dark pages."""
    left = "text-align: left; vertical-align: top"
    rows = "".join(
        f'<tr><th style="{left}; font-weight: normal; opacity: 0.7">{escape(label)}</th>'
        f'<td style="{left}">{escape(value)}</td></tr>'
        for label, value in lines.items()
    )
    head = f'<thead><tr><th colspan="2" style="{left}">{escape(title)}</th></tr></thead>'
    return f"<table>{head}<tbody>{rows}</tbody></table>"


def settings(values: Mapping[str, Any]) -> str:
    """Settings as `replace` takes them: `corpus.parallel=0.1, seed=3`."""
    return ", ".join(f"{name}={value!r}" for name, value in values.items()) or "as by default"


def several(values: Iterable[Any]) -> str:
    """Different values in order: `0, 0.1, 0.3`, whole numbers in a row as `0 to 19`, many of them in part."""
    different: list[Any] = []
    for value in values:
        if value not in different:
            different.append(value)
    whole = len(different) > 2 and all(type(value) is int for value in different)
    if whole and all(b - a == 1 for a, b in pairwise(different)):
        return f"{different[0]} to {different[-1]}"
    texts = [f"{value:.6g}" if isinstance(value, float) else str(value) for value in different]
    if len(texts) > FEW:
        texts = [*texts[: FEW - 2], "...", f"{texts[-1]} ({len(texts)} values)"]
    return ", ".join(texts)
