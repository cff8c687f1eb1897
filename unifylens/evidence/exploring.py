"""A run's checkpoints to look through: checkerboards, pairs of facts, curves and answers, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn as sns
import torch
from jaxtyping import Float, Int, UInt8
from matplotlib.colors import to_hex
from numpy.typing import ArrayLike
from torch import Tensor

from unifylens import measures
from unifylens.corpus.corpus import Corpus
from unifylens.corpus.exposure import KINDS, Copy
from unifylens.corpus.tokenization import EOS, PAD
from unifylens.crosslingual.evaluate import Answers, Questions, main_layer
from unifylens.evidence.pages import LANGUAGE_COLOURS, View
from unifylens.evidence.plots import COLOURS
from unifylens.patching.prompts import Prompts
from unifylens.patching.stream import run_prompts
from unifylens.seeds import rng
from unifylens.training import Run

if TYPE_CHECKING:
    from unifylens.evidence.widgets import Widget

MOST_ROWS = 120
"""Facts times languages of a view: their cosines are 7 kB for each layer and step."""
RELATIONS = 4
"""Relations that the facts are of where none are named, as in `Corpus.block_facts`."""
RANGE = (-0.5, 1.0)
"""Cosines at the two ends of the colours."""
MEASURES = ("loss", "recall", "transfer")
"""Curves beside the unification score of the layer."""
RUN_COLOURS = ("#0173b2", "#de8f05", "#949494")
"""One for each run, in turn, unless `plots.COLOURS` has its name."""


def explore(
    runs: Run | Mapping[str, Run], facts: ArrayLike | Tensor | None = None, layers: Sequence[int] | None = None
) -> Widget:
    """Look through the checkpoints of a run, or of several by name side by side, in a notebook.

    A slider moves over the steps whose weights are kept (`train.n_checkpoints`): cosines of facts within and between
    languages, the same facts in a plane, curves, and of one fact its prompts and answers. `save_html` writes the same
    as a page that needs neither Python nor a network. `facts` and `layers` as in `view`, whose errors it raises.
    Raises ImportError, naming what to install, without anywidget.

    >>> widget = ul.explore(run)
    >>> widget.chosen["step"] == run.steps[-1], widget.about["languages"]
    (True, ['a', 'b'])
    """
    return view(runs, facts, layers).widget()


def view(
    runs: Run | Mapping[str, Run], facts: ArrayLike | Tensor | None = None, layers: Sequence[int] | None = None
) -> View:
    """What `explore` shows: JSON, and for every run, step and layer cosines and places in a plane, a byte each.

    `facts` as in `Corpus.fact_numbers`, up to `MOST_ROWS` over the number of languages (None: facts held out in every
    language but one, as many of each of four relations, sorted as in `Corpus.block_facts`). `layers` as in
    `unifylens.states` (None: after every block). Raises ValueError for runs that tell other facts than the first one,
    more facts than there is room for, and layers or facts that do not exist.
    """
    named = dict(runs) if isinstance(runs, Mapping) else {"run": runs}
    _check_runs(named)
    corpora = [run.corpus for run in named.values()]
    chosen = _facts(corpora) if facts is None else corpora[0].fact_numbers(facts)
    most = MOST_ROWS // corpora[0].n_languages
    if len(chosen) > most:
        raise ValueError(
            f"facts names {len(chosen)} facts; allowed: up to {most} of {corpora[0].n_languages} languages."
        )
    _refuse_others(named, chosen)
    shown = _layers(named, layers)
    tables, frames = zip(*(_of_run(run, chosen, shown) for run in named.values()), strict=True)
    colours = iter(RUN_COLOURS * len(named))
    steps = sorted({step for run in named.values() for step in run.steps})
    about = {
        **_of_corpus(corpora[0], chosen),
        "steps": steps,
        "layers": shown,
        "range": RANGE,
        "ramp": [to_hex(colour) for colour in sns.color_palette("mako", 17)],
        "measures": MEASURES,
        "runs": [
            {"name": name, "colour": COLOURS.get(name) or next(colours), **table}
            for name, table in zip(named, tables, strict=True)
        ],
    }
    main = main_layer(min(run.experiment.model.n_layers for run in named.values()))
    start = {"step": steps[-1], "layer": main if main in shown else shown[-1], "fact": int(chosen[0])}
    title = f"{' and '.join(named)}: what facts become while a model learns" if len(named) > 1 else "Explore a run"
    return View("explore", title, about, b"".join(frames), start)


def _check_runs(named: Mapping[str, Run]) -> None:
    """Raises TypeError for what is no run, ValueError for none."""
    if not named:
        raise ValueError("runs is empty; allowed: a run, or runs by name.")
    for name, run in named.items():
        if not isinstance(run, Run):
            raise TypeError(f"runs has a {type(run).__name__} as {name!r}; allowed: a Run, or Runs by name.")


def _facts(corpora: Sequence[Corpus]) -> Int[np.ndarray, " fact"]:
    """As many facts of each of the first relations as there is room for: held out somewhere in every run, if any is."""
    first = corpora[0]
    fits = [corpus for corpus in corpora if corpus.n_facts == first.n_facts]
    alone = np.logical_and.reduce([~corpus.parallel for corpus in fits])
    allowed = alone if alone.any() else np.ones(first.n_facts, dtype=bool)
    world = first.world
    relations = np.unique(world.relation[allowed])[:RELATIONS]
    each = max(1, MOST_ROWS // first.n_languages // len(relations))
    chosen = [
        rng(0, f"facts of relation {r}").permutation(np.flatnonzero(allowed & (world.relation == r)))[:each]
        for r in relations
    ]
    return np.concatenate([facts[np.argsort(world.object[facts], kind="stable")] for facts in chosen])


def _refuse_others(named: Mapping[str, Run], facts: Int[np.ndarray, " fact"]) -> None:
    """Raises ValueError where a run tells the facts in other words than the first."""
    (first, run), *others = named.items()
    texts = _texts(run.corpus, facts)
    for name, other in others:
        corpus = other.corpus
        if corpus.n_facts != run.corpus.n_facts or _texts(corpus, facts) != texts:
            raise ValueError(
                f"runs {name!r} tells other facts than {first!r}; allowed: runs of one world, one set of languages and "
                "one seed."
            )


def _texts(corpus: Corpus, facts: Int[np.ndarray, " fact"]) -> list[str]:
    """Prompts and answers, language by language."""
    return [corpus.text(language, fact) for language in range(corpus.n_languages) for fact in facts.tolist()]


def _layers(named: Mapping[str, Run], layers: Sequence[int] | None) -> list[int]:
    """Raises ValueError for none, and for layers that a model has not."""
    most = min(run.experiment.model.n_layers for run in named.values())
    shown = list(range(1, most + 1)) if layers is None else [int(layer) for layer in layers]
    if not shown or not all(0 <= layer <= most for layer in shown):
        raise ValueError(f"layers is {shown}; allowed: one or several from 0 (embedding) to {most}.")
    return shown


def _of_corpus(corpus: Corpus, facts: Int[np.ndarray, " fact"]) -> dict[str, Any]:
    """What runs have in common: words and prompts, by row (language by language)."""
    prompts, due = zip(*(text.split(" → ") for text in _texts(corpus, facts)), strict=True)
    world = corpus.world
    languages = [language.name for language in corpus.languages]
    return {
        "languages": languages,
        "colours": [LANGUAGE_COLOURS[i % len(LANGUAGE_COLOURS)] for i in range(len(languages))],
        "facts": facts.tolist(),
        "names": [
            f"{corpus.languages[0].subjects[world.subject[f]]}, {corpus.languages[0].relations[world.relation[f]]}"
            for f in facts
        ],
        "prompts": prompts,
        "due": due,
        "kinds": KINDS,
        "verdicts": measures.ANSWER_TYPES,
    }


def _of_run(run: Run, facts: Int[np.ndarray, " fact"], layers: Sequence[int]) -> tuple[dict[str, Any], bytes]:
    """Tables of one run, and its frames, step by step: of every layer cosines, then places."""
    questions = Questions(run.corpus, facts)
    order = np.searchsorted(questions.facts, facts)  # questions are sorted by fact
    rows = (np.arange(run.corpus.n_languages)[:, None] * len(facts) + order).ravel()
    words: dict[str, int] = {}
    said, directions = [], []
    for step in run.steps:
        answers = _answers(run, step, questions)
        said.append(_said(run.corpus, questions, answers, rows, words))
        directions.append(torch.stack([answers.states[layer][rows] for layer in layers]))
    units = torch.nn.functional.normalize(torch.stack(directions).double().nan_to_num(), dim=-1)
    frames = [(cosines(unit), places(unit)) for unit in units.transpose(0, 1)]  # by layer, over all steps
    by_step = [b"".join(c[i].tobytes() + p[i].tobytes() for c, p in frames) for i in range(len(run.steps))]
    table = {
        "steps": run.steps,
        "told": _told(run.corpus, facts),
        "kinds": run.corpus.kind[:, facts].ravel().tolist(),
        "words": list(words),
        "said": said,
        "history": _history(run, layers),
    }
    return table, b"".join(by_step)


def _answers(run: Run, step: int, questions: Questions) -> Answers:
    model = run.checkpoint(step)
    return questions.answered_by(lambda tokens, at: run_prompts(model, Prompts(tokens), at, at))


def _said(
    corpus: Corpus, questions: Questions, answers: Answers, rows: Int[np.ndarray, " row"], words: dict[str, int]
) -> dict[str, list[Any]]:
    """By row: the answer's number among `words`, which grows, its first token's probability, its type."""
    texts = [" ".join(w for w in corpus.tokenizer.decode(t) if w not in (PAD, EOS)) for t in answers.tokens.tolist()]
    likely = answers.logits.softmax(-1).amax(-1).numpy()
    return {
        "word": [words.setdefault(texts[row], len(words)) for row in rows],
        "probability": [round(float(likely[row]), 3) for row in rows],
        "verdict": questions.answer_types(answers.tokens)[rows].tolist(),
    }


def _told(corpus: Corpus, facts: Int[np.ndarray, " fact"]) -> list[int | None]:
    """By row: the step from which a fact is told in a language; None where it never is."""
    first = np.full((corpus.n_languages, len(facts)), -1)
    for start, _, exposure in reversed(corpus.stages):
        first[exposure[:, facts] > 0] = start
    held_out = corpus.kind[:, facts] == Copy.HELD_OUT
    return [None if out else int(step) for step, out in zip(first.ravel(), held_out.ravel(), strict=True)]


def _history(run: Run, layers: Sequence[int]) -> dict[str, list[float | None]]:
    """Curves by name, and `unification_<layer>` of the layers; None where there is nothing to measure."""
    columns = ["step", *MEASURES, *(f"unification_{layer}" for layer in layers)]
    table = run.history.reindex(columns=columns)
    return {
        name: [None if np.isnan(value) else round(float(value), 4) for value in column]
        for name, column in table.items()
    }


def cosines(units: Float[Tensor, "step row d_model"]) -> UInt8[np.ndarray, "step pair"]:
    """Cosines of all rows above the diagonal, row by row: 0 is -1, 255 is 1."""
    first, second = torch.triu_indices(units.shape[1], units.shape[1], offset=1)
    cosine = (units @ units.transpose(1, 2))[:, first, second].clamp(-1, 1)
    return ((cosine + 1) * 127.5).round().to(torch.uint8).numpy()


def places(units: Float[Tensor, "step row d_model"]) -> UInt8[np.ndarray, "step row 2"]:
    """Directions in the plane in which those of all steps vary most, so that it stays still: 0 to 255 on both axes."""
    centred = units - units.mean((0, 1))
    plane = torch.linalg.svd(centred.flatten(0, 1), full_matrices=False).Vh[:2]
    plane = plane * plane.gather(1, plane.abs().argmax(1, keepdim=True)).sign()  # which SVD leaves open
    at = torch.nn.functional.pad(centred @ plane.T, (0, 2 - len(plane)))
    return ((at / at.abs().max().clamp_min(1e-9) + 1) * 127.5).round().to(torch.uint8).numpy()
