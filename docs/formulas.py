"""Formulas as MathML, which browsers draw by themselves: nothing is fetched, and nothing runs."""

from xml.etree import ElementTree

from docutils import nodes
from latex2mathml.converter import convert

MATHML = "http://www.w3.org/1998/Math/MathML"
ElementTree.register_namespace("", MATHML)


def mathml(latex: str, display: str) -> str:
    """A formula for a page; a line over several signs is a border, as fonts without long lines would draw a dash.

    Raises ValueError for a command that is not known.
    """
    found = convert(latex, display=display)
    if "\\" in found:
        raise ValueError(f"{latex!r}: latex2mathml leaves a command as it is; allowed: commands that it knows")
    tree = ElementTree.fromstring(found)
    for over in tree.iter(f"{{{MATHML}}}mover"):
        below, sign = over
        if sign.text == "\u2015":
            over.tag = below.tag
            over.set("style", "border-top: 0.06em solid; padding-top: 0.15em")
            over.remove(sign)
    return ElementTree.tostring(tree, encoding="unicode")


def _inline(translator, node):
    translator.body.append(mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def _block(translator, node):
    translator.body.append(f'<div class="formula">{mathml(node.astext(), "block")}</div>\n')
    raise nodes.SkipNode


def setup(app):
    """Make `html_math_renderer = "mathml"` known to Sphinx."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
