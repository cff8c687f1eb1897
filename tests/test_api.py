"""The names that notebooks and users rely on."""

import tomllib
from pathlib import Path

import unifylens as ul


def test_the_public_face(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFYLENS_HOME", str(tmp_path / "my runs"))
    experiment = ul.Experiment(
        world=ul.WorldConfig(n_subjects=24, n_relations=3, n_objects=4),
        language=ul.LanguageConfig(n_languages=2, shared_subjects=1.0, shared_relations=0.0, shared_objects=0.5),
        corpus=ul.CorpusConfig(
            parallel=0.3, parallel_unit="subject", exposure_balance=0.9, object_skew=0.1, home_bias=0.2
        ),
        model=ul.ModelConfig(d_model=16, n_layers=2, n_heads=2, d_mlp=32),
        train=ul.TrainConfig(steps=60, batch_size=32, lr=1e-2, weight_decay=0.1),
        seed=3,
    )
    run = ul.train(experiment)
    assert (tmp_path / "my runs") in run.folder.parents
    assert {"step", "loss", "recall", "transfer"} < set(run.history)
    assert {"unification_1", "unification_2"} < set(run.history)
    assert run.model.cfg.n_layers == 2 and run.model.cfg.d_vocab == run.corpus.d_vocab
    assert run.corpus.parallel.sum() == round(0.3 * 72)
    assert ul.transfer(run.model, run.corpus)["n"].sum() == 72 - round(0.3 * 72)
    assert list(ul.unification(run.model, run.corpus).index) == [0, 1, 2]
    runs = ul.sweep(experiment, over={"corpus.parallel": [0, 0.3], "seed": range(2, 4)})
    assert [run.experiment.seed for run in runs] == [2, 3, 2, 3]
    assert runs[3].folder == run.folder


def test_only_public_names_are_offered():
    assert sorted(dir(ul)) == sorted(ul.__all__)
    assert not [name for name in dir(ul) if name.startswith("_")]
    assert "os" in vars(ul)  # which is not public


def test_the_version_is_that_of_the_package():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert ul.__version__ == project["version"]


def test_defaults_make_an_experiment():
    experiment = ul.Experiment(corpus=ul.CorpusConfig(parallel=0.3), seed=0)
    assert experiment == ul.Experiment()
