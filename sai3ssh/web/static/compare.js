// What differs between two sides of runs.
"use strict";
import { follow, latency, make, number, rate, themeButton } from "./page.js";

const BADGES = { improved: "good", regressed: "bad", "improved and regressed": "warn", "too little data": "warn" };
const FIGURES = { ops_per_s: "operations/s", mib_per_s: "MiB/s", mean: "mean latency" };
const query = new URLSearchParams(location.search);
let found = null;
themeButton();

function value(row, of) {
  return row.metric === "ops_per_s" || row.metric === "mib_per_s" ? rate(of) : latency(of);
}

function percent(fraction) {
  return `${fraction >= 0 ? "+" : "−"}${number(Math.abs(100 * fraction), 1)} %`;
}

const links = (runs) => runs.flatMap((run, at) => [at ? ", " : "", make("a", { href: `/runs/${encodeURIComponent(run)}` }, run)]);

function draw() {
  const all = document.getElementById("all").checked;
  const rows = found.rows.filter((row) => all || row.judged);
  document.getElementById("rows").replaceChildren(...rows.map((row) =>
    make("tr", {}, ...[row.stage, row.operation, row.size, FIGURES[row.metric] ?? row.metric].map((cell) => make("td", {}, cell)),
      ...[value(row, row.base), value(row, row.new), percent(row.change),
        row.low === null ? "–" : `${percent(row.low)} to ${percent(row.high)}`].map((cell) => make("td", { class: "number" }, cell)),
      make("td", {}, make("span", { class: `pill ${BADGES[row.finding] ?? ""}` }, row.finding)))));
}

document.getElementById("all").addEventListener("change", () => found && draw());
const swap = document.getElementById("swap");
swap.href = `/compare?${new URLSearchParams([...query].map(([name, run]) => [name === "base" ? "new" : "base", run]))}`;
follow(`/api/compare?${query}`, (content) => {
  found = content;
  swap.hidden = false;
  document.getElementById("verdict").replaceChildren(make("span", { class: `pill ${BADGES[found.verdict] ?? ""}` }, found.verdict));
  document.getElementById("sides").replaceChildren("Base: ", ...links(found.base), make("br"), "New: ", ...links(found.new));
  const single = found.base.length === 1 && found.new.length === 1;
  document.getElementById("how").textContent =
    `Changes are of the base. Intervals hold together with ${number(100 * found.confidence, 1)} % confidence; less than ${number(100 * found.least, 1)} % is no difference.` +
    (single ? " One run a side knows nothing of what varies from run to run: with several, smaller differences are found." : "");
  document.getElementById("partial").hidden = !found.partial.length;
  document.getElementById("partial").textContent = `PARTIAL: ${[...new Set(found.partial)].join(", ")}. The figures are of what was measured.`;
  document.getElementById("plans").hidden = !found.differences.length;
  document.getElementById("differences").replaceChildren(...found.differences.map((text) => make("li", {}, text)));
  draw();
}, () => 0);
