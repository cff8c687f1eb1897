"""What the data are like, in one table: counts, exposure, informativeness in bits, extractability."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from unifylens.corpus.exposure import KINDS
from unifylens.corpus.language import lexical_distance
from unifylens.corpus.tokenization import PAD_ID
from unifylens.measures.information import conditional_entropy, conditional_mutual_information, mutual_information

if TYPE_CHECKING:  # a corpus hands out its table
    from unifylens.corpus.corpus import Corpus

NATS_PER_BIT = float(np.log(2.0))


def no_knowledge_baseline(corpus: Corpus) -> float:
    """No-knowledge baseline: H(answer | relation, language) in nats per answer token, the loss without any fact."""
    world = corpus.world
    joint = np.zeros((world.n_objects, world.n_relations * corpus.n_languages))
    for language in range(corpus.n_languages):
        np.add.at(joint, (world.object, world.relation * corpus.n_languages + language), corpus.exposure[language])
    n_tokens = corpus.exposure.ravel() @ (corpus.due[0].numpy() != PAD_ID).sum(1)
    return conditional_entropy(joint) * NATS_PER_BIT / float(n_tokens)


def table(corpus: Corpus) -> pd.DataFrame:
    """Counts, exposure, informativeness and extractability in one table: columns value, unit, meaning."""
    world, exposure, kind = corpus.world, corpus.exposure, corpus.kind
    by_subject = np.zeros((world.n_subjects, corpus.n_languages))
    by_relation = np.zeros((world.n_relations, corpus.n_languages))
    for language in range(corpus.n_languages):
        np.add.at(by_subject[:, language], world.subject, exposure[language])
        np.add.at(by_relation[:, language], world.relation, exposure[language])
    rows: list[tuple[str, float, str, str]] = [
        ("subjects", world.n_subjects, "count", "entities that facts are about"),
        ("relations", world.n_relations, "count", "questions that can be asked of a subject"),
        ("objects", world.n_objects, "count", "possible answers, over all relations"),
        ("languages", corpus.n_languages, "count", "languages"),
        ("vocabulary", corpus.d_vocab, "tokens", "distinct tokens, special ones included"),
        ("facts", world.n_facts, "count", "subject-relation-object triples"),
        ("parallel facts", int(corpus.parallel.sum()), "count", "facts seen in more than one language"),
    ]
    for code, name in enumerate(KINDS):
        rows.append((f"{name} copies", int((kind == code).sum()), "count", f"(fact, language) pairs: {name}"))
    for code, name in enumerate(KINDS[:3]):
        share = float(exposure[kind == code].sum())
        rows.append((f"exposure of {name} copies", share, "share", "of all training examples"))
    for language, name in zip(range(corpus.n_languages), (lang.name for lang in corpus.languages), strict=True):
        rows.append((f"exposure of language {name}", float(exposure[language].sum()), "share", "of all examples"))
    rows += [
        (
            "I(fact; language)",
            mutual_information(exposure.T),
            "bits",
            "what a fact tells about its language",
        ),
        (
            "I(object; language | relation)",
            conditional_mutual_information(corpus.object_exposure),
            "bits",
            "what an answer tells about the language, the relation given",
        ),
        (
            "I(subject; language)",
            mutual_information(by_subject),
            "bits",
            "what a subject tells about the language",
        ),
        (
            "I(relation; language)",
            mutual_information(by_relation),
            "bits",
            "what a relation tells about the language",
        ),
        (
            "no-knowledge baseline",
            corpus.baseline,
            "nats",
            "H(answer | relation, language) per answer token: loss without facts",
        ),
    ]
    rows += _extractability(corpus) + _token_costs(corpus)
    return pd.DataFrame(rows, columns=["quantity", "value", "unit", "meaning"]).set_index("quantity")


def _extractability(corpus: Corpus) -> list[tuple[str, float, str, str]]:
    """Rows of the table: how far tokens give the language away."""
    weights = corpus.exposure.ravel()
    tokens = corpus.prompts().numpy()
    revealing = corpus.language_revealing
    share = weights @ (revealing[tokens[:, 1:]].sum(1) / (tokens[:, 1:] != PAD_ID).sum(1))
    known = "belonging to one language only"
    rows = [
        ("language-revealing prompt tokens", share, "share", f"prompt tokens after <bos>, {known}"),
        (
            "language information of a prompt token",
            _token_information(corpus),
            "bits",
            "I(token; language | its position), mean over prompt tokens",
        ),
    ]
    for slot in corpus.slots:
        if slot != "answer":
            share = weights @ revealing[tokens[np.arange(len(tokens)), corpus.positions(slot)]]
            rows.append((f"language-revealing {slot} tokens", share, "share", known))
    due = corpus.due[0].numpy()
    share = weights @ (revealing[due].sum(1) / (due != PAD_ID).sum(1))
    rows.append(("language-revealing answer tokens", share, "share", known))
    used = corpus.tokenizer.languages_of()
    rows.append(("bridge tokens", (used > 1).sum() / (used > 0).sum(), "share", "tokens of several languages' words"))
    distances = [lexical_distance(corpus.languages[0], other) for other in corpus.languages[1:]]
    rows.append(("lexical distance", np.mean(distances), "share", "edits from the first language's words, by letter"))
    return [(name, float(value), unit, meaning) for name, value, unit, meaning in rows]


def _token_information(corpus: Corpus) -> float:
    """Bits about the language in a prompt token of known position, mean over all after `<bos>`."""
    total = share = 0.0
    prompts = [corpus.prompts(template=template).numpy() for template in range(len(corpus.sequences))]
    language = np.repeat(np.arange(corpus.n_languages), corpus.n_facts)
    for at in range(1, max(tokens.shape[1] for tokens in prompts)):
        joint = np.zeros((corpus.d_vocab, corpus.n_languages))
        for tokens in prompts:
            if at < tokens.shape[1]:
                np.add.at(joint, (tokens[:, at], language), corpus.exposure.ravel())
        joint[PAD_ID] = 0  # the prompt has ended
        if joint.any():  # the longest prompts may all be held out
            total += joint.sum() * mutual_information(joint)
            share += joint.sum()
    return total / share


def _token_costs(corpus: Corpus) -> list[tuple[str, float, str, str]]:
    """Rows of the table: how many tokens things take."""
    weights = corpus.exposure.ravel()
    n_prompt = (corpus.prompts().numpy()[:, 1:] != PAD_ID).sum(1)
    n_answer = (corpus.due[0].numpy() != PAD_ID).sum(1)
    rows = [
        ("tokens per prompt", weights @ n_prompt, "tokens", "mean, after <bos>"),
        ("tokens per answer", weights @ n_answer, "tokens", "mean, with the end of the answer where it has one"),
    ]
    lengths = [np.mean([len(ids) for ids in table.values()]) for table in corpus.tokenizer.words]
    for language, length in zip(corpus.languages, lengths, strict=True):
        premium = f"token premium: {length / lengths[0]:.2f} times language {corpus.languages[0].name}"
        rows.append((f"tokens per word of language {language.name}", length, "tokens", premium))
    return [(name, float(value), unit, meaning) for name, value, unit, meaning in rows]
