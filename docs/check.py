"""Look at the built site as a browser would, without one: `python docs/check.py FOLDER`.

Every link within it must lead somewhere, nothing may be asked of another host, and every public name must be described.
"""

import re
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import reference
from sphinx.util.inventory import InventoryFile

LOADED = {("link", "href"), *((tag, "src") for tag in ("script", "img", "iframe", "source", "video", "audio", "embed"))}
"""What a browser fetches by itself; other links wait for a click."""
LARGEST = 40 * 10**6


class Page(HTMLParser):
    """What a page links to, and what can be linked to in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[tuple[str, str, str]] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Keep links and anchors."""
        values = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := values.get(name))}
        if tag == "link" and values.get("rel") not in ("stylesheet", "icon", "shortcut icon", "preload"):
            return
        self.links += [(tag, name, values[name]) for name in ("href", "src") if values.get(name)]


@cache
def page(path: Path) -> Page:
    """A page of the site."""
    return Page(path.read_text(encoding="utf-8"))


def pages(site: Path) -> list[Path]:
    """The pages of a built site."""
    return sorted(set(site.rglob("*.html")) - set(site.rglob("_static/*.html")))  # there lies a theme's template


def complaints(site: Path) -> list[str]:
    """All that is wrong with a built site, each in a sentence."""
    found = []
    for path in pages(site):
        for tag, name, link in page(path).links:
            there, anchor = urldefrag(link)
            if there.startswith(("http:", "https:", "//")):
                if (tag, name) in LOADED:
                    found.append(f"{path.relative_to(site)} asks another host for {link}")
                continue
            if there.startswith(("data:", "mailto:", "javascript:")):
                continue
            target = path.parent / unquote(there.partition("?")[0]) if there else path
            if not target.exists():
                found.append(f"{path.relative_to(site)} links to {link}, which is not there")
            elif anchor and target.suffix == ".html" and unquote(anchor) not in page(target.resolve()).anchors:
                found.append(f"{path.relative_to(site)} links to {link}, which has no such anchor")
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        if re.search(r"""(url\(|@import)\s*["']?(https?:)?//""", text):
            found.append(f"{sheet.relative_to(site)} asks another host")
    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="")
    described = {name for kind, names in inventory.data.items() if kind.startswith("py:") for name in names}
    found += [f"{name} is public and not described" for name in reference.documented() if name not in described]
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    if size > LARGEST:
        found.append(f"the site has {size / 1e6:.0f} MB; allowed: {LARGEST / 1e6:.0f}")
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    wrong = complaints(folder)
    for sentence in wrong:
        print(sentence)
    verdict = f"{len(wrong)} complaints" if wrong else "all links lead somewhere"
    print(f"unifylens: {len(pages(folder))} pages, {verdict}")
    sys.exit(bool(wrong))
