// The page of a series: the runs of a matrix, or repetitions of one plan, side by side. Plots are along one parameter, with a line for each
// combination of the others; repetitions of one plan are along their number. Nothing is averaged: figures are of merged histograms.

const SECTIONS = [
  ['verdict', 'Verdict'], ['findings', 'What stands out'], ['curves', 'Curves'], ['grid', 'Heat map'], ['combinations', 'All combinations'],
  ['spread', 'Spread between repetitions'], ['runs', 'Runs'], ['plan', 'Plan'],
];
const MEANS = {
  COMPLETE: 'Everything was run, and all runs are COMPLETE.',
  PARTIAL: 'Something is missing; what it is stands here and with each figure that it touches.',
  FAILED: 'There is no usable result.',
};
const TONES = { COMPLETE: 'good', PARTIAL: 'warn', FAILED: 'bad' };
const LATENCIES = { mean: 'mean', p50: 'p50', p90: 'p90', p99: 'p99', 'p99.9': 'p99.9', max: 'max' };
const RATES = { ops: ['operations/s', 'ops_per_s'], bytes: ['MiB/s', 'mib_per_s'] };
const SHOWN_LINES = 12;
const SHOWN_WORDS = 12;
const LONG = 24;
const KNEE = 0.95;
const UNSTEADY = 0.05;
const UNITS = [
  Object.fromEntries(['', 'K', 'M', 'G', 'T'].flatMap((letter, power) => [[letter, 1000 ** power], [`${letter}B`, 1000 ** power], [letter ? `${letter}iB` : 'B', 1024 ** power]])),
  { '': 1, us: 1e-6, ms: 1e-3, s: 1, m: 60, h: 3600, d: 86400 },
];

/** Values as numbers, when all of them are of a kind: sizes, or durations; else null. */
function quantities(values) {
  for (const units of UNITS) {
    const found = values.map((value) => {
      const [, number, unit] = /^(\d+(?:\.\d+)?)\s*([A-Za-z]*)$/.exec(value) ?? [null, null, null];
      return unit in units ? Number(number) * units[unit] : null;
    });
    if (!found.includes(null)) return found;
  }
  return null;
}

/** Positions of an axis' values, from the smallest; as in the file where they are no quantities. */
function ordered(axis) {
  const found = quantities(axis.values);
  const places = axis.values.map((_, place) => place);
  return found ? places.sort((a, b) => found[a] - found[b]) : places;
}

const chip = (verdict, words = verdict ?? 'not run') => el('span', { class: `chip state ${TONES[verdict] ?? 'bad'}` }, `${SIGNS[verdict] ?? '○'} ${words}`);
const listed = (words, all = 'are in the table') => (words.length > SHOWN_WORDS ? [...words.slice(0, SHOWN_WORDS), `… ${text.count(words.length - SHOWN_WORDS)} more ${all}`] : words);

class Matrix extends Shell {
  constructor() {
    super('sai3ssh.matrix', SECTIONS);
    this.state = { stage: '0', op: null, axis: null, metric: 'ops', percentile: 'p99', shade: 'rate' };
  }

  render(doc) {
    this.rows = new Map(doc.rows.map((row) => [`${row.combination} ${row.operation} ${row.stage}`, row]));
    this.stages = [...new Set(doc.rows.map((row) => row.stage))];
    this.varying = doc.axes.map((_, place) => place).filter((place) => doc.axes[place].values.length > 1);
    this.longNames = doc.combinations.some((one) => one.label.length > 2 * LONG);
    super.render(doc);
  }

  build() {
    super.build();
    this.controls = el('div', { class: 'controls', id: 'controls' });
    this.lineLegend = el('div', { class: 'legend agents-legend', role: 'group', 'aria-label': 'Lines that are shown' });
    this.curveGrid = el('div', { class: 'charts' });
    this.body('curves').append(this.controls, this.lineLegend, this.curveGrid);
  }

  /** Lines are of the same combination in all plots, */
  key(_, line) {
    return line.name;
  }

  /** and have their legend above them. */
  dressed(plot) {
    return { ...plot, agents: true };
  }

  /** What belongs to the chosen stage: its operations, that of which there were most first, and the combinations and runs that the clients limited. */
  choose() {
    this.stage = this.stages[Number(this.state.stage)];
    const made = new Map();
    this.limited = new Set();
    this.doc.rows.filter((row) => row.stage === this.stage).forEach((row) => {
      made.set(row.operation, (made.get(row.operation) ?? 0) + row.ops);
      row.each.filter((one) => one.limits.length).forEach((one) => this.limited.add(String(row.combination)).add(`${row.combination} ${one.run}`));
    });
    this.operations = [...made].sort((a, b) => b[1] - a[1]).map(([op]) => op);
  }

  update() {
    const { doc, state, stages } = this;
    this.choose();
    const { operations } = this;
    if (state.op === null || !(state.op === 'all' || operations.includes(state.op))) state.op = operations[0] ?? 'all';
    if (state.op === 'all') state.shade = 'rate';
    this.chosen = state.op === 'all' ? operations : [state.op];
    this.lay(this.axis());
    this.title(doc.verdict.verdict, doc.series);
    this.stagePicker.hidden = stages.length < 2;
    this.part(this.stagePicker, [stages, state.stage], () => [el('legend', {}, 'Stage'), ...stages.map((name, place) => radio('stage', String(place), name, state.stage === String(place), () => {
      state.stage = String(place);
      this.update();
    }))]);
    this.part(this.body('verdict'), [doc.verdict, doc.combinations], () => this.verdict());
    this.part(this.body('findings'), [doc.rows, doc.combinations, state], () => this.findings());
    this.offer('curves', operations.length > 0);
    if (operations.length) {
      this.part(this.controls, [state, operations, doc.axes], () => this.choices());
      const lines = this.groups.map(({ name }, place) => ({ name, look: look(place) }));
      this.part(this.lineLegend, [theme, lines, [...this.hidden]], () => (lines.length < 2 ? [] : lines.map((line, place) => legendButton(`line-${place}`, line, !this.hides(null, line), () => this.toggle(null, line)))));
      this.place(this.curveGrid, [
        { id: 'throughput', make: () => this.throughput() }, { id: 'latency', make: () => this.latency() },
        ...(this.varying.length ? [{ id: 'saturation', wide: true, make: () => this.saturation() }] : []),
      ]);
    }
    this.retitle('combinations', doc.axes.length ? 'All combinations' : 'All runs together');
    this.offer('grid', operations.length > 0 && this.varying.length > 1);
    if (this.varying.length > 1) this.part(this.body('grid'), [theme, doc.rows, doc.combinations, state], () => this.grid());
    this.part(this.body('combinations'), [doc.rows, doc.combinations], () => this.combinations());
    const repeated = doc.rows.filter((row) => row.each.length > 1);
    this.offer('spread', repeated.length > 0);
    if (repeated.length) this.part(this.body('spread'), repeated, () => this.spread(repeated));
    this.part(this.body('runs'), [doc.rows, doc.combinations, state], () => this.runs());
    this.part(this.body('plan'), [doc.plan, doc.written_at], () => this.plan());
  }

  // --- what is along a plot ----------------------------------------------------------------------------------------------------------------

  /** The axis that plots are along: the chosen one, else that of most quantities. */
  axis() {
    const { varying, state, doc } = this;
    if (varying.includes(Number(state.axis ?? NaN))) return Number(state.axis);
    const worth = (place) => doc.axes[place].values.length + (quantities(doc.axes[place].values) ? 1000 : 0);
    const found = [...varying].sort((a, b) => worth(b) - worth(a))[0];
    state.axis = found === undefined ? null : String(found);
    return found ?? null;
  }

  /** Makes `x`, the positions along plots {name, labels}, and `groups` [{name, cells: by position {combination, run or undefined} or undefined}]. */
  lay(axis) {
    const { doc } = this;
    const whole = this.state.op === 'all' ? 'all operations' : this.state.op;
    if (axis === null) {
      const cells = doc.combinations.flatMap((one, combination) => one.runs.map((_, run) => ({ combination, run })));
      this.x = { name: 'run', labels: cells.map((_, place) => String(place + 1)) };
      this.groups = [{ name: whole, cells }];
    } else {
      const order = ordered(doc.axes[axis]);
      const others = this.varying.filter((place) => place !== axis);
      const groups = new Map();
      doc.combinations.forEach((one, combination) => {
        if (!others.every((place) => ['all', undefined, `v${one.values[place]}`].includes(this.state[`only-${place}`]))) return;
        const key = JSON.stringify(others.map((place) => one.values[place]));
        if (!groups.has(key)) groups.set(key, { at: others.map((place) => ordered(doc.axes[place]).indexOf(one.values[place])), name: others.map((place) => `${doc.axes[place].name} ${doc.axes[place].values[one.values[place]]}`).join(', ') || whole, cells: new Array(order.length) });
        groups.get(key).cells[order.indexOf(one.values[axis])] = { combination };
      });
      this.x = { name: doc.axes[axis].name, labels: order.map((place) => doc.axes[axis].values[place]) };
      this.groups = [...groups.values()].sort((a, b) => a.at.map((one, place) => one - b.at[place]).find((apart) => apart) ?? 0);
    }
    const laid = this.groups.map((group) => group.name).join('\n');
    if (this.laid !== laid) {
      this.laid = laid;
      this.hidden = new Set(this.groups.slice(SHOWN_LINES).map((group) => group.name));
    }
  }

  /** The figures of a cell, one for each operation that was chosen. */
  figures(cell) {
    return this.chosen.map((op) => this.rows.get(`${cell.combination} ${op} ${this.stage}`)).filter(Boolean)
      .map((row) => (cell.run === undefined ? row : row.each.find((one) => one.run === cell.run))).filter(Boolean);
  }

  rate(cell) {
    const found = this.figures(cell);
    return found.length ? sum(found.map((one) => one[RATES[this.state.metric][1]])) : null;
  }

  delay(cell) {
    return this.state.op === 'all' ? null : this.figures(cell)[0]?.[`${this.state.percentile}_us`] ?? null;
  }

  verdictOf(cell) {
    const one = this.doc.combinations[cell.combination];
    return cell.run === undefined ? one.verdict : one.runs[cell.run].verdict;
  }

  /** The lowest and the highest of several runs of a cell, or null. */
  range(cell, key) {
    const totals = new Map();
    this.figures(cell).forEach((row) => (row.each ?? []).forEach((one) => totals.set(one.run, (totals.get(one.run) ?? 0) + one[key])));
    return totals.size > 1 ? [Math.min(...totals.values()), Math.max(...totals.values())] : null;
  }

  /** Whether the clients were the limit in the stage. */
  bound(cell) {
    return this.limited.has(cell.run === undefined ? String(cell.combination) : `${cell.combination} ${cell.run}`);
  }

  // --- plots -------------------------------------------------------------------------------------------------------------------------------

  lines(value, key, say) {
    return this.groups.map((group, place) => {
      const points = group.cells.map((cell, at) => [at, value(cell)]);
      const ranges = group.cells.map((cell) => (value(cell) === null ? null : this.range(cell, key)));
      return {
        name: group.name, look: look(place), measured: true, points, partial: new Set(points.map(([at]) => at).filter((at) => this.verdictOf(group.cells[at]) === 'PARTIAL')),
        whiskers: ranges.flatMap((range, at) => (range ? [[at, range[0]], [at, range[1]], [at, null]] : [])),
        aside: (x) => [ranges[Math.round(x)]?.map(say).join(' to '), this.verdictOf(group.cells[Math.round(x)]) === 'PARTIAL' ? 'PARTIAL' : null, this.bound(group.cells[Math.round(x)]) ? 'client-bound' : null].filter(Boolean).join(', '),
      };
    });
  }

  along() {
    const { name, labels } = this.x;
    return {
      column: name, name, reach: 0.45, cell: (x) => labels[Math.round(x)], say: (x) => `${name} ${labels[Math.round(x)]}`,
      axis: (plot, axis, ink) => ({
        ...axis, min: -0.5, max: labels.length - 0.5, interval: 1, axisTick: { show: false }, name: cut(name, 40), nameLocation: 'middle', nameGap: 26, nameTextStyle: { color: ink.muted },
        axisLabel: { ...axis.axisLabel, formatter: (x) => cut(labels[x] ?? '', 16), customValues: labels.map((_, place) => place) },
      }),
    };
  }

  /** What is not seen in a plot, or only in part. */
  caveat() {
    const cells = this.groups.flatMap((group) => group.cells);
    const none = cells.filter((cell) => !this.figures(cell).length).length;
    const part = cells.filter((cell) => this.verdictOf(cell) === 'PARTIAL').length;
    const ranges = cells.some((cell) => this.range(cell, 'ops_per_s'));
    return [
      none ? ` Without figures, and no point: ${text.count(none)} of ${text.count(cells.length)}.` : '', part ? ` Hollow: PARTIAL (${text.count(part)}).` : '', ranges ? ' Whiskers: lowest and highest run.' : '',
      this.groups.length > SHOWN_LINES ? ` Of ${text.count(this.groups.length)} lines ${SHOWN_LINES} are shown at first; the legend above shows the others.` : '',
    ].join('');
  }

  what() {
    return this.state.op === 'all' ? 'all operations' : this.state.op;
  }

  plotted(id, title, note, value, key, y) {
    const lines = this.lines(value, key, y.full ?? y.format);
    const any = lines.some((line) => line.points.some((point) => point[1] !== null));
    return { id, title, note: note + this.caveat(), x: this.along(), y, lines, empty: any ? null : this.none() };
  }

  none() {
    return this.state.op === 'all' ? 'Choose one operation: latencies of several are not mixed.' : 'There are no figures.';
  }

  throughput() {
    const [unit, key] = RATES[this.state.metric];
    return this.plotted('throughput', `Throughput of ${this.what()} against ${this.x.name}`, 'Sum of all agents.', (cell) => this.rate(cell), key, { format: text.short, name: unit, full: text.number });
  }

  latency() {
    const level = this.state.percentile;
    return this.plotted('latency', `Latency of ${this.what()} (${level}) against ${this.x.name}`, 'All agents.', (cell) => this.delay(cell), `${level}_us`, LATENCY);
  }

  saturation() {
    const level = this.state.percentile;
    const [unit] = RATES[this.state.metric];
    const lines = this.groups.map((group, place) => {
      const known = group.cells.map((cell, at) => ({ cell, at })).filter(({ cell }) => this.delay(cell) !== null);
      return {
        name: group.name, look: look(place), measured: true, points: known.map(({ cell, at }) => [this.rate(cell), this.delay(cell), this.x.labels[at]]),
        partial: new Set(known.map(({ cell }, at) => (this.verdictOf(cell) === 'PARTIAL' ? at : -1))),
      };
    });
    nameApart(lines.filter((line) => !this.hides(null, line)));
    return {
      id: 'saturation', kind: 'curve', title: `Latency of ${this.what()} (${level}) against its throughput`,
      note: `Where a line turns upwards the storage, or the clients, are saturated. Points are named by ${this.x.name}, as far as there is room.`,
      x: {
        name: unit, say: text.number,
        axis: (plot, axis, ink) => ({ ...axis, min: 0, name: unit, nameLocation: 'middle', nameGap: 26, nameTextStyle: { color: ink.muted }, axisLabel: { ...axis.axisLabel, formatter: text.short }, splitLine: { show: true, lineStyle: { color: ink.grid } } }),
      },
      y: LATENCY, lines, empty: lines.some((line) => line.points.length) ? null : this.none(),
      tip: (name, [rate, us, label]) => el('div', {}, el('strong', {}, `${this.x.name} ${label}`), el('div', {}, name), el('div', {}, `${text.number(rate)} ${unit}, ${level} ${text.latency(us)}`)),
      numbers: (shown) => ({ columns: ['line', this.x.name, unit, `${level} us`], rows: shown.flatMap((line) => line.points.map(([rate, us, label]) => [line.name, label, Number(rate.toPrecision(6)), Number(us.toPrecision(6))])) }),
    };
  }

  choices() {
    const { doc, operations, varying } = this;
    return [
      varying.length > 1 ? this.group('Along', 'axis', Object.fromEntries(varying.map((place) => [place, doc.axes[place].name]))) : null,
      this.group('Operation', 'op', { ...Object.fromEntries(operations.map((op) => [op, op])), ...(operations.length > 1 ? { all: 'all' } : {}) }),
      ...(varying.length > 2 ? varying.filter((place) => place !== Number(this.state.axis)) : []).map((place) => {
        this.state[`only-${place}`] ??= 'all';
        return this.group(doc.axes[place].name, `only-${place}`, Object.fromEntries([['all', 'all'], ...ordered(doc.axes[place]).map((value) => [`v${value}`, cut(doc.axes[place].values[value], 40)])]));
      }),
      this.group('Rate', 'metric', { ops: RATES.ops[0], bytes: RATES.bytes[0] }),
      this.group('Latency', 'percentile', LATENCIES),
    ];
  }

  /** Parameters in both directions, and colours: what a cell has is in it as a number, too. */
  grid() {
    const { state, x, groups } = this;
    const rate = state.shade === 'rate';
    const level = state.percentile;
    const value = (cell) => (rate ? this.rate(cell) : this.delay(cell));
    const say = rate ? text.number : text.latency;
    const scale = rate ? (one) => one : Math.log;
    const known = groups.flatMap((group) => group.cells.map(value)).filter((one) => one !== null && (rate || one > 0));
    const [low, high] = [Math.min(...known), Math.max(...known)];
    const share = (one) => (high > low ? (scale(one) - scale(low)) / (scale(high) - scale(low)) : 0.5);
    const cell = (one) => {
      const verdict = this.verdictOf(one);
      if (value(one) === null) return el('span', { class: 'heat none' }, verdict === 'FAILED' ? 'FAILED' : this.doc.combinations[one.combination].runs.length ? 'no figures' : 'not run');
      const ground = heatColor(share(value(one)));
      return el('span', { class: 'heat', style: { background: ground, color: inkOn(ground) } }, verdict === 'PARTIAL' ? el('small', {}, 'PARTIAL ') : null, say(value(one)));
    };
    const others = this.varying.filter((place) => place !== Number(state.axis)).map((place) => this.doc.axes[place].name).join(', ');
    const what = rate ? `${RATES[state.metric][0]} of ${this.what()}` : `${level} of ${this.what()}`;
    const columns = [{ name: `${others} ↓  ${x.name} →`, head: true, long: groups.some((group) => group.name.length > LONG) }, ...x.labels.map((name) => ({ name, number: true, long: name.length > LONG }))];
    const numbers = () => ({ columns: [others, ...x.labels.map((label) => `${x.name} ${label}`)], rows: groups.map((group) => [group.name, ...group.cells.map(value)]) });
    return [
      el('div', { class: 'controls' }, this.group('Colours', 'shade', { rate: RATES[state.metric][0], ...(state.op === 'all' ? {} : { latency: `${level} latency` }) }),
        el('div', { class: 'legend' }, known.length ? el('span', { class: 'note scale' }, say(low), ramp(), `${say(high)}${rate ? '' : ' (logarithmic)'}`) : null), copyButton('grid-copy', 'grid-heading', () => copyRows(what, numbers()))),
      table('grid-table', what, columns, groups.map((group) => [group.name, ...group.cells.map(cell)])),
    ];
  }

  // --- words and tables --------------------------------------------------------------------------------------------------------------------

  verdict() {
    const { doc } = this;
    const done = doc.combinations.filter((one) => one.verdict !== null).length;
    const runs = doc.combinations.flatMap((one) => one.runs);
    const agents = [...new Set(doc.combinations.map((one) => one.agents).filter((n) => n !== null))].sort((a, b) => a - b);
    const facts = [
      doc.axes.length ? ['Combinations', `${text.count(done)} of ${text.count(doc.combinations.length)} run`] : null,
      ['Runs in the figures', `${text.count(runs.filter((run) => run.in_figures).length)} of ${text.count(runs.length)}`],
      ['Agents', agents.length ? (agents.length > 2 ? `${agents[0]} to ${agents.at(-1)}` : agents.join(' and ')) : '–'],
      ...doc.axes.map((axis) => [axis.name, listed(ordered(axis).map((place) => cut(axis.values[place], 60))).join(' · ')]),
    ].filter(Boolean);
    return [verdictBox(doc.verdict.verdict, MEANS[doc.verdict.verdict], listed(doc.verdict.reasons)), factList(facts)];
  }

  findings() {
    const { doc, stage, operations } = this;
    const found = [];
    const add = (...told) => found.push(finding(...told));
    const rows = doc.rows.filter((row) => row.stage === stage);
    const label = (row) => doc.combinations[row.combination].label;
    const told = (row) => `${text.number(row.ops_per_s)} operations/s, ${text.number(row.mib_per_s)} MiB/s, p99 ${text.latency(row.p99_us)}`;
    if (doc.combinations.length > 1) {
      for (const op of operations) {
        const mine = rows.filter((row) => row.operation === op && row.ops);
        if (!mine.length) continue;
        const most = mine.reduce((a, b) => (b.ops_per_s > a.ops_per_s ? b : a));
        const data = mine.reduce((a, b) => (b.mib_per_s > a.mib_per_s ? b : a));
        const quick = mine.reduce((a, b) => (b.p99_us < a.p99_us ? b : a));
        add('good', `Most of ${op}`, el('b', {}, label(most)), `: ${told(most)}.`, data === most || data.mib_per_s === 0 ? '' : [' Most MiB/s: ', el('b', {}, label(data)), `: ${told(data)}.`]);
        add('plain', `Lowest p99 of ${op}`, el('b', {}, label(quick)), `: ${told(quick)}.`);
      }
    }
    const knees = this.state.axis !== null && quantities(this.x.labels) && this.x.labels.length > 2 ? this.groups.map((group) => this.knee(group)).filter(Boolean) : [];
    if (knees.length) add('plain', 'Little gained beyond', listed(knees, 'lines').join('; '), '.');
    const apart = doc.axes.length > 0;
    const all = doc.combinations.flatMap((one, combination) => (apart ? [{ combination, name: one.label }] : one.runs.map((told, run) => ({ combination, run, name: told.run_id }))));
    const bound = all.filter((cell) => this.bound(cell));
    if (bound.length) {
      const [limit] = rows.flatMap((row) => row.each.flatMap((one) => one.limits));
      add('warn', 'Client-bound', `${text.count(bound.length)} of ${text.count(all.length)}: ${listed(bound.map((cell) => cell.name)).join('; ')}. What limited the first: ${limit.replace(/^client-bound [^:]*: /, '')}.`);
    }
    const which = (row) => (apart ? ` with ${label(row)}` : '');
    const failed = rows.filter((row) => row.errors).sort((a, b) => b.errors - a.errors);
    if (failed.length) add('warn', 'Errors', `${apart ? `in ${text.count(new Set(failed.map((row) => row.combination)).size)} of ${text.count(all.length)}; ` : ''}most of ${failed[0].operation}${which(failed[0])}: ${errorText(failed[0].error_kinds)}.`);
    const unlike = rows.filter((row) => row.each.length > 1 && row.spread?.ops_per_s?.cv > UNSTEADY).sort((a, b) => b.spread.ops_per_s.cv - a.spread.ops_per_s.cv);
    if (unlike.length) add('warn', 'Runs differ', listed(unlike.map((row) => `${row.operation}${which(row)}: operations/s vary by ${text.percent(row.spread.ops_per_s.cv)}`)).join('; '), ' (standard deviation / mean).');
    return [found.length ? el('ul', { class: 'findings' }, found) : el('p', { class: 'empty' }, 'Nothing: no errors, no limits of the clients, and runs that are alike.')];
  }

  /** From where on a parameter gives little more, in words; null where it does until its end. */
  knee(group) {
    const points = group.cells.map((cell, at) => [at, this.rate(cell)]).filter(([, rate]) => rate !== null);
    const most = points.reduce((a, b) => (b[1] > a[1] ? b : a), [0, 0]);
    const [at, rate] = points.find(([, one]) => one >= KNEE * most[1]) ?? most;
    if (points.length < 3 || at >= points.at(-1)[0]) return null;
    const gives = at === most[0] ? 'the most' : `${text.percent(rate / most[1], 0)} of the most`;
    return `${group.name}: ${this.x.name} ${this.x.labels[at]} gives ${gives}`;
  }

  combinations() {
    const { doc, stages } = this;
    const several = stages.length > 1;
    const incomplete = doc.combinations.some((one) => one.verdict !== 'COMPLETE');
    const most = new Map();
    doc.rows.forEach((row) => most.set(`${row.stage} ${row.operation}`, Math.max(most.get(`${row.stage} ${row.operation}`) ?? 0, row.ops_per_s)));
    const rows = doc.combinations.map(() => []);
    doc.rows.forEach((row) => rows[row.combination].push(row));
    const lines = doc.combinations.flatMap((one, place) => (rows[place].length ? rows[place] : [null]).map((row) => ({ one, place, row })));
    const values = (one) => one.values.map((value, axis) => doc.axes[axis].values[value]);
    const columns = [
      { name: 'No.', number: true, head: true }, ...doc.axes.map((axis) => ({ name: axis.name, long: axis.values.some((value) => value.length > LONG) || axis.name.length > LONG, number: quantities(axis.values) !== null })), { name: 'Verdict' },
      several ? { name: 'Stage' } : null, { name: 'Operation' }, ...['ops/s', 'MiB/s', 'p50', 'p99', 'p99.9', 'max', 'Errors'].map((name) => ({ name, number: true })), { name: 'Reports' }, incomplete ? { name: 'Why', wide: true } : null,
    ].filter(Boolean);
    const cells = lines.map(({ one, place, row }) => [
      place + 1, ...values(one), el('span', {}, chip(one.verdict), row?.each.some((part) => part.limits.length) ? el('span', { class: 'chip warn' }, 'client-bound') : null), ...(several ? [row?.stage] : []), row?.operation,
      ...(row ? [bar(row.ops_per_s, most.get(`${row.stage} ${row.operation}`)), text.number(row.mib_per_s), text.latency(row.p50_us), el('b', {}, text.latency(row.p99_us)), text.latency(row['p99.9_us']), text.latency(row.max_us), failures(row)] : new Array(7).fill(null)),
      reports(one.runs), ...(incomplete ? [one.verdict === 'COMPLETE' ? '' : one.reasons.join('; ')] : []),
    ]);
    const title = doc.axes.length ? 'Combinations, in the order in which they were run' : 'All runs together';
    const numbers = () => ({
      columns: ['combination', ...doc.axes.map((axis) => axis.name), 'verdict', 'stage', 'operation', 'runs', ...Object.values(RATES).map(([, key]) => key), ...Object.keys(LATENCIES).map((level) => `${level}_us`), 'errors', 'operations'],
      rows: lines.map(({ one, place, row }) => [place + 1, ...values(one), one.verdict ?? 'not run', ...(row ? [row.stage, row.operation, row.runs, row.ops_per_s, row.mib_per_s, ...Object.keys(LATENCIES).map((level) => row[`${level}_us`]), row.errors, row.ops] : [])]),
    });
    return [el('div', { class: 'tools' }, copyButton('combinations-copy', 'combinations-heading', () => copyRows(title, numbers()))), table('combinations-table', `${title}: rates are sums of all agents over the time of all runs, latencies of merged histograms`, columns, cells)];
  }

  spread(rows) {
    const columns = [{ name: 'Combination', head: true, long: this.longNames }, { name: 'Operation' }, { name: 'Runs', number: true }, ...['ops/s lowest', 'median', 'highest', 'varies by', 'p99 lowest', 'median', 'highest', 'varies by'].map((name) => ({ name, number: true }))];
    const four = (told, say) => (told ? [say(told.min), say(told.median), say(told.max), text.percent(told.cv)] : new Array(4).fill(null));
    return [table('spread-table', 'Each run’s own figures beside each other; varies by: standard deviation / mean', columns, rows.map((row) => [
      `${this.doc.combinations[row.combination].label}${this.stages.length > 1 ? `, ${row.stage}` : ''}`, row.operation, row.each.length, ...four(row.spread?.ops_per_s, text.number), ...four(row.spread?.p99_us, text.latency),
    ]))];
  }

  runs() {
    const { doc } = this;
    const incomplete = doc.combinations.some((one) => one.runs.some((run) => run.verdict !== 'COMPLETE'));
    const columns = [
      { name: 'Run', head: true }, doc.axes.length ? { name: 'Combination', long: this.longNames } : null, { name: 'Verdict' }, { name: 'Coverage', number: true }, ...['ops/s', 'MiB/s', 'p50', 'p99', 'Errors'].map((name) => ({ name, number: true })), incomplete ? { name: 'Why', wide: true } : null,
    ].filter(Boolean);
    const rows = doc.combinations.flatMap((one, combination) => one.runs.map((run, place) => {
      const [told] = this.state.op === 'all' ? [] : this.figures({ combination, run: place });
      return [
        run.report ? el('a', { href: run.report }, run.run_id) : run.run_id, ...(doc.axes.length ? [one.label] : []), chip(run.verdict, run.verdict ?? 'not over'), text.percent(run.coverage, 2),
        ...(told ? [text.number(told.ops_per_s), text.number(told.mib_per_s), text.latency(told.p50_us), text.latency(told.p99_us), count(told.errors)] : new Array(5).fill(null)),
        ...(incomplete ? [run.verdict === 'COMPLETE' ? '' : run.reasons.join('; ')] : []),
      ];
    }));
    if (!rows.length) return [el('p', { class: 'empty' }, 'There is no run.')];
    const title = this.state.op === 'all' ? 'Runs' : `Runs, with the figures of ${this.what()} in ${this.stage}`;
    return [table('runs-table', title, columns, rows)];
  }

  plan() {
    const { doc } = this;
    const written = el('p', { class: 'note' }, `Written ${text.moment(doc.written_at)} by sai3ssh ${doc.by}.`);
    if (doc.plan === null) return [el('p', { class: 'empty' }, 'No run is there to take the plan from.'), written];
    const varied = this.varying.map((place) => doc.axes[place].name);
    return [el('p', {}, varied.length ? `The plan of the first run; the others differ in ${varied.join(', ')}.` : 'The plan of all runs.'), planTables(doc.plan), written];
  }
}

function failures(row) {
  return row.errors ? el('span', {}, count(row.errors), el('small', {}, ` ${errorText(row.error_kinds)}`)) : '0';
}

function reports(runs) {
  const found = runs.map((run, place) => (run.report ? el('a', { href: run.report, 'aria-label': `${runs.length > 1 ? `run ${place + 1}: ` : ''}report of ${run.run_id}` }, runs.length > 1 ? `run ${place + 1}` : 'report') : null)).filter(Boolean);
  return found.length ? el('span', {}, found.flatMap((link, place) => (place ? [', ', link] : [link]))) : null;
}

/** Says which points of lines have their name beside them: those that are not too near to one that has it already. */
function nameApart(lines) {
  const points = lines.flatMap((line) => line.points);
  const most = Math.max(...points.map(([rate]) => rate), 1e-9);
  const [low, high] = [Math.min(...points.map(([, us]) => Math.log(us))), Math.max(...points.map(([, us]) => Math.log(us)))];
  const taken = [];
  lines.forEach((line) => {
    line.named = new Set();
    line.points.forEach(([rate, us], place) => {
      const at = [rate / most, (Math.log(us) - low) / Math.max(high - low, 0.5)];
      if (taken.some((other) => Math.abs(other[0] - at[0]) < 0.05 && Math.abs(other[1] - at[1]) < 0.1)) return;
      taken.push(at);
      line.named.add(place);
    });
  });
}

/** Black or white, whichever is easier to read on a colour. */
function inkOn(color) {
  const [r, g, b] = color.match(/\d+/g).map((part) => Number(part) / 255).map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? '#000000' : '#ffffff';
}

start(new Matrix());
