// One run: where its agents stand now, and the same plots as in its report.
"use strict";
import { badge, bytes, duration, follow, latency, make, number, rate, when } from "./page.js";

const run = decodeURIComponent(location.pathname.split("/").pop());
document.getElementById("run").textContent = run;
document.title = `${run} - sai3ssh`;

const STATES = { RUNNING: "good", FINISHED: "good", UNREACHABLE: "warn", FAILED: "bad", LOST: "bad", STOPPED: "warn" };

function figures(row) {
  const stage = row.progress !== null && row.progress !== undefined
    ? make("span", {}, `${row.stage} `, make("progress", { max: 1, value: row.progress }), ` ${Math.round(100 * row.progress)} %`)
    : row.stage;
  const told = [
    ["Started", when(row.created_at)],
    ["Took", duration(row.seconds)],
    ["Agents", number(row.agents)],
    ["Stage", stage],
    ["Operations/s", rate(row.ops_per_s)],
    ["MiB/s", rate(row.mib_per_s)],
    row.operation ? [`p50, p99 of ${row.operation}`, `${latency(row.p50_us)}, ${latency(row.p99_us)}`] : null,
    ["Errors", make("span", { class: row.errors ? "bad-text" : "" }, number(row.errors))],
    typeof row.coverage === "number" ? ["Coverage", `${number(100 * row.coverage, 2)} %`] : null,
  ];
  return told.filter(Boolean).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value ?? "–")));
}

function agent(row) {
  const age = row.link_at ? duration(Date.now() / 1000 - row.link_at) : "";
  const link = row.up ? `up ${age}` : make("span", { class: "bad-text" }, `down ${age}`);
  return make("tr", {},
    make("td", { title: row.host }, row.agent),
    make("td", { title: row.cause }, make("span", { class: `badge ${STATES[row.state] ?? ""}` }, row.state)),
    ...[rate(row.ops_per_s), rate(row.mib_per_s), latency(row.p50_us), latency(row.p99_us), number(row.errors), number(row.retries)].map((value) =>
      make("td", { class: "num" }, value)),
    make("td", {}, link),
    make("td", { class: "num" }, number(row.losses)));
}

follow(`/api/runs/${encodeURIComponent(run)}/live`, (content) => {
  const { row } = content;
  document.getElementById("verdict").replaceChildren(badge(row));
  if (row.status === "broken") return;
  document.getElementById("figures").replaceChildren(...figures(row));
  document.getElementById("live").hidden = row.verdict !== null;
  document.getElementById("agents").replaceChildren(...content.agents.map(agent));
  document.getElementById("files").replaceChildren(...content.files.map((file) =>
    make("li", {}, make("a", { href: `/runs/${encodeURIComponent(run)}/files/${file.name.split("/").map(encodeURIComponent).join("/")}` }, file.name),
      make("span", { class: "dim" }, ` ${bytes(file.bytes)}`))));
});
