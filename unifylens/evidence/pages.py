"""A view: what a script shows, in a notebook as a widget or on a page of its own, with the same script and data."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unifylens import environment

if TYPE_CHECKING:
    from unifylens.evidence.widgets import Widget

LANGUAGE_COLOURS = ("#56b4e9", "#cc78bc", "#d55e00", "#029e73", "#ca9161", "#fbafe4", "#ece133")
"""One for each language, in turn, from the palette of `plots`; runs have the others."""

# `render` is the module's own; a page's model is what a widget's is, without a kernel behind it.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 0 auto; padding: 1rem; max-width: 70rem; font: 1rem/1.45 system-ui, sans-serif; }}
h1 {{ margin: 0 0 0.75rem; font-size: 1.25rem; }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
<div id="view"></div>
</main>
<script type="application/json" id="values">{values}</script>
<script type="module">
{module}
const values = JSON.parse(document.getElementById("values").textContent);
const bytes = Uint8Array.from(atob(values.data), (letter) => letter.charCodeAt(0));
values.data = new DataView(bytes.buffer);
const listeners = new Set();
const model = {{
  get: (name) => values[name],
  set: (name, value) => {{ values[name] = value; listeners.forEach((listen) => listen()); }},
  on: (event, listen) => listeners.add(listen),
  off: (event, listen) => listeners.delete(listen),
  save_changes: () => {{}},
}};
render({{ model, el: document.getElementById("view") }});
</script>
</body>
</html>
"""


def module(script: str) -> str:
    """A view's script as one ES module that imports nothing: `render({ model, el })`, with what all views share."""
    folder = files("unifylens.evidence")
    return "\n".join((folder / f"{name}.js").read_text(encoding="utf-8") for name in ("look", script))


def packed(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, list[Any]], bytes]:
    """Arrays in one string of bytes (float32, int32 or uint8), and by name where each begins, its type, its shape."""
    index, parts, start = {}, [], 0
    for name, array in arrays.items():
        kind = {"f": "<f4", "b": "u1"}.get(array.dtype.kind, "<i4") if array.dtype != np.uint8 else "u1"
        whole = np.ascontiguousarray(array, kind).tobytes()
        index[name] = [start, kind[-2:], list(array.shape)]
        parts.append(whole)
        start += len(whole)
    return index, b"".join(parts)


@dataclass(frozen=True)
class View:
    """What a script shows: JSON (`about`, and what is `chosen` at first) and bytes."""

    script: str
    title: str
    about: dict[str, Any]
    data: bytes
    chosen: dict[str, Any]

    def html(self) -> str:
        """A page that needs no other file and no network; it opens from the file system."""
        encoded = base64.b64encode(self.data).decode()
        values = json.dumps({"about": self.about, "chosen": self.chosen, "data": encoded}, ensure_ascii=False)
        # no word of a corpus may end the script element
        values = values.replace("<", "\\u003c")
        return _PAGE.format(title=escape(self.title), values=values, module=module(self.script))

    def save_html(self, path: str | Path) -> Path:
        """Write the page of `html`; returns its path."""
        path = Path(path)
        environment.write_atomic(path, self.html())
        return path

    def widget(self) -> Widget:
        """The same in a notebook. Raises ImportError, naming what to install, without anywidget."""
        environment.require("notebooks", "widgets", "anywidget")
        from unifylens.evidence import widgets

        return widgets.KINDS[self.script].of(self)
