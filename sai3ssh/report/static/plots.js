// What each plot shows: lines with points, made from a stage of the document. Percentiles are never averaged: those of all agents come from
// merged histograms (windows), those of one agent from its own seconds.
//
// A plot: {id, title, note, x: time | run | nines, y: {log, format, name, max}, lines, empty}; a line: {name, look, points [[x, y or null]],
// step, dots, agent}. Two plots have a kind of their own: lanes and heat.

const PERCENTILES = {
  all: { p50: 'p50', p99: 'p99', 'p99.9': 'p99.9', max: 'max' },
  agent: { p50: 'p50', p99: 'p99', max: 'max' },
  endpoint: { p50: 'p50', p99: 'p99' },
};

const seriesOf = (stage) => stage.series.agents.map((part, agent) => ({ part, agent })).filter(({ part }) => part !== null);

const operationsOf = (stage) =>
  [...new Set([...Object.keys(stage.operations), ...seriesOf(stage).flatMap(({ part }) => Object.keys(part.operations))])];

/** The operation that was made most. */
function usual(stage) {
  const made = (op) => stage.operations[op]?.ops ?? 0;
  return operationsOf(stage).sort((a, b) => made(b) - made(a))[0];
}

/** Points with a gap where rows are missing. */
function broken(points, step) {
  const found = [];
  for (const point of points) {
    const last = found.at(-1);
    if (last && point[0] - last[0] > 1.5 * step) found.push([last[0] + step / 2, null]);
    found.push(point);
  }
  return found;
}

/** A value per row of one agent. */
function perRow(part, step, value) {
  return broken(part.at.map((at, row) => [at + step / 2, value(row)]), step);
}

/** The sum over agents of a value per row, in order of time. */
function summed(stage, value) {
  const totals = new Map();
  for (const { part } of seriesOf(stage)) {
    part.at.forEach((at, row) => totals.set(at, (totals.get(at) ?? 0) + value(part, row)));
  }
  const step = stage.series.step_s;
  return broken([...totals].sort((a, b) => a[0] - b[0]).map(([at, total]) => [at + step / 2, total]), step);
}

/** A line that is level through each window: a value counts until the next. */
function windowed(windows, value) {
  const points = [];
  windows.at.forEach((at, place) => {
    const y = value(place);
    const last = points.at(-1);
    if (last && at - last[0] > 0.5 * windows.step_s) points.push([at, null]);
    points.push([at, y], [at + Math.max(Math.min(windows.span_s[place] || windows.step_s, windows.step_s), 0.5), y]);
  });
  points.level = true;
  return points;
}

const chosen = (stage, state) => (state.op === 'all' ? operationsOf(stage) : [state.op]);

function rateOf(part, row, ops, metric) {
  const total = sum(ops.map((op) => part.operations[op]?.[metric === 'ops' ? 'n' : 'bytes'][row] ?? 0));
  return total / part.span_s[row] / (metric === 'ops' ? 1 : 1 << 20);
}

const LATE_MS = 100; // as in results/limits.py

/** The plots over time of a stage: {id, wide, half, make}. Making one takes a while where there are many rows, so it is done when it is looked at. */
function plotsOf(doc, stage, state) {
  const late = seriesOf(stage).some(({ part }) => part.host.late_ms.some((ms) => ms >= LATE_MS));
  return [
    { id: 'agents-over-time', wide: true, make: () => lanes(doc, stage) },
    { id: 'throughput', make: () => throughput(doc, stage, state) },
    { id: 'latency', make: () => latency(doc, stage, state) },
    { id: 'errors', make: () => errors(doc, stage, state) },
    { id: 'heat', make: () => heat(stage, state) },
    ...Object.keys(HOSTS).filter((id) => id !== 'late' || late).map((id) => ({ id: `host-${id}`, half: id !== 'late', make: () => host(doc, stage, id) })),
  ];
}

function lanes(doc, stage) {
  const told = new Set(stage.shades.map((shade) => shade.agent).filter((agent) => agent !== null));
  const all = doc.agents.map((_, agent) => agent);
  const shown = all.length <= 24 ? all : all.filter((agent) => told.has(agent)).slice(0, 48);
  const rest = all.length - shown.length;
  return {
    id: 'agents-over-time', kind: 'lanes', x: 'time', title: 'Agents', agents: shown,
    note: rest ? `${rest} agents to which nothing happened, or that do not fit, are left out.` : 'Who measured when.',
    empty: shown.length ? null : 'All agents measured all the time, and no link broke.',
  };
}

function throughput(doc, stage, state) {
  const metric = state.metric;
  const y = { format: text.short, name: metric === 'ops' ? 'operations/s' : 'MiB/s', full: text.number };
  const step = stage.series.step_s;
  const ops = chosen(stage, state);
  let lines = [];
  if (!ops.length) {
    // A stage that was never begun.
  } else if (state.view === 'agent') {
    lines = seriesOf(stage).map(({ part, agent }) =>
      ({ ...agentLine(doc, agent), points: perRow(part, step, (row) => rateOf(part, row, ops, metric)) }));
  } else if (state.view === 'endpoint' && stage.windows) {
    const key = metric === 'ops' ? 'n' : 'bytes';
    lines = doc.endpoints.map((name, place) => ({
      name, look: look(place),
      points: windowed(stage.windows, (at) =>
        sum(ops.map((op) => stage.windows.endpoints[place][op]?.[key][at] ?? 0)) / (stage.windows.span_s[at] || stage.windows.step_s) / (metric === 'ops' ? 1 : 1 << 20)),
    }));
  } else {
    const each = ops.length > 1 ? [['all operations', ops], ...ops.map((op) => [op, [op]])] : [[ops[0], ops]];
    lines = each.map(([name, some], place) =>
      ({ name, look: look(place), bold: place === 0 && ops.length > 1, points: summed(stage, (part, row) => rateOf(part, row, some, metric)) }));
  }
  return { id: 'throughput', title: 'Throughput', note: perStep(stage, state.view), x: 'time', y, lines, empty: lines.length ? null : 'Nothing was done.' };
}

function perStep(stage, view) {
  return view === 'endpoint' ? `Each ${stage.windows?.step_s ?? 10} s, all agents.` : `Each ${stage.series.step_s === 1 ? 'second' : `${stage.series.step_s} s`}.`;
}

function latency(doc, stage, state) {
  const step = stage.series.step_s;
  const op = state.op === 'all' ? usual(stage) : state.op;
  if (op === undefined) return { id: 'latency', title: 'Latency', note: '', x: 'time', y: LATENCY, lines: [], empty: 'Nothing was done.' };
  const level = state.percentile in PERCENTILES[state.view] ? state.percentile : 'p99';
  const key = `${level}_us`;
  const windows = stage.windows;
  const highest = step === 1 ? '' : `, the highest of each ${step} s`;
  let lines = [];
  let note = '';
  let title = `Latency of ${op}, ${level}`;
  if (state.view === 'agent') {
    lines = seriesOf(stage).filter(({ part }) => part.operations[op]).map(({ part, agent }) =>
      ({ ...agentLine(doc, agent), points: perRow(part, step, (row) => part.operations[op][key][row]) }));
    note = `Of each agent and second${level === 'p50' && step > 1 ? `, the one in the middle of each ${step} s` : highest}.`;
  } else if (state.view === 'endpoint' && windows) {
    lines = doc.endpoints.map((name, place) =>
      ({ name, look: look(place), points: windowed(windows, (at) => windows.endpoints[place][op]?.[key][at] ?? null) }));
    note = `Each ${windows.step_s} s, histograms of all agents merged.`;
  } else if (state.op === 'all' && operationsOf(stage).length > 1) {
    title = `Latency, ${level}`;
    lines = operationsOf(stage).map((one, place) => ({ name: one, look: look(place + 1), points: wholeLine(stage, one, level) }));
    note = level === 'max' ? `Each ${step === 1 ? 'second' : `${step} s`}, all agents.` : `Each ${windows?.step_s ?? 10} s, histograms of all agents merged.`;
  } else {
    title = `Latency of ${op}`;
    lines = [
      ...(windows ? ['p50', 'p99', 'p99.9'].map((name, place) => ({ name, look: look(place), points: wholeLine(stage, op, name) })) : []),
      { name: 'mean', look: { color: colors().muted, dash: 'solid', marker: null }, thin: true, points: meanLine(stage, op) },
      { name: 'max', look: { color: colors().muted, dash: 'solid', marker: 'circle' }, dots: true, points: wholeLine(stage, op, 'max') },
    ];
    note = `Percentiles each ${windows?.step_s ?? 10} s, from the merged histograms of all agents; mean and max each ${step === 1 ? 'second' : `${step} s`}.`;
  }
  return { id: 'latency', title, note, x: 'time', y: LATENCY, lines, empty: lines.some((line) => line.points.length) ? null : 'Nothing was done.' };
}

function wholeLine(stage, op, level) {
  const found = stage.windows?.operations[op];
  if (level !== 'max') return found ? windowed(stage.windows, (at) => found[`${level}_us`][at]) : [];
  const highest = new Map();
  for (const { part } of seriesOf(stage)) {
    part.at.forEach((at, row) => highest.set(at, Math.max(highest.get(at) ?? 0, part.operations[op]?.max_us[row] ?? 0)));
  }
  return [...highest].filter(([, us]) => us > 0).sort((a, b) => a[0] - b[0]).map(([at, us]) => [at + stage.series.step_s / 2, us]);
}

/** Sums and counts of all agents are added: this mean is exact. */
function meanLine(stage, op) {
  const totals = new Map();
  for (const { part } of seriesOf(stage)) {
    const told = part.operations[op];
    if (!told) continue;
    part.at.forEach((at, row) => {
      if (!told.n[row]) return;
      const [n, us] = totals.get(at) ?? [0, 0];
      totals.set(at, [n + told.n[row], us + told.n[row] * told.mean_us[row]]);
    });
  }
  const step = stage.series.step_s;
  return broken([...totals].sort((a, b) => a[0] - b[0]).map(([at, [n, us]]) => [at + step / 2, us / n]), step);
}

function errors(doc, stage, state) {
  const y = { format: text.short, name: 'attempts/s', full: text.number };
  const step = stage.series.step_s;
  let lines = [];
  let note = 'Failed for good, and (retried) attempts that were made again.';
  if (state.view === 'endpoint' && stage.windows) {
    const ops = chosen(stage, state);
    lines = ['errors', 'retries'].flatMap((kind, first) => doc.endpoints.map((name, place) => ({
      name: kind === 'errors' ? name : `${name} (retried)`, look: look(2 * place + first),
      points: windowed(stage.windows, (at) => sum(ops.map((op) => stage.windows.endpoints[place][op]?.[kind][at] ?? 0)) / (stage.windows.span_s[at] || stage.windows.step_s)),
    })));
  } else {
    const totals = new Map();
    for (const { part, agent } of seriesOf(stage)) {
      for (const [kind, suffix] of [['errors', ''], ['retried', ' (retried)']]) {
        for (const [name, told] of Object.entries(part[kind])) {
          const key = state.view === 'agent' ? agent : name + suffix;
          const mine = totals.get(key) ?? new Map();
          totals.set(key, mine);
          told.row.forEach((row, place) => {
            const at = part.at[row];
            mine.set(at, (mine.get(at) ?? 0) + told.n[place] / step);
          });
        }
      }
    }
    // Where there were none is a zero, and not a gap.
    const grid = [...new Set(seriesOf(stage).flatMap(({ part }) => part.at))].sort((a, b) => a - b);
    const full = (mine) => broken(grid.map((at) => [at + step / 2, mine.get(at) ?? 0]), step);
    lines = [...totals].sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, mine], place) =>
      (typeof key === 'number' ? { ...agentLine(doc, key), points: full(mine) } : { name: key, look: look(place), points: full(mine) }));
    if (state.view === 'agent') note = 'Failed and retried attempts of each agent.';
  }
  const any = lines.some((line) => line.points.some(([, value]) => value > 0));
  return { id: 'errors', title: 'Errors', note, x: 'time', y, lines: any ? lines : [], empty: any ? null : 'No attempt failed.' };
}

function heat(stage, state) {
  const op = state.op === 'all' ? usual(stage) : state.op;
  const told = stage.windows?.heat[op];
  return {
    id: 'heat', kind: 'heat', x: 'time', title: op === undefined ? 'Latency heat map' : `Latency heat map of ${op}`, y: LATENCY, heat: told, windows: stage.windows,
    note: `How many operations ended with which latency, each ${stage.windows?.step_s ?? 10} s, all agents.`,
    empty: told?.n.length ? null : 'Nothing was done.',
  };
}

function agentLine(doc, agent) {
  return { name: doc.agents[agent].id, look: look(agent), agent };
}

const PERCENT = { format: (x) => `${trim(x)} %`, name: '', max: 100 };
const MIB = { format: text.short, name: 'MiB/s', full: text.number };
const mib = (key) => (part, row) => (part.host[key][row] === null ? null : part.host[key][row] / part.span_s[row] / (1 << 20));
const plain = (key) => (part, row) => part.host[key][row];
const HOSTS = {
  cpu: ['Host CPU', 'User, system and steal, of all cores.', PERCENT, plain('cpu_pct')],
  worker: ['Busiest worker', 'Of one core: a worker cannot use more.', PERCENT, plain('worker_cpu_pct')],
  received: ['Network received', 'All interfaces of the host.', MIB, mib('received_bytes')],
  sent: ['Network sent', 'All interfaces of the host.', MIB, mib('sent_bytes')],
  late: ['Load loop late', 'By how much the agent itself came late: latencies of that time are the client’s.', { format: (x) => `${trim(x)} ms`, name: '' }, plain('late_ms')],
};

function host(doc, stage, id) {
  const [title, note, y, value] = HOSTS[id];
  const step = stage.series.step_s;
  const lines = seriesOf(stage).map(({ part, agent }) => ({ ...agentLine(doc, agent), points: perRow(part, step, (row) => value(part, row)) }))
    .filter((line) => line.points.some((point) => point[1] !== null));
  return { id: `host-${id}`, title, note, x: 'time', y, lines, empty: lines.length ? null : 'Not known.', low: true };
}

/** The percentile curve of each operation. */
function curves(stage) {
  const lines = Object.entries(stage.percentiles).map(([op, told], place) => ({
    name: op, look: look(place + 1),
    points: told.rank.map((rank, at) => [nines(rank), told.us[at]]).filter(([x]) => Number.isFinite(x)),
  }));
  return {
    id: 'percentiles', title: 'Percentile curve', note: 'So much of the operations took at most so long; all agents, without warm-up.', x: 'nines',
    y: LATENCY, lines, empty: lines.length ? null : 'Nothing was done.',
  };
}

const nines = (rank) => -Math.log10(1 - rank / 100);

/** What links did over the whole run. */
function linkPlots(doc) {
  return [{ id: 'rtt', half: true, make: () => roundTrips(doc) }, { id: 'offset', half: true, make: () => drift(doc) }];
}

const none = (lines) => (lines.some((line) => line.points.length) ? null : 'Not measured.');

function roundTrips(doc) {
  const lines = doc.network.map((told, agent) => ({ ...agentLine(doc, agent), points: told.rtt.at_s.map((at, place) => [at, told.rtt.p99_us[place]]) }));
  return { id: 'rtt', title: 'Heartbeat round trips, p99', note: 'Each minute, and at each loss.', x: 'run', y: LATENCY, lines, empty: none(lines), low: true };
}

function drift(doc) {
  const lines = doc.network.map((told, agent) => ({ ...agentLine(doc, agent), points: told.offset.at_s.map((at, place) => [at, told.offset.change_us[place] / 1000]) }));
  const note = 'Against the controller’s clock, since the first measurement. Figures do not depend on it.';
  return { id: 'offset', title: 'Drift of the hosts’ clocks', note, x: 'run', y: { format: (x) => `${trim(x)} ms`, name: '' }, lines, empty: none(lines), low: true };
}

/** Shades of the whole run: those of its stages, by their times in it. */
function runShades(doc) {
  return doc.stages.filter((stage) => stage.started_s !== null).flatMap((stage) => stage.shades
    .map((shade) => ({ ...shade, from_s: shade.from_s + stage.started_s, to_s: shade.to_s + stage.started_s })));
}
