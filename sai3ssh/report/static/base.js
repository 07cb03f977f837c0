'use strict';
// Elements, numbers, tables. What a document says is only ever put into the page as text.

const SVG = 'http://www.w3.org/2000/svg';

/** An element. `attributes`: `class`, `on` {event: listener}, `style` {property: value}, everything else as it is; null leaves one out. */
function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === 'on') for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else if (name === 'style') for (const [property, one] of Object.entries(value)) node.style.setProperty(property, one);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const whole = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });

const text = {
  count: (n) => (n === null || n === undefined ? '–' : whole.format(n)),
  /** Three digits that mean something, with thousands set apart. */
  number(x) {
    if (x === null || x === undefined || !Number.isFinite(x)) return '–';
    const size = Math.abs(x);
    const digits = size >= 100 || size === 0 ? 0 : size >= 10 ? 1 : size >= 0.1 ? 2 : 3;
    return new Intl.NumberFormat('en-US', { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(x);
  },
  short(x) {
    const size = Math.abs(x);
    if (size >= 1e9) return `${trim(x / 1e9)}G`;
    if (size >= 1e6) return `${trim(x / 1e6)}M`;
    if (size >= 1e4) return `${trim(x / 1e3)}k`;
    return trim(x);
  },
  latency(us) {
    if (us === null || us === undefined) return '–';
    if (us >= 1e6) return `${trim(us / 1e6)} s`;
    if (us >= 1e3) return `${trim(us / 1e3)} ms`;
    return `${trim(us)} µs`;
  },
  bytes(n) {
    if (n === null || n === undefined) return '–';
    const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
    let place = 0;
    while (n >= 1024 && place < units.length - 1) [n, place] = [n / 1024, place + 1];
    return `${trim(n)} ${units[place]}`;
  },
  seconds(s) {
    if (s === null || s === undefined) return '–';
    return s >= 120 ? text.clock(s) : `${trim(s)} s`;
  },
  /** m:ss or h:mm:ss. */
  clock(s) {
    const sign = s < 0 ? '-' : '';
    const all = Math.round(Math.abs(s));
    const [hours, minutes, seconds] = [Math.floor(all / 3600), Math.floor((all % 3600) / 60), all % 60];
    const two = (n) => String(n).padStart(2, '0');
    return hours ? `${sign}${hours}:${two(minutes)}:${two(seconds)}` : `${sign}${minutes}:${two(seconds)}`;
  },
  percent: (share, digits = 1) => (share === null || share === undefined ? '–' : `${(100 * share).toFixed(digits)} %`),
  moment(wall) {
    return wall === null || wall === undefined ? '–' : `${new Date(1000 * wall).toISOString().slice(0, 19).replace('T', ' ')} UTC`;
  },
};

function trim(x) {
  return String(Number(Number(x).toPrecision(3)));
}

/** A table in a region that scrolls. Columns: {name, unit, number (right-aligned), wide and long (its words wrap), head (of its row)}; cells: text, numbers or nodes. */
function table(id, caption, columns, rows, { hideCaption = false, note = null } = {}) {
  const look = (column) => [column.number ? 'number' : '', column.wide ? 'wide' : '', column.long ? 'long' : ''].join(' ').trim() || null;
  const cell = (value, column) => {
    const attributes = { class: look(column) };
    if (column.long && typeof value === 'string') value = clamped(value);
    if (column.head) return el('th', { ...attributes, scope: 'row' }, show(value));
    return el('td', attributes, show(value));
  };
  const head = columns.map((column) =>
    el('th', { scope: 'col', class: look(column) }, column.name, column.unit ? el('span', { class: 'unit' }, ` ${column.unit}`) : null));
  return el('div', { class: 'scroll', id: `${id}-scroll`, tabindex: '0', role: 'region', 'aria-label': `${caption}, table` },
    el('table', { id },
      el('caption', { class: hideCaption ? 'hidden' : null }, caption),
      el('thead', {}, el('tr', {}, head)),
      el('tbody', {}, rows.map((row) => el('tr', {}, row.map((value, place) => cell(value, columns[place])))))),
    note ? el('p', { class: 'note' }, note) : null);
}

/** Words of which the first lines are shown, and all when the mouse is over them. */
function clamped(words) {
  return el('span', { class: 'clamp', title: words.length > 60 ? words : null }, words);
}

function show(value) {
  return value === null || value === undefined ? '–' : value instanceof Node ? value : String(value);
}

/** RFC 4180. A cell that a spreadsheet would take for a formula is given an apostrophe. */
function csv(columns, rows) {
  const quoted = (value) => {
    if (value === null || value === undefined) return '';
    const plain = typeof value === 'number' ? String(value) : String(value).replace(/^(?=[=+\-@\t\r])/, "'");
    return /[",\r\n]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
  };
  return [columns, ...rows].map((row) => row.map(quoted).join(',')).join('\r\n') + '\r\n';
}

async function copy(content) {
  try {
    await navigator.clipboard.writeText(content);
    return;
  } catch {
    // Browsers that do not give a file the clipboard.
  }
  const area = el('textarea', { class: 'hidden', 'aria-hidden': 'true' });
  area.value = content;
  document.body.append(area);
  area.select();
  document.execCommand('copy');
  area.remove();
}

function say(message) {
  document.getElementById('status').textContent = message;
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted.length ? sorted[Math.floor((sorted.length - 1) / 2)] : null;
}

const sum = (values) => values.reduce((total, value) => total + value, 0);
