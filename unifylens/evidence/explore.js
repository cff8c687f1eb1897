// Checkpoints of runs side by side: checkerboards, pairs of facts in a plane, curves, and one fact's answers.

const OWN_STYLE = `
.unifylens .runs { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1.25rem 2rem; }
.unifylens .pictures { display: grid; grid-template-columns: 1fr 1fr; gap: 0.75rem; align-items: start; }
.unifylens .board { display: grid; grid-template-columns: 1.1rem 1fr; }
.unifylens .board canvas { width: 100%; aspect-ratio: 1; display: block; cursor: crosshair; }
.unifylens .names { display: flex; justify-content: space-around; font-size: 0.8125rem; }
.unifylens .names.up { writing-mode: vertical-rl; transform: rotate(180deg); flex-direction: row-reverse; }
.unifylens .plane { width: 100%; aspect-ratio: 1; display: block; border: 1px solid var(--line); cursor: crosshair; }
.unifylens .plane line { stroke: var(--line); }
.unifylens .plane line.chosen { stroke: var(--ink); stroke-width: 2; }
.unifylens .plane circle.chosen { r: 5px; stroke-width: 2; }
.unifylens .legend { display: flex; flex-wrap: wrap; gap: 0.1rem 0.9rem; align-items: center; margin: 0 0 0.75rem; }
.unifylens .ramp { display: inline-block; width: 6rem; height: 0.75rem; vertical-align: middle; margin: 0 0.35rem; }
.unifylens .curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 9.5rem), 1fr)); gap: 0.75rem 1rem; margin: 1.25rem 0; }
.unifylens .curves svg { width: 100%; display: block; }
.unifylens .curves path { fill: none; stroke-width: 2; }
@container (max-width: 24rem) { .unifylens .pictures { gap: 0.5rem; } }
`;

const CELL = 4;
const PLANE = 200;
const CHART = { width: 220, height: 120, left: 30, bottom: 20, top: 6, right: 6 };

/** Colours of bytes, as [red, green, blue] of each of the 256: the ramp over the range of cosines, clipped at its ends. */
function colours(ramp, [low, high]) {
  const stops = ramp.map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return Array.from({ length: 256 }, (_, byte) => {
    const share = Math.min(1, Math.max(0, (byte / 127.5 - 1 - low) / (high - low))) * (stops.length - 1);
    const at = Math.min(stops.length - 2, Math.floor(share));
    return stops[at].map((value, i) => Math.round(value + (share - at) * (stops[at + 1][i] - value)));
  });
}

/** Where a run's frames lie among the bytes, one after the other; `rows` are facts times languages. */
function frames(about, data) {
  const rows = about.prompts.length;
  const pairs = (rows * (rows - 1)) / 2;
  const size = pairs + 2 * rows;
  let start = 0;
  return about.runs.map((run) => {
    const own = start;
    start += run.steps.length * about.layers.length * size;
    return (step, layer) => {
      const at = own + (step * about.layers.length + about.layers.indexOf(layer)) * size;
      const pair = (i, j) => at + i * rows - (i * (i + 1)) / 2 + j - i - 1;
      return {
        cosine: (i, j) => (i === j ? 255 : data[i < j ? pair(i, j) : pair(j, i)]),
        place: (i) => [data[at + pairs + 2 * i], data[at + pairs + 2 * i + 1]],
      };
    };
  });
}

/** Mean cosines of the same fact across languages, and of different facts within a language. */
function means(frame, languages, facts) {
  const sums = { same: [0, 0], other: [0, 0] };
  for (let i = 0; i < languages * facts; i++) {
    for (let j = 0; j < i; j++) {
      const language = Math.floor(i / facts) === Math.floor(j / facts);
      const kind = i % facts === j % facts ? "same" : language ? "other" : null;
      if (kind) {
        sums[kind][0] += frame.cosine(i, j) / 127.5 - 1;
        sums[kind][1] += 1;
      }
    }
  }
  return Object.fromEntries(Object.entries(sums).map(([kind, [sum, n]]) => [kind, (sum / n).toFixed(2)]));
}

/** A checkerboard: cosines of all rows, ruled where a language begins; a click chooses the row's fact. */
function board(about, choose) {
  const rows = about.prompts.length,
    facts = about.facts.length;
  const canvas = element("canvas", { width: rows * CELL, height: rows * CELL, role: "img" });
  canvas.addEventListener("click", (event) => {
    const row = Math.floor((event.offsetY / canvas.clientHeight) * rows);
    choose({ fact: about.facts[Math.min(rows - 1, Math.max(0, row)) % facts] });
  });
  const names = (up) =>
    element(
      "div",
      { class: up ? "names up" : "names", "aria-hidden": "true" },
      about.languages.map((name) => element("span", {}, name)),
    );
  const table = colours(about.ramp, about.range);
  const small = element("canvas", { width: rows, height: rows });
  const draw = (frame, fact) => {
    const image = new ImageData(rows, rows);
    for (let i = 0; i < rows; i++) {
      for (let j = 0; j < rows; j++) image.data.set([...table[frame.cosine(i, j)], 255], 4 * (i * rows + j));
    }
    small.getContext("2d").putImageData(image, 0, 0);
    const paper = canvas.getContext("2d");
    paper.imageSmoothingEnabled = false;
    paper.drawImage(small, 0, 0, rows * CELL, rows * CELL);
    paper.fillStyle = "white";
    for (let i = 1; i < about.languages.length; i++) {
      paper.fillRect(0, i * facts * CELL - 1, rows * CELL, 2);
      paper.fillRect(i * facts * CELL - 1, 0, 2, rows * CELL);
    }
    // the chosen fact: a mark at the edge of each of its rows and columns
    paper.fillStyle = "#ece133";
    for (let row = fact; row < rows; row += facts) {
      paper.fillRect(0, row * CELL - 1, 3 * CELL, CELL + 2);
      paper.fillRect(row * CELL - 1, 0, CELL + 2, 3 * CELL);
    }
  };
  const whole = element("div", { class: "board" }, [names(true), canvas, element("span"), names(false)]);
  return { whole, canvas, draw };
}

/** Facts in a plane: a dot for each language, hollow where the fact is held out, joined by a line. */
function plane(about, run, choose) {
  const facts = about.facts.length,
    languages = about.languages.length;
  const svg = drawn("svg", { class: "plane", viewBox: `0 0 ${PLANE} ${PLANE}`, role: "img" });
  const lines = [],
    dots = [];
  for (let fact = 0; fact < facts; fact++) {
    for (let language = 1; language < languages; language++) {
      lines.push({ fact, from: fact + (language - 1) * facts, to: fact + language * facts, mark: drawn("line", {}) });
    }
  }
  for (let row = 0; row < facts * languages; row++) {
    const colour = about.colours[Math.floor(row / facts)];
    const held = run.told[row] === null;
    dots.push(drawn("circle", { r: held ? 2.6 : 3, stroke: colour, fill: held ? "var(--ground)" : colour }));
  }
  svg.append(...lines.map((line) => line.mark), ...dots);
  let frame = null;
  svg.addEventListener("click", (event) => {
    const box = svg.getBoundingClientRect();
    const at = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map(
      (share) => share * PLANE,
    );
    const far = dots.map((_, row) => Math.hypot(...spot(frame.place(row)).map((value, i) => value - at[i])));
    choose({ fact: about.facts[far.indexOf(Math.min(...far)) % facts] });
  });
  const spot = ([x, y]) => [x, y].map((byte) => 6 + (byte / 255) * (PLANE - 12));
  const draw = (shown, fact) => {
    frame = shown;
    for (const { fact: own, from, to, mark } of lines) {
      const [[x1, y1], [x2, y2]] = [from, to].map((row) => spot(frame.place(row)));
      for (const [name, value] of Object.entries({ x1, y1, x2, y2 })) mark.setAttribute(name, value);
      mark.classList.toggle("chosen", own === fact);
    }
    dots.forEach((dot, row) => {
      const [x, y] = spot(frame.place(row));
      dot.setAttribute("cx", x);
      dot.setAttribute("cy", y);
      dot.classList.toggle("chosen", row % facts === fact);
    });
  };
  return { whole: svg, draw };
}

/** Curves of all runs over training steps, on a logarithmic axis, with a line at the step that is shown. */
function chart(about, title, column) {
  const { width, height, left, bottom, top, right } = CHART;
  const known = about.runs.flatMap((run) => (run.history[column] ?? []).filter((value) => value !== null));
  const high = Math.max(1, ...known),
    low = Math.min(0, ...known);
  const last = Math.max(...about.runs.flatMap((run) => run.history.step));
  const first = Math.max(1, Math.min(10, last / 10));
  const x = (step) =>
    left + (Math.log(Math.max(step, first) / first) / Math.log(last / first)) * (width - left - right);
  const y = (value) => top + ((high - value) / (high - low)) * (height - top - bottom);
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  for (const value of [low, high]) {
    svg.append(drawn("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), stroke: "var(--line)" }));
    svg.append(
      drawn("text", { x: left - 4, y: y(value) + 4, "text-anchor": "end" }, Number(value.toFixed(1)).toString()),
    );
  }
  for (const tick of [10, 100, 1000, 10000, 100000].filter((step) => step >= first && step <= last)) {
    svg.append(drawn("text", { x: x(tick), y: height - 4, "text-anchor": "middle" }, String(tick)));
  }
  for (const run of about.runs) {
    const points = run.history.step
      .map((step, i) => [step, run.history[column]?.[i] ?? null])
      .filter(([, value]) => value !== null);
    const way = points
      .map(([step, value], i) => `${i ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`)
      .join("");
    svg.append(drawn("path", { d: way, stroke: run.colour }));
  }
  const now = drawn("line", { y1: top, y2: height - bottom, stroke: "var(--ink)", "stroke-dasharray": "3 2" });
  svg.append(now);
  const whole = element("div", {}, [element("p", { class: "faint" }, title), svg]);
  const draw = (step) => {
    now.setAttribute("x1", x(step));
    now.setAttribute("x2", x(step));
    const values = about.runs.map((run) => {
      const at = run.history.step.findLastIndex((each) => each <= step);
      const value = run.history[column]?.[Math.max(at, 0)] ?? null;
      return `${run.name} ${value === null ? "not measured" : value.toFixed(2)}`;
    });
    svg.setAttribute("aria-label", `${title} over training steps, at step ${step}: ${values.join(", ")}`);
  };
  return { whole, draw };
}

/** What a fact is in a language: told, from which step on, or held out. */
function told(run, row, kinds) {
  const from = run.told[row];
  if (from === null) return "held out: never told";
  return from === 0 ? `told (${kinds[run.kinds[row]]})` : `told from step ${from} on (${kinds[run.kinds[row]]})`;
}

export function render({ model, el }) {
  const about = model.get("about");
  const facts = about.facts.length;
  const frameOf = frames(about, bytesOf(model));
  const pick = (part) => choose(model, part);
  const step = slider("training step", { min: 0, max: about.steps.length - 1, step: 1 }, (at) =>
    pick({ step: about.steps[at] }),
  );
  const layer = choice(
    "state",
    about.layers.map((each) => [each, each ? `after block ${each}` : "embedding"]),
    (each) => pick({ layer: Number(each) }),
  );
  const fact = choice(
    "fact",
    about.facts.map((number, i) => [number, about.names[i]]),
    (each) => pick({ fact: Number(each) }),
  );

  const columns = about.runs.map((run, number) => {
    const cells = board(about, pick),
      points = plane(about, run, pick);
    const heading = element("h2", {}, dotted(run.colour, run.name));
    const summary = element("p", { class: "faint" });
    const whole = element("section", { "aria-label": run.name }, [
      heading,
      element("div", { class: "pictures" }, [cells.whole, points.whole]),
      summary,
    ]);
    const draw = (chosen, row) => {
      const at = Math.max(
        0,
        run.steps.findLastIndex((each) => each <= chosen.step),
      );
      const frame = frameOf[number](at, chosen.layer);
      cells.draw(frame, row);
      points.draw(frame, row);
      const { same, other } = means(frame, about.languages.length, facts);
      summary.textContent = `Step ${run.steps[at]}. Mean cosine: same fact in two languages ${same}, different facts in one ${other}.`;
      cells.canvas.setAttribute(
        "aria-label",
        `Cosines of ${facts} facts in languages ${about.languages.join(", ")}. ${summary.textContent}`,
      );
      points.whole.setAttribute(
        "aria-label",
        `The same facts in a plane, joined where they are one fact. ${summary.textContent}`,
      );
      return at;
    };
    return { run, whole, draw };
  });

  const charts = element("div", { class: "curves" });
  const body = element("tbody");
  const title = element("h2", { "aria-live": "polite" });
  const heads = ["asked", "there", "says"];
  const table = element("table", {}, [
    element(
      "thead",
      {},
      element(
        "tr",
        {},
        heads.map((head) => element("th", { scope: "col" }, head)),
      ),
    ),
    body,
  ]);

  const [low, high] = about.range;
  const legend = element("p", { class: "legend faint" }, [
    ...about.languages.map((name, i) => element("span", {}, dotted(about.colours[i], `language ${name}`))),
    element("span", {}, "● told  ○ held out there"),
    element("span", {}, [
      `cosine ${low}`,
      element("span", {
        class: "ramp",
        style: `background:linear-gradient(90deg,${about.ramp})`,
        "aria-hidden": "true",
      }),
      String(high),
    ]),
  ]);

  let drawnLayer = null,
    curves = [];
  const draw = (chosen) => {
    const row = about.facts.indexOf(chosen.fact);
    step.input.value = about.steps.findLastIndex((each) => each <= chosen.step);
    step.input.setAttribute("aria-valuetext", `step ${chosen.step}`);
    step.said.textContent = chosen.step;
    layer.select.value = chosen.layer;
    fact.select.value = chosen.fact;
    if (drawnLayer !== chosen.layer) {
      drawnLayer = chosen.layer;
      curves = about.measures.map((name) => chart(about, name, name));
      curves.push(
        chart(
          about,
          `unification, ${chosen.layer ? `after block ${chosen.layer}` : "embedding"}`,
          `unification_${chosen.layer}`,
        ),
      );
      charts.replaceChildren(...curves.map((each) => each.whole));
    }
    curves.forEach((each) => each.draw(chosen.step));
    title.textContent = `${about.names[row]}, at step ${chosen.step}`;
    body.replaceChildren(
      ...columns.flatMap(({ run, draw: drawRun }) => {
        const said = run.said[drawRun(chosen, row)];
        const rows = about.languages.map((name, language) => {
          const at = language * facts + row;
          const right =
            said.verdict[at] === 0 ? "right" : `${about.verdicts[said.verdict[at]]}; right is ${about.due[at]}`;
          const cells = [
            [...dotted(about.colours[language], `${name}: `), about.prompts[at]],
            told(run, at, about.kinds),
            [element("strong", {}, run.words[said.word[at]]), ` (${said.probability[at].toFixed(2)}): ${right}`],
          ];
          return element(
            "tr",
            {},
            cells.map((cell) => element("td", {}, cell)),
          );
        });
        return [
          element("tr", {}, element("th", { colspan: heads.length, scope: "rowgroup" }, dotted(run.colour, run.name))),
          ...rows,
        ];
      }),
    );
  };

  el.append(
    element("style", {}, STYLE + OWN_STYLE),
    element("div", { class: "unifylens" }, [
      element("div", { class: "bar" }, [step.whole, ...(about.layers.length > 1 ? [layer.whole] : []), fact.whole]),
      legend,
      element(
        "div",
        { class: "runs" },
        columns.map((column) => column.whole),
      ),
      charts,
      title,
      element(
        "p",
        { class: "faint" },
        "Choose a fact in the list, in a checkerboard or in a plane. Brackets: probability of the answer's first token.",
      ),
      element("div", { class: "scroll" }, table),
    ]),
  );
  return follow(model, draw);
}

export default { render };
