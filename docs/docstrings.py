"""Docstrings as reStructuredText: they are plain text in which names stand between single backticks."""

import re

import reference

CODE = re.compile(r"``(.+?)``|`(.+?)`", re.S)
EMPHASIS = re.compile(r"((?<![\w*])\*\w[^*]*?\w\*(?![\w*])|(?<![\w*])\*\w\*(?![\w*]))")
SIGNS = re.compile(r"\*|\||(?<=\w)_(?!\w)")
NAME = re.compile(r"[A-Za-z_][\w.]*\w(\(\))?")


def _target(code: str, near: list[object]) -> str | None:
    """Where something named in a docstring is documented, looked up as Python would from there."""
    if not NAME.fullmatch(code):
        return None
    for start in near:
        found = start
        for part in code.removesuffix("()").split("."):
            found = getattr(found, part, None)
        if found is not None and (place := reference.place(found)):
            return place
    return None


def as_rest(text: str, near: list[object] = ()) -> str:
    """A docstring's text, in which names that are documented become links and other code stays as it is."""
    pieces = re.split(r"((?:^|\n)[ ]*>>> .*?(?=\n\s*\n|\Z))", text, flags=re.S)
    return "".join(piece if place % 2 else _prose(piece, near) for place, piece in enumerate(pieces))


def _prose(text: str, near: list[object]) -> str:
    out, end = [], 0
    for match in CODE.finditer(text):
        out.append(_escaped(text[end : match.start()]))
        code = re.sub(r"\s+", " ", match[1] or match[2])
        target = _target(code, near)
        # A role needs a space or punctuation on both sides, which text such as `layer`s lacks.
        glued = text[match.end() : match.end() + 1].isalnum()
        out.append((f":py:obj:`{code} <{target}>`" if target else f"``{code}``") + ("\\ " if glued else ""))
        end = match.end()
    return "".join([*out, _escaped(text[end:])])


def _escaped(text: str) -> str:
    """Signs that reStructuredText would read as markup and that here are none; *emphasis* stays."""
    parts = EMPHASIS.split(text)
    return "".join(part if place % 2 else SIGNS.sub(r"\\\g<0>", part) for place, part in enumerate(parts))


def laid_out(text: str) -> str:
    """Lists begin after an empty line, and a setting's kind, which may go over several lines, stands on one."""
    head, settings, kinds = text.partition("\nSettings:\n")
    text = head + settings + re.sub(r"\n {8}(?=\S)", " ", kinds)
    lines: list[str] = []
    for line in text.split("\n"):
        begins = re.match(r"( *)- ", line)
        before = lines[-1] if lines else ""
        if begins and before.strip() and not re.match(rf"{begins[1]}(- |  )", before):
            lines.append("")
        lines.append(line)
    return "\n".join(lines)


def _process(app, what, name, obj, options, lines):
    near = reference.scopes(name)
    lines[:] = as_rest(laid_out("\n".join(lines)), near).split("\n")


def setup(app):
    """Let Sphinx read docstrings so."""
    app.connect("autodoc-process-docstring", _process)
