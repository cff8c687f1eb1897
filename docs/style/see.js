// The pages of "See it": draws charts, takes predictions, chooses cards. Nothing is fetched and nothing is kept.
"use strict";

const drawn = {}; // views by the chart's name, once they are there

for (const box of document.querySelectorAll(".see-chart")) {
  const spec = JSON.parse(box.querySelector("script").textContent);
  const options = { mode: "vega-lite", renderer: "svg", actions: false };
  drawn[box.id] = vegaEmbed(box.querySelector(".see-plot"), spec, options).then((result) => result.view);
}

for (const form of document.querySelectorAll(".see-form")) {
  const rows = [...form.querySelectorAll("fieldset")];
  const nameOf = (row) => row.querySelector("legend").textContent;
  const saidOf = (row) => row.querySelector("input:checked")?.value;
  const status = form.querySelector("[role=status]");
  let revealed = new Set();

  const show = () => {
    for (const row of rows) {
      const open = revealed.has(row), said = saidOf(row);
      const mark = !said ? "" : said === row.dataset.outcome ? "✓ " : "✗ ";
      row.querySelector("output").textContent = open ? `${mark}${row.dataset.outcome}: ${row.dataset.found}` : "";
      for (const input of row.querySelectorAll("input")) input.disabled = open;
    }
    const judged = rows.filter((row) => revealed.has(row) && saidOf(row));
    const right = judged.filter((row) => saidOf(row) === row.dataset.outcome);
    status.textContent = judged.length ? `${right.length} of your ${judged.length} predictions came true.` : "";
    const predicted = Object.fromEntries(rows.filter(saidOf).map((row) => [nameOf(row), saidOf(row)]));
    drawn[form.dataset.chart].then((view) =>
      view.signal("predicted", predicted).signal("revealed", [...revealed].map(nameOf)).runAsync());
  };

  form.hidden = false;
  form.addEventListener("change", show);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    revealed = new Set(rows.filter((row) => revealed.has(row) || saidOf(row)));
    show();
    if (!revealed.size) status.textContent = "Choose up, nothing or down for at least one of them first.";
  });
  form.querySelector("[data-all]").addEventListener("click", () => { revealed = new Set(rows); show(); });
  form.addEventListener("reset", () => { revealed = new Set(); setTimeout(show); }); // after the fields are empty
  form.reset(); // a browser may keep choices of an earlier visit
}

for (const form of document.querySelectorAll(".see-filter")) {
  const cards = [...document.querySelectorAll(".see-card")];
  const status = form.querySelector("[role=status]");
  const choose = () => {
    const words = form.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const card of cards) {
      const text = card.textContent.toLowerCase();
      const verdict = !form.verdict.value || card.dataset.verdict === form.verdict.value;
      card.hidden = !(verdict && words.every((word) => text.includes(word)));
    }
    status.textContent = `${cards.filter((card) => !card.hidden).length} of ${cards.length} claims`;
  };
  form.hidden = false;
  form.addEventListener("input", choose);
  form.addEventListener("submit", (event) => event.preventDefault());
  choose();
}
