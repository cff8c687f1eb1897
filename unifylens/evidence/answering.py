"""A dish's model to ask by hand: its answers, states patched from another prompt, and a shift to another language.

What is asked is computed where it is shown, by the page's own script: no Python, no network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int

from unifylens.corpus.corpus import Corpus
from unifylens.corpus.exposure import Copy
from unifylens.crosslingual.evaluate import main_layer, states
from unifylens.crosslingual.interchange import halves
from unifylens.evidence.pages import LANGUAGE_COLOURS, View, packed
from unifylens.evidence.portable import EPSILON, shape_of, weights
from unifylens.patching import subspaces
from unifylens.training import Run

if TYPE_CHECKING:
    from unifylens.evidence.widgets import Widget


def ask(run: Run, step: int | None = None) -> Widget:
    """Ask a model of the dish by hand, in a notebook: choose a subject, a relation and a language, see the answers.

    A state can be patched from another language's prompt, at a layer and role, and the last position's moved along the
    shift of its relation from language to language, as in `interchange.language_swap`. `save_html` writes the same as a
    page that computes all this itself. What it raises: as `question`, and ImportError, naming what to install, without
    anywidget.

    >>> widget = ul.ask(run)
    >>> widget.chosen["layer"], widget.about["slots"]
    (1, ['subject', 'relation'])
    """
    return question(run, step).widget()


def question(run: Run, step: int | None = None) -> View:
    """What `ask` shows, of the weights after a step (None: the last).

    Raises ValueError for a step that was not kept, answers of several tokens, fewer than two monolingual facts (shifts
    are fitted on half of them), and models with rotary positions, experts or modules of languages.
    """
    corpus, shape = run.corpus, shape_of(run)
    answers = corpus.answers.numpy()  # which says where they have several tokens
    step = run.steps[-1] if step is None else step
    parameters = weights(run, step)
    fit, test = halves(corpus)
    slots = [slot for slot in corpus.slots if slot != "answer" and _before_answer(corpus, slot)]
    world = corpus.world
    fact_of = np.full((world.n_subjects, world.n_relations), -1)
    fact_of[world.subject, world.relation] = np.arange(world.n_facts)
    tables = {
        "prompts": corpus.prompts().numpy(),
        "last": corpus.positions("answer"),
        "answers": answers,
        "fact_of": fact_of,
        "held_out": corpus.kind == Copy.HELD_OUT,
        "fitted": np.isin(np.arange(corpus.n_facts), fit),
        "token_language": corpus.token_language,
        "shifts": _shifts(run, step, fit),
        **{f"ends {slot}": corpus.positions(slot) for slot in slots},
    }
    index, data = packed(parameters | tables)
    fact = int(test[0])  # a fact that shifts are not fitted on
    names = [language.name for language in corpus.languages]
    about = {
        "shape": {**shape, "epsilon": EPSILON},
        "arrays": index,
        "step": step,
        "languages": names,
        "colours": [LANGUAGE_COLOURS[i % len(LANGUAGE_COLOURS)] for i in range(len(names))],
        "subjects": [list(language.subjects) for language in corpus.languages],
        "relations": [list(language.relations) for language in corpus.languages],
        "words": corpus.tokenizer.decode(list(range(corpus.d_vocab))),
        "slots": slots,
    }
    home = int(corpus.home[fact])
    chosen = {
        "subject": int(world.subject[fact]),
        "relation": int(world.relation[fact]),
        "language": home,
        "other": (home + 1) % len(names),
        "patched": None,
        "slot": slots[-1],
        "donor": int(world.subject[fact]),
        "layer": main_layer(shape["n_layers"]),
        "strength": 0,
    }
    return View("ask", "Ask a tiny model", about, data, chosen)


def _before_answer(corpus: Corpus, slot: str) -> bool:
    """Whether a slot stands in the prompt, in every row."""
    return bool((corpus.positions(slot) <= corpus.positions("answer")).all())


def _shifts(run: Run, step: int, fit: Int[np.ndarray, " fact"]) -> Float[np.ndarray, "layer relation language d_model"]:
    """By layer, each relation's mean state at the last position in a language, less that over languages; nan: none."""
    relation = torch.from_numpy(run.corpus.world.relation[fit])
    by_layer = [subspaces.language_shifts(each, relation) for each in states(run.checkpoint(step), run.corpus, fit)]
    table = torch.stack(by_layer)
    missing = run.corpus.world.n_relations - table.shape[1]
    return torch.nn.functional.pad(table, (0, 0, 0, 0, 0, missing), value=torch.nan).numpy()
