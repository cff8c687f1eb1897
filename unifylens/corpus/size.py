"""How much memory a corpus takes, by arithmetic before it is built: what no machine holds is refused at once."""

from __future__ import annotations

from unifylens import hardware
from unifylens.config import Experiment

LETTERS_A_SYLLABLE = 2.5
BYTES_A_TOKEN = 3 * 8
"""While prompts are rendered: template by template, padded, and all of them (int64)."""
BYTES_A_WORD = 500
"""In a language: its text, its tokens, and the tables from one to the other."""


def refuse_what_does_not_fit(experiment: Experiment) -> None:
    """Raise MemoryError, naming the settings that decide, if invented words and their prompts need more than is free.

    Worlds of real facts are small, whatever the settings.
    """
    if experiment.real is not None:
        return
    needed, free = n_bytes(experiment), hardware.free_bytes()
    if needed > free:
        world, language = experiment.world, experiment.language
        raise MemoryError(
            f"the corpus needs about {hardware.size_text(needed)} of memory; {hardware.size_text(free)} are free. "
            f"These settings decide: world.n_subjects={world.n_subjects}, world.n_relations={world.n_relations}, "
            f"world.n_objects={world.n_objects}, language.n_languages={language.n_languages}, language.language_cue="
            f"{language.language_cue!r}, language.templates ({len(language.templates)})."
        )


def n_bytes(experiment: Experiment) -> int:
    """Bytes that prompts and words take at least."""
    world, language = experiment.world, experiment.language
    n, cue = language.n_languages, language.language_cue
    n_words = n * (world.n_subjects + world.n_relations * (1 + world.n_objects))
    choices = {"none": 1, "first": n, "pair": n, "vote": 3 * n - 2}[cue]
    done = [change.name for change in experiment.interventions]
    times = 1 + ("code_switch" in done) + 3 * ("translate_in_context" in done)  # twice as many, twice as long
    lengths = [len(words) for words in language.template_words()]
    spelled = sum(language.syllables) * LETTERS_A_SYLLABLE if experiment.tokenizer.scheme == "character" else 3
    cues = {"none": 0, "vote": 3}.get(cue, 2)
    width = 1 + cues + language.language_token + max(lengths) - 3 + max(3, round(spelled)) + language.subject_words - 1
    n_rows = n * world.n_subjects * world.n_relations
    return n_rows * len(lengths) * choices * times * width * BYTES_A_TOKEN + n_words * BYTES_A_WORD
