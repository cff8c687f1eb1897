"""Schematics: every box and arrow is drawn and told, and letters are high enough where a column is 80 mm wide."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
from PIL import Image

import unifylens as ul
from unifylens.evidence import schematics

BOXES = [("facts\nin a", 0, 0, "language a"), ("facts in b", 0, 1, "language b"), ("model", 1, 0, "model")]
ARROWS = [("facts\nin a", "model", "read"), ("facts in b", "model", "never read", "cut")]


def test_a_schematic_is_saved_with_what_it_shows(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFYLENS_FIGURES", str(tmp_path))
    fig, shown = schematics.draw(BOXES, ARROWS)
    assert {text.get_text() for text in fig.axes[0].texts} == {box[0] for box in BOXES} | {"read", "never read"}
    path = ul.plots.save_figure(fig, "schematic_test", shown)
    plt.close(fig)
    assert path.with_suffix(".csv").read_text().splitlines()[1].startswith("boxes,facts in a,0,0,language a")
    with Image.open(path) as image:
        inches = image.width / 150
    assert (schematics.FONT - 0.3) * (80 / 25.4) / inches >= 6


@pytest.mark.parametrize(
    ("boxes", "arrows", "message"),
    [
        ([*BOXES, ("model", 2, 0)], ARROWS, r"boxes has \['model'\] twice"),
        ([*BOXES, ("x", 2, 0, "modle")], ARROWS, "kind of a box is 'modle'; allowed: 'plain', "),
        (BOXES, [("model", "facts in b", "", "cutt")], "kind of an arrow is 'cutt'; allowed: 'flow', "),
        (BOXES, [("model", "nowhere")], "end of an arrow is 'nowhere'; allowed: "),
    ],
)
def test_what_cannot_be_drawn_is_named(boxes, arrows, message):
    with pytest.raises(ValueError, match=message):
        schematics.draw(boxes, arrows)
