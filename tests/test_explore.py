"""Views of runs: their data, and their pages in a browser, which show what torch computes."""

import base64
import json
import re
import warnings

import browse
import numpy as np
import pytest
import torch
from browse import CHROMIUM, QUIET
from conftest import quietly, tiny

import unifylens as ul
from unifylens import patching
from unifylens.crosslingual import interchange
from unifylens.evidence import answering, exploring, portable
from unifylens.evidence.pages import View, module

LIMIT = 1 / 127.5  # of a cosine in a byte, and a little


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs that differ in what is told in both languages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIFYLENS_HOME", str(tmp_path_factory.mktemp("explored")))
        both = quietly(*(tiny(**{"corpus.parallel": share, "train.steps": 120}) for share in (0.5, 0.0)))
        return dict(zip(("unified", "separate"), both, strict=True))


@pytest.fixture(scope="module")
def view(runs):
    return exploring.view(runs)


def frame(view, run, step, layer):
    """Bytes of a run's frame: cosines above the diagonal, places."""
    rows, n_layers = len(view.about["prompts"]), len(view.about["layers"])
    pairs = rows * (rows - 1) // 2
    table = np.frombuffer(view.data, np.uint8).reshape(-1, n_layers, pairs + 2 * rows)
    before = sum(len(each["steps"]) for each in view.about["runs"][:run])
    one = table[before + step, layer]
    return one[:pairs], one[pairs:].reshape(rows, 2)


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here to open pages in; Debian has it: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a view's page from the file system; it may say nothing in the console and ask for no other file."""
    said, asked = [], []

    def open_page(view, **options):
        page = browser.new_page(**options)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        address = view.save_html(tmp_path / "page.html").as_uri()
        page.goto(address)
        page.wait_for_selector(".unifylens")
        asked.remove(address)
        return page

    yield open_page
    assert not said and not [url for url in asked if not url.startswith("data:")]


# --- data ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["unified", "separate"])
def test_cosines_are_those_of_the_states(runs, view, which):
    run, number = runs[which], list(runs).index(which)
    facts, upper = view.about["facts"], np.triu_indices(len(view.about["prompts"]), 1)
    for at, step in enumerate(run.steps):
        states = ul.states(run.checkpoint(step), run.corpus, facts)
        for index, layer in enumerate(view.about["layers"]):
            due = ul.measures.similarity_matrix(states[layer].flatten(0, 1)).numpy()[upper]
            cosines, _ = frame(view, number, at, index)
            assert np.abs(cosines / 127.5 - 1 - due).max() < LIMIT


def test_a_frame_of_sixty_facts_is_small(runs):
    most = exploring.view(runs["unified"], facts=range(60), layers=[1])
    assert len(most.data) / len(runs["unified"].steps) == 119 * 60 + 240  # 7.4 kB for a layer


def test_facts_are_those_of_checkerboards(runs, view):
    corpus, facts = runs["unified"].corpus, np.array(view.about["facts"])
    assert not corpus.parallel[facts].any()
    relation, due = corpus.world.relation[facts], corpus.world.object[facts]
    assert (np.lexsort((due, relation)) == np.arange(len(facts))).all()
    few = np.bincount(relation).min()
    assert set(corpus.block_facts(3, few)) <= set(facts)


def test_answers_are_the_models(runs, view):
    for run, table in zip(runs.values(), view.about["runs"], strict=True):
        rows = torch.from_numpy(run.corpus.rows(view.about["facts"]))
        logits = run.model(run.corpus.prompts(rows.numpy()))[:, -1]
        said = [table["words"][number] for number in table["said"][-1]["word"]]
        assert said == run.corpus.tokenizer.decode(logits.argmax(-1).tolist())
        likely = logits.softmax(-1).amax(-1).detach().numpy()
        assert np.allclose(table["said"][-1]["probability"], likely, atol=6e-4)
        right = (logits.argmax(-1) == run.corpus.answers[rows]).tolist()
        assert [verdict == 0 for verdict in table["said"][-1]["verdict"]] == right


def test_what_is_told_and_from_when():
    later = ul.CorpusChange(step=20, corpus=ul.CorpusConfig(parallel=0.5))
    run = quietly(tiny(**{"corpus.parallel": 0.0, "changes": (later,)}))[0]
    facts = np.flatnonzero(run.corpus.parallel)[:2].tolist() + np.flatnonzero(~run.corpus.parallel)[:2].tolist()
    told = np.array(exploring.view(run, facts).about["runs"][0]["told"], dtype=object).reshape(2, 4)
    for column, fact in enumerate(facts):
        other = 20 if run.corpus.parallel[fact] else None
        assert told[run.corpus.home[fact], column] == 0 and told[1 - run.corpus.home[fact], column] == other


def test_places_stay_in_one_plane():
    units = torch.nn.functional.normalize(torch.randn(5, 8, 6, generator=torch.Generator().manual_seed(0)), dim=-1)
    moved = exploring.places(units).astype(int)[2] - exploring.places(units[[2, 0, 1, 3, 4]])[0]
    assert np.abs(moved).max() <= 1  # by rounding
    assert exploring.places(units[..., :1]).shape == (5, 8, 2)


def test_curves_are_the_history(runs, view):
    for run, table in zip(runs.values(), view.about["runs"], strict=True):
        assert table["history"]["step"] == run.history["step"].tolist()
        assert np.allclose(table["history"]["unification_2"], run.history["unification_2"], atol=1e-4)
    assert json.loads(json.dumps(view.about)) is not None and "NaN" not in json.dumps(view.about)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"runs": {}}, ValueError, r"runs is empty; allowed: a run, or runs by name\."),
        ({"runs": 3}, TypeError, r"runs has a int as 'run'; allowed: a Run, or Runs by name\."),
        ({"facts": range(61)}, ValueError, r"facts names 61 facts; allowed: up to 60 of 2 languages\."),
        ({"facts": [72]}, ValueError, r"facts=72: the corpus has 72; allowed: 0 to 71"),
        ({"layers": [3]}, ValueError, r"layers is \[3\]; allowed: one or several from 0 \(embedding\) to 2\."),
        ({"layers": []}, ValueError, r"layers is \[\]; allowed"),
    ],
)
def test_what_cannot_be_shown_is_said(runs, arguments, error, said):
    with pytest.raises(error, match=said):
        exploring.view(**{"runs": runs["unified"], **arguments})


def test_runs_of_other_worlds_are_refused(runs):
    other = quietly(tiny(seed=1, **{"train.steps": 10}))[0]
    with pytest.raises(ValueError, match=r"runs 'other' tells other facts than 'one'; allowed: runs of one world"):
        exploring.view({"one": runs["unified"], "other": other})


# --- models elsewhere ------------------------------------------------------------------------------------------

SHAPES = [
    {},
    {"model.normalization": "RMSPre", "model.act_fn": "relu"},
    {"model.gated_mlp": True, "model.act_fn": "silu", "model.normalization": "RMS"},
    {"model.attn_only": True, "model.normalization": None},
    {"model.parallel_attn_mlp": True, "model.normalization": "LNPre", "model.act_fn": "gelu_new"},
    {"model.local_blocks": 1, "language.templates": ("the {subject} has {relation} {object}",)},
]


@pytest.fixture(scope="module", params=SHAPES, ids=lambda changes: "-".join(map(str, changes.values())) or "default")
def shaped(request, tmp_path_factory):
    """A short run of a shape, a prompt, edits of its states, and what torch makes of them."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("UNIFYLENS_HOME", str(tmp_path_factory.mktemp("shaped")))
        warnings.simplefilter("ignore")  # TransformerLens tells of some shapes
        run = quietly(tiny(**{**request.param, "train.steps": 20, "train.warmup": 2}))[0]
        draw = torch.Generator().manual_seed(0)
        replacement, added = torch.randn(2, 16, generator=draw)
        tokens = run.corpus.prompts([7])
        hooks = [
            (
                patching.residual(run.model, 1),
                lambda x, hook: x.index_copy(1, torch.tensor([1]), replacement[None, None]),
            ),
            (patching.residual(run.model, 2), lambda x, hook: x.index_add(1, torch.tensor([2]), added[None, None])),
        ]
        results = [run.model(tokens).detach(), run.model.run_with_hooks(tokens, fwd_hooks=hooks).detach()]
    return run, tokens, replacement, added, results


def test_onnx_computes_what_torch_computes(shaped, tmp_path):
    run, tokens, replacement, added, (plain, edited) = shaped
    session = session_of(portable.save_onnx(run, tmp_path / "dish.onnx"))
    logits, states = session.run(None, {"tokens": tokens.numpy()})
    assert np.abs(logits - plain.numpy()).max() < 1e-5
    due = ul.states(run.model, run.corpus, [7])[:, 0, 0]
    assert np.abs(states[:, 0, tokens.shape[1] - 1] - due.numpy()).max() < 1e-5

    layers, length, width = len(states), tokens.shape[1], len(added)
    given = {
        "replaced": np.zeros((layers, 1, length, 1), bool),
        "replacement": np.zeros((layers, 1, length, width), np.float32),
        "added": np.zeros((layers, 1, length, width), np.float32),
    }
    given["replaced"][1, 0, 1], given["replacement"][1, 0, 1], given["added"][2, 0, 2] = True, replacement, added
    logits, states = session.run(None, {"tokens": tokens.numpy(), **given})
    assert np.abs(logits - edited.numpy()).max() < 1e-5
    assert (states[1, 0, 1] == replacement.numpy()).all()


def session_of(path):
    """A model of ONNX in a runtime that says nothing of inputs that may be left out."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def test_onnx_takes_many_prompts_and_any_length(runs, tmp_path):
    run = runs["unified"]
    session = session_of(portable.save_onnx(run, tmp_path / "dish.onnx", step=run.steps[0]))
    tokens = run.corpus.prompts()
    for some in (tokens, tokens[:1], tokens[:5, :2]):
        logits, states = session.run(None, {"tokens": some.numpy()})
        due = run.checkpoint(run.steps[0])(some).detach().numpy()
        assert np.abs(logits - due).max() < 1e-5 and states.shape == (3, *some.shape, 16)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model.positional_embedding_type": "rotary"}, "model.positional_embedding_type='rotary' is not exported"),
        ({"model.language_neurons": 2}, "model.language_neurons=2 is not exported; allowed: 0"),
        ({"model.n_experts": 2}, "model.n_experts=2 is not exported; allowed: None"),
    ],
)
def test_what_is_not_exported_is_said(runs, changes, said):
    other = ul.Run(runs["unified"].experiment.replace(**changes), runs["unified"].folder)
    with pytest.raises(ValueError, match=re.escape(said)):
        portable.shape_of(other)


def test_a_step_that_was_not_kept_is_said(runs, tmp_path):
    with pytest.raises(ValueError, match=r"step=3 was never saved; allowed: "):
        portable.save_onnx(runs["unified"], tmp_path / "dish.onnx", step=3)
    with pytest.raises(ValueError, match=r"step=3 was never saved; allowed: "):
        answering.question(runs["unified"], step=3)


def test_the_script_computes_what_torch_computes(shaped, browser):
    run, tokens, replacement, added, due = shaped
    view = answering.question(run)
    edits = [
        {"layer": 1, "position": 1, "state": replacement.tolist()},
        {"layer": 2, "position": 2, "added": added.tolist()},
    ]
    page = browser.new_page()
    found = page.evaluate(
        """async ([source, data, about, tokens, edits]) => {
            const script = await import(`data:text/javascript;base64,${source}`);
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            const arrays = script.arraysOf({ get: () => new DataView(bytes.buffer) }, about.arrays);
            return [[], edits].map((some) => [...script.forward({ shape: about.shape, arrays }, tokens, some).logits]);
        }""",
        [
            *(base64.b64encode(b).decode() for b in (module("ask").encode(), view.data)),
            view.about,
            tokens[0].tolist(),
            edits,
        ],
    )
    page.close()
    for logits, wanted in zip(found, due, strict=True):
        assert np.abs(np.array(logits) - wanted[0, -1].numpy()).max() < 1e-5


# --- widgets and pages ---------------------------------------------------------------------------------------


def test_a_widget_and_its_page_have_the_same_script_and_data(runs, tmp_path):
    widget = ul.explore(runs)
    assert widget.chosen == {"step": 120, "layer": 1, "fact": widget.about["facts"][0]}
    page = widget.save_html(tmp_path / "explore.html").read_text(encoding="utf-8")
    assert widget._esm == module("explore") and widget._esm in page
    values = json.loads(re.search(r'id="values">(.*?)</script>', page)[1])
    assert base64.b64decode(values["data"]) == widget.data and values["chosen"] == widget.chosen
    assert values["about"] == json.loads(json.dumps(widget.about))


def test_a_page_names_no_address_and_no_other_module(view):
    named = set(re.findall(r"https?://[^\"'` )]+", view.html()))
    assert named == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xhtml"}  # of elements, and never fetched
    assert not re.search(r"^\s*import\b|\bimport\(|\bfetch\(", module("explore"), flags=re.M)


def test_no_word_ends_the_script(view):
    page = View("explore", "<i>", {**view.about, "facts": ["</script><b>"]}, b"", {}).html()
    assert "</script><b>" not in page and "<title>&lt;i&gt;</title>" in page


# --- in a browser --------------------------------------------------------------------------------------------


def picture(page, of):
    """What stands in the pictures of a page, as one string."""
    drawn = page.eval_on_selector_all(
        of, "all => all.map((each) => each.toDataURL ? each.toDataURL() : each.outerHTML)"
    )
    return "".join(drawn)


@pytest.mark.parametrize("which", ["canvas", ".plane", ".curves svg", "tbody"])
def test_the_slider_moves_every_picture(view, opened, which):
    page = opened(view)
    before = picture(page, which)
    page.focus("input[type=range]")
    for _ in view.about["steps"]:
        page.keyboard.press("ArrowLeft")
    assert page.inner_text("output") == str(view.about["steps"][0])
    first = picture(page, which)
    page.keyboard.press("End")
    assert before == picture(page, which) != first


def test_the_canvas_has_the_colours_of_the_cosines(view, opened):
    page = opened(view)
    cosines, _ = frame(view, 0, len(view.about["runs"][0]["steps"]) - 1, 0)
    at = 2 * (2 * len(view.about["prompts"]) - 3) // 2 + 40 - 3  # of the pair (2, 40)
    shown = page.evaluate("[...document.querySelector('canvas').getContext('2d').getImageData(162, 10, 1, 1).data]")
    share = np.clip((cosines[at] / 127.5 - 1 + 0.5) / 1.5, 0, 1) * 16
    low = min(int(share), 15)
    two = [[int(view.about["ramp"][i][j : j + 2], 16) for j in (1, 3, 5)] for i in (low, low + 1)]
    assert (
        np.abs(np.array(shown[:3]) - (np.array(two[0]) * (low + 1 - share) + np.array(two[1]) * (share - low))).max()
        < 2
    )


def test_a_click_shows_a_fact_and_its_answers(runs, view, opened):
    page, facts = opened(view), view.about["facts"]
    box = page.locator("canvas").first.bounding_box()
    rows = len(view.about["prompts"])
    page.mouse.click(box["x"] + 5, box["y"] + box["height"] * (4.5 / rows))
    assert page.input_value("select >> nth=1") == str(facts[4])
    shown = page.inner_text("tbody")
    for run, table in zip(runs.values(), view.about["runs"], strict=True):
        for language in range(2):
            assert run.corpus.text(language, facts[4], answer=False) in shown
            assert table["words"][table["said"][-1]["word"][language * len(facts) + 4]] in shown
    assert "held out: never told" in shown and "told (monolingual)" in shown
    spot = page.locator(".plane circle").nth(7).bounding_box()
    page.mouse.click(spot["x"] + spot["width"] / 2, spot["y"] + spot["height"] / 2)
    assert page.locator(".plane").first.locator("circle.chosen").count() == 2


def likeliest(page, title):
    """Words and probabilities of a list of answers."""
    rows = page.locator(f"section[aria-label='{title}'] li").all()
    return [(int(row.get_attribute("data-token")), float(row.locator(".number").inner_text())) for row in rows]


def assert_likeliest(shown, logits):
    shares = logits.softmax(-1)
    best = shares.topk(len(shown))
    assert shown[0][0] == int(best.indices[0])
    assert np.allclose([share for _, share in shown], best.values.detach(), atol=6e-4)
    assert np.allclose([shares[token].item() for token, _ in shown], best.values.detach(), atol=1e-5)


def test_answers_on_the_page_are_torchs(runs, opened):
    run = runs["unified"]
    corpus, world = run.corpus, run.corpus.world
    page = opened(answering.question(run))
    for fact, language in ((3, 1), (40, 0)):
        page.select_option("label:has-text('subject') select", str(world.subject[fact]))
        page.select_option("label:has-text('relation') select >> nth=0", str(world.relation[fact]))
        page.select_option("label:has-text('asked in') select", str(language))
        logits = run.model(corpus.prompts([language * corpus.n_facts + fact]))[0, -1]
        assert_likeliest(likeliest(page, "As it is"), logits)
        assert corpus.text(language, fact, answer=False) in page.inner_text(".unifylens")


def test_patches_and_shifts_on_the_page_are_torchs(runs, opened):
    run = runs["unified"]
    corpus, world, view = run.corpus, run.corpus.world, answering.question(run)
    start, n = view.chosen, run.corpus.n_facts
    fact = int(np.flatnonzero((world.subject == start["subject"]) & (world.relation == start["relation"]))[0])
    own, twin = start["language"] * n + fact, start["other"] * n + fact
    page = opened(view)
    page.select_option("fieldset >> nth=0 >> select >> nth=0", "1")
    states = run.model.run_with_cache(corpus.prompts([twin]))[1][patching.residual(run.model, 1)][0]
    at = corpus.positions("relation")
    patch = (
        patching.residual(run.model, 1),
        lambda x, hook: x.index_copy(1, torch.tensor([at[own]]), states[None, [at[twin]]]),
    )
    patched = run.model.run_with_hooks(corpus.prompts([own]), fwd_hooks=[patch])[0, -1]
    assert_likeliest(likeliest(page, "Patched and shifted"), patched)

    page.select_option("fieldset >> nth=0 >> select >> nth=0", "")
    page.focus("fieldset input[type=range]")
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    fit = interchange.halves(corpus)[0]
    by_relation = ul.subspaces.language_shifts(
        ul.states(run.model, corpus, fit)[1], torch.from_numpy(world.relation[fit])
    )
    shift = by_relation[start["relation"], start["other"]] - by_relation[start["relation"], start["language"]]
    moved = run.model.run_with_hooks(
        corpus.prompts([own]),
        fwd_hooks=[(patching.residual(run.model, 1), lambda x, hook: x + shift * (torch.arange(3) == 2)[:, None])],
    )[0, -1]
    assert page.inner_text("output") == "1.00"
    assert_likeliest(likeliest(page, "Patched and shifted"), moved)


@pytest.mark.parametrize("kind", ["explore", "ask"])
def test_the_keyboard_reaches_every_control(runs, view, opened, kind):
    page = opened(view if kind == "explore" else answering.question(runs["unified"]))
    n = page.locator("select, input, button").count()
    reached = set()
    for _ in range(2 * n):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("[...document.querySelectorAll('select, input, button')].indexOf(document.activeElement)")
        )
    assert set(range(n)) <= reached


def test_a_fact_is_chosen_without_a_mouse(view, opened):
    page = opened(view)
    page.focus("select >> nth=1")
    before = page.inner_text("tbody")
    page.keyboard.press("ArrowDown")
    assert page.inner_text("tbody") != before


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["explore", "ask"])
def test_pages_fit_a_phone_and_follow_its_colours(runs, view, opened, kind, scheme):
    shown = view if kind == "explore" else answering.question(runs["unified"])
    page = opened(shown, viewport={"width": 360, "height": 740}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    ink = page.evaluate("getComputedStyle(document.querySelector('.unifylens')).color")
    assert (sum(map(int, re.findall(r"\d+", ink)[:3])) < 300) == (scheme == "light")


@pytest.mark.parametrize("kind", ["explore", "ask"])
def test_everything_has_a_name(runs, view, opened, kind):
    page = opened(view if kind == "explore" else answering.question(runs["unified"]))
    unnamed = """all => all.filter((each) => !each.labels?.length && !each.getAttribute("aria-label"))
        .map((each) => each.outerHTML.slice(0, 80))"""
    assert page.eval_on_selector_all("select, input, [role=img]", unnamed) == []
    # JupyterLab would take arrow keys from controls without this mark
    assert page.locator("select, input").count() == page.locator("[data-lm-suppress-shortcuts]").count()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("<script>console.error('no')</script>", "says no"),
        ("<script>undefined.x</script>", "fails: "),
        ("<img src='https://example.org/x.png' alt='x'>", "asks https://example.org/x.png"),
        ("<img src='data:image/gif;base64,R0lGODlhAQABAAAAACw='>", "has a picture without a text: "),
        ("<div style='width: 600px'>wide</div>", "pixels wide on a phone of 390"),
        ("<p>sound</p>", None),
    ],
)
def test_what_is_wrong_with_a_page_of_the_site_is_found(browser, tmp_path, body, said):
    path = tmp_path / "page.html"
    path.write_text(f"<!doctype html><title>x</title>{body}")
    found = browse.complaints(browser.new_page(viewport=browse.PHONE), path)
    assert any(said in sentence for sentence in found) if said else not found
