// What all pages share: fetching again and again, numbers as people read them, and elements made without HTML.
'use strict';

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") element.className = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function number(value, digits = 0) {
  if (value === null || value === undefined) return "–";
  return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

export function rate(value) {
  if (value === null || value === undefined) return "–";
  return number(value, value < 10 ? 2 : value < 1000 ? 1 : 0);
}

export function latency(us) {
  if (us === null || us === undefined || us <= 0) return "–";
  const [value, unit] = us < 1e3 ? [us, "µs"] : us < 1e6 ? [us / 1e3, "ms"] : [us / 1e6, "s"];
  return `${value < 100 ? Number(value.toPrecision(3)) : Math.round(value)} ${unit}`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const all = Math.max(0, Math.round(seconds));
  const [hours, minutes, rest] = [Math.floor(all / 3600), Math.floor(all / 60) % 60, all % 60];
  const two = (n) => String(n).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

export function bytes(count) {
  if (count < 1024) return `${count} B`;
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let value = count / 1024;
  let at = 0;
  while (value >= 1024 && at < units.length - 1) [value, at] = [value / 1024, at + 1];
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${units[at]}`;
}

export function when(at) {
  if (!at) return "–";
  const date = new Date(at * 1000);
  const two = (n) => String(n).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return make("time", { datetime: date.toISOString(), title: date.toString() }, `${day} ${two(date.getHours())}:${two(date.getMinutes())}`);
}

const BADGES = { COMPLETE: "good", PARTIAL: "warn", FAILED: "bad", running: "live", left: "warn", broken: "bad", unread: "" };
const WORDS = { running: "running", left: "no controller", broken: "unreadable", unread: "…" };
const MEANS = {
  left: "No controller steers it on this machine. Its agents go on by themselves; `sai3ssh resume` steers them again.",
  broken: "Its files cannot be read.",
};

export function pill(row) {
  const what = row.verdict ?? row.status;
  return make("span", { class: `pill ${BADGES[what] ?? ""}`, title: MEANS[what] ?? (row.reasons ?? []).join("; ") }, WORDS[what] ?? what);
}

const troubles = new Map();

function trouble(address, text) {
  if (text) troubles.set(address, text);
  else troubles.delete(address);
  const notice = document.getElementById("away");
  notice.textContent = [...new Set(troubles.values())].join(" ");
  notice.hidden = !troubles.size;
}

const REFUSED = { 401: "A token is needed: open the address that sai3ssh printed.", 404: "This run is not there any more." };
const AWAY = "The page's server does not answer: this is how things stood. Trying again…";

// Calls show(content) with what an address answers, now and each time it has changed; asks again after every(content) ms, or no more after 0.
// Goes on when the server was away.
export function follow(address, show, every = () => 1000) {
  let etag = null;
  let away = 0;
  let pause = 1000;
  let timer = null;
  let asking = false;

  async function ask() {
    const answer = await fetch(address, { headers: etag ? { "If-None-Match": etag } : {}, cache: "no-store", signal: AbortSignal.timeout(20000) });
    return [answer, answer.status === 304 || REFUSED[answer.status] ? null : await answer.json()];
  }

  async function turn() {
    asking = true;
    let problem = null;
    try {
      const [answer, content] = await ask();
      away = 0;
      problem = REFUSED[answer.status] ?? content?.problem ?? null;
      if (content && !problem) {
        etag = answer.headers.get("etag");
        try {
          show(content);
        } catch (error) {
          problem = `This cannot be shown: ${error.message}`;
        }
        pause = every(content);
      }
    } catch {
      // One answer that does not come is nothing yet.
      away += 1;
      problem = away > 1 ? AWAY : null;
    }
    trouble(address, problem);
    asking = false;
    const next = away ? 1000 * Math.min(10, 1 + away) : problem ? Math.max(pause, 5000) : pause;
    // Nobody looks at a page in the background.
    if (pause > 0) timer = setTimeout(turn, document.hidden ? Math.max(next, 10000) : next);
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden || asking || pause === 0) return;
    clearTimeout(timer);
    turn();
  });
  turn();
}

// The button for the theme, where the report's own script does not see to it.
export function themeButton() {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const show = () => button.setAttribute("aria-pressed", String(root.dataset.theme === "dark"));
  button.addEventListener("click", () => {
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
    try {
      window.localStorage.setItem("sai3ssh-theme", root.dataset.theme);
    } catch {
      // It is forgotten with the page.
    }
    show();
  });
  show();
}
