"""Training that begins with another experiment's weights."""

import numpy as np
import pytest
import torch
from conftest import quietly, tiny

import unifylens as ul
from unifylens.corpus.corpus import Corpus
from unifylens.training import store
from unifylens.training.start import _mistranslations, first_parameters, spelling_weights
from unifylens.training.trainer import _Stack, train_stack

APART = {"corpus.parallel": 0.0}


def start(experiment=None, **fields):
    return ul.Start(experiment=experiment or tiny(**APART), **fields)


def weights(run, step=None):
    return run.parameters(run.experiment.train.steps if step is None else step)


def assert_same(one, other):
    assert one.keys() == other.keys() and all(torch.equal(p, other[name]) for name, p in one.items())


def test_training_begins_with_the_weights_of_the_start_which_is_trained_first():
    experiment = tiny(start=start())
    (run,) = quietly(experiment)
    before = store.load(tiny(**APART))
    assert before is not None, "it is in the store like any other"
    assert_same(_Stack([experiment]).parameters and _first(experiment), weights(before))
    assert run.history["recall"][0] == pytest.approx(before.final["recall"], abs=0.1)
    (plain,) = quietly(tiny())
    assert run.history["loss"][0] < plain.history["loss"][0]
    assert any(not torch.equal(p, weights(plain)[name]) for name, p in weights(run).items())


def _first(experiment):
    return {name: p[0] for name, p in _Stack([experiment]).parameters.items()}


def test_a_step_before_the_last_may_be_taken():
    before = quietly(tiny(**APART))[0]
    step = before.steps[0]
    assert step < 40
    assert_same(_first(tiny(start=start(step=step))), weights(before, step))


def test_starts_may_have_starts():
    second = tiny(start=start(), **{"train.steps": 30})
    (run,) = quietly(tiny(start=ul.Start(experiment=second), **{"train.steps": 20}))
    assert store.load(second) is not None and store.load(tiny(**APART)) is not None
    assert_same(_first(run.experiment), weights(store.load(second)))


def test_members_of_a_stack_may_begin_differently():
    experiments = [tiny(start=start()), tiny(), tiny(start=start(step=2)), tiny(seed=1)]
    quietly(tiny(**APART))
    together = train_stack(experiments)
    for experiment, result in zip(experiments, together, strict=True):
        (alone,) = train_stack([experiment])
        for name, p in alone.checkpoints[40].items():
            if not name.endswith("b_K"):  # attention is blind to it: rounding errors move it
                torch.testing.assert_close(result.checkpoints[40][name], p, atol=1e-5, rtol=0)


def test_a_worker_without_the_store_trains_the_start_itself(tmp_path, monkeypatch):
    experiment = tiny(start=start())
    (here,) = quietly(experiment)
    monkeypatch.setenv("UNIFYLENS_HOME", str(tmp_path / "elsewhere"))
    (there,) = train_stack([experiment])
    assert_same(there.checkpoints[40], weights(here))


def test_new_languages_and_longer_prompts_find_the_old_words_in_their_places():
    old, new = tiny(), tiny(**{"language.n_languages": 3, "language.language_token": True})
    old = old.replace(**{"language.language_token": True})
    before = quietly(old)[0]
    first = _first(new.replace(start=ul.Start(experiment=old)))
    random = _first(new)
    olds, news = Corpus.build(old), Corpus.build(new)
    n_old = 0
    for fact in range(0, olds.n_facts, 5):
        for language in range(2):
            row = language * olds.n_facts + fact
            for was, now in zip(olds.sequences[0, row], news.sequences[0, row], strict=True):
                assert torch.equal(first["embed.W_E"][now], weights(before)["embed.W_E"][was])
                assert torch.equal(first["unembed.W_U"][:, now], weights(before)["unembed.W_U"][:, was])
                n_old += 1
        row = 2 * news.n_facts + fact
        word = news.sequences[0, row, news.position("relation")]
        assert torch.equal(first["embed.W_E"][word], random["embed.W_E"][word])
    assert n_old > 100


def test_an_experiment_with_a_start_goes_through_json_and_has_a_key_of_its_own():
    experiments = [tiny(), tiny(start=start()), tiny(start=start(step=2)), tiny(start=start(tiny(seed=0)))]
    assert len({e.key(3) for e in experiments}) == len(experiments)
    for experiment in experiments:
        again = ul.Experiment.model_validate_json(experiment.model_dump_json())
        assert again == experiment and again.key(3) == experiment.key(3)
    assert experiments[1].replace(start=None) == experiments[0]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: start(step=3), r"step=3: no weights are kept after it; allowed: 2, .*40, or None"),
        (lambda: ul.Start(experiment="here"), "experiment='here'"),
        (
            lambda: tiny(start=start(tiny(**{"model.d_model": 32}))),
            "has d_model=32; allowed: d_model=16",
        ),
        (
            lambda: tiny(start=start(tiny(**{"model.normalization": None}))),
            "normalization=None; allowed: .*='LN'",
        ),
    ],
)
def test_what_is_wrong_is_said_at_once(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize(
    ("there", "here", "said"),
    [
        (tiny(seed=5), {}, r"start.experiment has \d+ of \d+ tokens that are none here, such as '\w+'"),
        (tiny(**{"language.n_languages": 3}), {}, "tokens that are none here"),
        (tiny(**{"language.templates": ("topic",)}), {"language.templates": ("plain",)}, "none here"),
    ],
)
def test_other_words_are_refused_before_anything_is_trained(there, here, said):
    with pytest.raises(ValueError, match=said):
        quietly(tiny(start=start(there), **here))
    assert not store.runs().shape[0]


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (tiny(**{"corpus.parallel": 0.9}), r"tells \d+ facts in languages in which they are held out here"),
        (tiny(**{"world.n_subjects": 23}), "start.experiment has other facts"),
    ],
)
def test_what_the_start_was_told_never_counts_as_transferred(there, said):
    with pytest.raises(ValueError, match=said):
        quietly(tiny(start=start(there)))


def test_random_weights_are_as_ever_without_a_start():
    experiment = tiny()
    corpus = Corpus.build(experiment)
    from unifylens.model import initial_parameters, shape_of

    shape = shape_of(experiment.model, corpus.d_vocab, corpus.n_ctx)
    assert_same(first_parameters(experiment, corpus, shape), initial_parameters(shape, 0))


def test_words_may_begin_as_their_translations():
    apart = {"language.shared_subjects": 0.0, "language.n_languages": 3}
    for share in (0.5, 1.0):
        experiment = tiny(**apart, **{"train.translated_words": share})
        corpus, first, plain = Corpus.build(experiment), _first(experiment), _first(tiny(**apart))
        equal = []
        for kind in ("subjects", "relations", "objects"):
            one, *others = (
                corpus.tokenizer.encode(getattr(language, kind), i) for i, language in enumerate(corpus.languages)
            )
            assert torch.equal(first["embed.W_E"][one], plain["embed.W_E"][one]), "the first language's stay"
            for other in others:
                same = (first["embed.W_E"][one] == first["embed.W_E"][other]).all(1)
                assert torch.equal(same, (first["unembed.W_U"][:, one] == first["unembed.W_U"][:, other]).all(0))
                assert (same | (first["embed.W_E"][other] == plain["embed.W_E"][other]).all(1)).all()
                equal.append(same)
        assert torch.cat(equal).float().mean() == pytest.approx(share, abs=0.05)


def test_new_words_begin_as_their_translations_and_old_ones_where_they_were():
    old = tiny(**{"language.language_token": True, "language.shared_subjects": 0.0})
    before = quietly(old)[0]
    new = old.replace(start=ul.Start(experiment=old), **{"language.n_languages": 3, "train.translated_words": 1.0})
    first, corpus = _first(new), Corpus.build(new)
    subjects = [corpus.tokenizer.encode(language.subjects, i) for i, language in enumerate(corpus.languages)]
    olds = Corpus.build(old)
    there = olds.tokenizer.encode(olds.languages[0].subjects, 0)
    assert torch.equal(first["embed.W_E"][subjects[0]], weights(before)["embed.W_E"][there])
    assert torch.equal(first["embed.W_E"][subjects[2]], first["embed.W_E"][subjects[0]])
    assert not torch.equal(first["embed.W_E"][subjects[1]], first["embed.W_E"][subjects[0]])


PARTS = {
    "embedding": {"embed.W_E", "pos_embed.W_pos"},
    "unembedding": {"unembed.W_U", "unembed.b_U"},
    "attention": {f"blocks.{b}.attn.{p}_{x}" for b in range(2) for p in "Wb" for x in "QKVO"},
    "mlp": {f"blocks.{b}.mlp.{p}_{x}" for b in range(2) for p in "Wb" for x in ("in", "out")},
    "normalization": {
        f"{n}.{p}" for n in ("blocks.0.ln1", "blocks.0.ln2", "blocks.1.ln1", "blocks.1.ln2") for p in "wb"
    }
    | {"ln_final.w", "ln_final.b"},
}


@pytest.mark.parametrize("part", PARTS)
def test_a_frozen_part_keeps_its_weights_and_all_others_move(part):
    experiment = tiny(**{"train.frozen": (part,), "train.steps": 10})
    first, last = _first(experiment), weights(quietly(experiment)[0])
    assert {name for name, p in last.items() if torch.equal(p, first[name])} == PARTS[part]


def test_bad_parts_and_words_are_refused():
    with pytest.raises(ValueError, match=r"frozen=\(.*leaves nothing to train; allowed: some of embedding"):
        tiny(**{"train.frozen": tuple(PARTS)})
    with pytest.raises(ValueError, match=r"train\.frozen\[0\]='head'"):
        tiny(**{"train.frozen": ("head",)})
    with pytest.raises(ValueError, match=r"translated_words=0\.5 needs words of one token"):
        quietly(tiny(**{"train.translated_words": 0.5, "tokenizer.scheme": "bpe", "tokenizer.vocab_size": 100}))


RIGHT, WRONG = {"train.translated_words": 1.0}, {"train.new_words": "mistranslations"}
LATE = {"language.n_languages": 3, "corpus.late": ul.LateLanguages(share=0.5)}


@pytest.mark.parametrize(
    "change", [{}, {"corpus.home_bias": 0.5, "corpus.object_skew": 0.5}, {"corpus.parallel_unit": "subject"}]
)
def test_a_late_language_leaves_the_others_as_they_were_and_every_old_weight_bit_for_bit(change):
    old = tiny(**change)
    new = old.replace(**LATE, start=ul.Start(experiment=old))
    before, corpora = quietly(old)[0], [Corpus.build(e) for e in (old, new)]
    first = _first(new)
    assert (corpora[0].home == corpora[1].home).all() and (corpora[0].seen == corpora[1].seen[:2]).all()
    kept = {(word, i) for i, words in enumerate(corpora[0].tokenizer.words) for word in words}
    for word, language in kept:
        (was,), (now,) = (corpus.tokenizer.encode([word], language) for corpus in corpora)
        assert torch.equal(first["embed.W_E"][now], weights(before)["embed.W_E"][was])
        assert torch.equal(first["unembed.W_U"][:, now], weights(before)["unembed.W_U"][:, was])
    for name, p in weights(before).items():
        if not name.startswith(("embed", "unembed")):
            assert torch.equal(first[name], p)

    assert new.key(3) != new.replace(**{"corpus.late": ul.LateLanguages(share=0.5, of=1)}).key(3)


def test_without_late_the_same_languages_are_refused():
    with pytest.raises(ValueError, match=r"tells .* facts in languages in which they are held out here"):
        quietly(tiny(start=start(tiny()), **{"language.n_languages": 3}))


@pytest.mark.parametrize("how", ["mean", "spelling"])
def test_new_words_begin_as_means_of_old_ones_of_their_kind(how):
    apart = {"language.shared_subjects": 0.5, "language.templates": ("topic",)}
    old = tiny(**apart)
    quietly(old)
    base = old.replace(**LATE, start=ul.Start(experiment=old))
    first, random, corpus = _first(base.replace(**{"train.new_words": how})), _first(base), Corpus.build(base)
    for kind in ("subjects", "relations", "objects", "function_words"):
        words = [getattr(language, kind) for language in corpus.languages]
        words = [list(each.values()) if kind == "function_words" else list(each) for each in words]
        tokens = [corpus.tokenizer.encode(each, index) for index, each in enumerate(words)]
        olds = {
            token: word
            for each, spelled in zip(tokens[:2], words[:2], strict=True)
            for token, word in zip(each, spelled, strict=True)
        }
        new = [token for token in tokens[2] if token not in olds]
        assert new
        spelled = [corpus.tokenizer.pieces[token] for token in new]
        if how == "mean":
            counts = torch.full((len(new), len(olds)), 1 / len(olds))
        else:
            counts = torch.tensor(spelling_weights(spelled, list(olds.values())), dtype=torch.float32)
            assert counts.std() > 0
        for name, by_token in (("embed.W_E", lambda p: p), ("unembed.W_U", torch.t), ("unembed.b_U", lambda p: p)):
            torch.testing.assert_close(by_token(first[name])[new], counts @ by_token(random[name])[[*olds]])
            assert torch.equal(by_token(first[name])[[*olds]], by_token(random[name])[[*olds]]), "old ones stay"


def _new_words(corpus, old):
    """By group: tokens of the last language's words that are not old, and the first language's for the same things."""
    of = corpus.world.object_relation
    groups = [(kind, range(len(getattr(corpus.languages[0], kind)))) for kind in ("subjects", "relations")]
    groups += [("objects", np.flatnonzero(of == relation)) for relation in range(corpus.world.n_relations)]
    for kind, things in groups:
        one, *_, last = (corpus.tokenizer.encode(getattr(each, kind), i) for i, each in enumerate(corpus.languages))
        new = [thing for thing in things if last[thing] not in old]
        yield [last[thing] for thing in new], [one[thing] for thing in new]


@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
def test_wrong_translations_are_the_same_vectors_dealt_to_other_words(shared):
    old = tiny(**{"language.shared_subjects": shared})
    quietly(old)
    base = old.replace(**LATE, start=ul.Start(experiment=old))
    experiments = [base.replace(**change) for change in ({}, RIGHT, WRONG)]
    random, right, wrong = (
        torch.cat([p["embed.W_E"], p["unembed.W_U"].T, p["unembed.b_U"][:, None]], 1) for p in map(_first, experiments)
    )
    corpus = Corpus.build(base)
    there = {
        corpus.tokenizer.encode([word], i)[0] for i, words in enumerate(corpus.tokenizer.words[:2]) for word in words
    }
    groups = list(_new_words(corpus, there))
    for new, own in groups:
        assert torch.equal(right[new], random[own])
        assert sorted(wrong[new].tolist()) == sorted(right[new].tolist()), "the same set of vectors"
        assert (wrong[new] != right[new]).any(1).all(), "none keeps its own"
    moved = sorted(token for new, _ in groups for token in new)
    assert torch.equal((wrong != random).any(1).nonzero()[:, 0], torch.tensor(moved)), "no other word moves"
    assert_same(_first(experiments[2]), _first(experiments[2]))


def test_which_words_are_wrong_depends_on_the_seed():
    dealt = set()
    for seed in range(5):
        old = tiny(seed=seed, **{"language.shared_subjects": 0.0})
        new = old.replace(**LATE, **WRONG, start=ul.Start(experiment=old))
        corpus = Corpus.build(new)
        first, words = _mistranslations(corpus, torch.arange(0), seed)
        subjects = corpus.tokenizer.encode(corpus.languages[0].subjects, 0)
        others = corpus.tokenizer.encode(corpus.languages[2].subjects, 2)
        wrong = dict(zip(words.tolist(), first.tolist(), strict=True))
        dealt.add(tuple(subjects.index(wrong[token]) for token in others))
    assert len(dealt) == 5


def test_words_count_by_the_letter_pairs_they_have_in_common():
    weights = spelling_weights(["kota", "zuzu"], ["kota", "kotu", "fami"])
    np.testing.assert_allclose(weights.sum(1), 1.0)
    # kota has 5 pairs, of which kotu has 3: cosines 1, 0.6, 0; sparsemax keeps 0.7 and 0.3 of the first two
    np.testing.assert_allclose(weights[0], [0.7, 0.3, 0.0], atol=1e-12)
    # of ^z zu uz zu u$ (cosines over sqrt 7) kotu has u$ alone
    like = 1 / np.sqrt(7 * 5)
    np.testing.assert_allclose(weights[1], [(1 - like) / 3, (1 - like) / 3 + like, (1 - like) / 3], atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train.new_words": "mean"}, "train.new_words='mean' needs a start, whose words are not new; allowed: None"),
        ({"train.new_words": "focus"}, "train.new_words='focus'; allowed: .*mean.*spelling.*mistranslations"),
        (
            {"train.new_words": "mistranslations", "train.translated_words": 0.5, "start": start()},
            r"new_words='mistranslations' conflicts with translated_words=0\.5.*allowed: translated_words=0\.0, or",
        ),
        ({"corpus.late": ul.LateLanguages(n=2)}, r"corpus.late.n=2 leaves none of 2 languages; allowed: 1 to 1"),
        ({"corpus.late": ul.LateLanguages(of=1)}, r"corpus.late.of=1 is no fact's home; allowed: 0 to 0"),
        (
            {"changes": (ul.CorpusChange(step=20, corpus=ul.CorpusConfig(late=ul.LateLanguages())),)},
            r"corpus.late.n and that of changes are \[0, 1\], so that facts would change their home",
        ),
    ],
)
def test_what_cannot_come_late_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        tiny(**changes)


def test_means_of_words_need_words_of_one_token():
    pieces = {"tokenizer.scheme": "character"}
    new = tiny(**pieces, start=start(tiny(**pieces)), **{"train.new_words": "mean"})
    with pytest.raises(
        ValueError, match=r"train.new_words='mean' needs words of one token; allowed: None, or .*'word'"
    ):
        quietly(new)


def test_a_word_that_is_new_alone_has_no_wrong_translation():
    old = tiny(**{"world.n_relations": 1})
    new = old.replace(**LATE, start=ul.Start(experiment=old), **WRONG)
    with pytest.raises(
        ValueError, match=r"of the relations one word alone is new in language 'c', .*; allowed: words of"
    ):
        quietly(new)
    assert store.load(old) is None, "refused before anything is trained"
