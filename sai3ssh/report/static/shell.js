// The page around the sections of a report: contents, theme, what is chosen, and plots that are made when they are looked at. Words and tables
// that several kinds of page have. render() may be called again with a newer document; only what has changed is touched.

const SIGNS = { COMPLETE: '✓', PARTIAL: '◐', FAILED: '✕', RUNNING: '▶' };

function verdictBox(name, means, reasons) {
  return el('div', { class: `verdict ${name.toLowerCase()}` },
    el('p', { class: 'badge' }, el('span', { 'aria-hidden': 'true' }, SIGNS[name]), ` ${name}`),
    el('div', {}, el('p', { class: 'means' }, means),
      reasons.length ? el('ul', { class: 'reasons' }, reasons.map((reason) => el('li', {}, reason))) : null));
}

const factList = (facts) => el('dl', { class: 'facts' }, facts.map(([term, what]) => el('div', {}, el('dt', {}, term), el('dd', {}, what))));

function errorText(errors) {
  return Object.entries(errors).sort((a, b) => b[1] - a[1]).map(([name, n]) => `${text.count(n)} ${name}`).join(', ');
}

function count(n) {
  return n ? el('span', { class: 'bad' }, text.count(n)) : '0';
}

function finding(tone, tag, ...words) {
  return el('li', { class: tone }, el('span', { class: 'tag' }, tag), el('span', {}, words));
}

function bar(value, highest) {
  if (value === null) return '–';
  return el('span', { class: 'bar', style: { '--share': `${highest ? (100 * value) / highest : 0}%` } }, text.number(value));
}

/** What a plan does, in tables and as it is. */
function planTables(plan) {
  const stages = plan.stages.map((stage) => [stage.name, stage.kind, stage.duration_s === null ? 'until done' : text.seconds(stage.duration_s), stage.warmup_s ? text.seconds(stage.warmup_s) : '–', stage.concurrency, stage.io_rate ? `${trim(stage.io_rate.iops)} /s` : 'closed loop', mix(stage)]);
  const sets = plan.populations.map((one) => [one.name, one.target, text.count(one.count), size(one.size)]);
  return [
    table('plan-table', 'Stages of the plan; concurrency and rate are of each agent', [{ name: 'Stage', head: true }, { name: 'Kind' }, ...['Lasts', 'Warm-up', 'Concurrency', 'Rate'].map((name) => ({ name, number: true })), { name: 'What', wide: true }], stages),
    sets.length ? table('sets-table', 'Objects that are prepared', [{ name: 'Set', head: true }, { name: 'Below' }, { name: 'Objects', number: true }, { name: 'Size', wide: true }], sets) : null,
    el('details', { id: 'plan-details' }, el('summary', {}, 'The whole plan as JSON'), el('pre', { tabindex: '0', 'aria-label': 'The plan as JSON', role: 'region' }, JSON.stringify(plan, null, 1))),
  ];
}

function mix(stage) {
  const total = sum(stage.operations.map((op) => op.weight)) || 1;
  if (stage.operations.length) return stage.operations.map((op) => `${text.percent(op.weight / total, 0)} ${op.kind}`).join(', ');
  return stage.replay ? `replay of ${text.count(stage.replay.records)} operations` : stage.populations.join(', ') || '–';
}

function size(spec) {
  if (spec.kind === 'fixed') return text.bytes(spec.min);
  const range = `${text.bytes(spec.min)} to ${text.bytes(spec.max)}`;
  return spec.kind === 'lognormal' ? `lognormal, mean ${text.bytes(spec.mean)}, ${range}` : `${spec.kind}, ${range}`;
}

class Shell {
  /** A page of documents of a format; sections: [[id, title]]. Who extends it says in update() what is in them. */
  constructor(format, sections) {
    this.format = format;
    this.titles = sections;
    this.state = {};
    this.hidden = new Set();
    this.charts = new Map();
    this.seen = new Map();
    this.doc = null;
    this.waiting = new Set();
  }

  render(doc) {
    if (doc.format !== this.format || doc.version !== 1) throw new Error(`this page shows documents of version 1, and this one is ${doc.format} ${doc.version}`);
    this.doc = doc;
    if (!this.sections) this.build();
    this.update();
  }

  build() {
    this.sections = new Map();
    const parts = this.titles.map(([id, title]) => {
      const body = el('div', { class: 'body' });
      const section = el('section', { id, 'aria-labelledby': `${id}-heading` }, el('h2', { id: `${id}-heading`, class: id === 'verdict' ? 'hidden' : null }, title), body);
      this.sections.set(id, { section, body });
      return section;
    });
    document.getElementById('report').replaceChildren(...parts);
    document.getElementById('contents').replaceChildren(...this.titles.map(([id, title]) => el('li', { id: `to-${id}` }, el('a', { href: `#${id}` }, title))));
    this.stagePicker = document.getElementById('stages');
    document.getElementById('theme').addEventListener('click', () => this.setTheme(theme === 'dark' ? 'light' : 'dark', true));
    this.chosenTheme = stored('sai3ssh-theme');
    prefersDark.addEventListener('change', () => this.chosenTheme ?? this.setTheme(firstTheme(), false));
    this.setTheme(firstTheme(), false, false);
    window.addEventListener('beforeprint', () => this.drawAll());
  }

  body(id) {
    return this.sections.get(id).body;
  }

  /** Whether there is such a section. */
  offer(id, there) {
    this.sections.get(id).section.hidden = !there;
    document.getElementById(`to-${id}`).hidden = !there;
  }

  /** Gives a section another title. */
  retitle(id, title) {
    put(document.getElementById(`${id}-heading`), title);
    put(document.getElementById(`to-${id}`).firstChild, title);
  }

  title(verdict, { name, run_id: id }) {
    document.title = `${verdict} · ${name} · sai3ssh`;
    put(document.getElementById('run-name'), name);
    put(document.getElementById('run-id'), id);
  }

  /** As when all of the page had been looked at. */
  drawAll() {
    this.charts.forEach((chart) => {
      chart.near = true;
      chart.refresh();
    });
  }

  setTheme(name, chosen, redraw = true) {
    theme = name;
    document.documentElement.dataset.theme = name;
    const button = document.getElementById('theme');
    button.setAttribute('aria-pressed', String(name === 'dark'));
    if (chosen) {
      this.chosenTheme = name;
      store('sai3ssh-theme', name);
    }
    if (redraw && this.doc) {
      this.seen.clear();
      this.update();
    }
  }

  /** Gives a part of the page new children when what they are made of has changed. */
  part(node, source, make) {
    const told = JSON.stringify(source);
    if (this.seen.get(node) === told) return;
    this.seen.set(node, told);
    keepFocus(node, make());
  }

  place(grid, plots) {
    const charts = plots.map(({ id }) => {
      if (!this.charts.has(id)) this.charts.set(id, new Chart(this, id));
      return this.charts.get(id);
    });
    const nodes = charts.map((chart) => chart.figure);
    if (nodes.length !== grid.children.length || nodes.some((node, at) => grid.children[at] !== node)) grid.replaceChildren(...nodes);
    charts.forEach((chart, at) => {
      chart.figure.classList.toggle('wide', Boolean(plots[at].wide));
      chart.figure.classList.toggle('half', Boolean(plots[at].half));
      chart.update(() => this.dressed(plots[at].make()));
    });
  }

  /** A plot as it is shown. */
  dressed(plot) {
    return plot;
  }

  /** Makes what nobody looks at yet while the browser has nothing else to do. */
  later(chart) {
    const begun = this.waiting.size > 0;
    this.waiting.add(chart);
    if (begun) return;
    const idle = window.requestIdleCallback ?? ((call) => setTimeout(call, 50));
    const next = () => {
      const [one] = this.waiting;
      one.refresh();
      this.waiting.delete(one);
      if (this.waiting.size) idle(next, { timeout: 1000 });
    };
    idle(next, { timeout: 1000 });
  }

  // --- what plots ask ----------------------------------------------------------------------------------------------------------------------

  shadesOf() {
    return [];
  }

  marksOf() {
    return [];
  }

  /** What is hidden together. */
  key(plot, line) {
    return `${plot.id} ${line.name}`;
  }

  hides(plot, line) {
    return this.hidden.has(this.key(plot, line));
  }

  toggle(plot, line) {
    const key = this.key(plot, line);
    if (!this.hidden.delete(key)) this.hidden.add(key);
    this.update();
  }

  /** Buttons of which one is chosen: `options` {value: label} of a part of the state. */
  group(legend, name, options) {
    const choose = (value) => {
      this.state[name] = value;
      this.update();
    };
    return el('fieldset', {}, el('legend', {}, legend), el('div', { class: 'segments' }, Object.entries(options).map(([value, label]) => radio(name, value, label, this.state[name] === value, () => choose(value)))));
  }
}

function radio(name, value, label, checked, change, hint = null) {
  const input = el('input', { type: 'radio', name, value, id: `${name}-${value}`, checked, on: { change } });
  return el('label', { class: 'segment' }, input, el('span', {}, label, hint ? el('small', {}, ` ${hint}`) : null));
}

function stored(name) {
  try {
    return window.localStorage.getItem(name);
  } catch {
    return null; // a browser that keeps nothing for files
  }
}

function store(name, value) {
  try {
    window.localStorage.setItem(name, value);
  } catch {
    // It is forgotten with the page.
  }
}

const prefersDark = window.matchMedia('(prefers-color-scheme: dark)');
const firstTheme = () => stored('sai3ssh-theme') ?? (prefersDark.matches ? 'dark' : 'light');

/** Shows a page, and has the script that has the document render it. */
function start(page) {
  // Before there is a document, so that a dark page does not begin with a flash.
  document.documentElement.dataset.theme = firstTheme();
  window.sai3ssh = { render: (doc) => page.render(doc), page };
}
