"""What trains on a GPU: as on a CPU, and the same again. Skipped where torch sees none; CI has none."""

import numpy as np
import pytest
import torch
from conftest import assert_equal_runs, distance, quietly, tiny, weights
from test_stack import Question, networks, stacked

import unifylens as ul
from unifylens.corpus.corpus import Corpus
from unifylens.training import imposed
from unifylens.training.adamw import Graph
from unifylens.training.cost import Memory
from unifylens.training.sparse import mask
from unifylens.training.stack import Stacked
from unifylens.training.trainer import _Stack

CHANGES = [
    {},
    {"train.loss": "full"},
    {"language.templates": ("plain", "topic", "of")},
    {"tokenizer": {"scheme": "character"}},
    {"model.language_neurons": 8},
    {"model.normalization": "RMS", "model.positional_embedding_type": "rotary", "model.act_fn": "relu"},
]
DEFAULT = {"world": ul.WorldConfig(), "model": ul.ModelConfig(), "train.batch_size": 256}


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """Another store, which is empty."""
    return lambda name: monkeypatch.setenv("UNIFYLENS_HOME", str(tmp_path / name))


def on_cpu(monkeypatch, function, *arguments):
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        return function(*arguments)


@pytest.mark.parametrize("kind", ["all", "last", "one", "ragged several"])
def test_losses_and_gradients_are_those_of_the_cpu(gpu, kind):
    models, question = networks(3, dtype=torch.float64), Question(kind, 3, True, seed=5)
    asked = [question.tokens, question.due, question.query]
    if asked[2] is None:
        asked[2] = slice(0, question.tokens.shape[2])
    there = [x.cuda() if isinstance(x, torch.Tensor) else x for x in asked]
    network = Stacked(models[0].cfg)
    losses, gradients = network.loss_and_gradients(stacked(models), *asked, question.shared)
    losses_there, gradients_there = network.loss_and_gradients(stacked(models, "cuda"), *there, question.shared)
    torch.testing.assert_close(losses_there.cpu(), losses, atol=1e-9, rtol=1e-9)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradients_there[name].cpu(), gradient, atol=1e-9, rtol=1e-9, msg=name)


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_models_train_as_on_the_cpu_and_the_same_again(gpu, monkeypatch, elsewhere, changes):
    experiments = [tiny(**changes), tiny(seed=1, **changes)]
    there = quietly(*experiments)
    elsewhere("again")
    for run, again in zip(there, quietly(*experiments), strict=True):
        assert_equal_runs(run, again)
    elsewhere("cpu")
    for run, here in zip(there, on_cpu(monkeypatch, quietly, *experiments), strict=True):
        assert distance(weights(run), weights(here)) < 1e-3
        np.testing.assert_allclose(run.history["loss"], here.history["loss"], rtol=1e-4)
        np.testing.assert_allclose(run.history["unification"], here.history["unification"], atol=1e-3)


def test_steps_are_replayed_from_one_graph_and_are_those_without_one(gpu):
    graphed, eager = (_Stack([tiny(**DEFAULT), tiny(seed=1, **DEFAULT)]) for _ in range(2))
    assert isinstance(graphed.update, Graph)
    eager.update = eager._update
    for _ in range(12):
        graphed.advance()
        eager.advance()
    assert isinstance(graphed.update.graph, torch.cuda.CUDAGraph)
    assert all(torch.equal(p, eager.parameters[name]) for name, p in graphed.parameters.items())
    assert torch.equal(graphed.loss_sum, eager.loss_sum) and int(graphed.taken) == 12


def test_replayed_steps_put_back_what_a_sparse_training_keeps(gpu):
    dense = tiny(start=ul.Start(experiment=tiny(**{"corpus.parallel": 0.0})))
    quietly(dense)
    experiments = [dense.replace(**{"train.sparse": ul.Sparse(share=share)}) for share in (0.1, 0.4)]
    graphed, eager = (_Stack(experiments) for _ in range(2))
    eager.update, first = eager._update, {name: p.clone() for name, p in graphed.parameters.items()}
    for _ in range(12):
        graphed.advance()
        eager.advance()
    assert all(torch.equal(p, eager.parameters[name]) for name, p in graphed.parameters.items())
    for member, experiment in enumerate(experiments):
        for name, moves in mask(experiment).items():
            kept = ~moves.to(first[name].device)
            assert torch.equal(graphed.parameters[name][member][kept], first[name][member][kept])


def test_an_interrupted_training_goes_on_bit_for_bit(gpu, press_ctrl_c, elsewhere):
    experiments = [tiny(), tiny(seed=1)]
    whole = quietly(*experiments)
    elsewhere("interrupted")
    press_ctrl_c.at = (16, 17)
    with pytest.raises(KeyboardInterrupt):
        quietly(*experiments)
    press_ctrl_c.at = None
    for run, expected in zip(quietly(*experiments), whole, strict=True):
        assert_equal_runs(run, expected)


def test_a_thread_records_its_steps_while_others_train(gpu, monkeypatch, elsewhere):
    experiments = [tiny(seed=seed) for seed in range(4)]
    apart = [quietly(experiment)[0] for experiment in experiments]
    elsewhere("threads")
    monkeypatch.setattr("unifylens.training.workers.worker_count", lambda: 4)
    together = ul.train_many(experiments, stack_size=1, progress=False)
    for run, expected in zip(together, apart, strict=True):
        assert_equal_runs(run, expected)


def test_a_loss_that_is_not_finite_is_seen_in_a_replayed_step(gpu):
    stack = _Stack([tiny(), tiny(seed=1)])
    for _ in range(10):
        stack.advance()
    stack.parameters["unembed.W_U"][1] = float("inf")
    stack.advance()
    assert stack.diverged_at.tolist() == [-1, 10]


def test_imposed_attention_trains_as_on_the_cpu(gpu, monkeypatch, elsewhere):
    runs = quietly(tiny(), tiny(seed=1))
    there = imposed.train_with_attention(runs, runs[0].steps[:2], progress=False)
    elsewhere("cpu")
    here = on_cpu(monkeypatch, lambda: imposed.train_with_attention(runs, runs[0].steps[:2], progress=False))
    np.testing.assert_allclose(there["loss"], here["loss"], rtol=1e-4)


@pytest.mark.parametrize("n_models", [1, 16, 64])
def test_a_stack_takes_no_more_than_was_estimated(gpu, n_models):
    experiments = [tiny(seed=seed, **DEFAULT) for seed in range(n_models)]
    estimated = Memory.of(experiments[0], Corpus.build(experiments[0]), torch.device("cuda")).of_stack(n_models)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_reserved()
    stack = _Stack(experiments)
    stack.evaluate()
    for _ in range(6):
        stack.advance()
    stack.checkpoint()
    stack.step = stack.config.steps
    stack.evaluate()
    assert torch.cuda.max_memory_reserved() - before <= estimated
