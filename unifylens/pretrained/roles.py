"""A fact set's prompts as patching by role takes them: where does the tokenizer put the subject's last token?"""

from __future__ import annotations

import unicodedata

from unifylens.corpus.factsets import Facts, check
from unifylens.patching.prompts import Prompts
from unifylens.pretrained.models import Pretrained

UNSPACED = ("CJK ", "IDEOGRAPHIC ", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
UNSPACED += ("TIBETAN", "BOPOMOFO", "YI ", "JAVANESE", "BALINESE", "TAI ")
"""How the names of characters begin in scripts that put no spaces between words."""


def prompts(pretrained: Pretrained, facts: Facts, language: str, relation: str | None = None) -> Prompts:
    """The prompts of a language, and of one relation (None: all), in the order of the sorted fact set (`check`).

    Roles are `subject`, the last token of the subject's last mention before the answer, and `last`. Mentions that are
    words of their own come first: no letter, digit or combining mark goes on at either end, but for letters of scripts
    that put no spaces between words. Where none is (`Oslon` for `Oslo`), the last mention of any kind is taken.

    So row i is the same fact in every language, and `by_layer_and_role` patches from one into the other, however long
    they are.
    Raises ValueError for a language or relation that `facts` lacks, and a prompt in which the subject does not stand.
    """
    facts = check(facts)
    table = facts[facts["language"] == language]
    if table.empty:
        raise ValueError(f"language={language!r}: the fact set has {', '.join(sorted(set(facts['language'])))}.")
    if relation is not None:
        table = table[table["relation"] == relation]
        if table.empty:
            raise ValueError(f"relation={relation!r}: the fact set has {', '.join(sorted(set(facts['relation'])))}.")
    rows, subjects = [], []
    for fact, prompt, subject in zip(table["fact"], table["prompt"], table["subject"], strict=True):
        end = _end_of_last(subject, prompt)
        if end is None:
            raise ValueError(
                f"fact {fact!r} in {language!r}: the subject {subject!r} does not stand in its prompt {prompt!r}; "
                "allowed: prompts that name their subject as the column `subject` does."
            )
        tokens, position = _tokens(pretrained, prompt, end)
        rows.append(tokens)
        subjects.append(position)
    return Prompts(rows, {"subject": subjects})


def _end_of_last(subject: str, prompt: str) -> int | None:
    """Where the last mention of a subject ends, as a word of its own if there is one; None for no mention."""
    n = len(subject)
    ends = [start + n for start in range(len(prompt)) if n and prompt.startswith(subject, start)]
    words = [end for end in ends if not _within_word(prompt, end - n) and not _within_word(prompt, end)]
    return next(reversed(words or ends), None)


def _within_word(text: str, at: int) -> bool:
    """Whether a word goes on from the character before a place to the one behind it."""
    before, behind = text[max(at - 1, 0) : at], text[at : at + 1]
    if not before or not behind or unicodedata.category(before)[0] not in "LMN":
        return False
    if unicodedata.category(behind)[0] == "M":
        return True
    unspaced = any(unicodedata.name(character, "").startswith(UNSPACED) for character in (before, behind))
    return unicodedata.category(behind)[0] in "LN" and not unspaced


def _tokens(pretrained: Pretrained, prompt: str, end: int) -> tuple[list[int], int]:
    """Token IDs of a prompt, and the number of the token that holds the character before `end`."""
    ids = pretrained.ids(prompt)
    if pretrained.tokenizer.is_fast:
        encoded = pretrained.tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
        spans = encoded["offset_mapping"]
        return ids, len(ids) - len(spans) + max(i for i, (start, stop) in enumerate(spans) if start < min(end, stop))
    before = pretrained.ids(prompt[:end])
    same = next((i for i, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), min(len(before), len(ids)))
    return ids, same if same < len(before) else len(before) - 1
