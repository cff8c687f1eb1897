"""What makes and checks the built site: formulas without scripts, and complaints about what a browser would miss."""

import zlib

import check
import formulas
import pytest

NAMES = b"unifylens.train py:function 1 api.html#$ -\n"
HEADER = b"# Sphinx inventory version 2\n# Project: x\n# Version: 1\n# What remains is compressed using zlib.\n"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A site of two pages in which all is well."""
    monkeypatch.setattr("reference.documented", lambda: {"unifylens.train": None})
    (tmp_path / "objects.inv").write_bytes(HEADER + zlib.compress(NAMES))
    (tmp_path / "index.html").write_text(
        '<a href="api.html#unifylens.train">train</a> <a href="https://arxiv.org">a</a>'
    )
    (tmp_path / "api.html").write_text('<dt id="unifylens.train">train</dt> <a href="#unifylens.train">here</a>')
    (tmp_path / "site.css").write_text('@import "other.css"; a { background: url("a.png") }')
    check.page.cache_clear()
    return tmp_path


def test_a_sound_site_has_no_complaints(site):
    assert check.complaints(site) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('<a href="gone.html">x</a>', "index.html links to gone.html, which is not there"),
        ('<a href="api.html#gone">x</a>', "index.html links to api.html#gone, which has no such anchor"),
        ('<img src="gone.png">', "index.html links to gone.png, which is not there"),
        ('<script src="https://a.b/c.js"></script>', "index.html asks another host for https://a.b/c.js"),
        ('<link rel="stylesheet" href="//a.b/c.css">', "index.html asks another host for //a.b/c.css"),
    ],
)
def test_what_a_browser_would_miss_is_found(site, text, complaint):
    (site / "index.html").write_text(text)
    assert check.complaints(site) == [complaint]


def test_styles_and_names_are_looked_at(site, monkeypatch):
    (site / "site.css").write_text("@import 'https://a.b/c.css';")
    monkeypatch.setattr("reference.documented", lambda: {"unifylens.train": None, "unifylens.sweep": None})
    monkeypatch.setattr(check, "LARGEST", 10)
    said = check.complaints(site)
    assert said[:2] == ["site.css asks another host", "unifylens.sweep is public and not described"]
    assert said[2].startswith("the site has ")


def test_formulas_are_mathml_that_needs_no_script():
    assert "<mfrac>" in formulas.mathml(r"\frac{1}{2}", "block")
    over = formulas.mathml(r"\overline{\cos(x, y)}", "inline")
    assert "border-top" in over and "mover" not in over
    with pytest.raises(ValueError, match="leaves a command as it is"):
        formulas.mathml(r"\arg x", "inline")
