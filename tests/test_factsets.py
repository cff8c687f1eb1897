"""Fact sets: one schema, checked; prompt, separator and answer are scored; what is right never counts as wrong."""

import doctest
import unicodedata

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import unifylens as ul
from unifylens.corpus import factsets
from unifylens.crosslingual import pairs
from unifylens.pretrained import asking
from unifylens.pretrained.models import Pretrained

NFC, NFD = (unicodedata.normalize(form, "São Tomé") for form in ("NFC", "NFD"))


def table(**columns):
    """Two facts in two languages, with columns as they are given for the first row."""
    rows = [
        {
            "fact": fact,
            "relation": "capital",
            "language": language,
            "subject": f"{fact} {language}",
            "prompt": f"The capital of {fact} ({language}) is",
            "answer": f"town of {fact}",
            "alternatives": ("A", "B"),
        }
        for language in ("en", "fr")
        for fact in ("x", "y")
    ]
    frame = pd.DataFrame(rows).astype(object)
    for name, value in columns.items():
        if name not in frame:
            frame[name] = [() if name == "also_right" else " "] * len(frame)
        frame[name] = pd.Series([value, *frame[name].tolist()[1:]], dtype=object)
    return frame


def first(**columns):
    """The row that was given, as the fact set has it."""
    out = ul.FactSet(table(**columns)).table
    return out[(out["language"] == "en") & (out["fact"] != "y")].iloc[0]


# --- the schema ----------------------------------------------------------------------------------------------


def test_a_table_becomes_a_fact_set_once():
    facts = ul.FactSet.of(table().sample(frac=1, random_state=0).assign(note="kept"))
    assert ul.FactSet.of(facts) is facts and len(facts) == 4
    assert facts.languages == ("en", "fr") and facts.relations == ("capital",) and facts.facts == ("x", "y")
    assert list(facts.table) == [*factsets.ORDER, "note"]
    assert facts.table[["language", "fact"]].values.tolist() == [["en", "x"], ["en", "y"], ["fr", "x"], ["fr", "y"]]
    assert set(facts.table["separator"]) == {" "} and set(facts.table["also_right"]) == {()}
    copy = facts.table
    copy["answer"] = "gone"
    assert "gone" not in set(facts.table["answer"]), "a fact set does not change"
    pd.testing.assert_frame_equal(factsets.check(facts), factsets.check(facts.table))


def test_what_is_no_fact_set_is_refused():
    rows = table()
    for what, error, told in (
        (rows.drop(columns="answer"), ValueError, "missing: answer"),
        (rows.drop(columns="alternatives"), ValueError, r"missing: alternatives \(FactSet.from_answers draws them\)"),
        (rows.iloc[:0], ValueError, "no rows"),
        (rows.to_dict("records"), TypeError, "facts is of type list; allowed: a FactSet, or a pandas table"),
        (pd.concat([rows, rows.iloc[:1]]), ValueError, "fact 'x' stands twice in 'en'"),
        (rows.iloc[1:], ValueError, r"have different facts: 'en' lacks 1 of 2, such as 'x'"),
        (table(relation="town"), ValueError, r"fact 'x' has the relations \['town', 'capital'\]; allowed: one"),
        (table(alternatives=()), ValueError, "fact 'x' has no alternative in 'en'"),
    ):
        with pytest.raises(error, match=told):
            ul.FactSet.of(what)


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, pd.NaT, "", "  ", "\u3000", 7, b"Paris", ["Paris"]])
@pytest.mark.parametrize("column", ["fact", "relation", "language", "subject", "prompt", "answer"])
def test_a_text_that_is_missing_is_refused_by_name(column, missing):
    where = "row 0" if column in ("fact", "language") else "fact 'x' in 'en'"
    with pytest.raises(ValueError, match=rf"{column} of {where} is .*; allowed: text"):
        ul.FactSet(table(**{column: missing}))


@pytest.mark.parametrize("column", ["also_right", "alternatives"])
@pytest.mark.parametrize("wrong", [None, "Paris", ("Paris", None), ("",), (1,), {"Paris"}, float("nan")])
def test_answers_are_tuples_of_texts(column, wrong):
    with pytest.raises(ValueError, match=rf"{column} of fact 'x' in 'en' is .*; allowed: "):
        ul.FactSet(table(**{column: wrong}))


def test_lists_and_arrays_of_answers_are_taken_once_each():
    assert first(alternatives=["B", "A ", "B"])["alternatives"] == ("B", "A")
    assert first(alternatives=np.array(["B", "A"], dtype=object))["alternatives"] == ("B", "A")
    assert first(also_right=["town of x", "Town"])["also_right"] == ("Town",), "an alias may repeat the answer"


def test_half_a_character_is_refused():
    with pytest.raises(ValueError, match=r"answer of fact 'x' in 'en' .* half a character"):
        ul.FactSet(table(answer="\ud83d"))


def test_one_text_in_two_codings_is_one_text():
    """NFC and NFD: a fact's own answer stood among the wrong ones."""
    with pytest.raises(ValueError, match=r"'São Tomé' is right, and stands among the alternatives.*also_right"):
        ul.FactSet(table(answer=NFC, alternatives=(NFD, "A")))
    row = first(answer=NFD, also_right=(NFC, "STP"), subject=NFD, prompt=f"In {NFD}:")
    assert row["answer"] == NFC and row["also_right"] == ("STP",) and row["prompt"] == f"In {NFC}:"
    with pytest.raises(ValueError, match="stands twice"):
        ul.FactSet(pd.concat([table(fact=NFC), table(fact=NFD).iloc[:1]]))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("كتاب", "كتاب\u200f"),
        ("\u200eParis", "Paris"),
        ("Ivory Coast", "Ivory\u00a0Coast"),
        ("1\u202f000", "1\u2007000"),
        ("Pa\u00adris\ufeff", "Paris\u200b"),
        ("میخواهم\u200c", "میخواهم"),
    ],
)
def test_marks_that_nobody_sees_make_no_other_word(one, other):
    """A word with a mark of direction was drawn as its own wrong answer."""
    for right, wrong in ((one, other), (other, one)):
        with pytest.raises(ValueError, match=r"fact 'x' in 'en': .* is right, and stands among the alternatives"):
            ul.FactSet(table(answer=right, alternatives=(wrong, "A")))
        with pytest.raises(ValueError, match="is right, and stands among"):
            ul.FactSet(table(also_right=(right,), alternatives=(wrong, "A")))
        assert first(alternatives=(right, "A", wrong))["alternatives"] == (right, "A"), "kept as it is, once"
    rows = [row | {"answer": {0: one, 1: other}.get(i % 3, row["answer"])} for i, row in enumerate(words(n=3))]
    out = ul.FactSet.from_answers(rows).table.set_index(["language", "fact"])
    assert out.loc[("en", "f0"), "alternatives"] == ("en2",) and len(out.loc[("en", "f2"), "alternatives"]) == 1
    asks = table().assign(prompt=[one, other, "u:", "v:"])
    asks.at[0, "alternatives"] = ("town of y",)
    with pytest.raises(ValueError, match="fact 'x' in 'en': 'town of y' is right"):
        ul.FactSet(asks)


def test_joiners_make_other_words_and_marks_alone_are_none():
    row = first(answer="می\u200cخواهم", alternatives=("میخواهم", "A"))
    assert row["alternatives"] == ("میخواهم", "A")
    with pytest.raises(ValueError, match=r"answer of fact 'x' in 'en' is empty: '\\u200b'"):
        ul.FactSet(table(answer="\u200b"))


@pytest.mark.parametrize("column", ["answer", "prompt", "note"])
def test_two_columns_of_one_name_are_told(column):
    rows = table().assign(note="n")
    for make in (ul.FactSet, ul.FactSet.from_answers):
        with pytest.raises(ValueError, match=f"two columns '{column}'; allowed: one of each name"):
            make(pd.concat([rows, rows[[column]]], axis=1))


def test_what_another_fact_says_of_the_same_question_is_right():
    rows = table()
    rows.loc[1, "prompt"] = rows.loc[0, "prompt"]
    assert len(ul.FactSet(rows)) == 4
    rows.at[0, "alternatives"] = ("A", "town of y")
    with pytest.raises(ValueError, match="fact 'x' in 'en': 'town of y' is right"):
        ul.FactSet(rows)


def test_some_languages_relations_and_facts():
    facts = ul.FactSet(table(), {"said badly": {"en": 3}})
    assert facts.select("en", facts=["y"]).table["fact"].tolist() == ["y"]
    assert facts.select(relations="capital").left_out == {"said badly": {"en": 3}}
    for field, name, told in (
        ("languages", "fre", "Did you mean 'fr'"),
        ("relations", ["capitals"], "Did you mean 'capital'"),
        ("facts", ["x", "z"], "facts='z': the fact set has no such name"),
        ("facts", [], "nothing is left"),
    ):
        with pytest.raises(ValueError, match=told):
            facts.select(**{field: name})


def test_a_fact_set_says_what_it_holds():
    text = repr(ul.FactSet(table(also_right=("X",)), {"said badly": {"en": 3, "fr": 4}}))
    for part in ("of 4 questions", "2, in each language", "en, fr", "2 to a question", "to 1 questions", "7 rows said"):
        assert part in text
    assert text.endswith("The capital of x (en) is [town of x]")
    assert "<b>" not in ul.FactSet(table(answer="<b>"))._repr_html_()


def test_the_examples_are_true():
    ran = doctest.testmod(factsets, extraglobs={"ul": ul})
    assert ran.failed == 0 and ran.attempted >= 7


# --- prompt and answer ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "separator", "joined"),
    [
        ("Capital:", " ", "Capital: town of x"),
        ("Capital: ", " ", "Capital: town of x"),
        ("Capital: ", "", "Capital: town of x"),
        (" Capital:  ", "", "Capital: town of x"),
        ("首都は", "", "首都はtown of x"),
        ("Capital?\n", "", "Capital?\ntown of x"),
        ("Capitale :\u00a0", "", "Capitale :\u00a0town of x"),
        ("Capital?", "\n", "Capital?\ntown of x"),
    ],
)
def test_blanks_stand_once_between_prompt_and_answer(prompt, separator, joined):
    row = first(prompt=prompt, separator=separator)
    assert row["prompt"] + row["separator"] + row["answer"] == joined and row["prompt"] == row["prompt"].rstrip()


@pytest.mark.parametrize("wrong", [None, ",", float("nan"), 0])
def test_a_separator_is_blank(wrong):
    with pytest.raises(ValueError, match=r"separator of fact 'x' in 'en' is .*; allowed: blanks, or nothing"):
        ul.FactSet(table(separator=wrong))


@pytest.mark.parametrize(
    ("prompt", "separator"),
    [
        ("The capital of Japan is", " "),
        ("Japan:", " "),
        ("日本:", " "),
        ("일본의 수도는", " "),
        ("जापान की राजधानी", " "),
        ("答えは：", ""),
        ("日本的首都是", ""),
        ("首都はどこですか？", ""),
        ("เมืองหลวงของญี่ปุ่นคือ", ""),
        ("La capitale est l'", ""),
        ("La capitale est l’", ""),
        ("The answer is (", ""),
        ("the pre-", ""),
        ("Japan -", " "),
        ("Capital?\n", "\n"),
        ("Capital: ", " "),
    ],
)
def test_what_stands_before_an_answer_where_nothing_is_said(prompt, separator):
    rows = table(prompt=prompt).drop(columns="alternatives")
    out = ul.FactSet.from_answers(rows).table
    assert out.loc[(out["language"] == "en") & (out["fact"] == "x"), "separator"].item() == separator


@given(st.text(max_size=6), st.text(alphabet=" \n\u00a0x", max_size=4))
def test_any_prompt_is_cut_where_its_blanks_begin(start, end):
    prompt = f"x{start}{end}"
    try:
        row = first(prompt=prompt)
    except ValueError as error:
        assert "half a character" in str(error)
        return
    joined, due = row["prompt"] + row["separator"], unicodedata.normalize("NFC", prompt)
    assert joined.rstrip() == due.rstrip() and row["prompt"] == row["prompt"].rstrip()
    assert not row["separator"].strip() and (row["separator"].strip(" ") or row["separator"] in ("", " "))


# --- wrong answers that are drawn ----------------------------------------------------------------------------


def words(n=12, languages=("de", "en"), answers=4):
    return [
        {"fact": f"f{i}", "relation": "r", "language": lang, "subject": f"s{i}", "prompt": f"s{i}:"}
        | {"answer": f"{lang}{i % answers:x}"}
        for lang in languages
        for i in range(n)
    ]


def test_wrong_answers_are_the_same_facts_everywhere():
    out = ul.FactSet.from_answers(words()).table
    by_fact = out.assign(objects=out["alternatives"].map(lambda texts: tuple(t[2:] for t in texts)))
    assert (by_fact.groupby("fact")["objects"].nunique() == 1).all() and set(out["alternatives"].map(len)) == {3}
    assert all(row.answer not in row.alternatives for row in out.itertuples())
    again = ul.FactSet.from_answers(pd.DataFrame(words()).sample(frac=1, random_state=1))
    pd.testing.assert_frame_equal(again.table, out)
    assert set(ul.FactSet.from_answers(words(), 2).table["alternatives"].map(len)) == {2}


def test_other_right_answers_are_not_drawn():
    """A musician with two instruments: what another fact says of the same question is not wrong."""
    rows = words(answers=12)
    for row in rows:
        if row["fact"] == "f1":
            row |= {"subject": "s0", "prompt": "s0:"}
    out = ul.FactSet.from_answers(rows, 50).table.set_index(["language", "fact"])
    assert out.loc[("en", "f0"), "also_right"] == ("en1",) and out.loc[("en", "f1"), "also_right"] == ("en0",)
    assert len(out.loc[("en", "f0"), "alternatives"]) == 10 and len(out.loc[("en", "f2"), "alternatives"]) == 11


def test_another_name_of_the_answer_is_not_drawn():
    """A fact that has the answer among its aliases is about the same thing: none of its names is wrong."""
    rows = [row | {"also_right": ("de1", "en1") if row["fact"] == "f0" else ()} for row in words(n=3, answers=3)]
    out = ul.FactSet.from_answers(rows).table.set_index(["language", "fact"])
    assert out.loc[("en", "f1"), "alternatives"] == ("en2",) and len(out.loc[("en", "f2"), "alternatives"]) == 2


def test_words_that_are_one_in_some_language_are_not_wrong_there():
    rows = words(n=3, answers=3)
    rows[1]["answer"] = rows[0]["answer"]  # in German, two objects have one name
    out = ul.FactSet.from_answers(rows).table.set_index(["language", "fact"])
    assert out.loc[("en", "f0"), "alternatives"] == ("en2",) and out.loc[("de", "f0"), "alternatives"] == ("de2",)


def test_an_answer_that_begins_with_the_other_is_not_drawn():
    """The shorter text is always at least as likely: to ask which is likelier tells nothing."""
    names = {"en": ("Guinea", "Guinea-Bissau", "Mali", "Equatorial Guinea"), "de": ("G", "H", "I", "J")}
    rows = [
        row | {"answer": names[row["language"]][i % 4], "also_right": ("Malibu",) if i % 4 == 3 else ()}
        for i, row in enumerate(words(n=4))
    ]
    out = ul.FactSet.from_answers(rows).table
    drawn = {(row.language, row.answer): set(row.alternatives) for row in out.itertuples()}
    assert drawn["en", "Guinea"] == {"Mali", "Equatorial Guinea"}
    assert drawn["en", "Guinea-Bissau"] == {"Mali", "Equatorial Guinea"}
    assert drawn["de", "G"] == {"I", "J"}, "the same facts everywhere"
    assert drawn["en", "Mali"] == {"Guinea", "Guinea-Bissau", "Equatorial Guinea"}
    assert drawn["en", "Equatorial Guinea"] == {"Guinea", "Guinea-Bissau", "Mali"}, "the answer itself is longer"
    given = [row | {"alternatives": ("Guinea-Bissau",) if row["answer"] == "Guinea" else ()} for row in rows]
    out = ul.FactSet.from_answers(given).table
    assert out.loc[out["answer"] == "Guinea", "alternatives"].item() == ("Guinea-Bissau",), "given ones are kept"


def test_alternatives_that_are_given_are_kept_but_right_ones():
    rows = [row | {"alternatives": (f"{row['language']}0", "other") if row["fact"] == "f0" else ()} for row in words()]
    out = ul.FactSet.from_answers(rows).table.set_index(["language", "fact"])
    assert out.loc[("en", "f0"), "alternatives"] == ("other",) and len(out.loc[("en", "f1"), "alternatives"]) == 3


def test_too_few_answers_are_told():
    with pytest.raises(ValueError, match="has no alternative in 'de'"):
        ul.FactSet.from_answers(words(answers=1))
    with pytest.raises(ValueError, match="n_alternatives=0: allowed: 1 or more"):
        ul.FactSet.from_answers(words(), 0)
    with pytest.raises(ValueError, match="'de' lacks 1 of 12, such as 'f0'"):
        ul.FactSet.from_answers(words()[1:])


# --- asking --------------------------------------------------------------------------------------------------


class Letters:
    """A tokenizer of letters."""

    unk_token_id = 0

    def encode(self, text, add_special_tokens=True):
        return [1, *map(ord, text)] if add_special_tokens else list(map(ord, text))

    def decode(self, ids):
        return "".join(map(chr, ids))

    def convert_ids_to_tokens(self, ids):
        return list(map(chr, ids))


class Model:
    name, tokenizer, opening, context = "letters", Letters(), [1], None
    n_rows = 0x110000
    ids = Pretrained.ids


def asked(facts, monkeypatch, score=lambda text: 0.0):
    """Texts that are scored, and answers by them."""
    texts = []

    def scores(_, questions):
        whole = [[Letters().decode([*stem[1:], *end]) for end in ends] for stem, ends in questions]
        texts.extend(whole)
        return [[float(score(text)) for text in options] for options in whole]

    monkeypatch.setattr(asking, "_scores", scores)
    return texts, asking.answers(Model(), facts, progress=False)


def test_the_whole_text_is_scored_as_its_template_has_it(monkeypatch):
    """A space before every answer cost four nats in Japanese."""
    facts = ul.FactSet(table(prompt="答えは：", separator="", answer="東京", alternatives=("京都",)))
    assert asked(facts, monkeypatch)[0][0] == ["答えは：東京", "答えは：京都"]
    crossed = asking._question(Model(), "l'", "", ["eau", "air"])
    assert crossed[1] == [[ord(c) for c in word] for word in ("eau", "air")]


def test_an_answer_that_is_also_right_is_right(monkeypatch):
    likes = {"piano": 3.0, "guitar": 5.0, "viola": 4.0, "flute": 9.0}
    for also, right in (((), False), (("guitar",), True), (("viola",), True), (("violin",), False)):
        facts = ul.FactSet(table(answer="piano", also_right=also, alternatives=("harp", "oboe", "sax", "tuba")))
        score = {**likes, "harp": 3.5}
        _, out = asked(facts, monkeypatch, lambda text, score=score: score.get(text.split()[-1], 0.0))
        assert out.loc[0, "right"] == right and out.loc[0, "log_probability"] == 3.0, "of the answer itself"
        assert not out.loc[1, "right"] and out.loc[1, "log_probability"] == 0.0


def test_an_alias_of_one_question_is_not_calibrated(monkeypatch):
    """Its mean over one question is its own value: 0 beats every word that is likelier elsewhere."""
    rows = words(n=4, languages=("en",), answers=4)
    facts = ul.FactSet.from_answers([row | {"also_right": ("alias",) if row["fact"] == "f0" else ()} for row in rows])
    score = {"en0": -9.0, "en1": -1.0, "en2": -2.0, "en3": -3.0, "alias": -50.0}

    def likelihood(text):
        return score[text.split()[-1]] - 5.0 * (text == "s0: en0") - text.startswith("s0:")

    _, out = asked(facts, monkeypatch, likelihood)
    assert not out.loc[0, "calibrated"] and not out.loc[0, "right"]


def test_encodable_sees_what_is_also_right():
    plain, other = (ul.FactSet(table(also_right=also)) for also in ((), ("a name that is long",)))
    assert asking.encodable(Model, plain).equals(asking.encodable(Model, plain.table))
    seen = []

    class Listening(Letters):
        def encode(self, text, add_special_tokens=True):
            seen.append(text)
            return super().encode(text, add_special_tokens)

    class Listener(Model):
        tokenizer = Listening()

    asking.encodable(Listener, other)
    assert "a name that is long" in seen


def test_pairs_take_a_fact_set():
    facts = ul.FactSet.from_answers(words())
    assert pairs.halves(facts) == pairs.halves(facts.table)
    tokens = pd.Series({"de": 1.0, "en": 3.0})
    assert pairs.covariates(facts, tokens).loc[("de", "en"), "rarity"] == 2.0


# --- real facts ----------------------------------------------------------------------------------------------

LANGUAGES = ("en", "de", "ru", "ja")


def test_real_facts_as_few_shot_prompts():
    facts = factsets.from_cldr(LANGUAGES, ("continent", "currency"), per_relation=12)
    german = facts.select("de").table.set_index("fact")
    assert (german["prompt"].str.count("\n") == 4).all() and set(facts.table["separator"]) == {" "}
    shown = set(german["prompt"].iloc[0].split("\n")[:-1])
    assert all(f"{row.subject}: {row.answer}" not in shown for row in german.itertuples())
    assert all(row.answer not in row.alternatives for row in facts.table.itertuples())
    # the UN has 193 members, of which four are the examples
    everywhere = factsets.from_cldr(("en", "de"), ("continent",), per_relation=500)
    assert "Åland Islands" not in set(everywhere.table["subject"]) and len(everywhere.facts) == 193 - 4
    with pytest.raises(ValueError, match=r"relation 'currency' has .* allowed: more than shots=40"):
        factsets.from_cldr(LANGUAGES, ("currency",), shots=40)
    with pytest.raises(ValueError, match="CLDR has no data for 'xx'"):
        factsets.from_cldr(("en", "xx"))


def test_real_facts_are_what_they_were():
    """The questions of notebook 13: prompts, answers, alternatives and their order."""
    out = factsets.from_cldr(("ar", "en", "ja"), seed=1000).table
    columns = ["fact", "relation", "language", "subject", "prompt", "answer", "alternatives"]
    assert HASH == pd.util.hash_pandas_object(out[columns].astype(str), index=False).sum()


HASH = 9164502741468536393
