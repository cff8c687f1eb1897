"""Open every page of the built site in Chromium: `python docs/browse.py FOLDER`.

A page may report no error in the console, ask no other host for anything, and be no wider than a phone; every picture
has a text for those who do not see it.
"""

import shutil
import sys
from pathlib import Path

import check
from playwright.sync_api import Page, sync_playwright
from tqdm.auto import tqdm

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ["--disable-gpu", "--disable-quic", "--no-sandbox", "--no-first-run", "--disable-background-networking"]
PHONE = {"width": 390, "height": 844}
WITHOUT_TEXT = "all => all.filter(each => !each.hasAttribute('alt')).map(each => each.src.slice(-60))"


def complaints(page: Page, path: Path) -> list[str]:
    """All that is wrong with a page, each in a sentence."""
    found: list[str] = []
    page.on("console", lambda message: found.append(f"says {message.text}") if message.type == "error" else None)
    page.on("pageerror", lambda error: found.append(f"fails: {error}"))
    page.on(
        "request",
        lambda asked: (
            found.append(f"asks {asked.url}") if not asked.url.startswith(("file:", "data:", "blob:")) else None
        ),
    )
    page.goto(path.resolve().as_uri(), wait_until="load")
    found += [f"has a picture without a text: {name}" for name in page.eval_on_selector_all("img", WITHOUT_TEXT)]
    width = page.evaluate("document.documentElement.scrollWidth")
    if width > PHONE["width"]:
        found.append(f"is {width} pixels wide on a phone of {PHONE['width']}")
    return found


def main(folder: Path) -> int:
    """Print what is wrong; 1 if anything is, 2 where there is no Chromium."""
    if CHROMIUM is None:
        print("no Chromium here to open pages in; Debian has it: apt-get install chromium", file=sys.stderr)
        return 2
    paths, wrong = check.pages(folder), 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        for path in tqdm(paths, unit="page"):
            page = browser.new_page(viewport=PHONE)
            for sentence in complaints(page, path):
                print(f"{path.relative_to(folder)} {sentence}")
                wrong += 1
            page.close()
        browser.close()
    print(f"{len(paths)} pages opened, {wrong} complaints")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
