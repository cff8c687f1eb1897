"""Rows of tokens: what they spell, where slots end, and how cues tell a language."""

import numpy as np
import pytest
import torch
from conftest import distance, quietly, tiny, weights
from hypothesis import given, settings
from hypothesis import strategies as st

import unifylens as ul
from unifylens.corpus.corpus import Corpus
from unifylens.corpus.prompts import cue_patterns
from unifylens.corpus.tokenization import BOS, EOS, PAD
from unifylens.crosslingual.evaluate import Questions
from unifylens.measures.answers import ANSWER_TYPES
from unifylens.measures.information import mutual_information
from unifylens.patching.stream import run_prompts

PIECES = {
    "language.shared_subjects": 0.0,
    "language.lexical_distance": 0.4,
    "language.language_token": True,
    "tokenizer.scheme": "bpe",
    "tokenizer.vocab_size": 60,
}


@settings(max_examples=15)
@given(
    st.sampled_from(["word", "character", "bpe", "unigram"]),
    st.sampled_from(["of", "has", "plain"]),
    st.integers(1, 2),
    st.integers(0, 5),
)
def test_every_row_spells_its_words_and_slots_end_where_they_say(scheme, template, subject_words, seed):
    size = {"tokenizer.vocab_size": None if scheme in ("word", "character") else 70}
    names = {"language.templates": (template,), "language.subject_words": subject_words}
    corpus = Corpus.build(tiny(**{**PIECES, "tokenizer.scheme": scheme, "seed": seed, **size, **names}))
    decode, world = corpus.tokenizer.decode, corpus.world
    end = [EOS] if EOS in corpus.tokenizer.special else []
    for language, spoken in enumerate(corpus.languages):
        for fact in range(0, corpus.n_facts, 11):
            row = language * corpus.n_facts + fact
            fillers = {
                "{subject}": spoken.subjects[world.subject[fact]],
                "{relation}": spoken.relations[world.relation[fact]],
                "{object}": spoken.objects[world.object[fact]],
            }
            words = [fillers.get(word) or spoken.function_words[word] for word in corpus.templates[0]]
            spelled = " ".join([BOS, f"<{spoken.name}>", *words]).split()
            tokens = corpus.sequences[0, row].tolist()
            assert [word for word in decode(tokens) if word != PAD] == spelled + end
            subject = spelled.index(fillers["{subject}"].split()[0]) + subject_words
            assert decode(tokens[: corpus.positions("subject")[row] + 1]) == spelled[:subject]
            n_answer = len(corpus.tokenizer.encode([fillers["{object}"], *end], language))
            due = corpus.due[0, row].tolist()
            assert decode([i for i in due if i]) == [fillers["{object}"], *end]
            assert due[n_answer:] == [0] * (len(due) - n_answer)
            at = corpus.answer_positions[0, row].tolist()
            first = corpus.positions()[row]
            assert at == [first + min(i, n_answer - 1) for i in range(len(due))]
            assert tokens[first + 1 : first + 1 + n_answer] == due[:n_answer]
            prompt = corpus.prompts()[row].tolist()
            assert prompt[: first + 1] == tokens[: first + 1] and not any(prompt[first + 1 :])


def test_a_position_that_differs_from_prompt_to_prompt_is_refused():
    corpus = Corpus.build(tiny(**PIECES))
    with pytest.raises(ValueError, match=r"position='answer' differs from prompt to prompt .*'word', or `positions`"):
        corpus.position()
    with pytest.raises(ValueError, match=r"answers have up to \d tokens here; allowed: tokenizer.scheme='word'"):
        _ = corpus.token_object


@pytest.mark.parametrize("n_languages", [2, 3])
@pytest.mark.parametrize(("cue", "alone"), [("first", [1.0, 0.0]), ("pair", [0.0, 0.0]), ("vote", None)])
def test_cues_tell_their_language_together(cue, alone, n_languages):
    patterns = cue_patterns(cue, n_languages)
    everything = [symbols for of_one in patterns for symbols in of_one]
    assert len(set(everything)) == len(everything) and len({len(of_one) for of_one in patterns}) == 1
    for at in range(len(everything[0])):
        joint = np.zeros((n_languages, n_languages))
        for language, of_one in enumerate(patterns):
            for symbols in of_one:
                joint[symbols[at], language] += 1
        bits = mutual_information(joint) / np.log2(n_languages)
        if alone is None:
            assert 0.05 < bits < 0.5
        else:
            assert bits == pytest.approx(alone[at], abs=1e-9)


def test_a_row_shows_every_cue_of_its_language_over_the_renderings():
    corpus = Corpus.build(tiny(**{"language.shared_relations": 1.0, "language.language_cue": "vote"}))
    shown = corpus.sequences[:, :, 1:4] - corpus.tokenizer.special["<cue 0>"]
    for row in range(corpus.n_rows):
        seen = {tuple(symbols) for symbols in shown[:, row].tolist()}
        assert seen == set(cue_patterns("vote", 2)[row // corpus.n_facts])
    assert not corpus.language_revealing[corpus.prompts()[:, 1:]].any()


# --- answers of several tokens -------------------------------------------------------------------------------


def said_by(corpus, sentences):
    """A model's `ask` that continues every prompt as `sentences` says, by row."""
    ends = corpus.positions()

    def ask(tokens, at):
        step = int((at - torch.from_numpy(ends)).max())
        nexts = torch.tensor([s[step] if step < len(s) else 0 for s in sentences])
        return torch.nn.functional.one_hot(nexts, corpus.d_vocab).float(), []

    return ask


def test_an_answer_is_right_only_as_a_whole():
    corpus = Corpus.build(tiny(**PIECES))
    encode, world, n = corpus.tokenizer.encode, corpus.world, corpus.n_facts
    end = encode([EOS])
    answers, expected = [], []
    for row in range(corpus.n_rows):
        language, fact = divmod(row, n)
        due = encode([corpus.languages[language].objects[world.object[fact]]], language)
        other = encode([corpus.languages[1 - language].objects[world.object[fact]]], 1 - language)
        kinds = {
            0: (due + end, 0),
            1: (due + due[:1] + end, 3),  # goes on where it should end
            2: (due[:-1] + end, 3),  # ends too early
            3: (other + end, 0 if other == due else 1),
        }
        said, code = kinds[row % 4]
        answers.append(said)
        expected.append(code)
    questions = Questions.all(corpus)
    found = questions.answered_by(said_by(corpus, answers))
    types = questions.answer_types(found.tokens)
    whole = {tuple(tokens) for tokens in corpus.possible_answers}
    # cut short or drawn out, an answer may by chance be another object's
    checked = [i for i, said in enumerate(answers) if expected[i] != 3 or tuple(said) not in whole]
    assert len(checked) > corpus.n_rows // 2
    assert types[checked].tolist() == np.array(expected)[checked].tolist(), ANSWER_TYPES


def test_greedy_answers_are_those_of_a_slow_loop():
    run = quietly(tiny(**PIECES, **{"train.steps": 150}))[0]
    corpus, model = run.corpus, run.model
    questions = Questions.all(corpus)
    found = questions.answered_by(lambda tokens, at: run_prompts(model, tokens, at, at))
    accuracy = questions.accuracy(found)
    right = []
    for row in range(corpus.n_rows):
        tokens = corpus.sequences[0, row, : corpus.positions()[row] + 1].tolist()
        start = len(tokens)
        while len(tokens) - start < corpus.due.shape[2]:
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
            if tokens[-1] == corpus.tokenizer.special[EOS]:
                break
        due = [i for i in corpus.due[0, row].tolist() if i]
        right.append(tokens[start:] == due)
    held_out = ~corpus.seen.ravel()
    assert accuracy["transfer"] == pytest.approx(np.mean(np.array(right)[held_out]))
    assert accuracy["recall"] == pytest.approx(np.mean(np.array(right)[~held_out]))
    assert 0 < accuracy["recall"] and np.isnan(accuracy["transfer_choice"])
    table = ul.transfer(model, corpus)
    assert np.average(table["right"], weights=table["n"]) == pytest.approx(accuracy["transfer"])
    assert run.final["transfer"] == pytest.approx(accuracy["transfer"])


def test_members_of_a_stack_of_pieces_train_as_alone(monkeypatch, tmp_path):
    both = [tiny(**PIECES, seed=seed) for seed in (0, 1)]
    corpora = [Corpus.build(experiment) for experiment in both]
    assert corpora[0].sequences.shape == corpora[1].sequences.shape and corpora[0].d_vocab == corpora[1].d_vocab
    together = ul.train_many(both, stack_size=2, progress=False)
    monkeypatch.setenv("UNIFYLENS_HOME", str(tmp_path / "another"))
    for run, alone in zip(together, [quietly(experiment)[0] for experiment in both], strict=True):
        assert distance(weights(run), weights(alone)) < 1e-4
