"""What users meet first shows how it is used, and the examples run."""

import doctest
import inspect
import re
from operator import attrgetter
from typing import get_args

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import tiny

import unifylens as ul
from unifylens import config

SHOWN = """
Experiment Experiment.replace train sweep Corpus.build Corpus.text Corpus.statistics Corpus.block_facts
states transfer unification by_fact evaluate.held_out interchange.pairs interchange.language_swap
interventions.balance_objects influence.tracin influence.whence influence.retrained
measures.unification measures.fact_only measures.language_probe
measures.checkerboard_contrast measures.answer_types measures.within_models measures.rank_correlation
measures.mean_interval measures.statistic_interval
patching.experiment patching.by_layer_and_position patching.by_layer_and_role patching.by_head patching.answered
patching.Prompts patching.selfcheck crosslingual.prompts crosslingual.transfer_at_inference
hooks.patch hooks.steer hooks.on_prompt
edits.logits edits.written edits.cosines edits.keys edits.least_squares edits.closed_form edits.targets edits.gradient
crosslingual.editing.facts_to_edit crosslingual.editing.made crosslingual.editing.judged crosslingual.editing.angles
subspaces.span subspaces.language_shifts plots.curve plots.share_colours designs.described
explore ask portable.save_onnx
""".split()
SETTINGS = [kind for kind in vars(config).values() if isinstance(kind, type) and issubclass(kind, config.Config)][1:]


@pytest.mark.parametrize("name", SHOWN)
def test_the_example_runs(name, trained):
    """With `exp`, a tiny experiment, and `run`, its trained model."""
    names = {"ul": ul, "np": np, "torch": torch, "exp": tiny(), "run": trained}
    text = inspect.getdoc(attrgetter(name)(ul))
    example = doctest.DocTestParser().get_doctest(text, names, f"ul.{name}", None, 0)
    assert 2 <= len(example.examples) <= 5, "help() shows an example of two to five lines"
    report: list[str] = []
    failed, _ = doctest.DocTestRunner().run(example, out=report.append)
    plt.close("all")
    assert not failed, "".join(report)


def test_an_example_that_lies_is_found():
    example = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3", {}, "a lie", None, 0)
    assert doctest.DocTestRunner().run(example, out=lambda text: None).failed == 1


def test_all_settings_are_looked_at():
    assert {kind.__name__ for kind in SETTINGS} >= {"Experiment", "WorldConfig", "TrainConfig", "Intervention"}
    assert sum(len(kind.model_fields) for kind in SETTINGS) >= 75


@pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)
def test_settings_explain_themselves(kind):
    for name, field in kind.model_fields.items():
        assert field.description and field.description.rstrip().endswith("."), f"{kind.__name__}.{name}"
        assert re.search(rf"^{name}( = .*)? \(", kind.__doc__, flags=re.M), f"{kind.__name__}.{name}"
        assert " ".join(field.description.split()) in " ".join(kind.__doc__.split())


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (ul.TrainConfig, "lr = 0.003 (number above 0 to 1,000,000)"),
        (ul.TrainConfig, "betas = (0.9, 0.98) (tuple, 2 of: number from 0 below 1)"),
        (ul.TrainConfig, "schedule = 'cosine' ('cosine' or 'linear' or 'constant' or 'once')"),
        (ul.LanguageConfig, "lexical_distance = None (number from 0 to 1 or None)"),
        (ul.LanguageConfig, "templates = ('plain',) (tuple, 1 to 1,000 of: text of up to 10,000 letters)"),
        (ul.RealConfig, "sources = sources() (text)"),
        (ul.CorpusChange, "step (whole number from 1 below 100,000,000)"),
        (ul.ModelConfig, "attn_only = False (True or False)"),
        (ul.Experiment, "model = ModelConfig() (ModelConfig)"),
        (ul.Experiment, "seed = 0 (whole number from 0 below 4,294,967,296)"),
    ],
)
def test_defaults_and_ranges_are_told(kind, line):
    assert line in kind.__doc__.splitlines()


def test_explanations_leave_keys_as_they_were():
    """Keys of the second format, from before settings had explanations: stored runs are found again."""
    pieces = ul.TokenizerConfig(scheme="bpe", vocab_size=150)
    related = ul.LanguageConfig(lexical_distance=0.3)
    balanced = ul.Intervention(name="balance_objects", share=1.0)
    later = ul.CorpusChange(step=10, corpus=ul.CorpusConfig())
    keys = {
        "13966f7b49948040b638": ul.Experiment(),
        "3e400354995b51e5b732": ul.Experiment(corpus=ul.CorpusConfig(parallel=0.1)),
        "9f4b52971a26eb5e7c4b": ul.Experiment(language=related, tokenizer=pieces),
        "2049d6aa826a34af0609": ul.Experiment(interventions=(balanced,)),
        "b21cc2accafaf0c58a09": ul.Experiment(changes=(later,)),
        "ffcf9fb4b51d8298f43c": ul.Experiment(model=ul.ModelConfig(n_layers=3, local_blocks=1)),
    }
    assert {experiment.key(2): key for key, experiment in keys.items()} == {key: key for key in keys}


def test_every_intervention_has_its_name():
    assert set(config.INTERVENTIONS) == set(get_args(config.InterventionName))
