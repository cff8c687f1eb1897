"""Views that move, as pages of their own: `python docs/views.py FOLDER`.

Two models of the default dish are trained here if the store lacks them (half a minute): what they show is theirs.
"""

import sys
from pathlib import Path

import unifylens as ul
from unifylens.evidence import answering, exploring

PARALLEL = {"unified": 0.6, "separate": 0.0}
"""Share of facts told in both languages; else the two are one dish, begun from the same weights."""


def write(folder: Path) -> None:
    """`explore.html`, of both models side by side, and one to ask of each: `ask_unified.html`, `ask_separate.html`."""
    folder.mkdir(parents=True, exist_ok=True)
    runs = {
        name: ul.train(ul.Experiment(corpus=ul.CorpusConfig(parallel=share), seed=0))
        for name, share in PARALLEL.items()
    }
    exploring.view(runs).save_html(folder / "explore.html")
    for name, run in runs.items():
        answering.question(run).save_html(folder / f"ask_{name}.html")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
