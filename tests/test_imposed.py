"""Training under imposed attention: against hooks and autograd in a plain HookedTransformer."""

from functools import partial
from itertools import pairwise, product

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import quietly, tiny
from hypothesis import given, settings
from test_stack import Question, assert_close, network, networks, queries, shapes, stacked

import unifylens as ul
from unifylens.crosslingual.evaluate import Answers
from unifylens.model import build_model, initial_parameters, shape_of
from unifylens.patching import hooks
from unifylens.training import imposed, store, trainer
from unifylens.training import workers as pool
from unifylens.training.batches import Batches
from unifylens.training.imposed import Imposed, train_with_attention
from unifylens.training.stack import Stacked, stack_parameters, token_languages

SHORT = {"train.steps": 12}
ATTENDING = ("attn.W_Q", "attn.b_Q", "attn.W_K", "attn.b_K")


def attend(runs, steps):
    return train_with_attention(runs, steps, progress=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIFYLENS_HOME", str(tmp_path_factory.mktemp("runs")))
        run = quietly(tiny())[0]
        assert len(run.history), "read while the store is there"
        return run


@pytest.fixture(scope="module")
def histories(run):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "worker_count", lambda: 1)
        return attend([run], run.steps)


# --- one pass ------------------------------------------------------------------------------------------------


def forced(model, reference, tokens):
    """Logits and states of a plain model that attends as another does, by hooks."""
    _, cache = reference.run_with_cache(tokens)
    states = {}

    def keep(x, hook):
        states[hook.layer()] = x

    layers = range(model.cfg.n_layers)
    edits = [(f"blocks.{n}.attn.hook_pattern", partial(hooks.impose_pattern, source=cache)) for n in layers]
    reads = [(f"blocks.{n}.hook_resid_post", keep) for n in layers]
    return model.run_with_hooks(tokens, fwd_hooks=edits + reads), [states[n] for n in layers]


@settings(max_examples=40)
@given(shapes, queries)
def test_losses_and_gradients_are_those_of_a_plain_model_with_the_references_patterns(shape, kind):
    models = networks(4, dtype=torch.float64, **shape)
    models, references = models[:2], models[2:]
    question = Question(kind, 2, True, seed=5)
    both = Imposed(models[0].cfg, stacked(references), token_language=token_languages([model.cfg for model in models]))
    if shape["languages"]:  # it reads the same tokens
        for model, reference in zip(models, references, strict=True):
            reference.token_language = model.token_language
    query = slice(0, question.tokens.shape[2]) if question.query is None else question.query
    losses, gradients = both.loss_and_gradients(stacked(models), question.tokens, question.due, query, question.shared)
    for k, (model, reference) in enumerate(zip(models, references, strict=True)):
        logits, _ = forced(model, reference, question.tokens[k])
        loss = F.cross_entropy(question.asked(logits, k).flatten(0, 1), question.due[k].flatten(), ignore_index=0)
        loss.backward()
        assert_close(losses[k], loss.detach())
        for name, p in model.named_parameters():
            assert_close(gradients[name][k], torch.zeros_like(p) if p.grad is None else p.grad)
            if name.endswith(ATTENDING):
                assert not gradients[name][k].any()


@torch.no_grad()
def test_answers_and_states_are_those_of_a_plain_model_with_the_references_patterns():
    models = networks(4, dtype=torch.float64)
    prompts = torch.randint(1, 11, (6, 4), generator=torch.Generator().manual_seed(0))
    prompts[:, 0] = 1
    both = Imposed(models[0].cfg, stacked(models[2:]))
    for member, at in product(range(2), (2, 3)):
        own = stacked(models[member : member + 1])
        found = both.of(slice(member, member + 1)).forward(own, prompts[None], slice(at, at + 1), 1)
        expected, layers = forced(models[member], models[2 + member], prompts)
        assert_close(found.logits[0, :, 0], expected[:, at])
        assert not torch.allclose(found.logits[0, :, 0], models[member](prompts)[:, at])
        for state, layer in zip(found.residual, layers, strict=True):
            assert_close(state[0, :, 0], layer[:, at])


def test_its_own_patterns_change_nothing_but_the_gradient_of_attention():
    models = networks(2, dtype=torch.float64)
    question, parameters = Question("last", 2, True, seed=1), stacked(networks(2, dtype=torch.float64))
    asked = (parameters, question.tokens, question.due, question.query, question.shared)
    losses, gradients = Imposed(models[0].cfg, stacked(models)).loss_and_gradients(*asked)
    expected, free = Stacked(models[0].cfg).loss_and_gradients(*asked)
    assert_close(losses, expected)
    for name in ("unembed.W_U", "blocks.1.mlp.W_in", "blocks.1.attn.W_V"):  # behind the last pattern
        assert_close(gradients[name], free[name])
    assert free["blocks.0.attn.W_Q"].any() and not torch.allclose(gradients["embed.W_E"], free["embed.W_E"])


def test_bfloat16_is_for_training_alone():
    models = networks(4)
    question, parameters = Question("last", 2, True, seed=1), stacked(models[:2])
    asked = (parameters, question.tokens, question.due, question.query, question.shared)
    exact, rounded = (Imposed(models[0].cfg, stacked(models[2:]), bfloat16=b) for b in (False, True))
    losses = [network.loss_and_gradients(*asked)[0] for network in (exact, rounded)]
    assert not torch.equal(*losses) and torch.allclose(*losses, rtol=0.1)
    assert torch.equal(*(network.forward(*asked[:2]).logits for network in (exact, rounded)))


def test_a_shape_that_is_not_stacked_is_refused():
    with pytest.raises(ValueError, match="attn_only=True is not computed by the stack"):
        Imposed(network(attn_only=True).cfg, {})


# --- training ------------------------------------------------------------------------------------------------


def plain_loop(run, at):
    """Losses of the training as anyone would write it, with hooks and PyTorch's AdamW."""
    experiment, corpus, reference = run.experiment, run.corpus, run.checkpoint(at)
    config = experiment.train
    model = build_model(experiment.model, corpus.d_vocab, corpus.n_ctx, experiment.seed)
    matrices = [p for name, p in model.named_parameters() if ".W_" in name]
    vectors = [p for name, p in model.named_parameters() if ".W_" not in name]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        betas=config.betas,
    )
    batches, losses = Batches([experiment], [corpus]), []
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.lr_at(step)
        (templates,), (rows,) = batches.examples(step)
        tokens, answers = corpus.sequences[templates, rows], corpus.answer_positions[templates, rows]
        each = torch.arange(len(tokens))[:, None]
        logits, _ = forced(model, reference, tokens)
        loss = F.cross_entropy(logits[each, answers].flatten(0, 1), tokens[each, answers + 1].flatten())
        optimizer.zero_grad()
        loss.backward()
        for name, p in model.named_parameters():
            if name.endswith(ATTENDING):  # for autograd they have no part in the loss; here they decay all the same
                p.grad = torch.zeros_like(p)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, model


def assert_trained_as_plainly(history, losses):
    """Every loss of a history is the mean since the one before; the first is that of the first batch."""
    steps = history["step"].tolist()
    expected = [losses[0]] + [np.mean(losses[i:j]) for i, j in pairwise(steps)]
    np.testing.assert_allclose(history["loss"], expected, atol=2e-4)


def test_a_plain_loop_with_hooks_trains_the_same_model(run, histories):
    for step in (run.steps[0], run.steps[-1]):
        history = histories[histories["attention_step"] == step]
        losses, model = plain_loop(run, step)
        assert_trained_as_plainly(history, losses)
        questions = ul.evaluate.Questions.all(run.corpus)
        with torch.no_grad():
            logits, states = forced(model, run.checkpoint(step), questions.prompts)
        answers = Answers(logits[:, -1:].argmax(-1), logits[:, -1], [s[:, -1] for s in states])
        expected = questions.accuracy(answers) | questions.representation(answers.states)
        last = history.iloc[-1]
        for name in ("recall", "transfer", "transfer_choice", "unification_2"):
            assert last[name] == pytest.approx(expected[name], abs=0.02), name


def test_templates_of_several_lengths_are_trained_as_plainly():
    run = quietly(tiny(**SHORT, **{"language.templates": ("plain", "topic", "of")}))[0]
    assert_trained_as_plainly(attend([run], [12]), plain_loop(run, 12)[0])


def test_a_history_is_like_that_of_a_run(run, histories):
    assert list(histories)[:2] == ["attention_step", "seed"]
    assert list(histories)[2:] == list(run.history)
    assert histories["attention_step"].tolist() == np.repeat(run.steps, len(run.history)).tolist()
    assert histories["step"].tolist() == run.history["step"].tolist() * len(run.steps)
    assert (histories["seed"] == 0).all() and histories["loss"].notna().all()
    for _, own in histories.groupby("attention_step"):
        assert own["tokens_seen"].tolist() == run.history["tokens_seen"].tolist()
    last = histories[histories["step"] == 40]["loss"]
    assert last.nunique() == len(last) and (last < histories["loss"].iloc[0]).all()


def test_under_the_patterns_of_the_same_initial_weights_training_begins_as_it_did(run, monkeypatch):
    shape = shape_of(run.experiment.model, run.corpus.d_vocab, 4)
    monkeypatch.setattr(ul.Run, "parameters", lambda self, step: initial_parameters(shape, step))
    own, other = (history for _, history in attend([run], [0, 7]).groupby("attention_step"))
    first, fresh = own.iloc[0], run.history.iloc[0]
    shared = [name for name in run.history if name != "learning_rate"]
    pd.testing.assert_series_equal(first[shared], fresh[shared], check_exact=False, atol=1e-4, check_names=False)
    assert other.iloc[0]["loss"] != pytest.approx(first["loss"], abs=1e-6)
    assert own.iloc[-1]["loss"] != pytest.approx(run.history["loss"].iloc[-1], abs=1e-4), "attention never learns"


def test_queries_and_keys_decay_and_nothing_else(run, monkeypatch):
    stacks = []
    monkeypatch.setattr(
        trainer, "stack_parameters", lambda members, *to: stacks.append(stack_parameters(members, *to)) or stacks[-1]
    )
    attend([run], [40])
    end, start = stacks[0], dict(build_model(run.experiment.model, run.corpus.d_vocab, 4, 0).named_parameters())
    config = run.experiment.train
    factor = np.prod([1 - config.lr_at(step) * config.weight_decay for step in range(config.steps)])
    for name, p in start.items():
        if name.endswith(ATTENDING):
            torch.testing.assert_close(end[name][0], p.detach() * (factor if ".W_" in name else 1.0))
        else:
            assert not torch.allclose(end[name][0], p.detach() * factor, atol=1e-3), name


@pytest.mark.parametrize("workers", [1, 2])
def test_members_train_as_they_would_alone_whatever_the_parts_and_workers(run, histories, monkeypatch, workers):
    runs = [run, *quietly(tiny(seed=1), tiny(**{"corpus.parallel": 0.2}, seed=2))]
    steps = [run.steps[0], run.steps[-1]]
    monkeypatch.setattr(imposed, "PART_SIZE", 4)
    monkeypatch.setattr(pool, "worker_count", lambda: workers)
    threads = torch.get_num_threads()
    together = attend(runs, steps)
    assert torch.get_num_threads() == threads
    labels = together[["seed", "attention_step"]].drop_duplicates().to_numpy().tolist()
    assert labels == [[seed, step] for seed in range(3) for step in steps]
    alone = [histories[histories["attention_step"].isin(steps)], *(attend([other], steps) for other in runs[1:])]
    expected = pd.concat(alone, ignore_index=True)
    counts = ["attention_step", "seed", "step", "tokens_seen"]
    pd.testing.assert_frame_equal(together[counts], expected[counts])
    np.testing.assert_allclose(together["loss"], expected["loss"], atol=1e-3)
    np.testing.assert_allclose(together["recall"], expected["recall"], atol=0.05)
    assert expected.groupby(["seed", "attention_step"])["loss"].last().nunique() == 6


def test_threads_are_set_back_after_an_error(run, monkeypatch):
    def fail(*_):
        raise RuntimeError("in mid-run")

    numbers = []
    monkeypatch.setattr(imposed, "_train", fail)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    with pytest.raises(RuntimeError, match="in mid-run"):
        attend([run], [40])
    assert numbers == [1, 3]


def test_what_cannot_be_trained_is_refused(run):
    with pytest.raises(ValueError, match="runs has 0 entries and steps 1; allowed: one or more of both"):
        attend([], [40])
    with pytest.raises(ValueError, match="runs has 1 entries and steps 0"):
        attend([run], [])
    with pytest.raises(ValueError, match=r"step=3 was never saved; allowed: .*40"):
        attend([run], [40, 3])
    for change in ({"model.d_mlp": 16}, {"train.lr": 1e-3}, {"world.n_subjects": 30}, {"language.templates": ("of",)}):
        with pytest.raises(ValueError, match=r"runs differ in model, train, vocabulary or prompts; allowed: .* seed"):
            attend([run, *quietly(tiny(**change))], [40])


def test_as_many_prompts_is_not_enough(run):
    """A relation less and subjects more may leave the vocabulary as it was."""
    world, languages = run.experiment.world, 2
    fewer = {"world.n_relations": 2, "world.n_subjects": world.n_subjects + languages * (1 + world.n_objects)}
    other = quietly(tiny(**fewer, **SHORT, **{"language.shared_subjects": 1.0}))[0]
    assert other.corpus.d_vocab == run.corpus.d_vocab and other.corpus.n_rows != run.corpus.n_rows
    same = quietly(tiny(**SHORT))[0]
    with pytest.raises(ValueError, match="runs differ in model, train, vocabulary or prompts"):
        attend([same, other], [12])


def test_prompts_of_several_lengths_are_refused():
    pieces = {"tokenizer.scheme": "bpe", "tokenizer.vocab_size": 60, "language.lexical_distance": 0.4}
    run = quietly(tiny(**pieces, **{"language.shared_subjects": 0.0, "language.language_token": True}))[0]
    with pytest.raises(ValueError, match="position='answer' differs from prompt to prompt"):
        ul.imposed.train_with_attention([run], run.steps[:1], progress=False)


def test_what_was_trained_once_is_read_and_goes_with_its_run(monkeypatch):
    run = quietly(tiny(**SHORT))[0]
    first = attend([run], run.steps[:1])
    monkeypatch.setattr(imposed, "_train", None)
    pd.testing.assert_frame_equal(attend([run], run.steps[:1]), first)
    listed = ul.store.runs().set_index("state")
    name = listed.loc["history under imposed attention", "key"]
    assert name.startswith(f"{run.folder.name}-{run.steps[0]}-")
    assert set(ul.store.clear(run)["key"]) == {run.folder.name, name} and ul.store.runs().empty


def test_the_attention_of_a_model_of_other_data_may_be_imposed(run):
    """Same weights at the start, other facts: what is imposed is the reference's, and what is trained the run's."""
    other = quietly(tiny(**{"corpus.parallel": 0.0}))[0]
    found = train_with_attention([run], [40], references=[other], progress=False)
    assert found["seed"].tolist() == [run.experiment.seed] * len(run.history)
    own, theirs = attend([run], [40]), attend([other], [40])
    assert found["loss"].iloc[-1] != pytest.approx(own["loss"].iloc[-1], abs=1e-6)
    assert found["loss"].iloc[-1] != pytest.approx(theirs["loss"].iloc[-1], abs=1e-6)
    again = train_with_attention([run], [40], references=[other], progress=False)
    pd.testing.assert_frame_equal(again, found)
    itself = train_with_attention([run], [40], references=[run], progress=False)
    pd.testing.assert_frame_equal(itself, own)
    names = set(ul.store.runs().query("state == 'history under imposed attention'")["key"])
    assert any(name.startswith(f"{run.folder.name}-by-{other.folder.name}-40-") for name in names)
    assert ul.store.runs().query("state == 'no history'").empty
    with pytest.raises(ValueError, match="references has 2 entries; allowed: one for each of 1 runs"):
        train_with_attention([run], [40], references=[run, other])
    unlike = quietly(tiny(**{"train.lr": 1e-3}))[0]
    with pytest.raises(ValueError, match="runs differ in model, train"):
        train_with_attention([run], [40], references=[unlike])


def test_a_damaged_history_is_told_and_trained_again():
    run = quietly(tiny(**SHORT))[0]
    first = attend([run], run.steps[:1])
    (place,) = store.imposed_folder().iterdir()
    content = bytearray(place.read_bytes())
    content[len(content) // 3] ^= 255
    place.write_bytes(content)
    with pytest.warns(UserWarning, match="is damaged; it is now "):
        again = attend([run], run.steps[:1])
    pd.testing.assert_frame_equal(again, first)
    states = set(ul.store.runs()["state"])
    assert states == {"intact", "history under imposed attention", "set aside: history under imposed attention"}


def test_what_cannot_be_kept_is_given_back_all_the_same():
    run = quietly(tiny(**SHORT))[0]
    store.imposed_folder().write_text("in the way")
    with pytest.warns(UserWarning, match="are not kept: .*imposed cannot be made"):
        assert len(attend([run], run.steps[:1]))


def test_a_link_among_kept_histories_is_left_alone(tmp_path):
    run = quietly(tiny(**SHORT))[0]
    attend([run], run.steps[:1])
    (place,) = store.imposed_folder().iterdir()
    place.rename(tmp_path / place.name)
    place.symlink_to(tmp_path / place.name)
    assert ul.store.runs().set_index("key").loc[place.name, "state"] == "no history"
    ul.store.clear(run)
    assert place.is_symlink()
