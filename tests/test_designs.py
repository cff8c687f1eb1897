import numpy as np
import pandas as pd
import pytest
import torch

import unifylens as ul
from unifylens.designs import FOUR_LAYERS, LANGUAGE_TOKEN, LATE_READING, LATE_READING_POSITIONS, growth, tracing


@pytest.fixture(params=["quick", "full"])
def profile(request, monkeypatch):
    monkeypatch.setenv("UNIFYLENS_PROFILE", request.param)
    return request.param


def test_designs_exist_in_both_profiles_and_differ_in_what_they_say(profile):
    n_seeds = {"quick": 4, "full": 10}[profile]
    assert list(ul.designs.seeds()) == list(range(n_seeds))
    for design in (ul.designs.parallel_levels(), ul.designs.critical_period(), ul.designs.mixed_dials()):
        assert all(experiment.seed == labels["seed"] for labels, experiment in design)
        assert len({experiment for _, experiment in design}) == len(design)
    levels = {labels["parallel"] for labels, _ in ul.designs.parallel_levels()}
    assert levels >= {0.0, 0.1, 0.3, 0.6}  # what the notebooks show
    together = {e for design in (ul.designs.parallel_levels(), ul.designs.mixed_dials()) for _, e in design}
    assert len(together) >= 40


def test_the_number_of_seeds_is_the_users_to_choose(monkeypatch):
    monkeypatch.setenv("UNIFYLENS_SEEDS", "3")
    assert ul.designs.seeds() == range(3)
    assert {labels["seed"] for labels, _ in ul.designs.mixed_dials()} == {0}
    for wrong in ("1", "-3", "2.5", "many"):
        monkeypatch.setenv("UNIFYLENS_SEEDS", wrong)
        with pytest.raises(ValueError, match=f"UNIFYLENS_SEEDS is '{wrong}'; allowed: whole numbers from 2"):
            ul.designs.seeds()


def test_copies_of_the_critical_period_are_expected_equally_often(profile):
    conditions = [(labels, e) for labels, e in ul.designs.critical_period() if labels["seed"] == 0]
    assert {labels["condition"] for labels, _ in conditions} == {"always", "early", "late", "never"}
    by_schedule = {}
    for labels, experiment in conditions:
        corpus = ul.Corpus.build(experiment)
        if labels["condition"] != "never":
            by_schedule.setdefault(labels["schedule"], []).append(corpus.exposure)
    for exposures in by_schedule.values():
        for exposure in exposures[1:]:
            np.testing.assert_allclose(exposure, exposures[0], atol=1e-12)


def test_late_copies_differ_in_what_is_left_of_training(profile):
    cells = {
        (la["schedule"], la["condition"], la["boundary"]): e for la, e in ul.designs.plasticity() if not la["seed"]
    }
    exposures = [ul.Corpus.build(e).exposure for (_, condition, _), e in cells.items() if condition != "never"]
    for exposure in exposures[1:]:
        np.testing.assert_allclose(exposure, exposures[0], atol=1e-12)
    restart, no_restart = (cells[name, "late", 1 / 2] for name in ("restart", "no restart"))
    half = restart.train.steps // 2
    assert restart.changes == no_restart.changes and restart.changes[0].step == half
    assert all(restart.train.lr_at(step) == no_restart.train.lr_at(step) for step in range(half))
    assert no_restart.train.decay_left(half) < restart.train.decay_left(half) / 4


def test_models_of_both_kinds_differ_in_nothing_but_parallel_facts(profile):
    design = ul.designs.unified_and_separate(**{"model.d_model": 32})
    n_seeds = {"quick": 4, "full": 10}[profile]
    assert list(ul.designs.seeds()) == list(range(n_seeds))
    expected = [(kind, seed) for kind in ("unified", "separate") for seed in range(n_seeds)]
    assert [(labels["kind"], labels["seed"]) for labels, _ in design] == expected
    for labels, experiment in design:
        dials = {"seed": labels["seed"], "corpus.parallel": {"unified": 0.6, "separate": 0.0}[labels["kind"]]}
        assert experiment == ul.Experiment().replace(**{"model.d_model": 32}, **dials)
    assert [e for _, e in ul.designs.unified_and_separate()] != [e for _, e in design]


def initial(experiment):
    corpus = ul.Corpus.build(experiment)
    return ul.build_model(experiment.model, corpus.d_vocab, corpus.n_ctx, experiment.seed), corpus


@pytest.mark.parametrize("changes", [{}, LATE_READING, FOUR_LAYERS], ids=["default", "late reading", "four layers"])
def test_members_of_one_seed_start_from_the_same_weights(changes):
    by_seed = {}
    for labels, experiment in ul.designs.unified_and_separate(**changes):
        if labels["seed"] < 2:
            by_seed.setdefault(labels["seed"], []).append(initial(experiment)[0].state_dict())
    for one, other in by_seed.values():
        assert one.keys() == other.keys() and all(torch.equal(p, other[name]) for name, p in one.items())
    assert not torch.equal(by_seed[0][0]["embed.W_E"], by_seed[1][0]["embed.W_E"])


def test_a_token_of_its_own_alone_tells_the_language():
    (_, experiment), *_ = ul.designs.unified_and_separate(**LANGUAGE_TOKEN)
    corpus = ul.Corpus.build(experiment)
    one, other = corpus.prompts().unflatten(0, (2, -1))
    assert ((one != other).sum(1) == 1).all()


def test_many_models_are_those_of_the_other_designs(profile):
    families = ul.designs.many_models()
    assert families == {
        "share of parallel facts": ul.designs.parallel_levels(),
        "critical period": ul.designs.critical_period(),
        "mixed dials": ul.designs.mixed_dials(),
    }
    assert len({e for design in families.values() for _, e in design}) > {"quick": 90, "full": 300}[profile]


@torch.no_grad()
def test_in_late_reading_two_positions_alone_know_the_subject_after_the_first_block():
    (_, experiment), *_ = ul.designs.unified_and_separate(**LATE_READING)
    model, corpus = initial(experiment)
    subject, last = corpus.position("subject"), corpus.position("answer")
    assert LATE_READING_POSITIONS == (subject, subject + 1) and last not in LATE_READING_POSITIONS
    one = corpus.prompts()[:1]
    other = one.clone()
    other[0, subject] = corpus.prompts()[-1, subject]
    assert (one != other).nonzero().tolist() == [[0, subject]]
    names = [f"blocks.{block}.hook_resid_post" for block in range(3)]
    caches = [model.run_with_cache(tokens, names_filter=names)[1] for tokens in (one, other)]
    apart = [(caches[0][name] - caches[1][name])[0].abs().amax(1) for name in names]
    assert apart[0].nonzero().flatten().tolist() == list(LATE_READING_POSITIONS)
    assert apart[1][last] > 0, "the second block reads it"


def test_interventions_are_applied_alone_to_one_base_and_move_it(profile):
    turns, design = ul.designs.TURNS, ul.designs.turning()
    assert len(design) == (1 + len(turns)) * len(ul.designs.seeds())
    by_name = {labels["intervention"]: e for labels, e in design if labels["seed"] == 1}
    assert list(by_name) == ["none", *turns]
    base = by_name.pop("none")
    assert base == ul.designs.small(seed=1, **ul.designs.TURNING)
    before = ul.build_corpus(base)
    for name, experiment in by_name.items():
        assert experiment.replace(interventions=()) == base
        assert ul.interventions.effects(before, ul.build_corpus(experiment))["moved"].any(), name
    for of in ("data", "tokens"):  # what claims C6 and C7 need
        named = [turn.foretold for turn in turns.values() if turn.of == of and turn.named]
        assert named.count(1) >= 3 and named.count(-1) >= 1


def test_both_ends_of_every_dial_are_models_of_other_notebooks(profile):
    design = ul.designs.two_ways()
    others = [*ul.designs.informativeness().values(), ul.designs.extractability(), ul.designs.phase_diagram()]
    trained = {e for other in others for _, e in other}
    own = [labels for labels, e in design if e not in trained]
    assert all(labels["notebook"] == "11" and labels["seed"] >= 2 for labels in own), "only seeds that it leaves out"
    forces = {labels["force"] for labels, _ in design}
    assert forces == set(ul.designs.dial_ends()) and len(design) == 2 * len(forces) * len(ul.designs.seeds())
    assert all(
        len({e for labels, e in design if labels["force"] == force and labels["seed"] == 0}) == 2 for force in forces
    )
    by_seed = {labels["seed"]: e for labels, e in ul.designs.separate_donors()}
    facts = [
        ul.Corpus.build(e).world.object.tolist() for e in (by_seed[0], ul.designs.dial_ends()["exposure uneven"][2])
    ]
    assert facts[0] == facts[1], "a donor has the facts of the run"


def exposures(experiment):
    """How often each kind of copy is expected in one batch, by name."""
    corpus = ul.Corpus.build(experiment)
    per_step = corpus.exposure * experiment.train.batch_size
    kinds = ul.corpus.KINDS[:3]
    assert all(np.ptp(per_step[corpus.kind == code]) < 1e-12 for code in range(len(kinds)))
    return {name: per_step[corpus.kind == code].mean() for code, name in enumerate(kinds)}


def told(experiment):
    return ul.Corpus.build(experiment).statistics()["value"]


def test_families_of_informativeness_share_their_dish_and_move_one_dial(profile):
    families = ul.designs.informativeness()
    n_seeds = {"quick": 4, "full": 10}[profile]
    balanced = ul.designs.small(**{"corpus.parallel": 0.2})
    for family, design in families.items():
        assert {labels["family"] for labels, _ in design} == {family}
        assert {labels["seed"] for labels, _ in design} == {e.seed for _, e in design} == set(range(n_seeds))
        assert len({e for _, e in design}) == len(design)
        rest = {"seed": 0, "train.batch_size": 256, "corpus": ul.CorpusConfig()}
        if family.endswith("longer"):
            assert {e.train.steps for _, e in design} == {ul.designs.LONGER * balanced.train.steps}
            rest["train.steps"] = balanced.train.steps
        assert {e.replace(**rest) for _, e in design} == {balanced.replace(**rest)}
    for family in set(families) - {"same exposure", "same information", "uneven exposure, longer"}:
        assert balanced in [e for _, e in families[family]], "every family is measured against balanced copies"
    levels = {labels["level"] for labels, _ in families["uneven exposure"]}
    assert len(levels) >= 5 and levels >= {labels["level"] for labels, _ in families["uneven exposure, longer"]}
    parallel = {e: int(told(e)["parallel facts"]) for f, d in families.items() for _, e in d if e.seed == 0}
    assert {n for e, n in parallel.items() if e.corpus.parallel == 0.2} == {320}


def test_matched_conditions_have_what_they_are_named_after(profile):
    families = ul.designs.informativeness()
    by_level = {
        family: {labels["level"]: e for labels, e in families[family] if labels["seed"] == 0}
        for family in ("uneven exposure", "same exposure", "same information")
    }
    for level in by_level["same exposure"]:
        imbalanced, rare, even = (by_level[family][level] for family in by_level)
        want, have, other = exposures(imbalanced), exposures(rare), exposures(even)
        # batches hold whole examples, hence 0.4 %
        assert have["minority"] == pytest.approx(want["minority"], rel=4e-3)
        assert have["majority"] == pytest.approx(have["minority"])
        for found in (have, other):
            assert found["monolingual"] == pytest.approx(want["monolingual"], rel=4e-3)
        bits = [told(e)["I(fact; language)"] for e in (imbalanced, rare, even)]
        assert bits[2] == pytest.approx(bits[0], abs=2e-3) and bits[1] > bits[0]
        assert other["minority"] > want["minority"]


def test_as_informative_by_hand():
    # 72 facts, half parallel: 72 units of copies, 36 alone. A copy at 0.5 away from home and 1.5 at home leaves
    # H(1/4) = 0.8113 bits of the language unknown, of two thirds of what is read: 0.5409 in all.
    experiment = ul.designs.small(
        **{"world.n_subjects": 24, "world.n_relations": 3, "world.n_objects": 4, "corpus.parallel": 0.5}
    )
    found = ul.designs.as_informative(experiment, 0.5)
    assert found == pytest.approx(0.5409 / (1 - 0.5409) * 36 / 72, rel=1e-3)
    assert ul.designs.as_informative(experiment, 1.0) == pytest.approx(1.0)
    rare = ul.designs.rare_copies(experiment, 0.5)
    assert (rare.corpus.parallel_exposure, rare.train.batch_size) == (0.5, round(256 * (36 + 36) / (72 + 36)))


@pytest.mark.parametrize("moved", ["exposure_balance", "copy_exposure", "parallel_exposure"])
def test_matching_starts_from_balanced_copies(moved):
    for design in (ul.designs.rare_copies, ul.designs.as_informative):
        with pytest.raises(ValueError, match=rf"{moved}=0.7.* equally frequent; allowed: 1 for all"):
            design(ul.designs.small(**{f"corpus.{moved}": 0.7}), 0.5)


MOVED = {
    "subject words": {"language.shared_subjects"},
    "object words": {"language.shared_objects"},
    "function words": {"language.shared_function_words"},
    "language token": {"language.language_token"},
    "relation words": {"language.shared_relations"},
    "cue": {"language.language_token", "language.language_cue"},
}


def statistics_of_dials():
    """By dial: the statistics of each level's corpus, in order."""
    quantities = ["language-revealing prompt tokens", "language information of a prompt token", "I(fact; language)"]
    tables = {}
    for dial, levels in ul.designs.extractability_dials().items():
        corpora = {level: ul.Corpus.build(ul.designs.small(**changes)) for level, changes in levels.items()}
        rows = {level: corpus.statistics().loc[quantities, "value"] for level, corpus in corpora.items()}
        tables[dial] = pd.DataFrame(rows, index=quantities).T.set_axis(["revealing", "bits", "informativeness"], axis=1)
    return tables


def test_dials_of_extractability_move_what_they_say_and_nothing_else(profile):
    design = ul.designs.extractability()
    seeds = list(ul.designs.seeds())
    settings = {(labels["dial"], labels["level"]) for labels, _ in design}
    assert len(design) == len(settings) * len(seeds)
    for dial, levels in ul.designs.extractability_dials().items():
        fields = {field for changes in levels.values() for field in changes}
        moved = {f for f in fields if len({str(changes.get(f)) for changes in levels.values()}) > 1}
        assert moved == MOVED[dial]
        assert len({changes["corpus.parallel"] for changes in levels.values()}) == 1
        for level, changes in levels.items():
            found = [e for labels, e in design if (labels["dial"], labels["level"]) == (dial, level)]
            assert found == [ul.designs.small(seed=seed, **changes) for seed in seeds]
    # settings in common are the same experiment, so they are trained once
    n_common = 2 + 1  # the base of subject words stands in three dials, a language token with all words shared in two
    assert len({experiment for _, experiment in design}) == len(design) - n_common * len(seeds)


def test_levels_of_extractability_rise_in_what_they_give_away(profile):
    tables = statistics_of_dials()
    judged = [f"{share:.0%} shared" for share in (1.0, ul.designs.JUDGED_SHARED)]
    assert {*judged} <= {*tables["subject words"].index}, "what C5 asks for"
    for dial in ("subject words", "function words", "language token", "relation words"):
        assert tables[dial]["revealing"].is_monotonic_increasing and tables[dial]["revealing"].is_unique, dial
    assert tables["object words"]["revealing"].nunique() == 1, "answers stand outside the prompt"
    cues = tables["cue"]
    assert cues["revealing"].tolist() == pytest.approx([1 / 3, 0, 0, 0])
    assert cues["bits"].is_monotonic_decreasing and cues["bits"].is_unique
    for dial, table in tables.items():
        np.testing.assert_allclose(table["informativeness"], table["informativeness"].iloc[0], err_msg=dial)


def test_fewer_parallel_facts_are_as_many_as_have_shared_words(profile):
    dial = ul.designs.extractability_dials()["subject words"]
    for labels, experiment in ul.designs.fewer_parallel():
        few, many = (
            ul.Corpus.build(e)
            for e in (experiment, ul.designs.small(seed=labels["seed"], **dial[f"{labels['level']:.0%} shared"]))
        )
        of = many.languages
        same = np.array(of[0].subjects) == np.array(of[1].subjects)
        with_shared_words = many.parallel & same[many.world.subject]
        assert experiment.language.shared_subjects == 1.0
        assert few.parallel.sum() == pytest.approx(with_shared_words.sum(), rel=0.2)


def test_weight_decay_and_rate_are_all_that_differs_within_a_seed(profile):
    design = ul.designs.decay_and_rate()
    assert len(design) == len(ul.designs.DECAYS[profile]) * len(ul.designs.RATES[profile]) * len(ul.designs.seeds())
    for labels, experiment in design:
        train = {f"train.{name}": labels[name] for name in ("weight_decay", "lr")}
        base = {"seed": labels["seed"], **train, **ul.designs.DECAY_AND_RATE}
        assert experiment == ul.Experiment().replace(**base)
    # the default dish is one of the cells, and products of decay and rate meet on several
    default = ul.TrainConfig()
    assert default.weight_decay in ul.designs.DECAYS[profile] and default.lr in ul.designs.RATES[profile]


def test_the_phase_diagram_has_its_corners_and_enough_seeds(profile):
    design = ul.designs.phase_diagram()
    assert len({e for _, e in design}) == len(design)
    seeds = {}
    for labels, experiment in design:
        assert experiment.corpus.object_skew == labels["skew"] and experiment.corpus.parallel == labels["parallel"]
        assert (experiment.language.shared_subjects, experiment.seed) == (labels["shared"], labels["seed"])
        seeds.setdefault((labels["skew"], labels["shared"], labels["parallel"]), []).append(labels["seed"])
    n_seeds = {"quick": 4, "full": 10}[profile]
    for skew, shared in ul.designs.DIAGRAM_CORNERS.values():
        for parallel in ul.designs.DIAGRAM_PARALLEL[profile]:
            assert (skew, shared, parallel) in seeds
    assert all(found == list(range(n_seeds)) for found in seeds.values())
    variants = ul.designs.diagram_variants()
    easy = [e for labels, e in variants if labels["variant"] == "as in the diagram"]
    assert set(easy) <= {e for _, e in design}
    assert len({e for _, e in variants}) == len(variants)


def test_a_design_says_what_it_sets():
    told = ul.designs.described(ul.designs.plasticity()).splitlines()
    assert told[0].endswith("models of the smaller dish") and "  train.cycles = 1, 2" in told
    assert "  changes = at step 133, at step 200, none" in told
    assert "  interventions = none, add_parallel, " in ul.designs.described(ul.designs.turning())
    left_out = ul.designs.described(tracing.left_out(tracing.traced()[:1])).splitlines()
    assert "  interventions = leave_out (20 rows)" in left_out
    grown = ul.designs.described(growth.beginnings(range(2), names=["mean"])).splitlines()
    assert "  start = a finished model" in grown
    real = ul.designs.described(ul.designs.real_forces()).splitlines()
    assert any(line.startswith("  real = min_countries=6 and max_letters=16, min_countries=6 and ") for line in real)
    assert not any(line.startswith("  world.") for line in real)
    assert (
        ul.designs.described([({}, ul.designs.small(**ul.designs.common.SMALLEST))]) == "1 model of the smallest dish"
    )
    with pytest.raises(ValueError, match="design has no models"):
        ul.designs.described([])
