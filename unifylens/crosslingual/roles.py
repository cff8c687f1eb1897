"""Where the subject, the relation and the end stand in the dish's prompts."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from unifylens.arguments import numbers
from unifylens.corpus.corpus import Corpus
from unifylens.patching.prompts import LACKS, Prompts


def prompts(corpus: Corpus, rows: ArrayLike | Tensor | None = None, template: int = 0) -> Prompts:
    """Prompts of a corpus as patching by role takes them, of any length and none of them padded.

    Roles are the slots of the template that stand before the answer (`subject`: its last token, `relation`, `language`)
    and `answer`, the last token before it. Rows as in `Corpus.prompts`, whose errors it raises.

    >>> prompts = ul.crosslingual.prompts(run.corpus, [0, 5, 80])
    >>> prompts
    Prompts: 3 rows of 3 tokens; roles: subject, relation, answer, last
    """
    tokens = corpus.prompts(rows, template)
    chosen = np.arange(corpus.n_rows) if rows is None else numbers(rows, corpus.n_rows, "rows", "the corpus")
    ends = {slot: corpus.positions(slot, template)[chosen] for slot in corpus.slots_of(template)}
    answer = ends["answer"]
    roles = {slot: np.where(at <= answer, at, LACKS) for slot, at in ends.items()}
    lengths = (answer + 1).tolist()
    return Prompts([row[:n] for row, n in zip(tokens, lengths, strict=True)], roles)
