// What all views share: colours that follow the page or JupyterLab, elements, bytes, and what the user chose.

const STYLE = `
.unifylens {
  --ink: var(--jp-content-font-color1, light-dark(#1b1b1b, #ececec));
  --faint: var(--jp-content-font-color2, light-dark(#595959, #b0b0b0));
  --line: var(--jp-border-color1, light-dark(#bdbdbd, #5a5a5a));
  --ground: var(--jp-layout-color1, light-dark(#ffffff, #161616));
  --raised: var(--jp-layout-color2, light-dark(#f3f3f3, #242424));
  color: var(--ink); font-size: 0.9375rem; line-height: 1.4; container-type: inline-size;
}
.unifylens * { box-sizing: border-box; }
.unifylens h2 { margin: 0 0 0.25rem; font-size: 1rem; font-weight: 600; }
.unifylens p { margin: 0.25rem 0 0.5rem; }
.unifylens .faint { color: var(--faint); font-size: 0.8125rem; }
.unifylens .bar { display: flex; flex-wrap: wrap; gap: 0.5rem 1.25rem; align-items: center; margin-bottom: 1rem; }
.unifylens .bar label { display: flex; gap: 0.5rem; align-items: center; max-width: 100%; }
.unifylens .bar .wide { flex: 1 1 16rem; }
.unifylens select, .unifylens input { font: inherit; color: inherit; accent-color: #0173b2; min-width: 0; }
.unifylens select { background: var(--ground); border: 1px solid var(--line); border-radius: 4px; padding: 0.25rem; }
.unifylens input[type=range] { flex: 1; height: 1.75rem; }
.unifylens output { min-width: 4ch; font-variant-numeric: tabular-nums; }
.unifylens :focus-visible { outline: 2px solid #0173b2; outline-offset: 2px; }
.unifylens table { border-collapse: collapse; width: 100%; margin: 0.25rem 0 0; }
.unifylens th, .unifylens td {
  text-align: left; vertical-align: top; padding: 0.25rem 0.75rem 0.25rem 0; border-bottom: 1px solid var(--line);
  background: none;
}
.unifylens th { font-weight: 600; }
.unifylens .scroll { overflow-x: auto; }
.unifylens .dot { display: inline-block; width: 0.65em; height: 0.65em; border-radius: 50%; margin-right: 0.35em; }
.unifylens svg text { fill: var(--faint); font-size: 13px; }
`;

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes (functions are listeners) and children; of SVG where `space` says so. */
function element(tag, attributes = {}, children = [], space = "http://www.w3.org/1999/xhtml") {
  const made = document.createElementNS(space, tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...[children].flat());
  return made;
}

const drawn = (tag, attributes, children) => element(tag, attributes, children, SVG);

/** Of controls: JupyterLab leaves their arrow keys to them. */
const OWN_KEYS = { "data-lm-suppress-shortcuts": "true" };

/** A select with a label; `options` are [value, text]. */
function choice(label, options, listen) {
  const select = element("select", { ...OWN_KEYS, change: () => listen(select.value) });
  select.append(...options.map(([value, text]) => element("option", { value }, text)));
  const whole = element("label", {}, [element("span", {}, label), select]);
  return { whole, select };
}

/** A range input with a label and what it stands at. */
function slider(label, attributes, listen) {
  const said = element("output");
  const input = element("input", {
    ...OWN_KEYS,
    type: "range",
    "aria-label": label,
    input: () => listen(Number(input.value)),
    ...attributes,
  });
  const whole = element("label", { class: "wide" }, [element("span", {}, label), input, said]);
  return { whole, input, said };
}

/** A dot of a colour before a name. */
const dotted = (colour, name) => [
  element("span", { class: "dot", style: `background:${colour}`, "aria-hidden": "true" }),
  name,
];

/** The bytes that a model has, wherever they lie. */
function bytesOf(model) {
  const data = model.get("data");
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/** Arrays by name, as `packed` put them together; copies, as bytes may begin anywhere. */
export function arraysOf(model, index) {
  const bytes = bytesOf(model);
  const kinds = { f4: Float32Array, i4: Int32Array, u1: Uint8Array };
  return Object.fromEntries(
    Object.entries(index).map(([name, [start, kind, shape]]) => {
      const size = shape.reduce((product, length) => product * length, Number(kind[1]));
      return [name, new kinds[kind](bytes.slice(start, start + size).buffer)];
    }),
  );
}

/** Draw now, and whenever the choice changes; returns what ends that. `choose` changes a part of it. */
function follow(model, draw) {
  const listen = () => draw(model.get("chosen"));
  model.on("change:chosen", listen);
  listen();
  return () => model.off("change:chosen", listen);
}

function choose(model, part) {
  model.set("chosen", { ...model.get("chosen"), ...part });
  model.save_changes();
}
