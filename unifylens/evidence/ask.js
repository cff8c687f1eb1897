// A tiny model to ask: it runs here, by the few matrices that it is, with states patched and shifted.

const OWN_STYLE = `
.unifylens .halves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); gap: 1rem 2rem; margin-bottom: 1rem; }
.unifylens fieldset { border: 1px solid var(--line); border-radius: 4px; padding: 0.5rem 0.75rem 0.75rem; margin: 0; min-width: 0; }
.unifylens legend { font-weight: 600; padding: 0 0.35rem; }
.unifylens fieldset label { display: flex; gap: 0.5rem; align-items: center; margin-top: 0.35rem; }
.unifylens fieldset label > span:first-child { min-width: 6.5rem; }
.unifylens .answers { list-style: none; margin: 0.35rem 0 0; padding: 0; }
.unifylens .answers li { display: grid; grid-template-columns: minmax(6rem, 9rem) 1fr 3rem; gap: 0.5rem; align-items: center; margin: 0.15rem 0; }
.unifylens .answers .share { background: var(--raised); height: 0.8rem; }
.unifylens .answers .share div { height: 100%; }
.unifylens .answers .number { text-align: right; font-variant-numeric: tabular-nums; }
.unifylens .key { margin-right: 0.9rem; }
.unifylens .strengths { width: 100%; max-width: 36rem; display: block; margin-top: 0.5rem; }
.unifylens .strengths path { fill: none; stroke-width: 2; }
`;

const SHOWN = 5;
const STRENGTHS = { from: 0, to: 2, by: 0.05 };
const CHART = { width: 420, height: 130, left: 30, right: 8, top: 6, bottom: 20 };
const NEITHER = "#949494";

// --- the model -----------------------------------------------------------------------------------------------

/** erf to double precision's last digits, by a series of positive terms. */
function erf(x) {
  if (Math.abs(x) > 5) return Math.sign(x);
  let term = x,
    sum = x;
  for (let n = 1; Math.abs(term) > 1e-16 * Math.abs(sum); n++) sum += term *= (2 * x * x) / (2 * n + 1);
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

const tanhGelu = (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
const ACTIVATIONS = {
  relu: (x) => Math.max(0, x),
  gelu: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  gelu_new: tanhGelu,
  gelu_fast: tanhGelu,
  silu: (x) => x / (1 + Math.exp(-x)),
};

/** `x @ matrix + bias`, of one position. */
function linear(x, matrix, bias) {
  const width = matrix.length / x.length;
  const out = bias ? Float64Array.from(bias) : new Float64Array(width);
  x.forEach((value, i) => {
    for (let j = 0; j < width; j++) out[j] += value * matrix[i * width + j];
  });
  return out;
}

const plus = (a, b) => a.map((value, i) => value + b[i]);

/** Layer norm, or RMS norm, which does not centre; with weights where it has them. */
function normalised(x, name, { shape, arrays }) {
  if (shape.normalization === null) return x;
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const middle = shape.normalization.startsWith("LN") ? mean(x) : 0;
  const centred = x.map((value) => value - middle);
  const scale = Math.sqrt(mean(centred.map((value) => value * value)) + shape.epsilon);
  const w = arrays[`${name}.w`],
    b = arrays[`${name}.b`];
  return centred.map((value, i) => (value / scale) * (w ? w[i] : 1) + (b ? b[i] : 0));
}

/** What attention adds at every position; a local block sees the last `window` positions. */
function attention(xs, name, local, { shape, arrays }) {
  const [q, k, v] = ["Q", "K", "V"].map((part) =>
    xs.map((x) => linear(x, arrays[`${name}.W_${part}`], arrays[`${name}.b_${part}`])),
  );
  const width = q[0].length / shape.n_heads;
  return xs.map((_, to) => {
    const mixed = new Float64Array(q[0].length);
    const first = local ? Math.max(0, to - shape.window + 1) : 0;
    for (let head = 0; head < shape.n_heads; head++) {
      const own = [...Array(width).keys()].map((i) => head * width + i);
      const scores = [];
      for (let from = first; from <= to; from++)
        scores.push(own.reduce((sum, i) => sum + q[to][i] * k[from][i], 0) / Math.sqrt(width));
      softmax(scores).forEach((share, i) => own.forEach((j) => (mixed[j] += share * v[first + i][j])));
    }
    return linear(mixed, arrays[`${name}.W_O`], arrays[`${name}.b_O`]);
  });
}

function mlp(x, name, { shape, arrays }) {
  const activate = ACTIVATIONS[shape.act_fn];
  const matrix = (part) => arrays[`${name}.${part}`];
  const hidden = shape.gated_mlp
    ? plus(
        linear(x, matrix("W_gate"))
          .map(activate)
          .map((gate, i, all, into = linear(x, matrix("W_in"))) => gate * into[i]),
        matrix("b_in"),
      )
    : linear(x, matrix("W_in"), matrix("b_in")).map(activate);
  return linear(hidden, matrix("W_out"), matrix("b_out"));
}

export function softmax(logits) {
  const most = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const weights = logits.map((value) => Math.exp(value - most));
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map((value) => value / sum);
}

/**
 * Logits at the last token, and states by layer (0 is the embedding) and position. `edits` are
 * { layer, position, state } (put in its place) or { layer, position, added }.
 */
export function forward(net, tokens, edits = []) {
  const { shape, arrays } = net;
  const width = arrays["pos_embed.W_pos"].length / shape.n_ctx;
  const edited = (xs, layer) => {
    for (const edit of edits.filter((each) => each.layer === layer)) {
      xs[edit.position] = edit.state ? Float64Array.from(edit.state) : plus(xs[edit.position], edit.added);
    }
    return xs;
  };
  const row = (name, i) => Float64Array.from(arrays[name].subarray(i * width, (i + 1) * width));
  let xs = edited(
    tokens.map((token, at) => plus(row("embed.W_E", token), row("pos_embed.W_pos", at))),
    0,
  );
  const states = [xs];
  for (let block = 0; block < shape.n_layers; block++) {
    const name = `blocks.${block}`;
    const read = attention(
      xs.map((x) => normalised(x, `${name}.ln1`, net)),
      `${name}.attn`,
      block < shape.local_blocks,
      net,
    );
    const middle = xs.map((x, at) => plus(x, read[at]));
    const into = shape.parallel_attn_mlp ? xs : middle;
    const after = shape.attn_only
      ? middle
      : middle.map((x, at) => plus(x, mlp(normalised(into[at], `${name}.ln2`, net), `${name}.mlp`, net)));
    states.push((xs = edited([...after], block + 1)));
  }
  const logits = linear(normalised(xs.at(-1), "ln_final", net), arrays["unembed.W_U"], arrays["unembed.b_U"]);
  return { logits, states };
}

// --- the page ------------------------------------------------------------------------------------------------

/** Rows of the corpus' tables: one a language and fact. */
function questions(about, arrays) {
  const relations = about.relations[0].length,
    facts = arrays.fitted.length;
  const length = arrays.prompts.length / arrays.last.length;
  const factOf = (subject, relation) => arrays.fact_of[subject * relations + relation];
  return {
    factOf,
    row: (subject, relation, language) => language * facts + factOf(subject, relation),
    prompt: (row) => [...arrays.prompts.subarray(row * length, row * length + arrays.last[row] + 1)],
    end: (row, slot) => arrays[`ends ${slot}`][row],
    shift: (layer, relation, from, to) => {
      const width = arrays["embed.W_E"].length / about.words.length;
      const start = (language) => ((layer * relations + relation) * about.languages.length + language) * width;
      return arrays.shifts
        .slice(start(to), start(to) + width)
        .map((value, i) => value - arrays.shifts[start(from) + i]);
    },
  };
}

/** A list of the likeliest answers, each a bar in the colour of its language. */
function answers(title) {
  const list = element("ol", { class: "answers" });
  const verdict = element("p", { class: "faint" });
  const whole = element("section", { "aria-live": "polite", "aria-label": title }, [
    element("h2", {}, title),
    list,
    verdict,
  ]);
  const draw = (about, arrays, logits, meaning) => {
    const shares = softmax(logits);
    const best = [...shares.keys()].sort((a, b) => shares[b] - shares[a]).slice(0, SHOWN);
    list.replaceChildren(
      ...best.map((token) => {
        const colour = about.colours[arrays.token_language[token]] ?? NEITHER;
        const bar = element("div", { style: `width:${100 * shares[token]}%;background:${colour}` });
        const number = element("span", { class: "number" }, shares[token].toFixed(3));
        return element("li", { "data-token": token }, [
          element("span", {}, about.words[token]),
          element("div", { class: "share", "aria-hidden": "true" }, bar),
          number,
        ]);
      }),
    );
    verdict.textContent = meaning(best[0]);
  };
  return { whole, draw };
}

/** Probabilities of some answers along the strength of a shift, as curves with a line at the one that is set. */
function strengths() {
  const { width, height, left, right, top, bottom } = CHART;
  const svg = drawn("svg", { class: "strengths", viewBox: `0 0 ${width} ${height}`, role: "img" });
  const x = (strength) =>
    left + ((strength - STRENGTHS.from) / (STRENGTHS.to - STRENGTHS.from)) * (width - left - right);
  const y = (share) => top + (1 - share) * (height - top - bottom);
  const draw = (curves, strength, label) => {
    svg.replaceChildren(
      ...[0, 1].flatMap((share) => [
        drawn("line", { x1: left, x2: width - right, y1: y(share), y2: y(share), stroke: "var(--line)" }),
        drawn("text", { x: left - 4, y: y(share) + 4, "text-anchor": "end" }, String(share)),
      ]),
      ...[0, 1, 2].map((at) => drawn("text", { x: x(at), y: height - 4, "text-anchor": "middle" }, String(at))),
      ...curves.map(({ colour, values, dashed }) => {
        const way = values.map(
          (share, i) => `${i ? "L" : "M"}${x(STRENGTHS.from + i * STRENGTHS.by).toFixed(1)} ${y(share).toFixed(1)}`,
        );
        return drawn("path", { d: way.join(""), stroke: colour, "stroke-dasharray": dashed ? "6 3" : null });
      }),
      drawn("line", {
        x1: x(strength),
        x2: x(strength),
        y1: top,
        y2: height - bottom,
        stroke: "var(--ink)",
        "stroke-dasharray": "3 2",
      }),
    );
    svg.setAttribute("aria-label", label);
  };
  return { whole: svg, draw };
}

/** Options by the names that a language has. */
function rename(select, names) {
  if (select.options[0].text !== names[0]) names.forEach((name, i) => (select.options[i].text = name));
}

export function render({ model, el }) {
  const about = model.get("about");
  const arrays = arraysOf(model, about.arrays);
  const net = { shape: about.shape, arrays };
  const { factOf, row, prompt, end, shift } = questions(about, arrays);
  const pick = (part) => choose(model, part);
  const numbered = (names) => names.map((name, i) => [i, name]);
  const layers = Array.from({ length: about.shape.n_layers + 1 }, (_, layer) => [
    layer,
    layer ? `after block ${layer}` : "embedding",
  ]);
  const number = (name) => (value) => pick({ [name]: Number(value) });

  const subject = choice("subject", numbered(about.subjects[0]), (value) =>
    pick({ subject: Number(value), donor: Number(value) }),
  );
  const relation = choice("relation", numbered(about.relations[0]), number("relation"));
  const languages = numbered(about.languages);
  const language = choice("asked in", languages, (value) =>
    pick({ language: Number(value), other: (Number(value) + 1) % languages.length }),
  );
  const other = choice("other language", languages, number("other"));
  const patched = choice("state", [["", "none"], ...layers], (value) =>
    pick({ patched: value === "" ? null : Number(value) }),
  );
  const slot = choice(
    "at the end of",
    about.slots.map((name) => [name, name]),
    (value) => pick({ slot: value }),
  );
  const donor = choice("prompt about", numbered(about.subjects[0]), number("donor"));
  const layer = choice("state", layers, number("layer"));
  const strength = slider("strength", { min: STRENGTHS.from, max: STRENGTHS.to, step: STRENGTHS.by }, (value) =>
    pick({ strength: value }),
  );

  const asked = element("p", { "aria-live": "polite" });
  const plain = answers("As it is"),
    changed = answers("Patched and shifted");
  const patchTitle = element("legend"),
    shiftTitle = element("legend");
  const along = strengths(),
    key = element("p", { class: "faint" });
  const results = element("div", {}, [
    element("div", { class: "halves" }, [plain.whole, changed.whole]),
    along.whole,
    key,
  ]);

  const draw = (chosen) => {
    const { donor: from, language: here, other: there } = chosen;
    rename(subject.select, about.subjects[here]);
    rename(relation.select, about.relations[here]);
    rename(donor.select, about.subjects[there]);
    for (const [control, name] of [
      [subject, "subject"],
      [relation, "relation"],
      [language, "language"],
      [other, "other"],
      [slot, "slot"],
      [donor, "donor"],
      [layer, "layer"],
    ]) {
      control.select.value = chosen[name];
    }
    patched.select.value = chosen.patched ?? "";
    strength.input.value = chosen.strength;
    strength.said.textContent = chosen.strength.toFixed(2);
    const fact = factOf(chosen.subject, chosen.relation);
    results.hidden = fact < 0;
    if (fact < 0) {
      asked.textContent = "The world has no such fact: choose another relation.";
      return;
    }
    const own = row(chosen.subject, chosen.relation, here),
      twin = row(chosen.subject, chosen.relation, there);
    const tokens = prompt(own);
    const told = (at, language) => `${arrays.held_out[at] ? "never told" : "told"} in ${about.languages[language]}`;
    asked.replaceChildren(
      ...dotted(about.colours[here], `${tokens.map((token) => about.words[token]).join(" ")} → `),
      element("strong", {}, about.words[arrays.answers[own]]),
      ` is right. The fact was ${told(own, here)}, ${told(twin, there)}.`,
    );

    const edits = [];
    const source = factOf(from, chosen.relation) < 0 ? null : row(from, chosen.relation, there);
    if (chosen.patched !== null && source !== null) {
      const { states } = forward(net, prompt(source));
      edits.push({
        layer: chosen.patched,
        position: end(own, chosen.slot),
        state: states[chosen.patched][end(source, chosen.slot)],
      });
    }
    const towards = shift(chosen.layer, chosen.relation, here, there);
    const fits = towards.every(Number.isFinite);
    strength.input.disabled = !fits;
    const shifted = (by) => [
      ...edits,
      ...(fits
        ? [{ layer: chosen.layer, position: tokens.length - 1, added: towards.map((value) => value * by) }]
        : []),
    ];

    // words that mean something here; a later one of the same token is more to the point
    const due = new Map();
    if (edits.length && from !== chosen.subject) {
      const subject = about.subjects[there][from];
      due.set(arrays.answers[source], {
        what: `the object of ${subject}, in ${about.languages[there]}`,
        colour: about.colours[there],
        dashed: true,
      });
      due.set(arrays.answers[row(from, chosen.relation, here)], {
        what: `the object of ${subject}, in ${about.languages[here]}`,
        colour: about.colours[here],
        dashed: true,
      });
    }
    due.set(arrays.answers[twin], { what: `right object, in ${about.languages[there]}`, colour: about.colours[there] });
    due.set(arrays.answers[own], { what: `right, in ${about.languages[here]}`, colour: about.colours[here] });
    const meaning = (token) => `${about.words[token]}: ${due.get(token)?.what ?? "another word"}.`;
    plain.draw(about, arrays, forward(net, tokens).logits, meaning);
    changed.draw(about, arrays, forward(net, tokens, shifted(chosen.strength)).logits, meaning);

    patchTitle.textContent = `Patch from ${about.languages[there]}`;
    shiftTitle.textContent = `Shift from ${about.languages[here]} to ${about.languages[there]}`;
    const steps = Array.from(
      { length: Math.round((STRENGTHS.to - STRENGTHS.from) / STRENGTHS.by) + 1 },
      (_, i) => STRENGTHS.from + i * STRENGTHS.by,
    );
    const shares = steps.map((by) => softmax(forward(net, tokens, shifted(by)).logits));
    const kinds = [...due].map(([token, { colour, dashed }]) => ({
      colour,
      dashed,
      name: about.words[token],
      values: shares.map((each) => each[token]),
    }));
    const rest = shares.map((_, i) => kinds.reduce((left, kind) => left - kind.values[i], 1));
    kinds.push({ colour: NEITHER, name: "any other word", values: rest });
    const now = Math.round((chosen.strength - STRENGTHS.from) / STRENGTHS.by);
    along.draw(
      kinds,
      chosen.strength,
      `Probability by strength of the shift, at ${chosen.strength.toFixed(2)}: ${kinds.map((kind) => `${kind.name} ${kind.values[now].toFixed(2)}`).join(", ")}`,
    );
    const fitted = arrays.fitted[fact]
      ? "this fact is among those that it is fitted on"
      : "fitted on other facts of the relation";
    key.replaceChildren(
      ...kinds.map((kind) =>
        element("span", { class: "key" }, dotted(kind.colour, kind.dashed ? `${kind.name} (dashed)` : kind.name)),
      ),
      fits
        ? `by strength of the shift (1: the whole way; ${fitted}).`
        : "No shift: the relation has no facts to fit it on.",
    );
  };

  const group = (title, parts) => element("fieldset", {}, [title, ...parts.map((part) => part.whole)]);
  el.append(
    element("style", {}, STYLE + OWN_STYLE),
    element("div", { class: "unifylens" }, [
      element(
        "div",
        { class: "bar" },
        [subject, relation, language, ...(languages.length > 2 ? [other] : [])].map((part) => part.whole),
      ),
      asked,
      element("div", { class: "halves" }, [
        group(patchTitle, [patched, slot, donor]),
        group(shiftTitle, [layer, strength]),
      ]),
      results,
      element(
        "p",
        { class: "faint" },
        `The model of ${about.shape.n_layers} blocks runs on this page, with its weights after step ${about.step}.`,
      ),
    ]),
  );
  return follow(model, draw);
}

export default { render };
