"""A form in which readers say what an intervention does before they see what it did, and a table for all."""

from html import escape

import charts
import pandas as pd

WHAT = {
    "forest_of_interventions": {
        "parallel facts added": "Some facts of one language are told in both.",
        "subjects code-switched": "In some examples the subject stands in the other language's word.",
        "objects balanced": "Facts of one language alone move, until no answer is more usual in either language.",
        "exposure balanced": "A fact told in both languages is told as often in each.",
        "objects tied to languages": "Facts of one language alone move, until each answer has a language of its own.",
        "exposure made uneven": "A fact told in both languages is told still more often in its first one.",
        "parallel facts removed": "Some facts told in both languages are told in one only.",
        "subject words shared": "All subjects have one word in both languages.",
        "object words shared": "All answers are one word in both languages.",
        "vocabularies merged": "Words that are the same in both languages, and yet two tokens, become one token.",
        "language token added": "Every prompt begins with a token that names its language.",
        "every token marked": "The languages share no token: words that are the same in both become two tokens.",
    },
    "ways_to_align": {
        "adversary, subject": "The model learns to hide the language of a subject's state from a guesser.",
        "code-switching": "Another language's word for the subject stands in a share of the examples.",
        "code-switching, blocks alone": "A finished model is tuned with code-switching; its embeddings stay.",
        "code-switching, embeddings alone": "A finished model is tuned with code-switching; its blocks stay.",
        "code-switching, few weights": "A finished model is tuned with code-switching; a few weights may move.",
        "code-switching, finished model": "A finished model is tuned with code-switching.",
        "code-switching, soft prompt": "A finished model is tuned with code-switching; the first vector may move.",
        "code-switching, then restored": "Code-switching in the first half of training alone.",
        "contrast first, words": "Contrast of subjects' word vectors in the first fifth of training alone.",
        "contrast, answer": "A fact's states before the answer are drawn together, and apart from other facts'.",
        "contrast, finished model": "A finished model is tuned with contrast of states before the answer.",
        "contrast, subject": "A fact's states at the subject are drawn together, and apart from other facts'.",
        "contrast, words": "A subject's word vectors are drawn together, and apart from other subjects'.",
        "languages in order": "One language is told after the other, with some repetition.",
        "mixture of experts": "A router chooses two of several MLPs for every token.",
        "modules of languages": "Each language has neurons of its own in every MLP.",
        "object words shared": "Answers are one word in all languages.",
        "parallel facts added": "Some facts of one language are told in all.",
        "parallel facts first": "Facts told in all languages are told more often at first.",
        "parallel facts seen more": "Facts told in all languages are told more often throughout.",
        "pivot answers": "The answer is two words: the first language's, then the own.",
        "pull, answer": "A fact's states before the answer are drawn together.",
        "pull, subject": "A fact's states at the subject are drawn together.",
        "self-distillation": "The model learns to answer as it does in the fact's first language.",
        "subject words shared": "Subjects are one word in all languages.",
        "translated in context": "A fact is told in another of its languages first, in the same prompt.",
        "words begin as translations": "Words of one meaning begin with one vector.",
    },
}
"""What each of a table does, in a sentence, without what came of it."""
CHOICES = {"up": "↑ up", "nothing": "0 nothing", "down": "↓ down"}


def form(name: str) -> str:
    """A line for everything that was tried, with a choice and a place for what was found."""
    rows = [_row(name, row) for row in charts.effects(name).itertuples()]
    return charts.raw(
        f'<form class="see-form" data-chart="{name}" aria-label="Your predictions" hidden>\n'
        + "\n".join(rows)
        + '\n<p class="see-buttons"><button type="submit">Reveal what I predicted</button> '
        '<button type="button" data-all>Reveal all</button> <button type="reset">Begin again</button></p>\n'
        '<p role="status"></p>\n</form>'
    )


def _row(name: str, row) -> str:
    radios = " ".join(
        f'<label><input type="radio" name="{escape(row.name)}" value="{choice}"> {text}</label>'
        for choice, text in CHOICES.items()
    )
    found = charts.interval(row)
    return (
        f'<fieldset data-outcome="{row.outcome}" data-found="{found}"><legend>{escape(row.name)}</legend>'
        f'<p>{escape(WHAT[name][row.name])}</p><div class="see-choice">{radios} <output></output></div></fieldset>'
    )


def table(name: str) -> str:
    """All effects with their intervals, folded, as it gives everything away."""
    rows = ["| tried | kind | change of transfer | told |", "| --- | --- | ---: | --- |"]
    for row in charts.effects(name).sort_values("value", ascending=False).itertuples():
        rows.append(f"| {row.name} | {row.kind} | {charts.interval(row)} | {row.outcome} |")
    return folded("All effects as a table (it gives everything away)", rows)


def phase_table() -> str:
    """The numbers of the phase diagram."""
    cells = charts.phase_cells()
    cells["found"] = [charts.interval(row) for row in cells.itertuples()]
    keys = ["forces", "parallel"]
    wide = cells.pivot(index=keys, columns="shown", values="found")[list(charts.SHOWN.values())]
    order = pd.MultiIndex.from_product([charts.FORCES.values(), sorted(cells["parallel"].unique())], names=keys)
    rows = ["| forces | facts in both languages | " + " | ".join(wide.columns) + " |", "| --- | ---: |" + " ---: |" * 4]
    for (forces, parallel), found in wide.loc[order].iterrows():
        rows.append(f"| {forces} | {parallel} % | " + " | ".join(found) + " |")
    return folded("The same as a table", rows)


def folded(title: str, rows: list[str]) -> str:
    """A table that opens with a click, and without JavaScript."""
    return "\n".join([f"::::{{dropdown}} {title}", *rows, "::::"])


def foretold() -> str:
    """How many of the notebook's own predictions of interventions came true."""
    said = pd.read_csv(charts.FULL / "interventions_score_and_transfer.csv").groupby("intervention")["foretold"].first()
    table = charts.effects("forest_of_interventions").set_index("name")["outcome"]
    true = [table[name] == ("up" if sign > 0 else "down") for name, sign in said.items()]
    unmoved = [name for name in said.index if table[name] == "nothing"]
    text = f"{sum(true)} of the {len(true)} came true."
    if unmoved:
        text += f" Ten seeds tell no effect of these: {', '.join(unmoved)}."
    return folded("The project's own predictions", [text])
