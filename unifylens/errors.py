"""How error sentences end: with the nearest allowed names, then all of them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def suggest(name: str, allowed: Sequence[str]) -> str:
    """End of an error sentence: the nearest allowed names, then all of them."""
    same = [full for full in allowed if full.rpartition(".")[2] == name]  # of one of the parts
    near = same or difflib.get_close_matches(name, allowed, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{hint} Allowed: {', '.join(allowed)}."
