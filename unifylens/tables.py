"""Tables of what a function makes of each of several models: of a sweep, or of one model's checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from unifylens.arguments import plain


def measured(
    function: Callable[[Any], Any],
    models: Iterable[tuple[Mapping[str, Any], Any]],
    *,
    total: int,
    progress: bool,
) -> pd.DataFrame:
    """What `function` makes of each of `total` models, stacked, each model's labels beside it.

    It may give a table; a column of one (a Series with a name); a row (a dict, a Series without a name); or a number,
    which stands in a column named after the function, `value` for a lambda.
    Raises TypeError where it gives anything else, ValueError where it gives a column of a label's name.
    """
    name = getattr(function, "__name__", "<lambda>")
    name = "value" if name == "<lambda>" else name
    tables = []
    for labels, model in tqdm(models, total=total, desc="measuring", unit="model", disable=not progress):
        rows = _table(function(model), name)
        if clashes := [label for label in labels if label in rows and not (rows[label] == labels[label]).all()]:
            raise ValueError(f"measure: the table has a column {clashes[0]!r}, which labels its models; rename it.")
        tables.append(rows.assign(**{label: column.array for label, column in repeated(labels, len(rows)).items()}))
    return pd.concat(tables, ignore_index=True)


def repeated(labels: Mapping[str, Any], n: int) -> pd.DataFrame:
    """Labels, the same in each of `n` rows."""
    return pd.DataFrame({label: [value] * n for label, value in labels.items()})


def _table(given: Any, name: str) -> pd.DataFrame:
    """What a function of a model gave, as a table."""
    if isinstance(given, pd.Series) and isinstance(given.name, str):
        given = given.to_frame()
    if isinstance(given, pd.DataFrame):
        return given.reset_index()
    if isinstance(given, (Mapping, pd.Series)):
        return pd.DataFrame([{label: plain(value) for label, value in given.items()}])
    if isinstance(value := plain(given), (Real, str)):
        return pd.DataFrame({name: [value]})
    raise TypeError(
        f"{name} gave a {type(given).__name__}; allowed: a table, a number, or a dict or Series of numbers."
    )
