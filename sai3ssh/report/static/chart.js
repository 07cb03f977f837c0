// A plot on the page: a figure with a legend, a canvas, its numbers as a table, and words for those who do not see it.

const SHOWN_ROWS = 500;
const SHOWN_AGENTS = 12;
const LATENCY = { log: true, format: text.latency, name: '' };
const TIME_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400];

/** What is along a plot: {column, cell(x) of its table, say(x), reach (how far from a point it is still told), axis(plot, axis, ink)}. */
const SCALES = {
  time: { column: 'seconds', cell: (x) => x, say: text.clock },
  run: { column: 'seconds', cell: (x) => x, say: text.clock, reach: 45 },
  nines: {
    column: 'percent', cell: (x) => Number((100 - 100 * 10 ** -x).toFixed(8)), say: (x) => `${Number((100 - 100 * 10 ** -x).toFixed(5))} %`, reach: 0.1,
    axis(plot, axis, ink) {
      const most = plot.lines.reduce((last, line) => Math.max(last, line.points.at(-1)?.[0] ?? 0), 1);
      const labels = { 0: '0 %', 1: '90 %', 2: '99 %', 3: '99.9 %', 4: '99.99 %', 5: '99.999 %', 6: '99.9999 %', 7: '99.99999 %' };
      return { ...axis, min: 0, max: Math.ceil(most * 4) / 4, interval: 1, axisLabel: { ...axis.axisLabel, formatter: (x) => labels[x] ?? '' }, splitLine: { show: true, lineStyle: { color: ink.grid } } };
    },
  },
};
/** Plots of what no document of a run has bring a scale of their own. */
const scaleOf = (plot) => SCALES[plot.x] ?? plot.x;

class Chart {
  /** `page` gives {state, hidden, toggle(key), setRange(from, to), shadesOf(plot), marksOf(plot), lengthOf(plot)}. */
  constructor(page, id) {
    this.page = page;
    this.id = id;
    this.asTable = false;
    this.make = null;
    this.dirty = true;
    this.near = false;
    this.title = el('h3', { id: `${id}-title` });
    this.note = el('p', { class: 'note' });
    this.button = el('button', { type: 'button', id: `${id}-as-table`, 'aria-pressed': 'false', on: { click: () => this.turn() } }, 'Table');
    const copied = copyButton(`${id}-copy`, `${id}-title`, () => this.copy());
    this.legend = el('div', { class: 'legend' });
    this.host = el('div', { class: 'canvas', role: 'img' });
    this.band = el('div', { class: 'band', hidden: true });
    this.numbers = el('div', { class: 'numbers', hidden: true });
    this.empty = el('p', { class: 'empty', hidden: true });
    this.figure = el('figure', { class: 'chart', id, 'aria-labelledby': `${id}-title` },
      el('div', { class: 'chart-head' }, el('div', {}, this.title, this.note), el('div', { class: 'actions' }, this.button, copied)),
      this.legend, this.empty, el('div', { class: 'plot' }, this.host, this.band), this.numbers);
    this.button.setAttribute('aria-describedby', `${id}-title`);
    new IntersectionObserver((seen) => {
      this.near = seen.at(-1).isIntersecting;
      if (this.near) this.refresh();
    }, { rootMargin: '300px' }).observe(this.figure);
    new ResizeObserver(() => this.echart?.resize()).observe(this.host);
    this.select();
  }

  /** `make` makes what is to be shown from now on, at once where it can be seen. */
  update(make) {
    this.make = make;
    if (this.near || this.asTable) this.refresh();
    else this.page.later(this);
  }

  /** Shows a newer plot; what does not change on the screen is not touched. */
  refresh() {
    if (this.make === null) {
      this.draw();
      return;
    }
    const plot = this.make();
    this.make = null;
    this.plot = plot;
    this.dirty = true;
    put(this.title, plot.title);
    put(this.note, plot.note);
    this.figure.classList.toggle('low', Boolean(plot.low));
    this.empty.hidden = plot.empty === null;
    put(this.empty, plot.empty ?? '');
    this.host.parentElement.hidden = plot.empty !== null || this.asTable;
    this.button.parentElement.hidden = plot.empty !== null;
    this.numbers.hidden = plot.empty !== null || !this.asTable;
    this.words();
    this.keys();
    if (this.asTable) this.fillTable();
    this.draw();
  }

  words() {
    const told = this.plot.empty ?? describe(this.plot, this.page);
    if (this.host.getAttribute('aria-label') !== told) this.host.setAttribute('aria-label', told);
  }

  /** The legend: a button for each line, which hides and shows it. */
  keys() {
    const lines = this.plot.lines ?? [];
    if (this.plot.kind === 'heat') {
      this.scale();
      return;
    }
    const wanted = this.plot.empty !== null || this.plot.agents ? [] : lines;
    const state = JSON.stringify([theme, wanted.map((line) => [line.name, line.look, this.page.hides(this.plot, line)])]);
    if (state === this.keyState) return;
    this.keyState = state;
    keepFocus(this.legend, wanted.map((line, place) => legendButton(`${this.id}-line-${place}`, line, !this.page.hides(this.plot, line), () => this.page.toggle(this.plot, line))));
  }

  /** The colours of the heat map and what they mean. */
  scale() {
    const most = (this.plot.heat?.n ?? []).reduce((a, b) => Math.max(a, b), 0);
    const state = JSON.stringify([theme, most]);
    if (state === this.keyState) return;
    this.keyState = state;
    this.legend.replaceChildren(...(most ? [el('span', { class: 'note scale' }, '1 ', ramp(), ` ${text.count(most)} operations in a cell (logarithmic)`)] : []));
  }

  turn() {
    if (this.make !== null) this.refresh();
    this.asTable = !this.asTable;
    this.button.setAttribute('aria-pressed', String(this.asTable));
    this.host.parentElement.hidden = this.asTable;
    this.numbers.hidden = !this.asTable;
    if (this.asTable) this.fillTable();
    else this.draw();
  }

  fillTable() {
    const { columns, rows } = tableOf(this.plot, this.page);
    const note = rows.length > SHOWN_ROWS ? `The first ${text.count(SHOWN_ROWS)} of ${text.count(rows.length)} rows; the copy has all of them.` : null;
    const shown = rows.slice(0, SHOWN_ROWS);
    keepFocus(this.numbers, [table(`${this.id}-table`, this.plot.title, columns.map((name, place) => ({ name, number: typeof shown[0]?.[place] === 'number' || place > 0, head: place === 0 })), shown.map((row) => row.map(figure)), { hideCaption: true, note })]);
  }

  async copy() {
    if (this.make !== null) this.refresh();
    await copyRows(this.plot.title, tableOf(this.plot, this.page));
  }

  draw() {
    if (!this.dirty || !this.near || this.asTable || !this.plot || this.plot.empty !== null) return;
    this.dirty = false;
    if (this.plot.kind === 'lanes') this.host.style.height = `${32 + 22 * this.plot.agents.length}px`;
    this.echart ??= window.echarts.init(this.host, null, { renderer: 'canvas' });
    if (this.plot.kind === 'lanes') this.echart.resize();
    this.echart.setOption(optionOf(this.plot, this.page), { replaceMerge: ['series', 'xAxis', 'yAxis'], silent: true });
    this.figure.dataset.drawn = 'true';
  }

  /** Dragging over a plot over time zooms all of them; a double click shows all again. */
  select() {
    let from = null;
    const inside = (event) => {
      const box = this.host.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    this.host.addEventListener('pointerdown', (event) => {
      const at = inside(event);
      if (this.plot?.x !== 'time' || event.button !== 0 || event.pointerType === 'touch' || !this.echart?.containPixel({ gridIndex: 0 }, at)) return;
      from = at[0];
      this.host.setPointerCapture(event.pointerId);
    });
    this.host.addEventListener('pointermove', (event) => {
      const [x, y] = inside(event);
      this.pointer = [x, y];
      if (from === null) return;
      this.band.hidden = Math.abs(x - from) < 6;
      this.band.style.left = `${Math.min(x, from)}px`;
      this.band.style.width = `${Math.abs(x - from)}px`;
    });
    this.host.addEventListener('pointerup', (event) => {
      if (from === null) return;
      const [x, y] = inside(event);
      const [a, b] = [Math.min(from, x), Math.max(from, x)];
      from = null;
      this.band.hidden = true;
      if (b - a < 6) return;
      const second = (pixel) => this.echart.convertFromPixel({ gridIndex: 0 }, [pixel, y])[0];
      this.page.setRange(second(a), second(b));
    });
    this.host.addEventListener('pointercancel', () => {
      from = null;
      this.band.hidden = true;
    });
    this.host.addEventListener('dblclick', () => this.plot?.x === 'time' && this.page.setRange(null, null));
  }
}

async function copyRows(title, { columns, rows }) {
  await copy(csv(columns, rows));
  say(`${title}: ${text.count(rows.length)} rows copied as CSV`);
}

/** A button that copies a table; `describedBy` is the id of what names it. */
function copyButton(id, describedBy, click) {
  return el('button', { type: 'button', id, 'aria-describedby': describedBy, on: { click } }, 'Copy CSV');
}

function put(node, content) {
  if (node.textContent !== content) node.textContent = content;
}

/** Replaces what is in a node; the focus, open details and scrolled tables with an id stay as they are. */
function keepFocus(node, children) {
  const focused = node.contains(document.activeElement) ? document.activeElement.id : null;
  const open = new Map([...node.querySelectorAll('details[id]')].map((one) => [one.id, one.open]));
  const scrolled = [...node.querySelectorAll('.scroll[id]')].map((one) => [one.id, one.scrollLeft, one.scrollTop]);
  node.replaceChildren(...children.flat(Infinity).filter(Boolean));
  for (const [id, was] of open) if (document.getElementById(id)) document.getElementById(id).open = was;
  for (const [id, left, top] of scrolled) Object.assign(document.getElementById(id) ?? {}, { scrollLeft: left, scrollTop: top });
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

/** The colours of a heat map, from least to most. */
function ramp() {
  const canvas = el('canvas', { width: 160, height: 12, class: 'swatch', 'aria-hidden': 'true' });
  const pen = canvas.getContext('2d');
  for (let x = 0; x < 160; x++) {
    pen.fillStyle = heatColor(x / 159);
    pen.fillRect(x, 0, 1, 12);
  }
  return canvas;
}

function sample(line) {
  const { color, dash, marker } = line.look;
  const stroke = line.dots ? null : svg('line', { x1: 0, y1: 6, x2: 28, y2: 6, stroke: color, 'stroke-width': line.bold ? 3 : 2, 'stroke-dasharray': dash === 'solid' ? null : dash.join(' ') });
  const shapes = {
    circle: () => svg('circle', { cx: 14, cy: 6, r: line.dots ? 2 : 4, fill: color }),
    rect: () => svg('rect', { x: 10.5, y: 2.5, width: 7, height: 7, fill: color }),
    triangle: () => svg('path', { d: 'M14 1.5 L18.5 10 L9.5 10 Z', fill: color }),
    diamond: () => svg('path', { d: 'M14 1 L19 6 L14 11 L9 6 Z', fill: color }),
  };
  return svg('svg', { width: 28, height: 12, viewBox: '0 0 28 12', 'aria-hidden': 'true' }, stroke, marker ? shapes[marker]() : null);
}

function legendButton(id, line, shown, click) {
  return el('button', { type: 'button', class: 'key', id, 'aria-pressed': String(shown), on: { click } }, sample(line), clamped(line.name));
}

const figure = (value) => (typeof value === 'number' ? (Number.isInteger(value) ? text.count(value) : text.number(value)) : value);

/** Words that say what a plot shows. */
function describe(plot, page) {
  const shaded = page.shadesOf(plot).filter((shade) => shade.kind !== 'warmup').slice(0, 12).map((shade) => shadeText(shade, page));
  const shadedText = shaded.length ? ` Shaded: ${shaded.join('; ')}.` : '';
  if (plot.kind === 'lanes') return `Who measured when.${shadedText || ' All agents measured all the time.'}`;
  if (plot.kind === 'heat') {
    const most = plot.heat.n.indexOf(plot.heat.n.reduce((a, b) => Math.max(a, b), 0));
    const [low, high] = [plot.heat.edges_us[plot.heat.bin[most]], plot.heat.edges_us[plot.heat.bin[most] + 1]];
    return `${plot.title}. Latencies from ${text.latency(plot.heat.edges_us[0])} to ${text.latency(plot.heat.edges_us.at(-1))}; most in one cell: ${text.count(plot.heat.n[most])} between ${text.latency(low)} and ${text.latency(high)}.`;
  }
  const lines = plot.lines.filter((line) => !page.hides(plot, line)).slice(0, 16).map((line) => {
    const values = line.points.map((point) => point[1]).filter((value) => value !== null);
    if (!values.length) return `${line.name}: nothing`;
    const say = plot.y.full ?? plot.y.format;
    if (line.measured) return `${line.name}: ${line.points.filter((point) => point[1] !== null).slice(0, 16).map(([x, y, at]) => `${say(y)} at ${at ?? scaleOf(plot).say(x)}`).join(', ')}`;
    return `${line.name}: ${say(values.reduce((a, b) => Math.min(a, b)))} to ${say(values.reduce((a, b) => Math.max(a, b)))}, median ${say(median(values))}`;
  });
  const unit = plot.y.name ? ` in ${plot.y.name}` : '';
  return `${plot.title}${unit}. ${lines.join('; ')}.${shadedText} Its numbers are in the table.`;
}

function shadeText(shade, page) {
  const who = shade.agent === null ? '' : `${page.agentName(shade.agent)}: `;
  return `${who}${SHADES[shade.kind].name.toLowerCase()} ${text.clock(shade.from_s)} to ${text.clock(shade.to_s)}${shade.cause && shade.kind !== 'warmup' ? ` (${shade.cause})` : ''}`;
}

/** A plot's numbers: columns by name, rows. */
function tableOf(plot, page) {
  if (plot.kind === 'lanes') {
    return {
      columns: ['agent', 'what', 'from_s', 'to_s', 'cause'],
      rows: page.shadesOf(plot).map((shade) => [shade.agent === null ? 'all' : page.agentName(shade.agent), `${SHADES[shade.kind].name}: ${SHADES[shade.kind].means}`, shade.from_s, shade.to_s, shade.cause]),
    };
  }
  if (plot.kind === 'heat') {
    const { heat: told, windows } = plot;
    return {
      columns: ['from_s', 'latency_from_us', 'latency_to_us', 'operations'],
      rows: told.n.map((n, at) => [windows.at[told.window[at]], told.edges_us[told.bin[at]], told.edges_us[told.bin[at] + 1], n]),
    };
  }
  const lines = plot.lines.filter((line) => !page.hides(plot, line));
  if (plot.numbers) return plot.numbers(lines);
  const rows = new Map();
  lines.forEach((line, place) => {
    for (const [x, y] of line.points) {
      const at = Number(x.toFixed(4));
      if (!rows.has(at)) rows.set(at, new Array(lines.length).fill(null));
      if (y !== null) rows.get(at)[place] = Number(y.toPrecision(6));
    }
  });
  const scale = scaleOf(plot);
  const unit = plot.y === LATENCY ? ' us' : plot.y.name ? ` ${plot.y.name}` : '';
  return {
    columns: [scale.column, ...lines.map((line) => `${line.name}${unit}`)],
    rows: [...rows].sort((a, b) => a[0] - b[0]).filter(([, values]) => values.some((value) => value !== null))
      .map(([x, values]) => [scale.cell(x), ...values]),
  };
}

// --- options for ECharts -------------------------------------------------------------------------------------------------------------------

function optionOf(plot, page) {
  const ink = colors();
  const common = {
    animation: false, backgroundColor: 'transparent', textStyle: { fontFamily: 'inherit', color: ink.muted },
    grid: { left: 76, right: plot.kind === 'curve' ? 76 : 18, top: plot.kind === 'lanes' ? 4 : 24, bottom: scaleOf(plot).name ? 38 : 24 },
    xAxis: xAxis(plot, page), tooltip: tooltip(plot, page),
  };
  if (plot.kind === 'lanes') return { ...common, ...lanesOption(plot, page) };
  if (plot.kind === 'heat') return { ...common, yAxis: yAxis(plot, page), series: [shadeSeries(plot, page), heatSeries(plot)] };
  const lines = plot.lines.filter((line) => !page.hides(plot, line));
  return { ...common, yAxis: yAxis(plot, page), series: [shadeSeries(plot, page), ...lines.flatMap((line, place) => lineSeries(line, place / lines.length))] };
}

function xAxis(plot, page) {
  const ink = colors();
  const axis = {
    type: 'value', axisLine: { lineStyle: { color: ink.line } }, axisTick: { lineStyle: { color: ink.line } },
    axisLabel: { color: ink.muted, hideOverlap: true, formatter: text.clock }, splitLine: { show: false },
  };
  const scale = scaleOf(plot);
  if (scale.axis) return scale.axis(plot, axis, ink);
  const [from, to] = plot.x === 'time' ? page.range() : [0, page.lengthOf(plot)];
  const width = Math.max(to - from, 1);
  const interval = TIME_STEPS.find((step) => width / step <= 12) ?? 86400 * Math.ceil(width / 864000);
  return { ...axis, min: from, max: Math.max(to, from + 1), interval, axisLabel: { ...axis.axisLabel, showMaxLabel: false } };
}

function yAxis(plot, page) {
  const ink = colors();
  const axis = {
    axisLine: { show: false }, axisTick: { show: false }, axisLabel: { color: ink.muted, hideOverlap: true, formatter: plot.y.format },
    splitLine: { lineStyle: { color: ink.grid } }, name: plot.y.name, nameTextStyle: { color: ink.muted, align: 'left', padding: [0, 0, 0, -62] }, nameGap: 8,
  };
  if (!plot.y.log) return { ...axis, type: 'value', min: (told) => Math.min(0, told.min), max: plot.y.max, minInterval: plot.y.name === 'attempts/s' ? 1 : null };
  const values = plot.kind === 'heat' ? [plot.heat.edges_us[0], plot.heat.edges_us.at(-1)]
    : plot.lines.filter((line) => !page.hides(plot, line)).flatMap((line) => [...line.points, ...(line.whiskers ?? [])].map((point) => point[1])).filter((value) => value > 0);
  const [low, high] = values.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, 0]);
  return { ...axis, type: 'log', ...(high ? { min: nice(low, -1), max: nice(high, 1) } : {}), minorSplitLine: { show: true, lineStyle: { color: ink.grid, opacity: 0.5 } }, minorTick: { splitNumber: 9 } };
}

/** The next of 1, 2, 5, 10 ... below or above. */
function nice(value, direction) {
  const decade = 10 ** Math.floor(Math.log10(value));
  const steps = [1, 2, 5, 10].map((step) => step * decade);
  return direction < 0 ? steps.filter((step) => step <= value * 1.0001).at(-1) ?? decade : steps.find((step) => step >= value * 0.9999) ?? 10 * decade;
}

/** `shift` (0 to 1) keeps the markers of lines that lie on each other apart. */
function lineSeries(line, shift) {
  const { color, dash, marker } = line.look;
  const base = { name: line.name, itemStyle: { color }, z: line.bold ? 4 : 3, emphasis: { disabled: true } };
  if (line.dots) return [{ ...base, type: 'scatter', data: line.points, symbolSize: 3, itemStyle: { color, opacity: 0.55 }, large: true, z: 2 }];
  const series = { ...base, type: 'line', data: line.points, showSymbol: line.points.length === 1, symbol: 'circle', symbolSize: 7, sampling: 'lttb', lineStyle: { color, type: dash, width: line.bold ? 2.5 : line.thin ? 1 : 1.75, opacity: line.thin ? 0.7 : 1 } };
  if (line.measured) return measured({ ...series, showSymbol: false, sampling: null }, line);
  if (!marker) return [series];
  const known = line.points.filter((point) => point[1] !== null);
  const every = Math.max(1, Math.floor(known.length / 8));
  const marks = known.filter((_, place) => place % every === Math.floor(every * shift));
  return [series, { ...base, type: 'scatter', data: marks, symbol: marker, symbolSize: 7, silent: true, tooltip: { show: false } }];
}

/** A line whose points are measurements of their own: each has a marker, hollow where it is of a part only, and perhaps a name and whiskers. */
function measured(series, line) {
  const ink = colors();
  const { color, marker } = line.look;
  const named = line.named ?? new Set();
  const marks = line.points.map((point, place) => ({
    value: point, itemStyle: line.partial.has(place) ? { color: ink.surface, borderColor: color, borderWidth: 2, opacity: 1 } : { opacity: 1 },
    label: { show: named.has(place), formatter: () => cut(String(point[2]), 14), position: 'right', distance: 5, color: ink.ink, fontSize: 11, textBorderColor: ink.surface, textBorderWidth: 3 },
  })).filter(({ value }) => value[1] !== null);
  const whiskers = line.whiskers?.length ? [{ type: 'line', name: line.name, data: line.whiskers, symbol: 'none', silent: true, tooltip: { show: false }, lineStyle: { color, width: 1.25 }, z: 2 }] : [];
  return [{ ...series, silent: true }, { ...series, type: 'scatter', sampling: null, data: marks, symbol: marker, symbolSize: 9, z: 5 }, ...whiskers];
}

const cut = (words, most) => (words.length > most ? `${words.slice(0, most - 1)}…` : words);

/** A series without data that carries the shades and marks of a plot over time; each shade has its agent's name above it while there are few. */
function shadeSeries(plot, page) {
  const ink = colors();
  if (plot.x === 'nines') return { type: 'line', data: [] };
  const told = page.shadesOf(plot);
  const few = told.filter((shade) => shade.agent !== null).length <= 6;
  const named = few && plot.x === 'time';
  const found = few ? told : united(told);
  const areas = found.map((shade) => [
    {
      xAxis: shade.from_s, itemStyle: { color: pattern(shade.kind), borderColor: ink.shades[shade.kind], borderWidth: shade.kind === 'warmup' ? 0 : 1, borderType: shade.kind === 'link_lost' ? 'dashed' : 'solid' },
      label: { show: named && shade.agent !== null, formatter: shade.agent === null ? '' : page.agentName(shade.agent), position: 'top', color: ink.shades[shade.kind], fontSize: 11, distance: 3 },
    },
    { xAxis: shade.to_s },
  ]);
  const marks = page.marksOf(plot).map((mark) => ({
    xAxis: mark.at_s, lineStyle: { color: mark.kind === 'given_up' ? ink.shades.agent_lost : ink.muted, type: mark.kind === 'stage' ? 'solid' : 'dashed', width: 1.25, opacity: mark.kind === 'stage' ? 0.6 : 1 },
    label: { show: mark.kind === 'stage', formatter: mark.text, color: ink.muted, fontSize: 11, position: 'end', distance: 3 },
  }));
  return { type: 'line', data: [], silent: true, z: 1, markArea: { silent: true, data: areas }, markLine: { silent: true, symbol: 'none', data: marks } };
}

/** Of very many shades, where any of a kind is: on top of each other they would be nothing but dark. */
function united(shades) {
  return Object.keys(SHADES).flatMap((kind) => {
    const spans = [];
    for (const { from_s, to_s } of shades.filter((shade) => shade.kind === kind).sort((a, b) => a.from_s - b.from_s)) {
      const last = spans.at(-1);
      if (last && from_s <= last.to_s) last.to_s = Math.max(last.to_s, to_s);
      else spans.push({ kind, agent: null, from_s, to_s });
    }
    return spans;
  });
}

function markText(mark, page) {
  const names = { given_up: 'given up', steady: 'steady', stopped: 'stopped', stage: 'stage begins' };
  const who = mark.kind === 'stage' ? mark.text : mark.agent === null ? '' : page.agentName(mark.agent);
  return `${who} ${names[mark.kind]} at ${text.clock(mark.at_s)}`.trim();
}

function clip(params, x, y, width, height) {
  const box = params.coordSys;
  const [left, right] = [Math.max(x, box.x), Math.min(x + width, box.x + box.width)];
  return right > left ? { x: left, y, width: right - left, height } : null;
}

/** One picture of all cells: thousands of rectangles of their own would be slow. */
function heatSeries(plot) {
  return {
    type: 'custom', data: [[0, plot.windows.at.at(-1) + plot.windows.step_s]], z: 2, encode: { x: [0, 1] },
    renderItem: (params, api) => {
      const { x, y, width, height } = params.coordSys;
      const sharp = window.devicePixelRatio || 1;
      const canvas = el('canvas', { width: Math.max(1, Math.round(width * sharp)), height: Math.max(1, Math.round(height * sharp)) });
      paint(canvas.getContext('2d'), plot, (second, us) => api.coord([second, us]).map((at, place) => Math.round((at - [x, y][place]) * sharp)));
      return { type: 'image', style: { image: canvas, x, y, width, height } };
    },
  };
}

function paint(pen, plot, place) {
  const { heat: told, windows } = plot;
  const most = Math.log(1 + told.n.reduce((a, b) => Math.max(a, b), 1));
  const edges = told.edges_us.map((us) => place(windows.at[0], us)[1]);
  const starts = windows.at.map((at) => place(at, told.edges_us[0])[0]);
  const ends = windows.at.map((at) => place(at + windows.step_s, told.edges_us[0])[0]);
  told.n.forEach((n, at) => {
    const [window, bin] = [told.window[at], told.bin[at]];
    pen.fillStyle = heatColor(Math.log(1 + n) / most);
    pen.fillRect(starts[window], edges[bin + 1], Math.max(1, ends[window] - starts[window]), Math.max(1, edges[bin] - edges[bin + 1]));
  });
}

/** The cell of a heat map at a second and a latency, or null. */
function cellAt(plot, [second, us]) {
  const { heat: told, windows } = plot;
  const window = windows.at.findIndex((at) => at <= second && second < at + windows.step_s);
  const bin = told.edges_us.findIndex((edge, at) => edge <= us && us < told.edges_us[at + 1]);
  if (window < 0 || bin < 0) return null;
  const at = told.n.findIndex((_, one) => told.window[one] === window && told.bin[one] === bin);
  return { from_s: windows.at[window], to_s: windows.at[window] + windows.step_s, from_us: told.edges_us[bin], to_us: told.edges_us[bin + 1], n: at < 0 ? 0 : told.n[at] };
}

function lanesOption(plot, page) {
  const ink = colors();
  const rows = plot.agents;
  const items = page.laneItems(plot);
  return {
    yAxis: {
      type: 'category', inverse: true, data: rows.map((agent) => page.agentName(agent)), axisLine: { show: false }, axisTick: { show: false },
      axisLabel: { color: ink.ink, width: 66, overflow: 'truncate', interval: 0 }, splitLine: { show: false },
    },
    series: [{
      type: 'custom', data: items.map((item) => [item.from_s, item.to_s, rows.indexOf(item.agent), item.kind === 'measuring' ? 0 : 1]), encode: { x: [0, 1], y: 2 }, clip: true,
      renderItem: (params, api) => {
        const item = items[params.dataIndex];
        const [x, y] = api.coord([api.value(0), api.value(2)]);
        const [end] = api.coord([api.value(1), api.value(2)]);
        const shape = clip(params, x, y - 7, Math.max(end - x, 1.5), 14);
        if (!shape) return null;
        if (item.kind === 'measuring') return { type: 'rect', shape: { ...shape, r: 2 }, style: { fill: ink.measuring } };
        return { type: 'rect', shape, style: { fill: pattern(item.kind, true), stroke: ink.shades[item.kind], lineWidth: 1, lineDash: item.kind === 'link_lost' ? [3, 2] : null } };
      },
    }, marksOnly(plot, page)],
  };
}

function marksOnly(plot, page) {
  const marks = page.marksOf(plot).map((mark) => ({ xAxis: mark.at_s, label: { show: false }, lineStyle: { color: colors().shades.agent_lost, type: 'dashed', width: 1.25 } }));
  return { type: 'line', data: [], silent: true, markLine: { silent: true, symbol: 'none', data: marks } };
}

/** The value of a line at x: of one that is level the last before it, of others the nearest that is not further away than `reach`. */
function valueAt(points, x, reach) {
  let [low, high] = [0, points.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle][0] <= x) low = middle + 1;
    else high = middle;
  }
  const [before, after] = [points[low - 1], points[low]];
  if (points.level) return before && after ? before[1] : null;
  const near = [before, after].filter((point) => point && point[1] !== null && Math.abs(point[0] - x) <= reach);
  return near.sort((a, b) => Math.abs(a[0] - x) - Math.abs(b[0] - x))[0]?.[1] ?? null;
}

function tooltip(plot, page) {
  const ink = colors();
  const common = { confine: true, transitionDuration: 0, className: 'tip', backgroundColor: ink.surface, borderColor: ink.line, borderWidth: 1, padding: [8, 10], textStyle: { color: ink.ink, fontSize: 12 } };
  if (plot.kind === 'lanes') {
    return {
      ...common, trigger: 'item', formatter: ({ dataIndex }) => {
        const item = page.laneItems(plot)[dataIndex];
        const words = item.kind === 'measuring' ? [`measured ${text.clock(item.from_s)} to ${text.clock(item.to_s)}`] : [shadeText(item, page), SHADES[item.kind].means];
        return el('div', {}, el('strong', {}, page.agentName(item.agent)), words.map((line) => el('div', {}, line)));
      },
    };
  }
  if (plot.kind === 'heat') {
    return {
      ...common, trigger: 'item', formatter: () => {
        const cell = cellAt(plot, page.pointed(plot));
        if (cell === null) return '';
        return el('div', {}, el('strong', {}, `${text.clock(cell.from_s)} to ${text.clock(cell.to_s)}`),
          el('div', {}, `${text.latency(cell.from_us)} to ${text.latency(cell.to_us)}: ${text.count(cell.n)} operations`));
      },
    };
  }
  const scale = scaleOf(plot);
  if (plot.kind === 'curve') return { ...common, trigger: 'item', formatter: ({ seriesName, value }) => plot.tip(seriesName, value) };
  return {
    ...common, trigger: 'axis', axisPointer: { type: 'line', lineStyle: { color: ink.muted, type: 'solid', width: 1 } },
    formatter: (params) => {
      const say = plot.y.full ?? plot.y.format;
      const at = params[0]?.axisValue ?? 0;
      const reach = scale.reach ?? 1.5 * page.stage.series.step_s;
      const rows = plot.lines.filter((line) => !page.hides(plot, line)).map((line) => ({ line, value: valueAt(line.points, at, reach) }))
        .filter(({ value }) => value !== null).sort((a, b) => b.value - a.value);
      const shaded = page.shadesOf(plot).filter((shade) => shade.from_s <= at && at <= shade.to_s);
      const near = () => (page.range()[1] - page.range()[0]) / 100;
      const marked = page.marksOf(plot).filter((mark) => Math.abs(mark.at_s - at) <= near());
      return el('div', {},
        el('strong', {}, scale.say(at)),
        rows.slice(0, 16).map(({ line, value }) => el('div', { class: 'tip-row' }, sample(line), el('span', {}, line.name), el('b', {}, say(value), line.aside ? el('small', {}, ` ${line.aside(at)}`) : null))),
        rows.length > 16 ? el('div', {}, `and ${rows.length - 16} more`) : null,
        shaded.slice(0, 6).map((shade) => el('div', { class: 'tip-shade' }, shadeText(shade, page))),
        marked.slice(0, 3).map((mark) => el('div', { class: 'tip-shade' }, markText(mark, page))));
    },
  };
}
