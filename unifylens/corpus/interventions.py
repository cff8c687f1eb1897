"""Interventions: take a corpus, turn its data or its words, get a new corpus. What turns transfer up and down.

All are `Corpus -> Corpus`, leave the world as it is, and act on every stage of exposure. The number of training
examples stays what it was (exposure sums to one), so what one fact gains others lose. A larger share contains what a
smaller one of the same seed chose. `share=0` changes nothing. `code_switch` or `translate_in_context` comes last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, get_args

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from unifylens.arguments import numbers
from unifylens.config import Intervention, TokenizerConfig, WordKind
from unifylens.corpus.exposure import object_homes
from unifylens.corpus.language import Language
from unifylens.corpus.tokenization import make_tokenizer
from unifylens.errors import suggest
from unifylens.seeds import rng

if TYPE_CHECKING:  # `Corpus.build` applies interventions, and torch loads slowly
    from torch import Tensor

    from unifylens.corpus.corpus import Corpus


P = ParamSpec("P")


def _of_a_corpus(function: Callable[Concatenate[Corpus, P], Corpus]) -> Callable[Concatenate[Corpus, P], Corpus]:
    """The function, which refuses what is no corpus: an experiment is settings of one."""

    @wraps(function)
    def checked(corpus: Corpus, *args: P.args, **options: P.kwargs) -> Corpus:
        from unifylens.corpus.corpus import Corpus  # whose `build` applies interventions

        if not isinstance(corpus, Corpus):
            hint = "; of an experiment it is ul.build_corpus(experiment), of a run run.corpus"
            raise TypeError(f"{function.__name__}: corpus is a {type(corpus).__name__}; allowed: a Corpus{hint}.")
        return function(corpus, *args, **options)

    return checked


def apply(corpus: Corpus, intervention: Intervention, seed: int = 0) -> Corpus:
    """The corpus after one intervention, given as settings. Raises what the intervention raises."""
    function = globals()[intervention.name]
    draws = {"seed": seed} if "seed" in function.__annotations__ else {}
    return function(corpus, **intervention.parameters(), **draws)


# --- data: which fact is said in which language, how often -----------------------------------------------------


@_of_a_corpus
def balance_objects(corpus: Corpus, share: float = 1.0, seed: int = 0) -> Corpus:
    """Deal the monolingual facts of every object evenly to the languages, moving as few facts as that needs.

    I(object; language | relation) falls without any more parallel data (the paper's way to raise transfer). `share` is
    of the facts to be moved. What also moves: the exposure of each language, where it was uneven.

    >>> corpus = ul.Corpus.build(ul.Experiment(corpus=ul.CorpusConfig(object_skew=0.5)))
    >>> balanced = ul.interventions.balance_objects(corpus)
    >>> ul.interventions.effects(corpus, balanced).loc["I(object; language | relation)", ["before", "after"]].round(2)
    before    0.06
    after     0.00
    Name: I(object; language | relation), dtype: float64
    """
    world, n_languages, alone = corpus.world, corpus.n_languages, _monolingual(corpus, "balance_objects")
    draw = rng(seed, "balance objects")
    order = draw.permutation(corpus.n_facts)
    homes = corpus.home.copy()
    for thing in range(world.n_objects):
        facts = order[alone[order] & (world.object[order] == thing)]
        counts = np.bincount(corpus.home[facts], minlength=n_languages)
        quota = np.full(n_languages, len(facts) // n_languages)
        shuffled = draw.permutation(n_languages)  # who keeps one more is the languages' with most, ties at random
        quota[shuffled[np.argsort(-counts[shuffled], kind="stable")][: len(facts) % n_languages]] += 1
        surplus = [facts[corpus.home[facts] == language][quota[language] :] for language in range(n_languages)]
        homes[np.concatenate(surplus)] = np.repeat(np.arange(n_languages), np.maximum(quota - counts, 0))
    return _rehomed(corpus, _first(homes != corpus.home, share, order), homes)


@_of_a_corpus
def tie_objects(corpus: Corpus, share: float = 1.0, seed: int = 0) -> Corpus:
    """Tie monolingual facts to a language by their object: the opposite of `balance_objects`.

    Every relation's objects are dealt out to the languages, and `share` of the monolingual facts that are said
    elsewhere move there. I(object; language | relation) rises. What also moves: little, as each language gets as many
    objects.
    """
    alone = _monolingual(corpus, "tie_objects")
    homes = np.where(alone, object_homes(corpus.world, corpus.n_languages, seed)[corpus.world.object], corpus.home)
    order = rng(seed, "tie objects").permutation(corpus.n_facts)
    return _rehomed(corpus, _first(homes != corpus.home, share, order), homes)


@_of_a_corpus
def add_parallel(corpus: Corpus, share: float, seed: int = 0) -> Corpus:
    """Say that share of the monolingual facts in every language, as often as at home (reviews of the paper).

    What also moves: every copy is seen less often, as there are more copies in as many training examples.
    """
    alone = _monolingual(corpus, "add_parallel")
    chosen = _first(alone, share, rng(seed, "parallel facts").permutation(corpus.n_facts))
    return _exposed(corpus, [np.where(chosen, exposure.sum(0), exposure) for _, _, exposure in corpus.stages])


@_of_a_corpus
def remove_parallel(corpus: Corpus, share: float = 1.0, seed: int = 0) -> Corpus:
    """Leave that share of the parallel facts with their home copy alone, seen as often as a copy of it was on average.

    Undoes `add_parallel`. What also moves: every other copy is seen more often.
    """
    parallel = _parallel(corpus, "remove_parallel")
    chosen = _first(parallel, share, rng(seed, "parallel facts").permutation(corpus.n_facts)[::-1])
    at_home = np.arange(corpus.n_languages)[:, None] == corpus.home
    alone = [exposure.sum(0) / np.maximum((exposure > 0).sum(0), 1) * at_home for _, _, exposure in corpus.stages]
    return _exposed(
        corpus,
        [np.where(chosen, home, exposure) for home, (_, _, exposure) in zip(alone, corpus.stages, strict=True)],
    )


@_of_a_corpus
def rebalance_exposure(corpus: Corpus, balance: float) -> Corpus:
    """Spread that share of each parallel fact's exposure evenly over its languages; the rest goes to its home.

    1 makes I(fact; language) of parallel facts zero, little makes it large, with as many examples of each fact.
    What also moves: copies that are seen less often may not be learnt in time. Raises ValueError for `balance=0`.
    """
    parallel = _parallel(corpus, "rebalance_exposure")
    if not 0 < balance <= 1:
        raise ValueError(f"balance={balance}: allowed is more than 0 (that is remove_parallel), up to 1.")
    at_home = np.arange(corpus.n_languages)[:, None] == corpus.home
    tables = []
    for _, _, exposure in corpus.stages:
        seen, total = exposure > 0, exposure.sum(0)
        moved = total * (balance * seen / np.maximum(seen.sum(0), 1) + (1 - balance) * at_home)
        tables.append(np.where(parallel & (seen.sum(0) > 1), moved, exposure))
    return _exposed(corpus, tables)


@_of_a_corpus
def leave_out(corpus: Corpus, rows: ArrayLike | Tensor) -> Corpus:
    """Never tell these rows (`language * n_facts + fact`), copies of facts; all others are told more often.

    A fact that is told elsewhere alone has its home there from now on; one that is told nowhere keeps its home.
    Raises ValueError for rows that are not there or never told, and where nothing would be left at some step.
    """
    chosen = np.zeros(corpus.n_rows, dtype=bool)
    chosen[numbers(rows, corpus.n_rows, "rows", "the corpus")] = True
    if len(unseen := np.flatnonzero(chosen & ~corpus.seen.ravel())):
        raise ValueError(
            f"leave_out: rows={unseen[0]} is held out already; allowed: the {corpus.seen.sum()} rows that are told."
        )
    tables = [np.where(chosen.reshape(corpus.seen.shape), 0.0, exposure) for _, _, exposure in corpus.stages]
    if not all(table.any() for table in tables):
        raise ValueError("leave_out: rows are all that is told at some step; allowed: fewer.")
    new = _exposed(corpus, tables)
    at_home = new.seen[corpus.home, np.arange(corpus.n_facts)]
    moved = new.seen.any(0) & ~at_home
    return new.replace(home=np.where(moved, new.exposure.argmax(0), corpus.home))


@_of_a_corpus
def code_switch(corpus: Corpus, share: float, seed: int = 0) -> Corpus:
    """Put another language's word for the subject into that share of the training examples in which it is another word.

    Everything else of the example, the answer too, stays in its own language (mixed-language training: 'Knowledge
    Barriers', 2406.16135). An example that is switched is switched every second time, so at most half of all are. What
    also moves: prompts in a language's own words are seen less often. No other intervention can follow.
    Raises ValueError where subjects' words are the same, or nothing but them tells the language.
    """
    _check_share("share", share)
    if share > 0.5:
        raise ValueError(f"share={share}: allowed is 0 to 0.5, as every fact is also seen in its language's own words.")
    n_languages, subject = corpus.n_languages, corpus.world.subject
    draw = rng(seed, "code switch")
    order = draw.permutation(corpus.n_rows)
    shift = draw.integers(1, n_languages, size=(n_languages, corpus.n_facts))
    words = np.array([language.subjects for language in corpus.languages])
    own = np.arange(n_languages)[:, None]
    can = (words[own, subject] != words[(own + shift) % n_languages, subject]) & corpus.seen
    if not can.any():
        raise ValueError("code_switch: the words of all subjects are the same in all languages: none can be switched.")
    switched = np.where(_every_second(np.where(can, corpus.exposure, 0.0), share, order), shift, 0)
    try:
        new = _changed(corpus, switched=switched)
        _refuse_prompts_of_another_language(new)
    except ValueError as error:
        raise ValueError(
            f"code_switch(share={share}): {error} Relations' words must differ, or prompts name their language "
            "(add_language_token)."
        ) from None
    return new


@_of_a_corpus
def translate_in_context(corpus: Corpus, share: float, seed: int = 0) -> Corpus:
    """Tell a fact in another of its languages first, in the same prompt, in that share of parallel facts' examples.

    Translation language modelling (TLM: Conneau and Lample 2019, 1901.07291; within InfoXLM) in the dish, where with
    `train.loss="answer"` only the answer at the end is learnt. An example chosen is told so every second time, so at
    most half of all are. What also moves: prompts of one telling are seen less often, and the longest are about twice
    as long. No other intervention can follow. Raises ValueError where no fact is parallel.
    """
    _check_share("share", share)
    if share > 0.5:
        raise ValueError(f"share={share}: allowed is 0 to 0.5, as every fact is also told alone.")
    parallel = _parallel(corpus, "translate_in_context")
    draw = rng(seed, "translate in context")
    order = draw.permutation(corpus.n_rows)
    others = draw.random((corpus.n_languages, corpus.n_languages, corpus.n_facts))  # by language, and how far on
    for language in range(corpus.n_languages):
        others[language] += np.roll(corpus.seen, -language, axis=0)
    others[:, 0] = 0.0
    shift = others.argmax(1)
    weight = np.where(parallel & corpus.seen, corpus.exposure, 0.0)
    return _changed(corpus, preceded=np.where(_every_second(weight, share, order), shift, 0))


# --- words and tokens ------------------------------------------------------------------------------------------


@_of_a_corpus
def share_words(corpus: Corpus, share: float, kind: WordKind = "subjects", seed: int = 0) -> Corpus:
    """Say that share of the words that still differ between languages in the first language's word in all of them.

    `kind` is subjects, relations, objects or function_words. Anchors (the paper; mOthello, 2404.12444).
    What also moves: the vocabulary shrinks, and each shared word is seen more often; where only part of the vocabulary
    is merged, which tokens are is drawn anew.
    Raises ValueError if there is no such word, all are the same, or two languages' prompts would become alike.
    """
    if kind not in get_args(WordKind):
        raise ValueError(f"kind={kind!r}.{suggest(str(kind), list(get_args(WordKind)))}")
    names = [_words(language, kind) for language in corpus.languages]
    differ = np.array([len(set(of_one)) > 1 for of_one in zip(*names, strict=True)], dtype=bool)
    if not differ.any():
        raise ValueError(f"share_words: all {len(differ)} {kind} have the same words in all languages already.")
    chosen = _first(differ, share, rng(seed, f"shared {kind}").permutation(len(differ)))
    if corpus.tokenizer.config.shared_tokens == 0:
        raise ValueError("share_words: every token is marked by language, so no word can be shared; see mark_language.")
    languages = []
    for language, own in zip(corpus.languages, names, strict=True):
        words = tuple(first if same else word for first, word, same in zip(names[0], own, chosen, strict=True))
        value = dict(zip(language.function_words, words, strict=True)) if kind == "function_words" else words
        languages.append(replace(language, **{kind: value}))
    return _respelled(corpus, f"share_words(share={share}, kind={kind!r})", corpus.tokenizer.config, seed, languages)


@_of_a_corpus
def pivot_answers(corpus: Corpus, seed: int = 0) -> Corpus:
    """Answer in the first language's word, then in the language's own: two words, in the first language the same twice.

    Pivot answers, as "quote and think" has them. What also moves: an answer is right only if both of its words are.
    Raises ValueError where objects' names have several words already, or languages share no token.
    """
    several = [name for language in corpus.languages for name in language.objects if " " in name]
    if several:
        raise ValueError(f"pivot_answers: {several[0]!r} has several words already; allowed: objects of one word.")
    if corpus.tokenizer.config.shared_tokens == 0:
        raise ValueError(
            "pivot_answers: every token is marked by language, so no word is another's; see mark_language."
        )
    first = corpus.languages[0].objects
    languages = [
        replace(language, objects=tuple(f"{pivot} {own}" for pivot, own in zip(first, language.objects, strict=True)))
        for language in corpus.languages
    ]
    return _respelled(corpus, "pivot_answers", corpus.tokenizer.config, seed, languages)


@_of_a_corpus
def retokenize(corpus: Corpus, tokenizer: TokenizerConfig, seed: int = 0) -> Corpus:
    """Cut the same words into other tokens (the paper; 'In-Vitro', 2605.26683: what keeps shared substructure).

    What also moves: the number of tokens of prompts and answers, the vocabulary, and so the model's size.
    Raises what `Tokenizer.for_languages` raises, and ValueError if two languages' prompts would become alike.
    """
    return _respelled(corpus, "retokenize", tokenizer, seed)


@_of_a_corpus
def mark_language(corpus: Corpus, seed: int = 0) -> Corpus:
    """Mark every token by its language, so that languages share none (split vocabularies; the paper's extractability).

    What also moves: the vocabulary grows. Raises ValueError if every token is marked already.
    """
    if not (corpus.tokenizer.languages_of() > 1).any():
        raise ValueError("mark_language: the languages share no token already.")
    return _respelled(corpus, "mark_language", _sharing(corpus, 0.0), seed)


@_of_a_corpus
def merge_vocabularies(corpus: Corpus, share: float = 1.0, seed: int = 0) -> Corpus:
    """Take the language's mark off that share of the tokens that are marked and stand in several languages.

    Undoes `mark_language`. What also moves: the vocabulary shrinks, and each merged token is seen more often.
    Raises ValueError if no token is marked, or two languages' prompts would become alike.
    """
    _check_share("share", share)
    before = corpus.tokenizer.config.shared_tokens
    if before == 1:
        raise ValueError("merge_vocabularies: no token is marked by language.")
    return _respelled(
        corpus, f"merge_vocabularies(share={share})", _sharing(corpus, before + share * (1 - before)), seed
    )


@_of_a_corpus
def add_language_token(corpus: Corpus) -> Corpus:
    """Name the language by a token in front of every prompt. What also moves: prompts are one token longer.

    Raises ValueError if something in front of prompts tells the language already.
    """
    if corpus.language_token or corpus.language_cue != "none":
        raise ValueError("add_language_token: a token or a cue in front of every prompt tells its language already.")
    return _changed(corpus, language_token=True)


@_of_a_corpus
def remove_language_token(corpus: Corpus) -> Corpus:
    """Take away the token that names the language. What also moves: prompts are one token shorter.

    Raises ValueError if there is none, or two languages' prompts would become alike.
    """
    if not corpus.language_token:
        raise ValueError("remove_language_token: no prompt has a language token.")
    try:
        return _changed(corpus, language_token=False)
    except ValueError as error:
        raise ValueError(f"remove_language_token: {error}") from None


# --- what an intervention did ----------------------------------------------------------------------------------


def effects(before: Corpus, after: Corpus) -> pd.DataFrame:
    """Statistics before and after an intervention: columns before, after, change, moved, unit, meaning.

    The rows of `Corpus.statistics()`, and the shares of examples that are code-switched or told in two languages.
    Raises ValueError if the two are not about the same facts.
    """
    if not np.array_equal(before.world.facts, after.world.facts):
        raise ValueError(
            f"before has {before.n_facts} facts, after {after.n_facts}, and they differ; allowed: one world for both."
        )
    tables = [corpus.statistics() for corpus in (before, after)]
    for table, corpus in zip(tables, (before, after), strict=True):
        for name, every_second, what in (
            ("code-switched examples", corpus.switched, "with another language's word for the subject"),
            ("examples told in two languages", corpus.preceded, "behind the same fact in another language"),
        ):
            share = 0.0 if every_second is None else 0.5 * float(corpus.exposure[every_second > 0].sum())
            table.loc[name] = [share, "share", f"of all: {what}"]
    rows = list(dict.fromkeys([*tables[0].index, *tables[1].index]))
    out = pd.DataFrame({name: t["value"].reindex(rows) for name, t in zip(("before", "after"), tables, strict=True)})
    out["change"] = (out["after"] - out["before"]).where(lambda change: change.abs() > 1e-9, 0.0)
    out["change"] = out["change"].where(out[["before", "after"]].notna().all(axis=1))
    out["moved"] = out["change"] != 0  # also where a row is there on one side only
    for name in ("unit", "meaning"):
        out[name] = tables[1][name].reindex(rows).fillna(tables[0][name].reindex(rows))
    return out


# --- helpers ---------------------------------------------------------------------------------------------------


def _check_share(name: str, share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"{name}={share}: allowed is 0 to 1.")


def _first(candidates: Bool[np.ndarray, " n"], share: float, order: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """That share of the candidates: those that come first in the order."""
    _check_share("share", share)
    ordered = order[candidates[order]]
    chosen = np.zeros_like(candidates)
    chosen[ordered[: round(share * len(ordered))]] = True
    return chosen


def _every_second(
    weight: Float[np.ndarray, "language fact"], share: float, order: Int[np.ndarray, " row"]
) -> Bool[np.ndarray, "language fact"]:
    """Rows of so much of the weight, in this order, that every second example of them is that share of it all."""
    ordered = weight.ravel()[order]
    chosen = np.empty(len(order), dtype=bool)
    chosen[order] = (ordered > 0) & (ordered.cumsum() <= 2 * share * ordered.sum() + 1e-12)
    return chosen.reshape(weight.shape)


def _monolingual(corpus: Corpus, name: str) -> Bool[np.ndarray, " fact"]:
    if corpus.parallel.all():
        raise ValueError(f"{name}: all {corpus.n_facts} facts are parallel; it needs facts seen in one language only.")
    return ~corpus.parallel


def _parallel(corpus: Corpus, name: str) -> Bool[np.ndarray, " fact"]:
    if not corpus.parallel.any():
        raise ValueError(f"{name}: no fact is parallel; it needs facts seen in more than one language.")
    return corpus.parallel


def _changed(corpus: Corpus, **parts: Any) -> Corpus:
    """The corpus with some parts changed, if nothing is switched in it, or told in two languages at once."""
    for table, name, what in (
        (corpus.switched, "code_switch", "code-switched"),
        (corpus.preceded, "translate_in_context", "told in two languages at once"),
    ):
        if table is not None:
            raise ValueError(f"the corpus is {what}; allowed: {name} once, and after all other interventions.")
    return corpus.replace(**parts)


def _sharing(corpus: Corpus, share: float) -> TokenizerConfig:
    return corpus.tokenizer.config.model_copy(update={"shared_tokens": share})


def _respelled(
    corpus: Corpus, name: str, config: TokenizerConfig, seed: int, languages: Sequence[Language] | None = None
) -> Corpus:
    """The corpus with other tokens, and other words if `languages` says so; what goes wrong is told by name."""
    languages = tuple(languages or corpus.languages)
    try:
        tokenizer = make_tokenizer(corpus.world, languages, config, corpus.language_cue, seed)
        return _changed(corpus, languages=languages, tokenizer=tokenizer)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _exposed(corpus: Corpus, tables: list[Float[np.ndarray, "language fact"]]) -> Corpus:
    """The corpus with other exposures, stage by stage, each made to sum to one."""
    stages = [(start, stop, table / table.sum()) for (start, stop, _), table in zip(corpus.stages, tables, strict=True)]
    return _changed(corpus, stages=stages)


def _rehomed(corpus: Corpus, facts: Bool[np.ndarray, " fact"], homes: Int[np.ndarray, " fact"]) -> Corpus:
    """The corpus with some monolingual facts said in another language, as often as before."""
    there = np.arange(corpus.n_languages)[:, None] == homes
    tables = [np.where(facts, exposure.sum(0) * there, exposure) for _, _, exposure in corpus.stages]
    return _exposed(corpus, tables).replace(home=np.where(facts, homes, corpus.home))


def _words(language: Language, kind: WordKind) -> tuple[str, ...]:
    words = getattr(language, kind)
    return tuple(words.values()) if kind == "function_words" else words


def _refuse_prompts_of_another_language(corpus: Corpus) -> None:
    """Raise ValueError if a switched prompt is what another language says in its own words."""
    half = len(corpus.sequences) // 2
    language = np.repeat(np.arange(corpus.n_languages), corpus.n_facts)
    for template in range(half):
        pair = [pd.DataFrame(corpus.prompts(template=t).numpy()) for t in (template, template + half)]
        of = pd.concat(pair).fillna(0).assign(language=np.tile(language, 2))
        owners = of.groupby(list(of.columns[:-1]))["language"].nunique()
        if (owners > 1).any():
            raise ValueError(f"{int((owners > 1).sum())} prompts become the same in two languages.")
