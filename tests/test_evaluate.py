"""Answers of models made by hand, and tables against the measures they are made of."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny

import unifylens as ul
from unifylens import measures
from unifylens.corpus.corpus import Corpus
from unifylens.crosslingual import evaluate
from unifylens.crosslingual.evaluate import Answers, Questions
from unifylens.patching import stream

RIGHT, WRONG_LANGUAGE, WRONG_OBJECT, OTHER = measures.ANSWER_TYPES


@pytest.fixture(scope="module")
def corpus():
    return Corpus.build(tiny(**{"language.n_languages": 3, "language.language_token": True}))


@pytest.fixture(scope="module")
def model(corpus):
    return ul.build_model(ul.ModelConfig(d_model=16, n_layers=2, n_heads=2, d_mlp=32), corpus.d_vocab, corpus.n_ctx, 3)


def token(corpus, language, fact, kind):
    """The token that a model gives that makes this kind of answer."""
    world, encode = corpus.world, corpus.tokenizer.encode
    due, spoken = world.object[fact], corpus.languages[language]
    if kind == RIGHT:
        return encode([spoken.objects[due]], language)[0]
    if kind == WRONG_LANGUAGE:
        foreign = (language + 1) % 3
        return encode([corpus.languages[foreign].objects[due]], foreign)[0]
    if kind == WRONG_OBJECT:
        others = [o for o in np.flatnonzero(world.object_relation == world.relation[fact]) if o != due]
        return encode([spoken.objects[others[fact % len(others)]]], language)[0]
    # the object of another relation, or the subject, or no word at all
    other = next(o for o in range(world.n_objects) if world.object_relation[o] != world.relation[fact])
    said = [spoken.objects[other], spoken.subjects[world.subject[fact]], "<pad>"][fact % 3]
    return encode([said], language)[0]


def logits_of(corpus, kinds):
    """Logits `[language * fact, vocab]` of a model that gives this kind of answer in each language."""
    rows = [token(corpus, a, f, kind) for a, kind in enumerate(kinds) for f in range(corpus.n_facts)]
    return torch.nn.functional.one_hot(torch.tensor(rows), corpus.d_vocab).float()


def answers(logits):
    """What a model of these logits says, where an answer is one token."""
    return Answers(logits.argmax(-1)[:, None], logits, [])


@pytest.mark.parametrize(
    ("kind", "column"),
    [
        (RIGHT, "transfer"),
        (WRONG_LANGUAGE, "transfer_wrong_language"),
        (WRONG_OBJECT, "transfer_wrong_object"),
        (OTHER, "transfer_other"),
    ],
)
def test_accuracy_of_models_that_make_one_kind_of_answer(corpus, kind, column):
    accuracy = Questions.all(corpus).accuracy(answers(logits_of(corpus, [kind] * 3)))
    types = ["transfer", "transfer_wrong_language", "transfer_wrong_object", "transfer_other"]
    assert [accuracy[name] for name in types] == [float(name == column) for name in types]
    right = float(kind == RIGHT)
    recalls = ["recall", "recall_monolingual", "recall_majority", "recall_minority"]
    assert [accuracy[name] for name in recalls] == [right] * 4
    if kind in (RIGHT, WRONG_OBJECT):
        assert accuracy["transfer_choice"] == right


def test_the_calibrated_choice_looks_at_the_objects_alone(corpus):
    logits = logits_of(corpus, [RIGHT] * 3) + 5 * logits_of(corpus, [WRONG_LANGUAGE] * 3)
    accuracy = Questions.all(corpus).accuracy(answers(logits))
    assert (accuracy["transfer"], accuracy["transfer_wrong_language"], accuracy["transfer_choice"]) == (0, 1, 1)


def test_the_prior_is_that_of_the_questions_asked(corpus, monkeypatch, model):
    """Liking one answer by more than is known of the right one: wrong raw, all right corrected. Seen facts do not
    count: here they like another answer by far."""
    world, n = corpus.world, corpus.d_vocab
    by_relation = [np.flatnonzero(world.object_relation == r) for r in world.relation]

    def liking(which):
        words = [corpus.languages[a].objects[objects[which]] for a in range(3) for objects in by_relation]
        tokens = [corpus.tokenizer.encode([word], i // corpus.n_facts)[0] for i, word in enumerate(words)]
        return torch.nn.functional.one_hot(torch.tensor(tokens), n)

    seen = torch.from_numpy(corpus.seen.ravel())[:, None]
    logits = torch.where(seen, 50 * liking(1), logits_of(corpus, [RIGHT] * 3) + 5 * liking(0))
    accuracy = Questions.all(corpus).accuracy(answers(logits))
    by_liking = (world.object == [objects[0] for objects in by_relation])[None].repeat(3, 0)[~corpus.seen].mean()
    assert accuracy["transfer"] == accuracy["transfer_choice"] == by_liking < 0.6
    assert accuracy["transfer_corrected"] == 1
    monkeypatch.setattr(evaluate, "run_prompts", lambda *_: (logits, []))
    table = ul.transfer(model, corpus)
    assert (table["corrected"] == 1).all() and (table["choice"] < 0.8).all()
    assert table["chance"].tolist() == [1 / len(by_relation[0])] * 3


def test_a_question_without_company_tells_no_prior(corpus):
    questions, asked = Questions.all(corpus), np.zeros(corpus.n_rows, dtype=bool)
    first = np.flatnonzero(questions.relation == 0)
    other = np.flatnonzero(questions.relation == 1)
    asked[[*first[:2], other[0]]] = True
    options = questions.options(logits_of(corpus, [RIGHT] * 3), asked)
    assert len(options.right()) == 3 and len(options.corrected().right()) == 2
    asked[first[0]] = False
    choice, corrected = questions.choices(logits_of(corpus, [RIGHT] * 3), asked)
    assert choice == 1 and np.isnan(corrected)


def test_recall_weighs_kinds_by_their_copies(corpus):
    right, wrong = logits_of(corpus, [RIGHT] * 3), logits_of(corpus, [OTHER] * 3)
    minority = torch.from_numpy((corpus.kind == 2).ravel())
    everything = Questions.all(corpus).accuracy(answers(torch.where(minority[:, None], wrong, right)))
    n_minority, n_seen = int(minority.sum()), int(corpus.seen.sum())
    assert everything["recall_minority"] == 0 and everything["recall_majority"] == 1 == everything["transfer"]
    assert everything["recall"] == pytest.approx(1 - n_minority / n_seen)
    sampled = Questions.sample(corpus, 5, seed=0)
    logits = torch.where(minority[:, None], wrong, right)[sampled.rows]
    assert sampled.accuracy(answers(logits))["recall"] == pytest.approx(1 - n_minority / n_seen)


def test_samples_are_even_and_by_seed_alone(corpus):
    sampled = Questions.sample(corpus, 10, seed=0)
    assert corpus.parallel[sampled.facts].sum() == 10 == len(sampled.facts) / 2
    assert (Questions.sample(corpus, 10, seed=0).facts == sampled.facts).all()
    assert set(Questions.sample(corpus, 12, seed=0).facts) > set(sampled.facts)
    assert set(Questions.sample(corpus, 10, seed=1).facts) != set(sampled.facts)
    assert len(Questions.sample(corpus, 1000, seed=0).facts) == corpus.n_facts


def test_transfer_is_told_by_language_and_type(monkeypatch, corpus, model):
    kinds = [RIGHT, WRONG_LANGUAGE, OTHER]
    monkeypatch.setattr(evaluate, "run_prompts", lambda *_: (logits_of(corpus, kinds), []))
    table = ul.transfer(model, corpus)
    assert list(table.index) == ["a", "b", "c"]
    assert list(table) == ["n", *measures.ANSWER_TYPES, "choice", "corrected", "chance"]
    assert table["n"].tolist() == (~corpus.seen).sum(1).tolist()
    for name, kind in zip("abc", kinds, strict=True):
        assert table.loc[name, list(measures.ANSWER_TYPES)].tolist() == [
            float(kind == k) for k in measures.ANSWER_TYPES
        ]
    assert table.loc["a", "choice"] == 1


def test_transfer_asks_held_out_facts_alone(monkeypatch, corpus, model):
    seen = torch.from_numpy(corpus.seen.ravel())[:, None]
    logits = torch.where(seen, logits_of(corpus, [RIGHT] * 3), logits_of(corpus, [WRONG_OBJECT] * 3))
    monkeypatch.setattr(evaluate, "run_prompts", lambda *_: (logits, []))
    table = ul.transfer(model, corpus)
    assert (table[RIGHT] == 0).all() and (table[WRONG_OBJECT] == 1).all() and (table["choice"] == 0).all()


def test_states_are_transformerlens_own_and_keep_the_order_of_facts(corpus, model):
    facts = np.array([9, 2, 40, 2])
    found = evaluate.states(model, corpus, facts, "subject")
    assert found.shape == (3, 3, 4, 16)
    for language in range(3):
        for at, fact in enumerate(facts):
            words = corpus.text(language, fact, answer=False).split()
            prompt = torch.tensor([corpus.tokenizer.encode(words, language)])
            _, cache = model.run_with_cache(prompt)
            where = words.index(corpus.languages[language].subjects[corpus.world.subject[fact]])
            names = ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
            for layer, name in enumerate(names):
                torch.testing.assert_close(found[layer, language, at], cache[name][0, where])
    last = evaluate.states(model, corpus, facts)
    assert not torch.allclose(last, found)


def test_answers_do_not_depend_on_the_size_of_batches(monkeypatch, corpus, model):
    logits, layers = evaluate.run_prompts(model, corpus.prompts())
    monkeypatch.setattr(stream, "BATCH_ROWS", 7)
    again, layers_again = evaluate.run_prompts(model, corpus.prompts())
    torch.testing.assert_close(again, logits)
    torch.testing.assert_close(layers_again, layers)
    torch.testing.assert_close(logits, model(corpus.prompts())[:, -1].detach())


@pytest.mark.parametrize("position", ["answer", "relation", "language"])
@pytest.mark.parametrize("facts", ["held-out", "parallel"])
def test_unification_is_the_mean_of_the_measure_over_pairs_of_languages(corpus, model, position, facts):
    table = ul.unification(model, corpus, position=position, facts=facts, seed=5)
    assert list(table.index) == [0, 1, 2]
    compared = np.flatnonzero(corpus.parallel == (facts == "parallel"))
    relation = torch.from_numpy(corpus.world.relation[compared])
    subject = torch.from_numpy(corpus.world.subject[compared])
    for network, columns in [(model, None), (ul.untrained_like(model, 5), ["untrained"])]:
        by_layer = evaluate.states(network, corpus, compared, position)
        for state, (_, row) in zip(by_layer, table.iterrows(), strict=True):
            pairs = [(state[0], state[1]), (state[0], state[2]), (state[1], state[2])]
            scores = [measures.unification_variants(x, y, relation, subject) for x, y in pairs]
            expected = {name: np.mean([score[name] for score in scores]) for name in scores[0]}
            if columns:
                expected = {"untrained": expected["unification"], "untrained_fact_only": expected["fact_only"]}
            for name, value in expected.items():
                assert row[name] == pytest.approx(value, abs=1e-6, nan_ok=True), name
            if not columns:
                assert {*expected, "untrained", "untrained_fact_only"} == set(table)
    assert table.loc[1, "unification"] != pytest.approx(table.loc[1, "untrained"], abs=1e-3)


def test_shuffled_pairs_of_a_unified_model_score_lower(corpus, model):
    """With one word for everything but its language token, states of two languages nearly agree."""
    alike = tiny(
        **{f"language.shared_{kind}": 1.0 for kind in ("subjects", "relations")}, **{"language.language_token": True}
    )
    alike = Corpus.build(alike)
    network = ul.build_model(ul.ModelConfig(d_model=16, n_layers=2, n_heads=2, d_mlp=32), alike.d_vocab, alike.n_ctx)
    row = ul.unification(network, alike, position="subject").loc[0]
    assert row["unification"] == pytest.approx(1.0) and row["retrieval_at_1"] > 0.1
    assert abs(row["shuffled"]) < 0.3
    separate = ul.unification(model, corpus, position="subject").loc[0]
    assert separate["unification"] > 0.9, "subjects are shared by default"
    own = Corpus.build(tiny(**{"language.shared_subjects": 0.0}))
    network = ul.build_model(ul.ModelConfig(d_model=16, n_layers=2, n_heads=2, d_mlp=32), own.d_vocab, own.n_ctx)
    assert ul.unification(network, own, position="subject").loc[0, "unification"] < 0.3


def test_blocks_that_learnt_nothing_multiply_shared_words():
    """Where both words are shared, a fact-only score above zero is no fact: the untrained control shows it."""
    shared = {f"language.shared_{kind}": 1.0 for kind in ("subjects", "relations")}
    controls = []
    for changes in ({}, shared):
        corpus = Corpus.build(tiny(**changes, **{"language.language_token": True}))
        network = ul.build_model(
            ul.ModelConfig(d_model=16, n_layers=2, n_heads=2, d_mlp=32), corpus.d_vocab, corpus.n_ctx
        )
        controls.append(ul.unification(network, corpus)["untrained_fact_only"][1])
    assert abs(controls[0]) < 0.3 < controls[1]


def test_fewer_facts_are_a_sample_by_seed(corpus, model):
    few = [ul.unification(model, corpus, n_facts=12, seed=seed)["matched_cosine"][1] for seed in (0, 0, 1)]
    assert few[0] == few[1] != few[2]


def test_questions_that_cannot_be_asked_are_refused(corpus, model):
    with pytest.raises(ValueError, match=r"position='object'.*allowed: language, subject, relation, answer"):
        ul.unification(model, corpus, position="object")
    with pytest.raises(ValueError, match=r"position='verb'.*allowed: language, subject"):
        evaluate.states(model, corpus, np.arange(3), "verb")
    with pytest.raises(ValueError, match="facts='all'; allowed: 'held-out', 'parallel'"):
        ul.unification(model, corpus, facts="all")
    other = Corpus.build(tiny())
    for call in (ul.transfer, ul.unification, lambda m, c: evaluate.states(m, c, np.arange(2))):
        with pytest.raises(ValueError, match=re.escape(f"d_vocab={corpus.d_vocab} must equal")):
            call(model, other)


def test_a_corpus_without_the_facts_in_question_is_refused():
    network = None
    for share, facts in [(1.0, "held-out"), (0.0, "parallel")]:
        corpus = Corpus.build(tiny(**{"corpus.parallel": share}))
        network = ul.build_model(ul.ModelConfig(d_model=8, n_heads=1), corpus.d_vocab, corpus.n_ctx)
        with pytest.raises(ValueError, match=rf"facts='{facts}': the corpus has 0 of them; allowed: at least 2"):
            ul.unification(network, corpus, facts=facts)
    everything = Corpus.build(tiny(**{"corpus.parallel": 1.0}))
    with pytest.raises(ValueError, match=r"every fact is seen in every language \(corpus.parallel=1\)"):
        ul.transfer(network, everything)


# --- what users write ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [list, torch.tensor, pd.Series, np.asarray])
def test_facts_are_chosen_by_numbers_or_mask(model, corpus, kind):
    wanted = ul.states(model, corpus, np.flatnonzero(corpus.parallel))
    assert wanted.shape[2] == corpus.parallel.sum() > 2
    for facts in (np.flatnonzero(corpus.parallel), corpus.parallel):
        assert torch.equal(ul.states(model, corpus, kind(facts)), wanted)
        assert corpus.rows(kind(facts)).tolist() == corpus.rows(np.flatnonzero(corpus.parallel)).tolist()
        assert Questions(corpus, kind(facts)).facts.tolist() == np.flatnonzero(corpus.parallel).tolist()


@pytest.mark.parametrize("facts", [[-1], [0, 72], [], [0.5], [True, False], np.zeros(72, bool), "all", None])
@pytest.mark.parametrize(
    "call",
    [
        ul.states,
        lambda model, corpus, facts: corpus.rows(facts),
        lambda model, corpus, facts: Questions(corpus, facts),
        lambda model, corpus, facts: ul.interchange.swaps(corpus, facts),
    ],
    ids=["states", "rows", "questions", "swaps"],
)
def test_facts_that_are_none_are_refused(model, corpus, facts, call):
    with pytest.raises(ValueError, match=r"^facts"):
        call(model, corpus, facts)


@pytest.mark.parametrize("rows", [[-1], [216], [True], []])
def test_rows_that_are_none_are_refused(corpus, rows):
    with pytest.raises(ValueError, match=r"^rows"):
        corpus.prompts(rows)


@pytest.mark.parametrize("template", [-1, 1, True])
def test_templates_that_are_none_are_refused(corpus, template):
    for call in (corpus.prompts, corpus.positions, lambda template: corpus.text(0, 0, template)):
        with pytest.raises(ValueError, match=f"template={template}; allowed: 0 to 0"):
            call(template=template)


def test_a_run_may_stand_alone(trained):
    model, corpus = trained.model, trained.corpus
    for name, function in (("transfer", ul.transfer), ("unification", ul.unification)):
        wanted = function(model, corpus)
        for found in (function(trained), getattr(trained, name)(), function(trained, corpus)):
            pd.testing.assert_frame_equal(found, wanted)
    pd.testing.assert_frame_equal(evaluate.held_out(trained), evaluate.held_out(model, corpus))
    pd.testing.assert_frame_equal(
        trained.unification("subject", facts="parallel", n_facts=9, seed=2),
        ul.unification(model, corpus, "subject", facts="parallel", n_facts=9, seed=2),
    )
    wanted = ul.states(model, corpus, [5, 2], "subject")
    assert torch.equal(trained.states([5, 2], position="subject"), wanted)
    assert torch.equal(ul.states(trained, corpus, [5, 2], "subject"), wanted)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda run: ul.transfer(run.corpus, run.model), "model is a Corpus; allowed: the model first"),
        (lambda run: ul.states(run.corpus, run.model, [0]), "model is a Corpus; allowed: the model first"),
        (
            lambda run: ul.interchange.language_swap(run.corpus, run.model),
            "model is a Corpus; allowed: the model first",
        ),
        (lambda run: ul.transfer(ul.Sweep([run], [{}])), r"model is a Sweep; .*`runs.measure\(ul.transfer\)`"),
        (lambda run: ul.transfer(run.experiment), "model is a Experiment; allowed: a model with .* or a run"),
        (lambda run: ul.transfer(run.model), "corpus is a NoneType; allowed: a Corpus, such as run.corpus"),
        (lambda run: ul.unification(run.model, run), "corpus is a Run; allowed: a Corpus, such as run.corpus"),
    ],
)
def test_other_arguments_are_refused(trained, call, told):
    with pytest.raises(TypeError, match=told):
        call(trained)


def test_languages_go_by_name(corpus):
    assert [corpus.text(language, 3) for language in "abc"] == [corpus.text(code, 3) for code in range(3)]
    assert corpus.text(language="b") == corpus.text(1, 0)
    ours, theirs = ul.interchange.pairs(corpus, "c", "a"), ul.interchange.pairs(corpus, 2, 0)
    assert torch.equal(ours.source, theirs.source) and torch.equal(ours.target, theirs.target)
    with pytest.raises(ValueError, match=r"language='d' is no language of the corpus. .*Allowed: a, b, c"):
        corpus.text("d")
    with pytest.raises(ValueError, match="source_language=True: allowed are 0 to 2, or a name: a, b, c"):
        ul.interchange.pairs(corpus, True)
    for language, fact in ((True, 0), (0.0, 0), (0, "1"), (0, [1])):
        with pytest.raises(ValueError, match="allowed are languages 0 to 2 and facts 0 to 71"):
            corpus.text(language, fact)


@pytest.mark.parametrize("n_facts", [-5, 0, 1, 2.5, True])
def test_as_many_facts_as_can_be_compared(n_facts):
    corpus = ul.Corpus.build(tiny())
    model = ul.build_model(tiny().model, corpus.d_vocab, corpus.n_ctx)
    with pytest.raises(ValueError, match=f"n_facts={n_facts}"):
        ul.unification(model, corpus, n_facts=n_facts)


@pytest.mark.parametrize(
    "changes",
    [{}, {"language.n_languages": 3}, {"world.n_relations": 1}, {"corpus.parallel": 0.0}, {"corpus.parallel": 1.0}],
    ids=str,
)
@pytest.mark.parametrize("at_once", [1, 2])
def test_layers_measured_together_score_as_each_alone(changes, at_once, monkeypatch):
    corpus = Corpus.build(tiny(**changes))
    monkeypatch.setattr("unifylens.crosslingual.evaluate.MEASURED_ROWS", at_once * corpus.n_rows)
    questions = Questions.all(corpus)
    layers = list(torch.randn(3, len(questions.rows), 8, generator=torch.Generator().manual_seed(0)))
    found = questions.representation(layers)
    relation, subject = (torch.from_numpy(of[~corpus.parallel]) for of in (corpus.world.relation, corpus.world.subject))
    fact = np.tile(questions.facts, corpus.n_languages)
    group = torch.from_numpy(fact if corpus.world.n_relations == 1 else questions.relation)
    for layer, state in enumerate(layers, 1):
        alone, parallel = (questions.pairs(state, parallel=which) for which in (False, True))
        expected = {
            "unification": [measures.unification(x, y) for x, y in alone] or [np.nan],
            "fact_only": [measures.fact_only(x, y, relation, subject) for x, y in alone] or [np.nan],
            "shuffled": [measures.shuffled(x, y, relation) for x, y in alone] or [np.nan],
            "unification_parallel": [measures.unification(x, y) for x, y in parallel] or [np.nan],
            "probe": [measures.language_probe(state, torch.from_numpy(questions.language), group)],
        }
        for name, values in expected.items():
            assert found[f"{name}_{layer}"] == pytest.approx(np.mean(values), rel=1e-9, abs=1e-12, nan_ok=True), name


# --- fact by fact --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_languages", [2, 3])
def test_fact_by_fact_is_what_the_scores_and_tables_are_made_of(n_languages):
    experiment = tiny(**{"language.n_languages": n_languages, "language.shared_subjects": 0.5})
    corpus = Corpus.build(experiment)
    model = ul.build_model(ul.ModelConfig(d_model=16, n_layers=2, n_heads=2, d_mlp=32), corpus.d_vocab, corpus.n_ctx, 3)
    table, alone = ul.by_fact(model, corpus), np.flatnonzero(~corpus.parallel)
    pd.testing.assert_frame_equal(table[list(evaluate.held_out(model, corpus))], evaluate.held_out(model, corpus))
    relation, subject = (torch.from_numpy(of[alone]) for of in (corpus.world.relation, corpus.world.subject))
    states = evaluate.states(model, corpus, alone)
    names = [language.name for language in corpus.languages]
    assert table["fact_only"].equals(table["fact_only_1"]) and "fact_only_0" not in table
    for layer in (1, 2):
        for a in range(n_languages):
            for b in range(n_languages):
                rows = table[(table["home"] == names[a]) & (table["asked"] == names[b])].set_index("fact")
                added = measures.fact_only_by_fact(states[layer, a], states[layer, b], relation, subject)
                expected = pd.Series(added.numpy(), alone).reindex(rows.index)
                np.testing.assert_allclose(rows[f"fact_only_{layer}"], expected, atol=1e-5)
    assert table["fact_only"].notna().sum() > 10
    if n_languages == 2:
        scores = ul.unification(model, corpus)["fact_only"]
        assert table["fact_only_2"].mean() == pytest.approx(scores[2], abs=1e-5)
    by_language = ul.transfer(model, corpus)
    for column, name in (("margin", "choice"), ("margin_corrected", "corrected")):
        shares = table[column].gt(0).groupby(table["asked"]).mean()
        np.testing.assert_allclose(shares, by_language[name])


def test_words_and_exposure_fact_by_fact():
    corpus = Corpus.build(tiny(**{"language.shared_subjects": 0.5, "language.shared_objects": 0.5}))
    model = ul.build_model(ul.ModelConfig(d_model=16, n_layers=2, n_heads=2, d_mlp=32), corpus.d_vocab, corpus.n_ctx)
    table, world = ul.by_fact(model, corpus), corpus.world
    first, second = corpus.languages
    for kind, numbers in (("subject", world.subject), ("object", world.object)):
        same = [getattr(first, f"{kind}s")[i] == getattr(second, f"{kind}s")[i] for i in numbers[table["fact"]]]
        assert table[f"shared_{kind}"].tolist() == same and 0 < np.mean(same) < 1
    assert not table["shared_relation"].any()
    row = table.iloc[7]
    home, asked = ([language.name for language in corpus.languages].index(row[at]) for at in ("home", "asked"))
    assert row["exposure"] == pytest.approx(corpus.exposure[:, row["fact"]].sum() * corpus.n_facts)
    for name, language in (("home", home), ("asked", asked)):
        same_relation = world.relation == row["relation"]
        told = corpus.exposure[language] * same_relation
        share = told[world.object == world.object[row["fact"]]].sum() / told.sum()
        assert row[f"frequency_{name}"] == pytest.approx(share)
    logits = model(corpus.prompts())[:, -1].detach()[asked * corpus.n_facts + row["fact"]].log_softmax(-1)
    spoken = corpus.languages[asked].objects
    said = {o: float(logits[corpus.tokenizer.encode([spoken[o]], asked)[0]]) for o in range(world.n_objects)}
    due = world.object[row["fact"]]
    others = [said[o] for o in said if world.object_relation[o] == row["relation"] and o != due]
    assert row["margin"] == pytest.approx(said[due] - max(others), abs=1e-4)
