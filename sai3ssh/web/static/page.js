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

// Calls show(content) with what an address answers, now and each time it has changed. Goes on when the server was away.
export function follow(address, show, { everyMs = 1000, over = () => false } = {}) {
  let etag = null;
  let away = 0;
  const notice = document.getElementById("away");
  async function turn() {
    let stop = false;
    try {
      const headers = etag ? { "If-None-Match": etag } : {};
      const answer = await fetch(address, { headers, cache: "no-store", signal: AbortSignal.timeout(20000) });
      if (away) notice.hidden = true;
      away = 0;
      if (answer.status === 401 || answer.status === 404) {
        notice.textContent = answer.status === 401 ? "A token is needed: open the address that sai3ssh printed." : "This run is not there any more.";
        notice.hidden = false;
      } else if (answer.status !== 304) {
        const content = await answer.json();
        if (content.problem) {
          notice.textContent = content.problem;
          notice.hidden = false;
        } else {
          etag = answer.headers.get("etag");
          show(content);
          stop = over(content);
        }
      }
    } catch (error) {
      away += 1;
      if (away > 1) {
        notice.textContent = "The page's server does not answer: this is how things stood. Trying again…";
        notice.hidden = false;
      }
    }
    // Nobody looks at a page in the background.
    const next = document.hidden ? Math.max(everyMs, 10000) : everyMs * Math.min(10, 1 + away);
    if (!stop) timer = setTimeout(turn, next);
  }
  let timer = setTimeout(turn, 0);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) {
      clearTimeout(timer);
      timer = setTimeout(turn, 0);
    }
  });
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
