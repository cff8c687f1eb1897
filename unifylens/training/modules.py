"""Where a corpus lets a model with modules of languages (`model.language_neurons`) know the language of a prompt."""

from __future__ import annotations

import numpy as np

from unifylens.config import Experiment
from unifylens.corpus.corpus import Corpus


def refuse_what_does_not_fit(experiment: Experiment, corpus: Corpus) -> None:
    """Raise ValueError where `model.language_neurons` would serve a prompt another language's module, or none.

    From the end of the prompt on its last token of one language alone must be one of its own.
    """
    if not experiment.model.language_neurons:
        return
    language, place = np.arange(corpus.n_rows) // corpus.n_facts, np.arange(corpus.n_ctx)
    for template, tokens in enumerate(corpus.sequences.numpy()):
        own = corpus.token_language[tokens]
        last = np.maximum.accumulate(np.where(own >= 0, place, 0), 1)
        behind = place >= corpus.positions("answer", template)[:, None]
        wrong = (behind & (np.take_along_axis(own, last, 1) != language[:, None])).any(1)
        if wrong.any():
            row, fact = divmod(int(wrong.argmax()), corpus.n_facts)
            raise ValueError(
                f"model.language_neurons={experiment.model.language_neurons} needs prompts whose last token of one "
                f"language alone is their own language's, as is not so in {wrong.sum()} of {corpus.n_rows}, such as "
                f"{corpus.text(row, fact, template)!r}; allowed: 0, or words that tell it, such as "
                "language.shared_relations=0 in a template that ends with the relation."
            )
