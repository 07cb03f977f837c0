// The list of runs: live ones first, then as it is sorted.
"use strict";
import { duration, follow, latency, make, number, pill, rate, themeButton, when } from "./page.js";

const COLUMNS = [
  ["", null],
  ["Verdict", (row) => row.verdict ?? row.status],
  ["Run", (row) => row.id],
  ["Started", (row) => row.created_at, "descending"],
  ["Took", (row) => row.seconds, "number"],
  ["Hosts", (row) => row.agents, "number"],
  ["Stage", (row) => row.stage],
  ["Operations/s", (row) => row.ops_per_s, "number"],
  ["MiB/s", (row) => row.mib_per_s, "number"],
  ["p50", (row) => row.p50_us, "number"],
  ["p99", (row) => row.p99_us, "number"],
  ["Errors", (row) => row.errors, "number"],
];
let sorted = 3;
let downwards = true;
let runs = [];
const chosen = new Set();

themeButton();
const head = document.getElementById("columns");
COLUMNS.forEach(([name, value, kind], index) => {
  const button = value ? make("button", { type: "button" }, name) : make("span", { title: "Choose two to compare" }, "");
  button.addEventListener("click", () => {
    downwards = sorted === index ? !downwards : kind !== undefined;
    sorted = index;
    draw();
  });
  head.append(make("th", { class: kind === "number" ? "number" : "", scope: "col" }, button));
});

function text(row) {
  return [row.id, row.name, row.verdict, row.status, ...(row.hosts ?? [])].join(" ").toLowerCase();
}

function cells(row) {
  const box = make("input", { type: "checkbox", "aria-label": `Compare ${row.id}`, disabled: row.status !== "ended", checked: chosen.has(row.id) });
  box.addEventListener("change", () => {
    if (box.checked) chosen.add(row.id);
    else chosen.delete(row.id);
    offer();
  });
  const link = make("a", { href: `/runs/${encodeURIComponent(row.id)}` }, row.id);
  if (row.status === "broken") return [box, pill(row), link, make("span", { class: "dim" }, row.problem)];
  if (row.status === "unread") return [box, pill(row), link];
  const names = row.hosts.join(", ") + (row.agents > row.hosts.length ? ` and ${row.agents - row.hosts.length} more` : "");
  const live = row.status === "running" && row.progress !== null && row.progress !== undefined;
  const stage = live ? make("span", {}, `${row.stage} `, make("progress", { max: 1, value: row.progress }), ` ${Math.round(100 * row.progress)} %`) : row.stage ?? "–";
  const away = row.unreachable ? make("span", { class: "bad", title: "out of reach" }, ` (${row.unreachable} away)`) : null;
  const of = row.operation ? ` of ${row.operation}` : "";
  return [
    box,
    pill(row),
    link,
    when(row.created_at),
    duration(row.seconds),
    make("span", { title: names }, number(row.agents), away),
    stage,
    rate(row.ops_per_s),
    rate(row.mib_per_s),
    make("span", { title: `p50${of}` }, latency(row.p50_us)),
    make("span", { title: `p99${of}` }, latency(row.p99_us)),
    make("span", { class: row.errors ? "bad" : "dim" }, number(row.errors)),
  ];
}

function offer() {
  const known = runs.filter((row) => chosen.has(row.id)).sort((a, b) => a.created_at - b.created_at);
  const link = document.getElementById("compare");
  link.hidden = known.length !== 2;
  if (known.length === 2) {
    link.href = `/compare?base=${encodeURIComponent(known[0].id)}&new=${encodeURIComponent(known[1].id)}`;
    link.textContent = `Compare ${known[0].id} with ${known[1].id}`;
  }
}

function draw() {
  const wanted = document.getElementById("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = runs.filter((row) => wanted.every((word) => text(row).includes(word)));
  const value = COLUMNS[sorted][1];
  const order = (a, b) => {
    const live = (b.status === "running") - (a.status === "running");
    if (live) return live;
    const [x, y] = [value(a), value(b)];
    if (x === y) return 0;
    if (x === null || x === undefined) return 1;
    if (y === null || y === undefined) return -1;
    return (x < y ? -1 : 1) * (downwards ? -1 : 1);
  };
  shown.sort(order);
  [...head.children].forEach((th, index) => {
    if (index === sorted) th.setAttribute("aria-sort", downwards ? "descending" : "ascending");
    else th.removeAttribute("aria-sort");
  });
  const focused = document.activeElement?.getAttribute("aria-label");
  const body = document.getElementById("runs");
  body.replaceChildren(
    ...shown.map((row) =>
      make("tr", { "data-run": row.id }, ...cells(row).map((cell, index, all) => {
        const last = index === all.length - 1 && index < COLUMNS.length - 1;
        return make("td", { class: COLUMNS[index][2] === "number" && !last ? "number" : "", colspan: last ? COLUMNS.length - index : null }, cell);
      })),
    ),
  );
  if (focused) body.querySelector(`[aria-label="${CSS.escape(focused)}"]`)?.focus();
  if (!runs.length) body.append(make("tr", {}, make("td", { colspan: COLUMNS.length, class: "dim" }, "No runs here yet. They appear when `sai3ssh run` begins.")));
  offer();
}

document.getElementById("filter").addEventListener("input", draw);
follow("/api/runs", (content) => {
  runs = content.runs;
  const live = runs.filter((row) => row.status === "running").length;
  const unread = content.unread ? `, ${content.unread} still to be read` : "";
  document.getElementById("count").textContent = `${number(runs.length)} run${runs.length === 1 ? "" : "s"}, ${live} running${unread}`;
  draw();
}, (content) => (content.unread || content.runs.some((row) => row.status === "running") ? 1000 : 3000));
