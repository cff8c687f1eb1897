"""Who sees which fact in which language: properties over all dials, and statistics counted by hand."""

import math
import re
from collections import defaultdict

import numpy as np
import pytest
import torch
from conftest import forget_corpora, quietly, tiny
from hypothesis import given
from hypothesis import strategies as st

import unifylens as ul
from unifylens.config import TEMPLATES
from unifylens.corpus.corpus import Corpus
from unifylens.corpus.exposure import KINDS, parallel_window
from unifylens.corpus.world import World

shares = st.integers(0, 20).map(lambda k: k / 20)
seeds = st.integers(0, 50)


@st.composite
def corpora(draw, **fixed):
    """Dials of a corpus, less those that others leave nothing to decide."""
    dials = {
        "parallel": draw(shares),
        "parallel_unit": draw(st.sampled_from(["fact", "subject"])),
        "exposure_balance": draw(shares),
        "copy_exposure": draw(st.sampled_from([0.0, 0.3, 1.0, 2.5])),
        "parallel_exposure": draw(st.sampled_from([0.2, 1.0, 3.0])),
        "object_skew": draw(shares),
        "home_bias": draw(shares),
        "relation_bias": draw(shares),
        **fixed,
    }
    if dials["exposure_balance"] == 0:
        dials["copy_exposure"] = 1.0
    if dials["object_skew"] == dials["exposure_balance"] == dials["copy_exposure"] == 1:
        dials |= {"home_bias": 0.0, "relation_bias": 0.0}
    if dials["home_bias"] == 1:
        dials["relation_bias"] = 0.0
    return ul.CorpusConfig(**dials)


@st.composite
def experiments(draw, max_changes=2):
    """All dials of the data; words are shared only as far as prompts stay different."""
    language_token = draw(st.booleans())
    steps = sorted(draw(st.sets(st.integers(1, 39), max_size=max_changes)))
    n_relations, n_languages = draw(st.integers(1, 4)), draw(st.integers(2, 4))
    fixed = {"relation_bias": 0.0} if n_relations < n_languages else {}
    return tiny(
        world=ul.WorldConfig(
            n_subjects=draw(st.integers(2, 14)), n_relations=n_relations, n_objects=draw(st.integers(2, 5))
        ),
        language=ul.LanguageConfig(
            n_languages=n_languages,
            shared_subjects=draw(shares),
            shared_relations=draw(shares) if language_token else 0.0,
            shared_objects=draw(shares),
            shared_function_words=draw(shares),
            subject_words=draw(st.integers(1, 3)),
            language_token=language_token,
            templates=tuple(draw(st.lists(st.sampled_from(list(TEMPLATES)), min_size=1, max_size=3))),
        ),
        corpus=draw(corpora(**fixed)),
        changes=tuple(ul.CorpusChange(step=step, corpus=draw(corpora(**fixed))) for step in steps),
        seed=draw(seeds),
    )


# --- who sees what -------------------------------------------------------------------------------------------


@given(experiments())
def test_every_fact_is_seen_somewhere_and_has_one_kind_everywhere(experiment):
    corpus = Corpus.build(experiment)
    assert corpus.seen.any(0).all()
    kind = np.array(KINDS)[corpus.kind]
    assert ((kind == "held-out") == ~corpus.seen).all()
    for fact in range(corpus.n_facts):
        kinds = kind[:, fact].tolist()
        home = kinds[corpus.home[fact]]
        rest = set(kinds[: corpus.home[fact]] + kinds[corpus.home[fact] + 1 :])
        if corpus.parallel[fact]:
            assert home == "majority" and "minority" in rest <= {"minority", "held-out"}
        else:
            assert home == "monolingual" and rest == {"held-out"}
    table = corpus.statistics()["value"]
    assert sum(table[f"{name} copies"] for name in KINDS) == corpus.n_rows
    assert sum(table[f"exposure of {name} copies"] for name in KINDS[:3]) == pytest.approx(1.0)


@given(experiments())
def test_exposures_are_what_the_dials_say(experiment):
    corpus = Corpus.build(experiment)
    n, n_languages = corpus.n_facts, corpus.n_languages
    assert corpus.exposure.sum() == pytest.approx(1.0)
    assert len(corpus.stages) == 1 + len(experiment.changes)
    over_run = np.zeros_like(corpus.exposure)
    for (start, stop, exposure), (_, _, config) in zip(corpus.stages, experiment.stages(), strict=True):
        assert exposure.sum() == pytest.approx(1.0) and (exposure >= 0).all()
        over_run += exposure * (stop - start) / experiment.train.steps
        # what a home copy of a parallel fact weighs, and each of its other copies, beside a monolingual fact
        at_home = config.parallel_exposure * (config.exposure_balance + (1 - config.exposure_balance) * n_languages)
        away = config.parallel_exposure * config.exposure_balance * config.copy_exposure
        n_parallel = round(config.parallel * n)
        unit = 1 / (n_parallel * (at_home + away * (n_languages - 1)) + (n - n_parallel))
        expected = sorted(
            [unit * at_home] * n_parallel
            + [unit * away] * n_parallel * (n_languages - 1)
            + [unit] * (n - n_parallel)
            + [0.0] * (n - n_parallel) * (n_languages - 1)
        )
        np.testing.assert_allclose(np.sort(exposure, axis=None), expected, rtol=1e-9, atol=1e-15)
        parallel = (exposure > 0).sum(0) > 1
        assert parallel.sum() == (n_parallel if away else 0)
        if config.parallel_unit == "subject":
            of_subject = parallel.reshape(corpus.world.n_subjects, -1).mean(1)
            assert ((of_subject > 0) & (of_subject < 1)).sum() <= 1  # whole subjects, but for the last
    np.testing.assert_allclose(corpus.exposure, over_run, atol=1e-15)


@given(st.integers(0, 72), seeds)
def test_parallel_facts_can_be_counted_instead(n_parallel, seed):
    counted = tiny(**{"corpus.parallel": 0.3, "corpus.n_parallel": n_parallel, "seed": seed})
    assert Corpus.build(counted).parallel.sum() == n_parallel


@given(experiments(max_changes=0), shares)
def test_raising_the_parallel_share_moves_only_the_facts_it_must(experiment, other):
    dials = {"corpus.exposure_balance": 1.0, "corpus.copy_exposure": 1.0, "corpus.parallel_exposure": 1.0}
    dials["corpus.object_skew"] = min(experiment.corpus.object_skew, 0.95)
    low, high = (
        Corpus.build(experiment.replace(**dials, **{"corpus.parallel": share}))
        for share in sorted([experiment.corpus.parallel, other])
    )
    assert not (low.parallel & ~high.parallel).any()
    same = low.parallel == high.parallel
    assert (low.home[same] == high.home[same]).all()
    if experiment.corpus.object_skew == 0:
        assert (low.home == high.home).all()
    assert (low.world.facts == high.world.facts).all() and low.languages == high.languages


@given(experiments(max_changes=0), shares)
def test_the_object_skew_moves_monolingual_facts_to_their_objects_home(experiment, other):
    experiment = experiment.replace(**{"corpus.home_bias": 0.0, "corpus.relation_bias": 0.0})
    full = Corpus.build(experiment.replace(**{"corpus.object_skew": 1.0})).home
    low, high = (
        Corpus.build(experiment.replace(**{"corpus.object_skew": share}))
        for share in sorted([experiment.corpus.object_skew, other])
    )
    moved = low.home != high.home
    assert not (moved & low.parallel).any()
    assert (high.home == full)[moved].all()


@given(seeds, st.sampled_from([2, 4]), st.integers(1, 3))
def test_a_full_object_skew_makes_answers_tell_the_language(seed, n_objects, n_relations):
    world = {"world.n_objects": n_objects, "world.n_relations": n_relations}
    experiment = tiny(**world, **{"corpus.parallel": 0.0, "corpus.object_skew": 1.0, "seed": seed})
    told = Corpus.build(experiment).statistics()["value"]
    assert told["I(object; language | relation)"] == pytest.approx(1.0)
    assert told["I(fact; language)"] == pytest.approx(1.0)
    untold = Corpus.build(experiment.replace(**{"corpus.parallel": 1.0})).statistics()["value"]
    assert untold["I(object; language | relation)"] == pytest.approx(0.0, abs=1e-9)
    assert untold["I(fact; language)"] == pytest.approx(0.0, abs=1e-9)


@given(seeds, st.integers(2, 4))
def test_a_full_home_bias_gives_every_subject_one_home(seed, n_languages):
    dials = {"language.n_languages": n_languages, "corpus.home_bias": 1.0, "corpus.parallel": 0.0, "seed": seed}
    corpus = Corpus.build(tiny(**dials))
    homes = corpus.home.reshape(corpus.world.n_subjects, -1)
    assert (homes == homes[:, :1]).all()
    assert np.ptp(np.bincount(homes[:, 0], minlength=n_languages)) <= 1
    entropy = -sum(p * math.log2(p) for p in np.bincount(homes[:, 0]) / len(homes))
    assert corpus.statistics().loc["I(subject; language)", "value"] == pytest.approx(entropy)


@given(seeds, st.integers(2, 3))
def test_a_full_relation_bias_gives_every_relation_one_home(seed, n_languages):
    dials = {"language.n_languages": n_languages, "corpus.relation_bias": 1.0, "corpus.parallel": 0.0, "seed": seed}
    corpus = Corpus.build(tiny(**dials, **{"world.n_relations": 6}))
    homes = corpus.home.reshape(corpus.world.n_subjects, -1)
    assert (homes == homes[0]).all() and set(np.bincount(homes[0])) == {6 // n_languages}
    told = corpus.statistics()["value"]
    assert told["I(relation; language)"] == pytest.approx(math.log2(n_languages))
    assert told["I(subject; language)"] == pytest.approx(0.0, abs=1e-9)


@given(st.tuples(shares, shares), st.sampled_from([("subject", "home_bias"), ("relation", "relation_bias")]), seeds)
def test_a_bias_moves_facts_to_one_home_and_leaves_the_other_dials_facts(levels, dial, seed):
    about, name = dial
    others = {"corpus.object_skew": 0.4, "corpus.home_bias": 0.3, "corpus.relation_bias": 0.2, "seed": seed}
    low, high = (Corpus.build(tiny(**others | {f"corpus.{name}": min(share, 0.95)})) for share in sorted(levels))
    moved = low.home != high.home
    of = getattr(high.world, about)
    assert all(len(set(high.home[moved & (of == one)])) <= 1 for one in set(of)), "each to its subject's or relation's"
    none = Corpus.build(tiny(**others | {"corpus.home_bias": 0.0, "corpus.relation_bias": 0.0}))
    without = Corpus.build(
        tiny(**others | {"corpus.home_bias": 0.0, "corpus.relation_bias": 0.0, "corpus.object_skew": 0})
    )
    by_object = none.home != without.home
    assert (low.home == high.home)[by_object].all(), "the object comes first"


def test_languages_are_told_in_order():
    dials = dict(tiny().corpus) | {"language_exposure": None}
    first, both = (ul.CorpusConfig(**dials | {"language_exposure": f}) for f in ((1, 0), (0.25, 0.75)))
    change = ul.CorpusChange(step=20, corpus=both)
    plain, ordered = ul.build_corpus(tiny()), ul.build_corpus(tiny(corpus=first, changes=(change,)))
    (_, stop, early), (start, _, late) = ordered.stages
    assert stop == start == 20 and not early[1].any()
    for exposure, factors in ((early, (1, 0)), (late, (0.25, 0.75))):
        expected = plain.exposure * np.array(factors)[:, None]
        np.testing.assert_allclose(exposure, expected / expected.sum())
    assert (ordered.kind == plain.kind).all() and (ordered.home == plain.home).all()


@pytest.mark.parametrize(
    ("exposures", "told"),
    [
        (((1.0, 1.0, 1.0),), r"corpus.language_exposure=\(1.0, 1.0, 1.0\) has 3 numbers; allowed: 2, one for each"),
        ((None, (1.0,) * 3), r"changes\[0\].corpus.language_exposure=.* has 3 numbers; allowed: 2"),
        (((1.0, 0.0),), "corpus.language_exposure leaves out language 1 to the end; allowed: a number above 0"),
        (((1.0, 0.0), (2.0, 0.0)), "corpus.language_exposure leaves out language 1 to the end"),
        (((0.0, 0.0),), r"language_exposure=\(0.0, 0.0\) leaves nothing to learn; allowed: one above 0"),
        (((-1.0, 1.0),), r"language_exposure\[0\]=-1.0; allowed: tuple, 2 to 100 of: number from 0 to"),
    ],
)
def test_languages_that_are_never_told_are_refused(exposures, told):
    with pytest.raises(ValueError, match=told):
        first, *later = (ul.CorpusConfig(language_exposure=each) for each in exposures)
        tiny(corpus=first, changes=tuple(ul.CorpusChange(step=20, corpus=each) for each in later))


@pytest.mark.parametrize("of", [None, 0, 1])
def test_late_languages_are_told_copies_of_facts_of_the_first_ones(of):
    late = ul.LateLanguages(n=2, share=0.5, of=of)
    one = Corpus.build(tiny())
    corpus = Corpus.build(tiny(**{"language.n_languages": 4, "corpus.late": late}))
    assert (corpus.home == one.home).all() and corpus.home.max() == 1, "no fact is at home there"
    np.testing.assert_allclose(corpus.exposure[:2] / corpus.exposure[:2].sum(), one.exposure)
    drawn = np.ones(one.n_facts, dtype=bool) if of is None else one.home == of
    for row in (2, 3):
        told = corpus.seen[row]
        assert told.sum() == drawn.sum() // 2 and not (told & ~drawn).any()
        assert corpus.exposure[row][told] == pytest.approx(1 / 4 / told.sum()), "evenly, as much as the others' mean"
    assert (corpus.parallel == (one.parallel | corpus.seen[2])).all() and (corpus.seen[2] == corpus.seen[3]).all()
    less = Corpus.build(tiny(**{"language.n_languages": 4, "corpus.late": late.model_copy(update={"share": 0.25})}))
    assert not (less.seen[2] & ~corpus.seen[2]).any(), "a larger share keeps the smaller one's facts"
    replayed = Corpus.build(
        tiny(**{"language.n_languages": 4, "corpus.late": late, "corpus.language_exposure": (0.1, 0.1, 0.4, 0.4)})
    )
    assert replayed.exposure[:2].sum() == pytest.approx(0.2), "a factor is a share of the examples"


def test_a_share_of_late_facts_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"corpus.late.share=0.001 of 72 facts is none; allowed: a share that tells"):
        Corpus.build(tiny(**{"corpus.late": ul.LateLanguages(share=0.001)}))
    with pytest.raises(ValueError, match=r"corpus.late=LateLanguages\(\): parallel_window cannot keep"):
        ul.parallel_window(tiny(**{"corpus.late": ul.LateLanguages()}), 0, 20)


@given(st.sampled_from([0.2, 0.5, 4.0]), seeds)
def test_parallel_exposure_moves_every_copy_of_parallel_facts_alike(factor, seed):
    one, other = (Corpus.build(tiny(**{"corpus.parallel_exposure": f, "seed": seed})) for f in (1.0, factor))
    assert (one.kind == other.kind).all() and (one.home == other.home).all()
    alone, copies = one.exposure[one.kind == 0], one.exposure[one.kind == 1]
    # 72 facts, half parallel in two languages: 36 + 72 units, and then 36 + 72 * factor
    assert alone == pytest.approx(1 / 108) and copies == pytest.approx(1 / 108)
    for code, weight in ((0, 1.0), (1, factor), (2, factor)):
        assert other.exposure[other.kind == code] == pytest.approx(weight / (36 + 72 * factor))
    # a monolingual fact tells its language, a balanced copy nothing: I(fact; language) is the former's share
    told = other.statistics()["value"]
    sizes = other.exposure.sum(1)
    lost = -(sizes * np.log2(sizes)).sum()  # H(language)
    assert told["I(fact; language)"] == pytest.approx(lost - 72 * factor / (36 + 72 * factor))


@given(st.integers(2, 30), st.integers(1, 4), st.integers(2, 6), seeds)
def test_every_relation_has_its_own_objects_equally_often(n_subjects, n_relations, n_objects, seed):
    world = ul.World.synthetic(
        ul.WorldConfig(n_subjects=n_subjects, n_relations=n_relations, n_objects=n_objects), seed
    )
    triples = world.facts.tolist()
    assert sorted((s, r) for s, r, _ in triples) == [(s, r) for s in range(n_subjects) for r in range(n_relations)]
    assert all(world.object_relation[o] == r for _, r, o in triples)
    for relation in range(n_relations):
        counts = [sum(o == code for _, _, o in triples) for code in np.flatnonzero(world.object_relation == relation)]
        assert len(counts) == n_objects and max(counts) - min(counts) <= 1


# --- tokens --------------------------------------------------------------------------------------------------


@given(experiments(max_changes=0))
def test_the_answer_follows_the_prompt_in_every_template(experiment):
    corpus, world = Corpus.build(experiment), ul.World.synthetic(experiment.world, experiment.seed)
    encode = corpus.tokenizer.encode
    for template in range(len(corpus.templates)):
        at = corpus.position("answer", template)
        assert corpus.prompts(template=template).shape == (corpus.n_rows, at + 1)
        for code, language in enumerate(corpus.languages):
            block = corpus.sequences[template, code * corpus.n_facts : (code + 1) * corpus.n_facts]
            due = [encode([language.objects[o]], code)[0] for o in world.object]
            assert block[:, at + 1].tolist() == due
            assert corpus.answers[corpus.rows(np.arange(corpus.n_facts))].tolist()[code * len(due) :][: len(due)] == due
            names = [encode(language.subjects[s].split(), code) for s in world.subject]
            last = corpus.position("subject", template)
            assert block[:, last + 1 - len(names[0]) : last + 1].tolist() == names
            relations = encode([language.relations[r] for r in world.relation], code)
            assert block[:, corpus.position("relation", template)].tolist() == relations
            if corpus.language_token:
                assert (block[:, corpus.position("language", template)] == encode([f"<{language.name}>"])[0]).all()
            for relation in range(world.n_relations):
                words = [w for w, r in zip(language.objects, world.object_relation, strict=True) if r == relation]
                assert corpus.choices[code, relation].nonzero()[:, 0].tolist() == sorted(encode(words, code))
            named = encode(language.objects, code)
            assert corpus.token_object[named].tolist() == list(range(world.n_objects))
    object_words = {word for language in corpus.languages for word in language.objects}
    assert int((corpus.token_object >= 0).sum()) == len(corpus.possible_answers) == len(object_words)


def test_positions_by_name():
    corpus = Corpus.build(tiny(**{"language.templates": ("topic", "of"), "language.language_token": True}))
    # <bos> <a> as-for subject the relation is → answer
    assert [corpus.position(slot) for slot in ("language", "subject", "relation", "answer")] == [1, 3, 5, 6]
    assert [corpus.position(slot, 1) for slot in ("relation", "subject", "answer")] == [3, 5, 6]
    with pytest.raises(ValueError, match=r"position='object'.*allowed: language, subject, relation, answer"):
        corpus.position("object")
    with pytest.raises(ValueError, match=r"position='language'.*allowed: subject, relation, answer\."):
        Corpus.build(tiny()).position("language")


def test_positions_count_every_word_of_a_name():
    corpus = Corpus.build(tiny(**{"language.templates": ("topic", "plain"), "language.subject_words": 3}))
    # <bos> as-for subject subject subject the relation is → answer
    assert [corpus.position(slot) for slot in ("subject", "relation", "answer")] == [4, 6, 7]
    assert [corpus.position(slot, 1) for slot in ("subject", "relation", "answer")] == [3, 4, 4]
    one = Corpus.build(tiny(**{"language.templates": ("topic", "plain")}))
    assert corpus.n_ctx == one.n_ctx + 2 and corpus.d_vocab != one.d_vocab


def test_a_corpus_of_longer_names_trains():
    run = quietly(tiny(**{"language.subject_words": 2, "train.steps": 10}))[0]
    assert run.model.cfg.n_ctx == run.corpus.n_ctx == Corpus.build(tiny()).n_ctx + 1
    assert ul.states(run.model, run.corpus, np.arange(5), position="subject").isfinite().all()
    assert run.history["loss"].notna().all()


def test_text_refuses_what_is_not_there():
    corpus = Corpus.build(tiny())
    for language, fact in [(2, 0), (-1, 0), (0, 72), (0, -1)]:
        with pytest.raises(ValueError, match=f"language={language}, fact={fact}: .*0 to 1 and facts 0 to 71"):
            corpus.text(language, fact)


def test_examples_show_every_kind_that_exists():
    corpus = Corpus.build(tiny())
    shown = corpus.examples(n=3)
    assert shown["kind"].value_counts().to_dict() == dict.fromkeys(KINDS, 3)
    by_text = {corpus.text(a, f): (KINDS[corpus.kind[a, f]], "ab"[a]) for a in range(2) for f in range(corpus.n_facts)}
    assert [by_text[text] for text in shown["text"]] == list(zip(shown["kind"], shown["language"], strict=True))
    assert set(Corpus.build(tiny(**{"corpus.parallel": 1.0})).examples()["kind"]) == {"majority", "minority"}


@pytest.mark.parametrize("templates", [("plain",), ("topic",)])
def test_prompts_that_two_languages_share_are_refused(templates):
    shared = {f"language.shared_{kind}": 1.0 for kind in ("subjects", "relations", "function_words")}
    ambiguous = tiny(**shared, **{"language.templates": templates})
    with pytest.raises(ValueError) as error:
        Corpus.build(ambiguous)
    for told in (*shared, "72 of 144 prompts", "language.language_token=True"):
        assert told.removeprefix("language.") in str(error.value)
    Corpus.build(ambiguous.replace(**{"language.language_token": True}))


def test_a_model_that_cannot_read_the_corpus_is_refused():
    corpus = Corpus.build(tiny())
    corpus.check_model(corpus.d_vocab, corpus.n_ctx + 1)
    with pytest.raises(ValueError, match=f"d_vocab={corpus.d_vocab - 1} must equal .* {corpus.d_vocab}"):
        corpus.check_model(corpus.d_vocab - 1, corpus.n_ctx)
    with pytest.raises(ValueError, match=f"n_ctx={corpus.n_ctx - 1} must be at least .*{corpus.n_ctx}"):
        corpus.check_model(corpus.d_vocab, corpus.n_ctx - 1)


# --- statistics, counted by hand -----------------------------------------------------------------------------


def entropy(counts):
    """In bits, of a dict of weights."""
    total = sum(counts.values())
    return -sum(w / total * math.log2(w / total) for w in counts.values() if w > 0)


def tally(examples, *names):
    """Weights of the combinations of some properties of weighted examples."""
    counts = defaultdict(float)
    for example, weight in examples:
        counts[tuple(example[name] for name in names)] += weight
    return counts


def informativeness(examples, about, given=()):
    """`I(about; language | given)` in bits."""
    return (
        entropy(tally(examples, about, *given))
        + entropy(tally(examples, "language", *given))
        - entropy(tally(examples, about, "language", *given))
        - (entropy(tally(examples, *given)) if given else 0.0)
    )


@given(experiments())
def test_statistics_against_a_count_of_examples(experiment):
    corpus = Corpus.build(experiment)
    examples = []
    for start, stop, exposure in corpus.stages:
        for code, language in enumerate(corpus.languages):
            for fact, (subject, relation, obj) in enumerate(corpus.world.facts.tolist()):
                example = {
                    "fact": fact,
                    "subject": subject,
                    "relation": relation,
                    "object": obj,
                    "language": language.name,
                    "word": language.objects[obj],
                    "prompt": corpus.text(code, fact, answer=False).split()[1:],
                }
                examples.append((example, exposure[code, fact] * (stop - start)))
    total = sum(weight for _, weight in examples)
    table = corpus.statistics()["value"]
    expected = {
        "I(fact; language)": informativeness(examples, "fact"),
        "I(object; language | relation)": informativeness(examples, "object", ("relation",)),
        "I(subject; language)": informativeness(examples, "subject"),
        "I(relation; language)": informativeness(examples, "relation"),
        "no-knowledge baseline": math.log(2)
        * (entropy(tally(examples, "word", "relation", "language")) - entropy(tally(examples, "relation", "language"))),
    }
    for (name,), weight in tally(examples, "language").items():
        expected[f"exposure of language {name}"] = weight / total
    vocabularies = [{f"<{language.name}>", *language.words()} for language in corpus.languages]
    telling = {word for own in vocabularies for word in own if sum(word in other for other in vocabularies) == 1}
    expected["language-revealing prompt tokens"] = (
        sum(w * np.mean([word in telling for word in example["prompt"]]) for example, w in examples) / total
    )
    expected["language-revealing answer tokens"] = (
        sum(w for example, w in examples if example["word"] in telling) / total
    )
    for slot in ("subject", "relation"):
        at = corpus.position(slot) - 1
        expected[f"language-revealing {slot} tokens"] = (
            sum(w for example, w in examples if example["prompt"][at] in telling) / total
        )
    for name, value in expected.items():
        assert table[name] == pytest.approx(value, abs=1e-9), name
    assert corpus.baseline == table["no-knowledge baseline"]
    assert table["facts"] == corpus.n_facts and table["parallel facts"] == corpus.parallel.sum()


# --- parallel_window -----------------------------------------------------------------------------------------

WINDOWS = [(0, 30), (5, 35), (10, 40), (0, 40), (13, 39)]


@pytest.mark.parametrize(("start", "stop"), WINDOWS)
@given(
    n_languages=st.integers(2, 4),
    parallel=st.sampled_from([0.05, 0.25, 0.4]),
    skew=shares,
    bias=shares,
    unit=st.sampled_from(["fact", "subject"]),
    seed=seeds,
)
def test_a_window_moves_copies_and_keeps_how_often_each_is_seen(
    start, stop, n_languages, parallel, skew, bias, unit, seed
):
    base = tiny(
        seed=seed,
        corpus=ul.CorpusConfig(
            parallel=parallel, object_skew=skew, home_bias=0.0 if skew == 1 else bias, parallel_unit=unit
        ),
        **{"language.n_languages": n_languages},
    )
    moved = parallel_window(base, start, stop)
    before, after = Corpus.build(base), Corpus.build(moved)
    np.testing.assert_allclose(after.exposure, before.exposure, rtol=0, atol=1e-9)
    assert (after.kind == before.kind).all()
    away = np.arange(n_languages)[:, None] != before.home
    stages = {(begin, end): exposure for begin, end, exposure in after.stages}
    assert set(stages) == {(a, b) for a, b in [(0, start), (start, stop), (stop, 40)] if a < b}
    for span, exposure in stages.items():
        copies = exposure[away & before.seen]
        assert (copies > 0).all() if span == (start, stop) else (copies == 0).all()
    assert moved.replace(corpus=base.corpus, changes=()) == base


@pytest.mark.parametrize(
    ("changes", "window", "told"),
    [
        ({}, (20, 20), ["start=20, stop=20", "0 <= start < stop <= train.steps=40"]),
        ({}, (-1, 20), ["start=-1, stop=20", "0 <= start"]),
        ({}, (20, 41), ["start=20, stop=41", "train.steps=40"]),
        ({}, (0, 13), ["start=0, stop=13", "0.333 of all examples", "more than 13 steps"]),
        ({"corpus.parallel": 0.0}, (0, 20), ["corpus.parallel=0", "more than 0"]),
        ({"corpus.exposure_balance": 0.5}, (0, 20), ["exposure_balance=0.5", "allowed: exposure_balance=1"]),
        ({"corpus.copy_exposure": 2.0}, (0, 20), ["copy_exposure=2.0", "copy_exposure=1"]),
        ({"corpus.parallel_exposure": 2.0}, (0, 20), ["parallel_exposure=2.0", "parallel_exposure=1"]),
        (
            {"changes": (ul.CorpusChange(step=5, corpus=ul.CorpusConfig()),)},
            (0, 20),
            ["changes at steps [5]", "no changes"],
        ),
    ],
)
def test_windows_that_make_no_sense_are_refused(changes, window, told):
    with pytest.raises(ValueError) as error:
        parallel_window(tiny(**changes), *window)
    assert not [part for part in told if not re.search(re.escape(part), str(error.value))], error.value


def test_a_corpus_is_built_once_for_all_that_share_its_data(monkeypatch):
    forget_corpora(monkeypatch, keep=True)
    first = Corpus.build(tiny())
    assert Corpus.build(tiny(**{"model.d_model": 32, "train.lr": 1e-2})).tokenizer is first.tokenizer
    assert Corpus.build(tiny(seed=1)).tokenizer is not first.tokenizer
    added = tiny(interventions=(ul.Intervention(name="add_parallel", share=0.5),))
    assert Corpus.build(added).tokenizer is ul.build_corpus(added).tokenizer
    assert Corpus.build(added).parallel.sum() > first.parallel.sum()


def test_writing_into_a_corpus_changes_no_other():
    corpus, before = Corpus.build(tiny()), Corpus.build(tiny())
    tables = lambda c: (c.home, c.stages[0][2], c.world.facts, c.positions("subject"), c.kind, c.exposure)  # noqa: E731
    for table in (*tables(corpus), corpus.sequences, corpus.due, corpus.world.object_relation):
        table[:] = 0
    again = Corpus.build(tiny())
    assert all((x == y).all() and x.any() for x, y in zip(tables(again), tables(before), strict=True))
    assert torch.equal(again.sequences, before.sequences) and torch.equal(again.due, before.due)
    assert (again.world.object_relation == before.world.object_relation).all()


def test_a_sweep_builds_each_corpus_once(monkeypatch):
    built = []
    make = World.synthetic.__func__
    monkeypatch.setattr(World, "synthetic", classmethod(lambda cls, *given: built.append(given) or make(cls, *given)))
    forget_corpora(monkeypatch, keep=True)
    runs = quietly(*(tiny(seed=seed) for seed in range(3)))
    assert [run.corpus.n_facts for run in runs] == [72] * 3 and len(built) == 3
