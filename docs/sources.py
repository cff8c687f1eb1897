"""Put together what Sphinx reads: `python docs/sources.py FOLDER`.

The pages of docs/ are copied, with what is made at this moment in the place of `<!-- made: ... -->`; notebooks come
with their stored outputs, other files of the repository that pages link to come along, and the API reference is made
from the library. So no copy of anything can grow stale in git.
"""

import json
import os
import re
import shutil
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path, PurePosixPath

import charts
import matplotlib.pyplot as plt
import nbformat
import predict
import reference
import wall

from unifylens import designs
from unifylens.config import Experiment
from unifylens.evidence import plots, schematics
from unifylens.evidence.ledger import CLAIMS
from unifylens.evidence.records import Record, claims_table, control_interval, shipped_records
from unifylens.reproduce import SECONDS

DOCS = Path(__file__).parent
ROOT = DOCS.parent

QUESTIONS = {
    "00_quickstart": "What is it about? One model that unifies and one that does not",
    "01_the_dish": "How is the data made, and do facts cross languages?",
    "02_phases": "What orders models early, and what closes the window for late facts?",
    "03_unification_score": "What does the score measure, and which variant is best?",
    "04_unification_and_transfer": "What does a score tell of models, checkpoints and facts?",
    "05_activation_patching": "What carries a fact across languages, where, and from when on?",
    "06_language_subspace": "Can the language of an answer be changed and its object kept?",
    "07_informativeness": "How much do the data tell about their language, and what does it cost?",
    "08_extractability": "How easily is the language read off a prompt, and what does it cost?",
    "09_tokenization": "What do related words and pieces of words do?",
    "10_turning_transfer_up_and_down": "Which changes of data and tokens raise transfer, and where is it lost?",
    "11_phase_diagram": "Where is the boundary between transfer and none, and what moves it?",
    "12_real_words": "Do the forces act on real facts in twelve languages and eight scripts?",
    "13_real_models": "Do models that others trained know the same where their states are alike?",
    "14_how_far_it_holds": "In what share of dishes drawn at random does a claim hold?",
    "15_ways_to_align": "Which methods make facts cross languages, and do alike states bring it?",
    "16_edits": "Does a fact that is edited in one language change in the other?",
    "17_influence": "From which training examples does an answer come that a language never saw?",
    "18_new_languages": "What happens when a third language comes to a finished model?",
    "90_use_unifylens_on_your_model": "How do I do this with a model of my own?",
    "99_what_decides_it": "What decides it? The answer, put together, and what is open",
}
MINUTES = {name: f"{seconds / 60:.1f}" for name, seconds in SECONDS.items()}
# alone on two cores of an Intel Xeon; on one core of an AMD EPYC, beside other work
MINUTES |= {"12_real_words": "12.5", "13_real_models": "65"}

CAPTION = re.compile(r"\*(?:Figure|Schematic)\.\* (.+)", flags=re.S)
MADE = re.compile(r"<!-- made: (\w+) -->")
TERM = re.compile(r"\[([^\[\]\n]+)\]\(\.\./docs/glossary\.md#(term-[\w-]+)\)")
LINK = re.compile(r"(\]\()(?!https?:|#|mailto:)([^)\s#]+)((?:#[^)\s]*)?\))")


def notebooks() -> list[str]:
    """Their names, in order."""
    return sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))


def notebooks_table() -> str:
    """Which notebook answers which question, with which claims, and how long it takes."""
    claims = defaultdict(list)
    for record in shipped_records():
        claims[record.notebook].append(f"[{record.id}](claims.md#{record.id.lower()})")
    rows = ["| notebook | question | claims | minutes |", "| --- | --- | --- | ---: |"]
    for name in notebooks():
        link = f"[{name[:2]}](notebooks/{name}.ipynb)"
        rows.append(f"| {link} | {QUESTIONS[name]} | {', '.join(claims[name])} | {MINUTES[name]} |")
    rows += ["", "```{toctree}", ":hidden:", *(f"notebooks/{name}" for name in notebooks()), "```"]
    return "\n".join(rows)


def figures_table() -> str:
    """Which figures a notebook makes."""
    rows = ["| notebook | figures |", "| --- | --- |"]
    for name in notebooks():
        cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
        code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
        figures = sorted(
            path.stem for path in (ROOT / "figures").glob("*.png") if re.search(rf"[\"']{path.stem}[\"']", code)
        )
        rows.append(f"| [{name[:2]}](notebooks/{name}.ipynb) | {', '.join(f'`{figure}`' for figure in figures)} |")
    return "\n".join(rows)


def claim_details() -> str:
    """Every claim with its test and all of its attempts."""
    return "\n".join(map(_details, shipped_records()))


def _details(record: Record) -> str:
    claim, control = CLAIMS[record.id], record.control
    verdict = f"{record.verdict}: {record.range}" if record.range else record.verdict
    lines = [
        f"### {record.id}\n",
        f"{record.statement}\n",
        f"- **Verdict:** {verdict}",
        f"- **Effect:** {claim.effect_name}: {record.interval}; needed {record.threshold}",
        f"- **Control:** {control['name']}: {control_interval(control)}; needed {control['needs']}",
        f"- **Seeds:** {record.seeds} ({record.profile}); **notebook** "
        f"[{record.notebook}](notebooks/{record.notebook}.ipynb)",
        "",
        "| date | what changed | effect | verdict | seeds |",
        "| --- | --- | --- | --- | ---: |",
    ]
    for tried in record.attempts:
        interval = f"{tried['effect']:.2f} [{tried['ci_low']:.2f}, {tried['ci_high']:.2f}]"
        cells = (tried["date"], tried["changed"], interval, tried["verdict"], f"{tried['seeds']} ({tried['profile']})")
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def rooms_table() -> str:
    """The floor plan: rooms, and what each is for."""
    rows = ["| room | what for |", "| --- | --- |"]
    for name, what in (reference.ROOMS | reference.GROUND).items():
        rows.append(f"| [`{name}`](api/unifylens.{name}.md) | {what} |")
    return "\n".join(rows)


CHANGED = {
    "00": "two shares of parallel facts; a dial in the smaller dish",
    "01": "six shares of parallel facts",
    "02": "when parallel facts come, schedules, weight decay",
    "03": "as 01; weights kept at 24 steps",
    "04": "as 01 and 02, and twelve dials of words, data and optimisation; one recipe with many seeds",
    "05": "four languages, three blocks of which the first sees one token back, longer prompts; imposed attention",
    "06": "as 01 with two shares of parallel facts; four layers; a token that tells the language; the models of 04",
    "07": "how often copies are read; objects, subjects or relations tied; share of parallel facts; steps",
    "08": "which words are shared, a token or symbols that tell the language, function words; fewer parallel facts",
    "09": "related words in pieces: 80 subjects and 6 relations, sound changes, tokenizers; a higher learning rate",
    "10": "interventions on data and words, from a base with room up and down; the dials of 07, 08 and 11",
    "11": "tied objects, unshared words, shares of parallel facts; sizes; in the default dish weight decay and rate",
    "12": "real countries, twelve languages, BPE; names romanised, vocabularies split, objects tied; more steps",
    "13": "nothing: models of 12, beside two that others trained",
    "14": "all settings at once, by lot; nine conditions of each dish",
    "15": "two and four languages, subject words unshared or half shared; a method each; methods while answering",
    "16": "six shares of parallel facts; shared object words; two templates",
    "17": "three shares of subject words in common; training without some examples",
    "18": "two shares of parallel facts; a third language, how its words begin, replay",
    "90": "a toy outside the library: 40 countries, 4 relations, a GPT-2 and a HookedTransformer",
    "99": "nothing: models of 07, 08 and 14",
}
"""What the notebooks change in the dishes that they use."""

USED = {
    **dict.fromkeys(("00", "02", "04"), "default, smaller"),
    **dict.fromkeys(("07", "08", "09", "10", "16", "17", "99"), "smaller"),
    "11": "default, smaller, smallest",
    "14": "drawn at random",
    **dict.fromkeys(("12", "13", "15", "18"), "smallest"),
}
"""The dishes of notebooks that use more, or others, than the default dish."""


def dishes_table() -> str:
    """The default dish and the smaller one, from the settings themselves; and who changes what in them."""
    kinds = {"default dish": Experiment(), "smaller dish": designs.small()}
    rows = {
        "subjects, relations, objects of a relation": lambda e: (
            f"{e.world.n_subjects}, {e.world.n_relations}, {e.world.n_objects}"
        ),
        "languages": lambda e: str(e.language.n_languages),
        "subjects' words shared": lambda e: f"{e.language.shared_subjects:.0%}",
        "blocks, heads, width, neurons": lambda e: (
            f"{e.model.n_layers}, {e.model.n_heads}, {e.model.d_model}, {e.model.d_mlp}"
        ),
        "optimiser": lambda e: "AdamW",
        "learning rate, schedule": lambda e: f"{e.train.lr:g}, {e.train.schedule}",
        "weight decay": lambda e: f"{e.train.weight_decay:g}",
        "steps, examples a step": lambda e: f"{e.train.steps}, {e.train.batch_size}",
    }
    table = ["| | " + " | ".join(kinds) + " |", "| --- |" + " --- |" * len(kinds)]
    table += [f"| {what} | {' | '.join(told(dish) for dish in kinds.values())} |" for what, told in rows.items()]
    table += ["", "| notebook | dishes | what it changes |", "| --- | --- | --- |"]
    for name in notebooks():
        if changed := CHANGED.get(name[:2]):
            used = USED.get(name[:2], "default")
            table.append(f"| [{name[:2]}](notebooks/{name}.ipynb) | {used} | {changed} |")
    return "\n".join(table)


def _predictions(name: str, table: str) -> dict:
    """What makes a form, its chart and its table."""
    return {
        f"{name}_form": lambda: predict.form(table),
        f"{name}_chart": lambda: charts.figure(charts.forest(table), table),
        f"{name}_table": lambda: predict.table(table),
    }


PATH = (
    ("00, 01\nthe dish", "03, 04\nscore and\ntransfer", "05, 06\npatches,\nswaps"),
    ("02\nphases", "07, 08, 09\ndata and\nwords", "10, 11\nup and\ndown"),
    ("12, 13\nreal words,\nreal models", "14\nhow far", "15\nmethods"),
    ("16, 17, 18\nwhat else\ncrosses", "99\nwhat\ndecides", "90\nyour model"),
)
"""The notebooks as they follow from each other, row by row."""
READ_FIRST = ("00, 01\nthe dish", "03, 04\nscore and\ntransfer")


def notebooks_path(target: Path) -> None:
    """Draw `PATH` into a file of the site."""
    plots.set_theme()
    kinds = {**dict.fromkeys(READ_FIRST, "number"), "99\nwhat\ndecides": "unified", "90\nyour model": "unified"}
    boxes = [
        (name, column, 1.5 * row, kinds.get(name, "plain"))
        for row, names in enumerate(PATH)
        for column, name in enumerate(names)
    ]
    follow = [(a, b) for names in PATH for a, b in pairwise(names)]
    follow += [(above[0], below[0]) for above, below in pairwise(PATH)]
    fig, _ = schematics.draw(boxes, follow)
    fig.savefig(target, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    plt.close(fig)


MAKERS = {
    "dishes": dishes_table,
    "notebooks": notebooks_table,
    "figures": figures_table,
    "claims": lambda: claims_table(shipped_records()),
    "claim_details": claim_details,
    "rooms": rooms_table,
    "script_of_forms": lambda: charts.scripts("see.js"),
    "scripts_of_charts": lambda: charts.scripts("vega.js", "see.js"),
    "phase_diagram": lambda: charts.figure(charts.phase_diagram(), "phase_diagram"),
    "phase_table": predict.phase_table,
    "foretold": predict.foretold,
    **_predictions("interventions", "forest_of_interventions"),
    **_predictions("methods", "ways_to_align"),
    "wall": wall.wall,
}


def stage(target: Path) -> None:
    """Put everything into an empty folder. Raises ValueError for a link to a file that is not there."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    wanted = {ROOT / "notebooks" / f"{name}.ipynb" for name in notebooks()}
    wanted |= set((ROOT / "benchmarks" / "results").glob("*.md"))
    for page in sorted(DOCS.rglob("*.md")):
        text = MADE.sub(lambda made: MAKERS[made[1]](), page.read_text(encoding="utf-8"))
        _write(target / page.relative_to(DOCS), _with_links(text, page, wanted))
    changes = ROOT / "CHANGELOG.md"
    _write(target / "changelog.md", _with_links(changes.read_text(encoding="utf-8"), changes, wanted))
    for name, text in reference.pages().items():
        _write(target / "api" / name, text)
    notebooks_path(target / "path.svg")
    for path in sorted(wanted):
        copy = target / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".ipynb":
            _write(copy, _with_terms(_with_alt(path.read_text(encoding="utf-8"))))
        else:
            shutil.copyfile(path, copy)


def terms() -> dict[str, str]:
    """The glossary's terms by their anchors, as Sphinx names them."""
    lines = (DOCS / "glossary.md").read_text(encoding="utf-8").split("```{glossary}")[1].splitlines()
    found = [line for line in lines if line and line[0].isalpha()]
    return {f"term-{re.sub(r'[^a-z0-9]+', '-', term.lower())}": term for term in found}


def _with_terms(notebook: str) -> str:
    """Links of a notebook to terms of the glossary, which a code host shows as links to its page, lead to the terms.

    Links to other pages of docs/ lead to their copies, which stand beside the notebooks' folder.

    Raises ValueError for a term that the glossary does not have.
    """
    known = terms()

    def role(match: re.Match) -> str:
        if match[2] not in known:
            raise ValueError(f"a notebook links to glossary.md#{match[2]}; allowed: {', '.join(known)}")
        return f"{{term}}`{match[1]} <{known[match[2]]}>`"

    return TERM.sub(role, notebook).replace("](../docs/", "](../")


def _with_alt(notebook: str) -> str:
    """Figures of a notebook are described by their captions, the cell below: the site's `alt` texts."""
    cells = (read := json.loads(notebook))["cells"]
    for cell, below in pairwise(cells):
        caption = "".join(below["source"]).split("\n\n")[0] if below["cell_type"] == "markdown" else ""
        if cell["cell_type"] == "code" and (told := CAPTION.match(caption)):
            words = re.sub(r"\[([^\]]+)\]\([^)]+\)|[*`$]", r"\1", told[1])
            cell["metadata"]["mystnb"] = {"image": {"alt": " ".join(words.split())}}
    return json.dumps(read, ensure_ascii=False, indent=1)


def _with_links(text: str, page: Path, wanted: set[Path]) -> str:
    """Links out of docs/ to other files of the repository lead to their copies, which stand beside the pages."""

    def link(match: re.Match) -> str:
        path = Path(os.path.normpath(page.parent / match[2]))
        of_docs = DOCS in path.parents and path.suffix == ".md"
        if of_docs or not path.exists() or not path.is_relative_to(ROOT):
            return match[0]  # Sphinx finds pages, and complains of what is nowhere
        wanted.add(path)
        here = page.parent.relative_to(DOCS if DOCS in page.parents else ROOT)
        return match[1] + PurePosixPath(os.path.relpath(path.relative_to(ROOT), here)).as_posix() + match[3]

    return LINK.sub(link, text)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    stage(Path(sys.argv[1]).resolve())
