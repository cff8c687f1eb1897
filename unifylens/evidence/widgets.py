"""Views as notebook widgets; needs anywidget, and is loaded by what makes one."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import anywidget
import traitlets

from unifylens.evidence.pages import View, module


class Widget(anywidget.AnyWidget):
    """A view in a notebook. `chosen` is what its user chose, and may be set: `{**widget.chosen, "fact": 3}`."""

    about = traitlets.Dict().tag(sync=True)
    data = traitlets.Bytes().tag(sync=True)
    chosen = traitlets.Dict().tag(sync=True)
    view: View

    @classmethod
    def of(cls, view: View) -> Self:
        """The widget of a view."""
        widget = cls(about=view.about, data=view.data, chosen=view.chosen)
        widget.view = view
        return widget

    def save_html(self, path: str | Path) -> Path:
        """Write the view as a page that needs no other file and no network; returns its path."""
        return self.view.save_html(path)


class Explorer(Widget):
    """Checkpoints of runs side by side: `ul.explore`."""

    _esm = module("explore")


class Asker(Widget):
    """A model to ask, patch and shift: `ul.ask`."""

    _esm = module("ask")


KINDS: dict[str, type[Widget]] = {"explore": Explorer, "ask": Asker}
"""By the script that a view has."""
