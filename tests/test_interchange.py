"""Pairs against the corpus' ground truth; swaps and ablations in models made by hand, whose answers are known."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import quietly, tiny

import unifylens as ul
from unifylens import patching
from unifylens.corpus.corpus import Corpus
from unifylens.crosslingual import interchange
from unifylens.crosslingual.evaluate import states
from unifylens.crosslingual.interchange import halves, language_swap, pairs, subject_patch, subspace_swap
from unifylens.measures.answers import FOUR_ANSWERS
from unifylens.patching import subspaces
from unifylens.patching.stream import run_prompts

SUBJECT = 1  # its position, between <bos> and the relation


def build(**changes):
    return Corpus.build(tiny(**changes))


@pytest.fixture(scope="module")
def corpus():
    return build(**{"language.n_languages": 3})


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """A model that knows some facts in languages in which it never saw them, and others not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIFYLENS_HOME", str(tmp_path_factory.mktemp("learnt")))
        return quietly(tiny(**{"train.steps": 300, "train.lr": 1e-2}))[0]


def planted(corpus, language_by="all", copies=False):
    """A model that knows every fact in every language, and how its last position holds what it answers.

    Directions, one each: objects (those of the subject), relations, and languages, for all relations the same ones or
    for each its own. Block 0 brings what stands at the subject to the last position; block 1 does nothing. With
    `copies` each language has object directions of its own, which its words for subjects point along.
    """
    world, n_languages = corpus.world, corpus.n_languages
    n_objects, n_relations = world.n_objects, world.n_relations
    first = n_objects + n_relations
    by = 1 if language_by == "relation" else 0
    private = first + n_languages * (n_relations if by else 1)
    width = private + (n_languages - 1) * n_objects * copies
    shape = ul.ModelConfig(d_model=width, n_layers=2, n_heads=1, d_mlp=4, normalization=None)
    model = ul.build_model(shape, corpus.d_vocab, corpus.n_ctx)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        attention = model.blocks[0].attn
        attention.W_V[0], attention.W_O[0] = 3 * torch.eye(width), torch.eye(width)  # the mean of three positions
        for index, language in enumerate(corpus.languages):
            named = (language.subjects, language.relations, language.objects)
            subjects, relations, objects = (torch.tensor(corpus.tokenizer.encode(names, index)) for names in named)
            model.embed.W_E[subjects] = 0
            own = private + (index - 1) * n_objects if copies and index else 0  # the first has the shared ones
            model.embed.W_E[subjects[world.subject], own + world.object] = 1
            of_object = torch.from_numpy(world.object_relation)
            model.embed.W_E[relations, n_objects + torch.arange(n_relations)] = 1
            model.embed.W_E[relations, first + by * n_languages * torch.arange(n_relations) + index] = 1
            for start in [0, *range(private, width, n_objects)]:
                model.unembed.W_U[start + torch.arange(n_objects), objects] = 1
            model.unembed.W_U[n_objects + of_object, objects] = 1
            model.unembed.W_U[first + by * n_languages * of_object + index, objects] = 1
    return model


def coordinates(model, start, stop=None):
    return subspaces.neurons(range(start, stop or model.cfg.d_model), model.cfg.d_model)


def answered(model, corpus, language, facts):
    """Whether each fact, asked in a language, is answered with its object there."""
    rows = language * corpus.n_facts + facts
    logits, _ = run_prompts(model, corpus.prompts(rows))
    return (logits.argmax(-1) == corpus.answers[rows]).numpy()


# --- pairs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moved", ["fact", "subject"])
@pytest.mark.parametrize(("a", "b"), [(0, 1), (2, 0), (1, 1)])
def test_pairs_are_what_the_corpus_allows(corpus, moved, a, b):
    some, world = pairs(corpus, a, b, moved=moved), corpus.world
    source, target, due = some.source_fact, some.target_fact, some.due_fact
    assert len(source) == len(target) == len(due) == len(set(due)) > 5
    assert (corpus.home[due] == a).all() and corpus.seen[a, due].all()
    assert (corpus.seen[:, due].sum(0) == 1).all() and corpus.seen[b, target].all()
    assert (world.relation[due] == world.relation[target]).all() and (world.object[due] != world.object[target]).all()
    assert (world.subject[source] == world.subject[due]).all()
    if moved == "fact":
        assert (source == due).all()
    else:
        assert (world.relation[source] != world.relation[due]).all()
    for tokens, language, facts in [(some.source, a, source), (some.target, b, target), (some.prompts(2), 2, source)]:
        words = [" ".join(corpus.tokenizer.decode(row)) for row in tokens.tolist()]
        assert words == [corpus.text(language, fact, answer=False) for fact in facts]


def test_pairs_depend_on_the_seed_alone(corpus):
    def facts(**options):
        some = pairs(corpus, **options)
        return np.stack([some.source_fact, some.target_fact, some.due_fact]).tolist()

    for moved in ("fact", "subject"):
        assert facts(moved=moved) == facts(moved=moved) != facts(moved=moved, seed=1)
    few, all_of_them = facts(n_pairs=4), facts()
    assert len(few[0]) == 4 and few[2] == all_of_them[2][:4]
    assert len(all_of_them[0]) == (~corpus.parallel & (corpus.home == 0)).sum()


@pytest.mark.parametrize("moved", ["fact", "subject"])
def test_the_four_answers_mean_what_they_are_called(corpus, moved):
    some = pairs(corpus, 2, 1, moved=moved)
    due, target = corpus.world.object[some.due_fact], corpus.world.object[some.target_fact]
    expected = {
        "source object, target language": (due, 1),
        "source object, source language": (due, 2),
        "target object, target language": (target, 1),
        "target object, source language": (target, 2),
    }
    assert tuple(some.answers()) == FOUR_ANSWERS
    for name, tokens in some.answers().items():
        objects, language = expected[name]
        assert corpus.tokenizer.decode(tokens.tolist()) == [corpus.languages[language].objects[o] for o in objects]


def test_shares_and_probabilities_are_of_the_four_answers(corpus):
    some = pairs(corpus, n_pairs=6)
    for name, token in some.answers().items():
        logits = torch.nn.functional.one_hot(token, corpus.d_vocab) * 50.0
        assert {key: metric(logits) for key, metric in some.shares().items()} == {k: k == name for k in FOUR_ANSWERS}
        for key, metric in some.probabilities().items():
            assert metric(logits) == pytest.approx(float(key == name), abs=1e-6)


@pytest.mark.parametrize("n", [2, 3, 500])
def test_shuffled_pairs_keep_everything_but_the_due_facts_of_which_none_stays(corpus, n):
    some = pairs(corpus, 1, 2, moved="subject", n_pairs=n)
    for seed in range(3):
        other = some.shuffled(seed)
        assert torch.equal(other.source, some.source) and torch.equal(other.target, some.target)
        assert (other.due_fact != some.due_fact).all() and set(other.due_fact) == set(some.due_fact)
        assert (other.due_fact == some.shuffled(seed).due_fact).all()
        both = other.answers(), some.answers()
        assert [torch.equal(both[0][name], both[1][name]) for name in FOUR_ANSWERS] == [False, False, True, True]


def test_pairs_that_do_not_exist_are_refused(corpus):
    for options, told in [
        ({"source_language": 3}, "source_language=3: allowed are 0 to 2"),
        ({"target_language": -1}, "target_language=-1: allowed are 0 to 2"),
        ({"moved": "object"}, "moved='object'; allowed: 'fact', 'subject'"),
    ]:
        with pytest.raises(ValueError, match=told):
            pairs(corpus, **options)
    with pytest.raises(ValueError, match="no facts to patch from language 0"):
        pairs(build(**{"corpus.parallel": 1.0}))
    one_relation = build(**{"world.n_relations": 1})
    assert len(pairs(one_relation).due_fact)
    with pytest.raises(ValueError, match="too few relations"):
        pairs(one_relation, moved="subject")
    with pytest.raises(ValueError, match="one pair cannot be shuffled; allowed: at least 2"):
        pairs(corpus, n_pairs=1).shuffled()
    alone = build(**{"corpus.parallel": 0.0})
    everything_at_home = np.stack([np.ones(alone.n_facts), np.zeros(alone.n_facts)]) / alone.n_facts
    alone = alone.replace(home=np.zeros_like(alone.home), stages=[(0, 1, everything_at_home)])
    with pytest.raises(ValueError, match="no target fact with another object"):
        pairs(alone)


def test_what_is_patched_decides_which_of_the_four_is_answered(corpus):
    model, some = planted(corpus), pairs(corpus, 0, 2)
    table = patching.by_layer_and_position(
        model, some.target, some.source, some.shares(), layers=[0, 2], progress=False
    )
    table = table.set_index(["layer", "position"])[list(FOUR_ANSWERS)]
    assert table.loc[0, 0].tolist() == [0, 0, 1, 0], "<bos>: nothing changes"
    assert table.loc[0, SUBJECT].tolist() == [1, 0, 0, 0]
    assert table.loc[0, 2].tolist() == [0, 0, 0, 1], "the relation's word, which is the language's too"
    assert table.loc[2, 2].tolist() == [0, 1, 0, 0]


# --- what is known of the subject ----------------------------------------------------------------------------


@pytest.mark.parametrize("n_languages", [2, 3])
def test_the_subject_alone_carries_its_object_into_another_language(n_languages):
    corpus = build(**{"language.n_languages": n_languages})
    table = subject_patch(planted(corpus), corpus, [SUBJECT], seed=4).set_index("layer")
    assert table.index.tolist() == [0, 1, 2] and list(table) == ["right", "shuffled", "asked", "known", "ceiling"]
    assert table["right"].tolist() == [1, 0, 0], "after block 0 the last position has read the subject"
    assert (table["asked"] == 1).all() and table["known"].tolist() == [1, 0, 0]
    assert table["ceiling"].tolist() == [1, 0, 0]
    same = []
    for a in range(n_languages):
        for b in set(range(n_languages)) - {a}:
            some = pairs(corpus, a, b, moved="subject", n_pairs=100, seed=4)
            same.append(np.mean(corpus.world.object[some.due_fact] == corpus.world.object[some.shuffled(4).due_fact]))
    assert table.loc[0, "shuffled"] == pytest.approx(np.mean(same)) and np.mean(same) < 0.5


@pytest.mark.parametrize("n_languages", [2, 3])
def test_a_state_that_serves_in_its_own_language_alone_fails_where_the_fact_is_known(n_languages):
    """Separate copies, each read in its own language alone: the ceiling is whole, the foreign state is of no use."""
    corpus = build(**{"language.n_languages": n_languages, "language.shared_subjects": 0.0})
    unified, separate = (planted(corpus, copies=copies) for copies in (False, True))
    known = subject_patch(unified, corpus, [SUBJECT], layers=[0])["known"]
    assert known.tolist() == [1], "words of another language serve, where they stand for the same"
    n = corpus.world.n_objects
    width = separate.cfg.d_model - (n_languages - 1) * n
    with torch.no_grad():  # objects answer in their own language alone, whatever the prompt's
        for index, language in enumerate(corpus.languages):
            objects = torch.tensor(corpus.tokenizer.encode(language.objects, index))
            for k, start in enumerate([0, *range(width, separate.cfg.d_model, n)]):
                if k != index:
                    separate.unembed.W_U[start + torch.arange(n), objects] = -2
    row = subject_patch(separate, corpus, [SUBJECT], layers=[0]).iloc[0]
    assert row["ceiling"] == 1 and row["asked"] == 1 and row["known"] == row["right"] == 0


def test_pairs_known_in_the_target_were_never_seen_in_the_source(corpus):
    for moved in ("fact", "subject"):
        some = pairs(corpus, 0, 2, moved=moved, known="target")
        assert (corpus.home[some.due_fact] == 2).all() and not corpus.seen[0, some.due_fact].any()
        assert (corpus.world.subject[some.source_fact] == corpus.world.subject[some.due_fact]).all()
    with pytest.raises(ValueError, match="known='both'; allowed: 'source', 'target'"):
        pairs(corpus, known="both")


def test_patching_all_positions_gives_the_sources_own_answer(corpus):
    model = planted(corpus)
    everything = subject_patch(model, corpus, [0, 1, 2], layers=[1, 0])
    assert everything["layer"].tolist() == [0, 1], "sorted"
    assert not everything[["right", "ceiling"]].to_numpy().any(), "it answers another relation"
    some = pairs(corpus, 1, 0, moved="subject")
    edit = patching.patch_at(patching.residual(model, 0), {}, positions=[0, 1, 2])
    due = {"its own": patching.answered(corpus.answers[corpus.n_facts + some.source_fact])}
    patched = patching.experiment(model, some.target, [edit], due, source=some.source, progress=False)
    assert patched["its own"].tolist() == [1]


def test_an_untrained_model_has_nothing_to_carry(learnt):
    fresh = ul.untrained_like(learnt.model)
    table = subject_patch(fresh, learnt.corpus, [SUBJECT])
    assert (table[["right", "shuffled", "ceiling"]] < 0.25).all(axis=None)
    with pytest.raises(ValueError, match="layer=3: the model has 2 blocks"):
        subject_patch(fresh, learnt.corpus, [SUBJECT], layers=[3])


# --- language swap -------------------------------------------------------------------------------------------


def test_halves_hold_each_monolingual_fact_once(corpus):
    fit, test = halves(corpus)
    assert sorted([*fit, *test]) == np.flatnonzero(~corpus.parallel).tolist() and abs(len(fit) - len(test)) <= 1
    again, other = halves(corpus)[0], halves(corpus, seed=1)[0]
    assert (again == fit).all() and set(other) != set(fit)
    with pytest.raises(ValueError, match="the corpus has 1 monolingual facts; allowed: at least 2"):
        halves(build(**{"corpus.parallel": 0.3, "corpus.n_parallel": 71}))


@pytest.mark.parametrize(
    ("language_by", "by", "right", "mismatched"),
    [
        ("all", "all", 1, None),
        ("all", "relation", 1, 1),
        ("all", "object", 1, 1),
        ("relation", "all", 0, None),
        ("relation", "relation", 1, 0),
    ],
)
def test_a_swap_succeeds_where_the_facts_share_their_language(corpus, language_by, by, right, mismatched):
    table = language_swap(planted(corpus, language_by), corpus, by=by)
    fit, test = halves(corpus)
    if by == "object":
        test = test[np.isin(corpus.world.object[test], corpus.world.object[fit])]
    assert len(table) == 6 and table["n"].sum() == 2 * len(test)
    for row in table.itertuples():
        home = "abc".index(row.source)
        assert row.source != row.target and row.n == (corpus.home[test] == home).sum()
        assert (row.right, row.flipped, row.unchanged) == (right, right, 1 - right)
        assert row.random < 0.5
        assert np.isnan(row.mismatched) if mismatched is None else row.mismatched == mismatched


def test_a_swap_of_the_language_may_lose_the_object(corpus):
    """What stands at the last position tells language and relation; the object is nowhere."""
    model = planted(corpus)
    model.blocks[0].attn.W_V.data.zero_()
    table = language_swap(model, corpus)
    assert (table["flipped"] == 1).all() and (table["right"] < 0.7).all() and table["right"].mean() < 0.5


def test_facts_whose_group_has_no_fit_facts_are_not_swapped():
    corpus = build(**{"corpus.parallel": 0.8})
    fit, test = halves(corpus)
    both = np.isin(corpus.world.object[test], corpus.world.object[fit])
    assert 0 < both.sum() < len(test)
    table = language_swap(planted(corpus), corpus, by="object")
    assert table["n"].sum() == both.sum() and (table["right"] == 1).all()


def test_another_relations_shift_does_it_where_the_language_has_one_direction(corpus):
    """The control of B2 can fail: any relation's shift is as good where all of them are one."""
    passed = {}
    for language_by in ("all", "relation"):
        table = language_swap(planted(corpus, language_by), corpus)
        effect, control = table["right"].to_numpy(), table["mismatched"].to_numpy()
        passed[language_by] = ul.claims.CLAIMS["B2"].control_passes(control.mean(), control.mean())
        assert (effect == 1).all()
    assert passed == {"all": False, "relation": True}


def test_transfer_beside_a_swap_is_of_other_facts(learnt):
    fit, _ = halves(learnt.corpus)
    table = language_swap(learnt.model, learnt.corpus)
    for row in table.itertuples(index=False):
        a, b = ("ab".index(name) for name in (row.source, row.target))
        facts = fit[learnt.corpus.home[fit] == a]
        assert row[-1] == pytest.approx(answered(learnt.model, learnt.corpus, b, facts).mean())


def test_the_layer_of_a_swap(corpus):
    model = planted(corpus)
    tables = {layer: language_swap(model, corpus, layer) for layer in (None, 0, 1, 2)}
    pd.testing.assert_frame_equal(tables[None], tables[1])
    assert (tables[0]["right"] == 1).all() and (tables[2]["right"] == 1).all()
    pd.testing.assert_frame_equal(language_swap(model, corpus, batch_size=5), tables[None])
    for layer in (-1, 3):
        with pytest.raises(ValueError, match=f"layer={layer}: the model has 2 blocks"):
            language_swap(model, corpus, layer)
    with pytest.raises(ValueError, match="by='subject'; allowed: all, relation, object"):
        language_swap(model, corpus, by="subject")
    with pytest.raises(ValueError, match="must equal the corpus' vocabulary"):
        language_swap(model, build())


@pytest.mark.parametrize("by", interchange.SHIFTS)
def test_swaps_in_real_models_are_shares_and_an_untrained_one_swaps_nothing(learnt, by):
    columns = ["right", "flipped", "unchanged", "random", "mismatched", "others transfer"]
    for model in (learnt.model, ul.untrained_like(learnt.model)):
        table = language_swap(model, learnt.corpus, by=by)
        assert list(table) == ["source", "target", "n", *columns]
        shares = table[[name for name in columns if by != "all" or name != "mismatched"]]
        assert shares.to_numpy().min() >= 0 and (shares.to_numpy() <= 1).all()
        assert (table["right"] <= table["flipped"]).all()
    assert (shares < 0.25).all(axis=None)


# --- subspaces -----------------------------------------------------------------------------------------------


def test_a_subspace_with_the_language_swaps_it_and_one_without_does_not(corpus):
    model = planted(corpus)
    languages = corpus.world.n_objects + corpus.world.n_relations
    spaces = {"language": coordinates(model, languages), "rest": coordinates(model, 0, languages)}
    spaces["fitted"] = subspaces.span(
        subspaces.language_shifts(states(model, corpus, halves(corpus)[0])[1]).flatten(0, 1)
    )
    table = subspace_swap(model, corpus, spaces)
    assert len(table) == 18 and set(table["rank"]) == {3, languages, 2}
    swapped = table["space"] != "rest"
    assert (table["right"] == swapped).all() and (table["flipped"] == swapped).all()
    assert (table["unchanged"] == ~swapped).all()
    assert (table["n"] == table["source"].map(language_swap(model, corpus).groupby("source")["n"].first())).all()


def test_the_whole_space_is_the_whole_state(learnt):
    model, corpus = learnt.model, learnt.corpus
    whole, (_, test) = {"whole": subspaces.random(16, 16)}, halves(corpus)
    after = subspace_swap(model, corpus, whole, layer=2).set_index("source")
    between = subspace_swap(model, corpus, whole).set_index("source")
    for a, name in enumerate("ab"):
        facts = test[corpus.home[test] == a]
        assert after.loc[name, "n"] == len(facts)
        transfer = answered(model, corpus, 1 - a, facts).mean()
        assert after.loc[name, "right"] == pytest.approx(transfer) and 0 < transfer
        swap = interchange.Swap(corpus, a, 1 - a, facts)
        edit = patching.patch_at("blocks.0.hook_resid_post", {}, positions=-1)
        direct = patching.experiment(
            model, swap.prompts(a), [edit], swap.shares(), source=swap.prompts(1 - a), progress=False
        )
        for column in ("right", "flipped", "unchanged"):
            assert between.loc[name, column] == pytest.approx(direct[column][0])


# --- ablation ------------------------------------------------------------------------------------------------


def test_without_a_dimension_that_matters_nothing_is_lost_and_without_any_everything(corpus):
    model = planted(corpus)
    width, n_objects = model.cfg.d_model, corpus.world.n_objects
    spaces = {
        "one": subspaces.random(width, 1, seed=2),
        "objects": coordinates(model, 0, n_objects),
        "whole": subspaces.random(width, width),
    }
    table = interchange.ablate(model, corpus, spaces).set_index("space")
    assert table["rank"].tolist() == [1, n_objects, width]
    assert table.loc["one", ["home", "transfer"]].min() > 0.9
    for space in ("objects", "whole"):
        assert table.loc[space, ["home", "transfer"]].max() < 0.6, "one answer a relation and language, or one in all"
    assert table.loc["whole", ["home", "transfer"]].max() < 0.2


def test_objects_of_a_languages_own_are_lost_there_and_nowhere_else():
    """Planted copies, one a language: the sentence "no private copy" fails there, and passes where there is one."""
    corpus = build(**{"language.shared_subjects": 0.0, "corpus.parallel": 0.0, "world.n_subjects": 90})
    for copies, rank in ((True, 5), (False, 2)):
        table = interchange.own_objects(planted(corpus, copies=copies), corpus, [rank]).set_index("space")
        assert len(table) == 6 and set(table["rank"]) == {0, rank}
        assert (table.loc["none", ["home", "transfer", "elsewhere"]] > 0.999).all(axis=None)
        own = table.loc["own"]
        if copies:
            assert (own["home"] < 0.85).all() and (own["elsewhere"] > 0.999).all()
            assert (own["transfer"] > 0.999).all(), "asked elsewhere, the fact is read from the other copy"
        else:
            assert (own["home"] - own["transfer"]).abs().max() < 0.05, "what is lost is lost alike"
            assert (own["home"] - own["elsewhere"]).abs().max() < 0.15
    nothing = build(**{"corpus.parallel": 1.0})
    with pytest.raises(ValueError, match="monolingual facts; allowed: at least 2"):
        interchange.own_objects(planted(nothing), nothing, [1])


@pytest.mark.parametrize("layer", [None, 0, 2])
def test_home_and_transfer_are_what_a_run_by_hand_gives(learnt, layer):
    model, corpus, seed = learnt.model, learnt.corpus, 3
    fit, test = halves(corpus, seed)
    index = 1 if layer is None else layer
    name = ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"][index]
    mean = states(model, corpus, fit)[index].flatten(0, 1).mean(0)
    spaces = {"some": subspaces.random(16, 4), "hardly any": subspaces.Subspace(torch.eye(16)[:1])}
    table = interchange.ablate(model, corpus, spaces, layer, seed=seed, batch_size=7).set_index("space")
    for label, space in spaces.items():

        def out(x, hook, p=space.basis.T @ space.basis):
            x = x.clone()
            x[:, -1] = x[:, -1] - (x[:, -1] - mean) @ p
            return x

        right, wrong_language = {"home": [], "transfer": []}, []
        for fact in test:
            for language in range(2):
                row = torch.tensor([language * corpus.n_facts + fact])
                token = int(model.run_with_hooks(corpus.prompts(row), fwd_hooks=[(name, out)])[0, -1].argmax())
                is_right = token == int(corpus.answers[row])
                right["home" if corpus.home[fact] == language else "transfer"].append(is_right)
                wrong_language.append(not is_right and corpus.token_object[token] == corpus.world.object[fact])
        for column, values in [*right.items(), ("wrong language", wrong_language)]:
            assert table.loc[label, column] == pytest.approx(np.mean(values)), (label, column)


def test_without_an_edit_home_and_transfer_are_the_models_own(learnt, monkeypatch):
    model, corpus = learnt.model, learnt.corpus
    monkeypatch.setattr(interchange.hooks, "project_out", lambda x, hook, **_: x)
    row = interchange.ablate(model, corpus, {"none": subspaces.random(16, 1)}).iloc[0]
    _, test = halves(corpus)
    right = np.stack([answered(model, corpus, language, test) for language in range(2)])
    at_home = np.arange(2)[:, None] == corpus.home[test]
    assert row["home"] == pytest.approx(right[at_home].mean()) and row["home"] > 0.8
    assert row["transfer"] == pytest.approx(right[~at_home].mean()) != row["home"]


@pytest.mark.parametrize("call", [subspace_swap, interchange.ablate])
def test_subspaces_that_cannot_be_tried_are_refused(corpus, call):
    model = planted(corpus)
    with pytest.raises(ValueError, match="edits is empty; allowed: at least one"):
        call(model, corpus, {})
    with pytest.raises(ValueError, match="layer=7: the model has 2 blocks"):
        call(model, corpus, {"one": subspaces.random(model.cfg.d_model, 1)}, layer=7)
    with pytest.raises(ValueError, match="must equal the corpus' vocabulary"):
        call(model, build(), {"one": subspaces.random(model.cfg.d_model, 1)})
