"""Readers of benchmarks, each on small files of the layout that its authors publish."""

import csv
import json
import shutil

import pandas as pd
import pytest

import unifylens as ul
from unifylens import readers


def save(path, value, lines=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(json.dumps(row) for row in value) if lines else json.dumps(value, ensure_ascii=False)
    path.write_text(text, encoding="utf-8")
    return path


def asked(facts, language):
    """What is scored as right, by fact."""
    table = facts.select(language).table
    return dict(zip(table["fact"], table["prompt"] + table["separator"] + table["answer"], strict=True))


def by_fact(facts, language):
    return facts.select(language).table.set_index("fact")


# --- KLAR ----------------------------------------------------------------------------------------------------

FRENCH = ("Quel instrument joue <subject>? La réponse est: <mask>", " L'instrument de <subject> s'appelle <mask>")
JAPANESE = ("<subject>はどんな楽器を演奏しますか？答えは：<mask>", " <subject>が演奏する楽器は<mask>です")
PLAYED = ((4757, "Cole", "piano"), (4758, "Clapton", "violon"), (4759, "Lady Gaga", "piano"), (4796, "Clapton", "alto"))


def klar(folder, candidates="violon, alto, piano", templates=(FRENCH, JAPANESE), index=True):
    for language, mark, texts in (("fr", "", templates[0]), ("ja", "日", templates[1])):
        samples = [
            {"subject": mark + subject, "object": mark + played}
            | ({"object_candidates": ", ".join(mark + c for c in candidates.split(", "))} if candidates else {})
            | ({"index": number} if index else {})
            for number, subject, played in PLAYED
        ]
        texts = list(texts) if isinstance(texts, tuple) else texts
        content = {"name": "instrument", "prompt_templates": texts, "samples": samples, "relation_id": "P1303"}
        save(folder / language / "instrument.json", content)
    return folder


def edit(file, change):
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    save(file, content)


def test_klar(tmp_path):
    facts = readers.read_klar(klar(tmp_path))
    assert facts.languages == ("fr", "ja") and facts.relations == ("instrument",) and len(facts.facts) == 4
    assert asked(facts, "fr")["instrument 4757"] == "Quel instrument joue Cole? La réponse est: piano"
    assert asked(facts, "ja")["instrument 4757"] == "日Coleはどんな楽器を演奏しますか？答えは：日piano"
    row = by_fact(facts, "fr").loc["instrument 4758"]
    assert row["also_right"] == ("alto",) and row["alternatives"] == ("piano",), "a musician with two instruments"
    assert by_fact(facts, "ja").loc["instrument 4757", "alternatives"] == ("日violon", "日alto")
    assert asked(readers.read_klar(tmp_path, "fr", template=1), "fr")["instrument 4759"] == (
        "L'instrument de Lady Gaga s'appelle piano"
    )
    drawn = readers.read_klar(klar(tmp_path, candidates=None), n_alternatives=1)
    assert set(drawn.table["alternatives"].map(len)) == {1}
    assert by_fact(drawn, "fr").loc["instrument 4758", "alternatives"] == ("piano",)


def test_klar_facts_are_matched_by_index(tmp_path):
    """A sample that one language lacks moved every later fact."""
    edit(klar(tmp_path) / "ja" / "instrument.json", lambda content: content["samples"].pop(0))
    facts = readers.read_klar(tmp_path)
    assert facts.facts == ("instrument 4758", "instrument 4759", "instrument 4796")
    assert by_fact(facts, "ja").loc["instrument 4759", "subject"] == "日Lady Gaga"
    assert facts.left_out == {readers.NOT_EVERYWHERE: {"fr": 1}}
    assert "left out" in repr(facts)
    edit(tmp_path / "ja" / "instrument.json", lambda content: content["samples"].pop())
    row = by_fact(readers.read_klar(tmp_path), "fr").loc["instrument 4758"]
    assert row["also_right"] == ("alto",) and row["alternatives"] == ("piano",), "right, though it is not asked"
    assert readers.read_klar(klar(tmp_path, index=False)).facts[:2] == ("instrument 0", "instrument 1")
    edit(tmp_path / "ja" / "instrument.json", lambda content: content["samples"].pop(0))
    with pytest.raises(
        ValueError, match=r"'instrument' have no 'index' in fr, ja, so they cannot be matched \(fr: 4, ja: 3\)"
    ):
        readers.read_klar(tmp_path)
    edit(klar(tmp_path, index=False) / "ja" / "instrument.json", lambda c: [s.update(index=0) for s in c["samples"]])
    with pytest.raises(ValueError, match=r"no 'index' in fr, so they cannot be matched"):
        readers.read_klar(tmp_path, ("fr", "ja"))
    edit(klar(tmp_path, index=False) / "ja" / "instrument.json", lambda content: content["samples"][0].update(index=1))
    with pytest.raises(ValueError, match=r"ja.instrument.json: 3 samples lack 'index', others have it"):
        readers.read_klar(tmp_path)


@pytest.mark.parametrize("kind", [int, float, str])
def test_klar_numbers_of_samples_are_numbers_however_they_are_written(tmp_path, kind):
    """pandas writes floats where one number is missing, and NaN or null in its place."""
    file = klar(tmp_path) / "ja" / "instrument.json"
    edit(file, lambda content: [sample.update(index=kind(sample["index"])) for sample in content["samples"]])
    assert readers.read_klar(tmp_path).facts[0] == "instrument 4757" and len(readers.read_klar(tmp_path).facts) == 4
    for missing in (None, float("nan")):
        edit(file, lambda content, missing=missing: content["samples"][0].update(index=missing))
        with pytest.raises(ValueError, match=r"ja.instrument.json: 1 samples lack 'index', others have it"):
            readers.read_klar(tmp_path)
    edit(file, lambda content: [sample.update(index=None) for sample in content["samples"]])
    with pytest.raises(ValueError, match=r"no 'index' in ja, so they cannot be matched"):
        readers.read_klar(tmp_path)
    edit(file, lambda content: [sample.update(index=1.5) for sample in content["samples"]])
    with pytest.raises(ValueError, match=r"ja.instrument.json, sample 0, index: 1.5 stands where"):
        readers.read_klar(tmp_path)


@pytest.mark.parametrize(
    ("templates", "told"),
    [
        (("The capital city of {} is",), r"template 0 is 'The capital city of \{\} is'; allowed: one <subject>.*LRE"),
        (("[X] is [Y] .",), r"template 0 is '\[X\].*with \[X\] and \[Y\] mLAMA's"),
        (("<mask> is played by <subject>",), "allowed: one <subject>, then one <mask>"),
        (("<subject> plays <mask> well",), r"nothing but punctuation after it \(of this file: none\)"),
        (("<subject> and <subject> play <mask>",), "template 0"),
        (("<subject> plays <mask> or <mask>",), "template 0"),
        (("<subject> plays",), "template 0"),
        (("<mask>",), "template 0"),
        (("", "<subject> plays <mask>."), r"template 0 is ''.*\(of this file: 1\)"),
        ("Quel <subject> <mask>", r"prompt_templates is 'Quel .*; allowed: a list of texts"),
        (({"text": "<subject> <mask>"},), "allowed: a list of texts"),
        ((), r"template=0: .*fr.instrument.json has 0 in prompt_templates; allowed: files with some"),
    ],
)
def test_klar_templates_are_checked(tmp_path, templates, told):
    with pytest.raises(ValueError, match=told) as info:
        readers.read_klar(klar(tmp_path, templates=(templates, JAPANESE)))
    assert "instrument.json" in str(info.value)


def test_klar_templates_are_counted(tmp_path):
    klar(tmp_path)
    for number in (2, -1):
        with pytest.raises(
            ValueError, match=rf"template={number}: .*instrument.json has 2 in prompt_templates; allowed: 0 to 1"
        ):
            readers.read_klar(tmp_path, template=number)
    with pytest.raises(ValueError, match=r"ja.instrument.json: template 1 is .*です'.*of this file: 0\)"):
        readers.read_klar(tmp_path, template=1)


@pytest.mark.parametrize(
    ("sample", "told"),
    [
        ({"object": None}, r"fr.instrument.json, sample 0: None stands where a text is due"),
        ({"object": ""}, "'' stands where a text is due"),
        ({"object": []}, "the list of answers is empty"),
        ({"object": 1.5}, "1.5 stands where"),
        ({"object": True}, "True stands where"),
        ({"subject": None}, r"sample 0: None stands where"),
    ],
)
def test_klar_answers_that_are_missing_are_refused(tmp_path, sample, told):
    edit(klar(tmp_path) / "fr" / "instrument.json", lambda content: content["samples"][0].update(sample))
    with pytest.raises(ValueError, match=told):
        readers.read_klar(tmp_path)


def test_answers_as_lists(tmp_path):
    """The first is asked for, the others do not count as wrong."""
    names = ["piano ", "clavier", "violon"]
    edit(klar(tmp_path) / "fr" / "instrument.json", lambda content: content["samples"][0].update(object=names))
    row = by_fact(readers.read_klar(tmp_path), "fr").loc["instrument 4757"]
    assert row["answer"] == "piano" and row["also_right"] == ("clavier", "violon") and row["alternatives"] == ("alto",)
    edit(tmp_path / "fr" / "instrument.json", lambda content: content["samples"][0].update(object=1990))
    assert by_fact(readers.read_klar(tmp_path), "fr").loc["instrument 4757", "answer"] == "1990"


def test_names_with_commas_are_one_candidate(tmp_path):
    klar(tmp_path, candidates="Washington, D.C., alto, piano")
    edit(tmp_path / "fr" / "instrument.json", lambda content: content["samples"][2].update(object="Washington, D.C."))
    assert by_fact(readers.read_klar(tmp_path, "fr"), "fr").loc["instrument 4757", "alternatives"] == (
        "Washington, D.C.",
        "alto",
    )


def test_one_word_in_two_codings_is_not_its_own_rival(tmp_path):
    klar(tmp_path, candidates="Sa\u0303o, alto, piano")
    edit(tmp_path / "fr" / "instrument.json", lambda content: content["samples"][0].update(object="S\u00e3o"))
    assert by_fact(readers.read_klar(tmp_path, "fr"), "fr").loc["instrument 4757", "alternatives"] == ("alto", "piano")


def test_klar_mistakes_are_named(tmp_path):
    klar(tmp_path)
    with pytest.raises(ValueError, match=r"languages: .* has no pl; allowed: fr, ja"):
        readers.read_klar(tmp_path, ("fr", "pl"))
    with pytest.raises(FileNotFoundError, match=r"KLAR: .*nowhere does not exist"):
        readers.read_klar(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is a file; allowed: a folder"):
        readers.read_klar(tmp_path / "fr" / "instrument.json")
    edit(tmp_path / "fr" / "instrument.json", lambda content: content["samples"].clear())
    with pytest.raises(ValueError, match=r"nothing is left of fr \(fr: no rows\); allowed: ja"):
        readers.read_klar(tmp_path)
    save(tmp_path / "fr" / "instrument.json", {"samples": []})
    with pytest.raises(ValueError, match="a row lacks 'prompt_templates'; it has samples"):
        readers.read_klar(tmp_path)
    save(tmp_path / "fr" / "instrument.json", [])
    with pytest.raises(ValueError, match="stands where an object with 'prompt_templates' is due"):
        readers.read_klar(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: no \*.json there"):
        readers.read_klar(tmp_path, "empty")


# --- ECLeKTic ------------------------------------------------------------------------------------------------


def eclektic(n=4, languages=("en", "he")):
    return [
        {"q_id": i, "original_lang": "en", "title": f"t{i}"}
        | {f"{lang}_{kind}": f"{kind}{i} {lang}" for lang in languages for kind in ("q", "a")}
        for i in range(n)
    ]


def test_eclektic(tmp_path):
    file = save(tmp_path / "eclektic_main.jsonl", eclektic(), lines=True)
    facts = readers.read_eclektic(file)
    assert len(facts) == 8 and set(facts.table["original"]) == {"en"} and asked(facts, "en")["0"] == "q0 en a0 en"
    assert set(facts.table["alternatives"][0]) == {"a1 en", "a2 en", "a3 en"}
    # a CSV's numbers and "NA" are texts; a question without an answer is left out and counted
    sheet = pd.DataFrame([(str(i), "en", f"q{i}", a) for i, a in enumerate(["1990", "NA", "1991", ""])])
    sheet.to_csv(tmp_path / "e.csv", header=["q_id", "original_lang", "en_q", "en_a"], index=False)
    facts = readers.read_eclektic(tmp_path / "e.csv")
    assert list(facts.table["answer"]) == ["1990", "NA", "1991"] and facts.left_out == {readers.NOT_ASKED: {"en": 1}}
    rows = eclektic()
    rows[0]["en_a"], rows[0]["en_q"] = ["a0 en", "alias"], "東京はどこですか？"
    facts = readers.read_eclektic(save(tmp_path / "a.jsonl", rows, lines=True))
    assert asked(facts, "en")["0"] == "東京はどこですか？a0 en" and facts.table["also_right"][0] == ("alias",)


def test_eclektic_mistakes_are_named(tmp_path):
    rows = eclektic()
    with pytest.raises(ValueError, match="fact '0' stands twice in 'en'"):
        readers.read_eclektic(save(tmp_path / "a.jsonl", [rows[0], rows[0]], lines=True))
    with pytest.raises(ValueError, match=r"languages: .* has no fr; allowed: en, he"):
        readers.read_eclektic(save(tmp_path / "a.jsonl", rows, lines=True), ("en", "fr"))
    for row in rows:
        row["he_q"] = None
    with pytest.raises(ValueError, match=r"nothing is left of he \(he: 4 rows without question or answer\)"):
        readers.read_eclektic(save(tmp_path / "a.jsonl", rows, lines=True))
    rows = eclektic(2)
    rows[0]["he_a"], rows[1]["en_a"] = "", None
    with pytest.raises(ValueError, match=r"no fact is there in all languages \(en: 1, he: 1\); allowed: fewer"):
        readers.read_eclektic(save(tmp_path / "a.jsonl", rows, lines=True))
    with pytest.raises(ValueError, match="no fact has a wrong answer"):
        readers.read_eclektic(save(tmp_path / "a.jsonl", eclektic(1), lines=True))


# --- mLAMA and mParaRel --------------------------------------------------------------------------------------

CAPITALS = (("Q142", "Q90", "France", "Paris"), ("Q183", "Q64", "Germany", "Berlin"), ("Q38", "Q220", "Italy", "Rome"))
TEXTS = {"en": "The capital of [X] is [Y] .", "de": "[X] hat die Hauptstadt [Y]", "ja": "[X]の首都は[Y]です。"}


def tuples(language, lines=(0, 1, 2)):
    return [
        {"sub_uri": s, "obj_uri": o, "obj_label": f"{b} {language}", "sub_label": f"{a} {language}", "lineid": line}
        for line, (s, o, a, b) in zip(lines, CAPITALS, strict=True)
    ]


def flat(languages=("en", "de"), uris=True):
    rows = [
        {"language": language, "predicate_id": "P36", "template": TEXTS[language], **row}
        for language in languages
        for row in tuples(language)
    ]
    return pd.DataFrame(rows).drop(columns=[] if uris else ["sub_uri", "obj_uri"])


@pytest.mark.parametrize("uris", [False, True])
def test_mlama_as_one_table(tmp_path, uris):
    table = pd.concat([flat(uris=uris), flat(("de",), uris).assign(predicate_id="P1", template="[Y] ist in [X]")])
    table.to_parquet(tmp_path / "mlama.parquet")
    facts = readers.read_mlama(tmp_path / "mlama.parquet")
    name = "P36 Q142 Q90" if uris else "P36 0"
    assert asked(facts, "en")[name] == "The capital of France en is Paris en" and len(facts) == 6
    assert asked(facts, "de")[name] == "France de hat die Hauptstadt Paris de"
    assert facts.left_out == {readers.NOT_LAST: {"de": 3}}
    assert readers.read_mlama(tmp_path / "mlama.parquet", ("de",)).languages == ("de",)


@pytest.mark.parametrize("lacking", [["sub_uri", "obj_uri"], ["obj_uri"]])
def test_mlama_uris_in_some_languages_cannot_be_matched(tmp_path, lacking):
    """The numbers of lines may be others than those of the languages with URIs."""
    rows = flat().to_dict("records")
    rows = [{k: v for k, v in row.items() if row["language"] == "en" or k not in lacking} for row in rows]
    file = save(tmp_path / "m.jsonl", rows, lines=True)
    with pytest.raises(
        ValueError, match=r"rows of 'P36' have 'sub_uri' and 'obj_uri' in en, not in de, so they cannot"
    ):
        readers.read_mlama(file)
    assert readers.read_mlama(file, ["de"]).facts[0] == "P36 0"


def test_a_language_does_not_vanish(tmp_path):
    """One in which no template ends with the object came back as a table without it."""
    flat(("en", "de", "ja")).to_parquet(tmp_path / "m.parquet")
    told = r"nothing is left of ja \(ja: 3 rows whose template does not end with the object\); allowed: de, en"
    for languages in (None, ("en", "ja")):
        with pytest.raises(ValueError, match=told if languages is None else told.replace("de, ", "")):
            readers.read_mlama(tmp_path / "m.parquet", languages)


def test_mlama_mistakes_are_named(tmp_path):
    file = tmp_path / "m.csv"
    flat().to_csv(file, index=False)
    with pytest.raises(ValueError, match=r"languages: .*m.csv has no fr; allowed: de, en"):
        readers.read_mlama(file, ("de", "fr"))
    with pytest.raises(ValueError, match=r"m.csv: a row lacks 'q_id'; it has language, "):
        readers.read_eclektic(file)
    with pytest.raises(ValueError, match=r"allowed are .jsonl, .json, .csv"):
        (tmp_path / "m.txt").touch()
        readers.read_mlama(tmp_path / "m.txt")
    rows = flat().to_dict("records")
    for change, told in (
        ({"obj_label": None}, "en, P36, lineid 0: None stands where a text is due"),
        ({"language": None}, "1 rows have no 'language'"),
        (rows[1] | {"obj_label": "another"}, "fact 'P36 Q183 Q64' stands twice in 'en'"),
    ):
        with pytest.raises(ValueError, match=told):
            readers.read_mlama(save(tmp_path / "m.jsonl", [rows[0] | change, *rows[1:]], lines=True))


def test_mlama_as_its_archive(tmp_path):
    for language, lines in (("en", (0, 1, 2)), ("de", (5, 6, 7))):
        templates = [
            {"relation": "P36", "template": TEXTS[language], "label": "capital", "type": "N-1"},
            {"relation": "P1", "template": "[Y] is in [X] ."},
            {"relation": "P999", "template": "[X] has no file for [Y] ."},
        ]
        save(tmp_path / language / "templates.jsonl", templates, lines=True)
        save(tmp_path / language / "P36.jsonl", tuples(language, lines), lines=True)
        save(tmp_path / language / "P1.jsonl", tuples(language), lines=True)
    facts = readers.read_mlama(tmp_path)
    assert asked(facts, "de")["P36 Q142 Q90"] == "France de hat die Hauptstadt Paris de", "matched by what they are"
    assert len(facts) == 6 and facts.left_out == {readers.NOT_LAST: {"en": 3, "de": 3}}
    with pytest.raises(ValueError, match="has no fr; allowed: de, en"):
        readers.read_mlama(tmp_path, ("fr",))
    (tmp_path / "de" / "templates.jsonl").unlink()
    with pytest.raises(ValueError, match=r"de: no templates.jsonl there"):
        readers.read_mlama(tmp_path)


def test_mpararel(tmp_path):
    for language, last in (("en", "The capital of [X] is [Y]"), ("fr", "[X] a pour capitale l'[Y]")):
        patterns = ["[Y], the capital of [X]", last, "[X]: [Y]"]
        save(tmp_path / "patterns" / language / "P36.jsonl", [{"pattern": p} for p in patterns], lines=True)
        save(tmp_path / "tuples" / language / "P36.jsonl", tuples(language), lines=True)
    facts = readers.read_mpararel(tmp_path)
    assert asked(facts, "en")["P36 Q142 Q90"] == "The capital of France en is Paris en"
    assert asked(facts, "fr")["P36 Q142 Q90"] == "France fr a pour capitale l'Paris fr", "no blank after l'"
    assert asked(readers.read_mpararel(tmp_path, template=1), "fr")["P36 Q38 Q220"] == "Italy fr: Rome fr"
    with pytest.raises(ValueError, match=r"nothing is left of en, fr .*3 rows whose template"):
        readers.read_mpararel(tmp_path, template=2)
    with pytest.raises(ValueError, match="template=-1"):
        readers.read_mpararel(tmp_path, template=-1)
    with pytest.raises(FileNotFoundError, match="patterns does not exist"):
        readers.read_mpararel(tmp_path / "patterns")


# --- BMLAMA, BMIKE-53, LRE -----------------------------------------------------------------------------------

HEAD = ("Prompt", "Ans", "Candidate Ans", "Subject")
ENGLISH = (
    ("Charles II was born in <mask>.", "Madrid", "Toronto, Vienna, Madrid", "Charles II"),
    ('William "El Jove" was born in <mask>.', "London", "Madrid, London", 'William "El Jove"'),
    ("Wagner died in <mask>.", "Venice", "Rome, Venice", "Wagner"),
    ("Wagner died in <mask>.", "Rome", "Venice, Rome", "Wagner"),
    ("Nero died in <mask>.", "Paris", "Rome, Paris", "Nero"),
)
CHINESE = (
    ("查理二世出生于<mask>。", "马德里", "多伦多, 维也纳, 马德里", "查理二世"),
    ("威廉出生于<mask>。", "伦敦", "马德里, 伦敦", "威廉"),
    ("瓦格纳死于<mask>。", "威尼斯", "罗马, 威尼斯", "瓦格纳"),
    ("瓦格纳死于<mask>。", "罗马", "威尼斯, 罗马", "瓦格纳"),
    ("尼禄在<mask>去世。", "巴黎", "罗马, 巴黎", "尼禄"),
)


def bmlama(file, rows, head=HEAD):
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, delimiter="\t").writerows([head, *rows])


def test_bmlama(tmp_path):
    bmlama(tmp_path / "en.tsv", ENGLISH)
    bmlama(tmp_path / "zh.tsv", CHINESE, (*HEAD[:2], "Candidate", *HEAD[1:2], "Subject"))  # as it is published
    facts = readers.read_bmlama(tmp_path)
    assert asked(facts, "en")["line 1"] == 'William "El Jove" was born in London'
    assert asked(facts, "zh")["line 0"] == "查理二世出生于马德里"
    assert by_fact(facts, "en").loc["line 0", "alternatives"] == ("Toronto", "Vienna")
    assert facts.relations == ("[X] was born in [Y].",)
    assert facts.left_out == {
        readers.NOT_LAST: {"zh": 1},
        readers.NOT_EVERYWHERE: {"en": 1},
        readers.NO_WRONG: {"en": 2, "zh": 2},
    }, "of Wagner both candidates are right"
    bmlama(tmp_path / "zh.tsv", CHINESE[:4])
    with pytest.raises(ValueError, match=r"files have different lengths \(en: 5, zh: 4\)"):
        readers.read_bmlama(tmp_path)
    bmlama(tmp_path / "zh.tsv", [CHINESE[0], (*CHINESE[1], "more"), *CHINESE[2:]])
    with pytest.raises(ValueError, match=r"zh.tsv, line 3 has 5 fields; allowed: 4"):
        readers.read_bmlama(tmp_path)
    with pytest.raises(ValueError, match="has no fr; allowed: en, zh"):
        readers.read_bmlama(tmp_path, ["fr"])
    with pytest.raises(ValueError, match=r"no \*.tsv there"):
        readers.read_bmlama(tmp_path.parent)


def bmike(language, number, subject, old, alt):
    question = {"case_id": number, "subject": subject, "src": f"{language}: Where is {subject}?", "rephrase": "?"}
    return question | ({"old": old} if old else {}) | {"alt": alt, "loc": "?", "loc_ans": "?", "port": "?"}


def questions(language, old=True):
    return [
        {
            lang: bmike(lang, number, subject, f"{old} {lang}" if old else None, f"{alt} {lang}")
            for lang in ("en", language)
        }
        for number, subject, old, alt in (
            (4482, "Spike", old and "London", "Rome"),
            (4484, "Ray", old and "Paris", "Oslo"),
            (4488, "May", old and "Rome", "Bonn"),
        )
    ]


def test_bmike(tmp_path):
    paths = [save(tmp_path / f"counterfact_test_{language}.json", questions(language)) for language in ("de", "zh")]
    facts = readers.read_bmike(paths)
    assert facts.languages == ("de", "en", "zh") and asked(facts, "de")["4482"] == "de: Where is Spike? London de"
    row = by_fact(facts, "en").loc["4482"]
    assert row["alternatives"][0] == "Rome en" and set(row["alternatives"]) == {"Rome en", "Paris en"}
    facts = readers.read_bmike(paths[0], ["de"], answer="alt")
    assert facts.languages == ("de",) and asked(facts, "de")["4484"].endswith("Oslo de")
    assert by_fact(facts, "de").loc["4484", "alternatives"][0] == "Paris de"
    zsre = save(tmp_path / "zsre_test_de.json", questions("de", old=False))
    assert readers.read_bmike(zsre, answer="alt").facts == ("4482", "4484", "4488")
    for call, told in (
        (lambda: readers.read_bmike(zsre), r"zsre_test_de.json, entry 1, en: a row lacks 'old'; it has case_id"),
        (lambda: readers.read_bmike(paths, ["ja"]), "has no ja; allowed: de, en, zh"),
        (lambda: readers.read_bmike(paths, answer="new"), "answer='new': allowed: 'old', 'alt'"),
        (lambda: readers.read_bmike(save(tmp_path / "a.json", [3])), "entry 1 is no object"),
        (lambda: readers.read_bmike([]), "languages: BMIKE-53 has none"),
    ):
        with pytest.raises(ValueError, match=told):
            call()
    twin = questions("de")
    twin[0]["de"]["alt"] = "London\u00a0de\u200f"
    row = by_fact(readers.read_bmike(save(tmp_path / "twin.json", twin), ["de"]), "de").loc["4482"]
    assert set(row["alternatives"]) == {"Paris de", "Rome de"}, "an edit to the same word is no wrong answer"
    changed = questions("de")
    changed[0]["en"]["old"] = "Berlin"
    with pytest.raises(ValueError, match="case_id 4482 stands twice, with other words"):
        readers.read_bmike([*paths, save(tmp_path / "b.json", changed)])


def test_lre(tmp_path):
    content = {
        "name": "company CEO",
        "prompt_templates": ["{}'s CEO is", "The CEO of {} is "],
        "prompt_templates_zs": ["Who is the CEO of {}? Their name is"],
        "properties": {"relation_type": "factual", "symmetric": False},
        "samples": [{"subject": s, "object": o} for s, o in (("Apple", "Cook"), ("Tesla", "Musk"), ("Apple", "Jobs"))],
    }
    file = save(tmp_path / "factual" / "company_ceo.json", content)
    facts = readers.read_lre(file)
    assert asked(facts, "en")["company_ceo 0"] == "Apple's CEO is Cook" and facts.relations == ("company CEO",)
    row = by_fact(facts, "en").loc["company_ceo 0"]
    assert row["also_right"] == ("Jobs",) and row["alternatives"] == ("Musk",)
    assert asked(readers.read_lre(tmp_path, template=1), "en")["factual/company_ceo 1"] == "The CEO of Tesla is Musk"
    zero_shot = readers.read_lre(tmp_path, zero_shot=True, language="eng")
    assert asked(zero_shot, "eng")["factual/company_ceo 1"] == "Who is the CEO of Tesla? Their name is Musk"
    lines = save(
        tmp_path / "b" / "ceo.json", content | {"prompt_templates": ["Q: who leads {}?\nA:\n", "{}：", "{}\n"]}
    )
    for number, due in enumerate(("Q: who leads Tesla?\nA:\nMusk", "Tesla：Musk", "Tesla\nMusk")):
        assert asked(readers.read_lre(lines, template=number), "en")["ceo 1"] == due, "blanks of the template stay"
    for change, told in (
        ({"prompt_templates": ["<subject>'s CEO is <mask>"]}, r"company_ceo.json: template 0 is .*one \{\}.*read_klar"),
        ({"prompt_templates": "{}'s CEO is"}, "allowed: a list of texts"),
        ({"samples": [{"subject": "Apple", "object": None}]}, "sample 0: None stands where a text is due"),
        ({"samples": []}, "nothing is left of en"),
    ):
        with pytest.raises(ValueError, match=told):
            readers.read_lre(save(tmp_path / "a" / "company_ceo.json", content | change))
    with pytest.raises(ValueError, match=r"template=2: .*company_ceo.json has 2 in prompt_templates; allowed: 0 to 1"):
        readers.read_lre(file, template=2)


# --- whatever is read ----------------------------------------------------------------------------------------


def test_files_of_benchmarks_may_have_marks(tmp_path):
    klar(tmp_path)
    file = tmp_path / "fr" / "instrument.json"
    file.write_bytes("\ufeff".encode() + file.read_bytes())
    assert len(readers.read_klar(tmp_path)) == 8
    file.write_bytes(file.read_text(encoding="utf-8-sig").encode("cp1252"))
    with pytest.raises(ValueError, match=r"fr.instrument.json: line 1 holds the byte 0xe9, which is not UTF-8"):
        readers.read_klar(tmp_path)
    rows = eclektic()
    rows[0]["en_q"] = "one\u2028line"
    (tmp_path / "e.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    assert readers.read_eclektic(tmp_path / "e.jsonl").table["prompt"][0] == "one\u2028line"


def test_any_reader_gives_what_functions_take(tmp_path):
    facts = readers.read_klar(klar(tmp_path))
    assert isinstance(facts, ul.FactSet) and ul.FactSet.of(facts.table).table.equals(facts.table)


def test_fact_sets_of_a_hub_are_read_by_datasets(tmp_path, monkeypatch):
    """`datasets` takes folders of the names that copies have on the hub, whatever their splits are called."""
    pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    for module in ("datasets.config", "huggingface_hub.constants"):
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    eclektic_there, mlama = (tmp_path / readers.HUBS[name]["path"] for name in ("eclektic", "mlama"))
    save(eclektic_there / "eclektic_main.jsonl", eclektic(languages=("en",)), lines=True)
    save(eclektic_there / "eclektic_dev.jsonl", {"something": "else"})
    assert list(readers.read_eclektic(hub=True).table["answer"]) == ["a0 en", "a1 en", "a2 en", "a3 en"]
    (mlama / "data").mkdir(parents=True)
    flat(("en",)).to_parquet(mlama / "data" / "test-00000-of-00001.parquet")
    assert list(readers.read_mlama(hub=True).table["answer"]) == ["Paris en", "Berlin en", "Rome en"]
    shutil.rmtree(mlama)
    with pytest.raises(ConnectionError, match=r"(?s)atutej/m_lama could not be fetched .* allowed: a local file"):
        readers.read_mlama(hub=True)
    with pytest.raises(ValueError, match="give a local file of its schema, or hub=True to download ura-hcmut/ECLeKTic"):
        readers.read_eclektic()
