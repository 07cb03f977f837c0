// One run: where its agents stand now, and below that its report, drawn anew as it grows.
"use strict";
import { bytes, duration, follow, latency, make, number, rate } from "./page.js";

const run = location.pathname.split("/").pop();
const STATES = { RUNNING: "good", FINISHED: "good", UNREACHABLE: "warn", FAILED: "bad", LOST: "bad", STOPPED: "warn" };
// A verdict can be revised, and what is missing can be fetched.
const ENDED_MS = 5000;
const STANDS = {
  running: "A controller on this machine steers it.",
  left: "No controller steers it on this machine. Its agents go on by themselves; sai3ssh resume steers them again.",
};

function standing(row) {
  if (row.progress === null || row.progress === undefined) return [STANDS[row.status] ?? "", row.stage ? ` Stage ${row.stage} is over.` : " It has not begun."];
  return [`Stage ${row.stage} `, make("progress", { max: 1, value: row.progress, "aria-label": "Progress of the stage" }),
    ` ${Math.round(100 * row.progress)} %, ${rate(row.ops_per_s)} operations/s, ${rate(row.mib_per_s)} MiB/s. ${STANDS[row.status] ?? ""}`];
}

function agent(row) {
  const age = row.link_at ? duration(Date.now() / 1000 - row.link_at) : "";
  const link = row.up ? `up ${age}` : make("span", { class: "bad" }, `down ${age}`);
  const figures = [rate(row.ops_per_s), rate(row.mib_per_s), latency(row.p50_us), latency(row.p99_us), number(row.errors), number(row.retries)];
  return make("tr", { title: row.cause },
    make("th", { scope: "row", title: row.host }, row.agent),
    make("td", {}, make("span", { class: `pill ${STATES[row.state] ?? ""}` }, row.state)),
    ...figures.map((value) => make("td", { class: "number" }, value)),
    make("td", {}, link),
    make("td", { class: "number" }, number(row.losses)));
}

function file(one) {
  const path = one.name.split("/").map(encodeURIComponent).join("/");
  return make("li", {}, make("a", { href: `/runs/${run}/files/${path}` }, one.name), make("span", { class: "dim" }, ` ${bytes(one.bytes)}`));
}

let files = "";
follow(`/api/runs/${run}/live`, (content) => {
  const { row } = content;
  document.getElementById("live").hidden = row.verdict !== null;
  if (row.verdict === null) {
    document.getElementById("standing").replaceChildren(...standing(row));
    document.getElementById("now").replaceChildren(...content.agents.map(agent));
  }
  const told = JSON.stringify(content.files.map((one) => one.name));
  if (told !== files || row.verdict === null) document.getElementById("files").replaceChildren(...content.files.map(file));
  files = told;
}, ({ row }) => (row.verdict === null ? 1000 : ENDED_MS));

follow(`/api/runs/${run}`, (told) => {
  window.sai3ssh.render(told);
  document.documentElement.dataset.ready = "true";
}, (told) => (told.state === "running" ? 1000 : ENDED_MS));
