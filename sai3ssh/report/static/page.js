// The page of a run: what is chosen, and the sections.

const SECTIONS = [
  ['verdict', 'Verdict'], ['operations', 'Operations'], ['findings', 'What limited the run'], ['time', 'Over time'], ['distribution', 'Latency distribution'],
  ['agents', 'Agents'], ['endpoints', 'Endpoints'], ['network', 'Network health'], ['losses', 'Lost time and starts'], ['environment', 'Plan and environment'], ['events', 'What happened'],
];

class Page extends Shell {
  constructor() {
    super('sai3ssh.document', SECTIONS);
    this.state = { stage: null, op: 'all', view: 'all', metric: 'ops', percentile: 'p99', from: null, to: null };
    this.items = new Map();
  }

  render(doc) {
    this.items.clear();
    super.render(doc);
  }

  // --- what plots ask ----------------------------------------------------------------------------------------------------------------------

  get stage() {
    const { stages } = this.doc;
    if (this.state.stage !== null && stages[this.state.stage]) return stages[this.state.stage];
    const begun = stages.filter((stage) => stage.length_s > 0);
    if (this.doc.state === 'running') return begun.at(-1) ?? stages[0];
    const measured = begun.filter((stage) => stage.kind === 'execute' || stage.kind === 'replay');
    return measured.sort((a, b) => b.length_s - a.length_s)[0] ?? begun[0] ?? stages[0];
  }

  agentName(agent) {
    return this.doc.agents[agent].id;
  }

  lengthOf(plot) {
    return plot.x === 'run' ? this.doc.run.seconds : this.stage.length_s;
  }

  range() {
    return [this.state.from ?? 0, this.state.to ?? Math.max(this.stage.length_s, 1)];
  }

  shadesOf(plot) {
    if (plot.x === 'nines') return [];
    return plot.x === 'run' ? runShades(this.doc).filter((shade) => shade.kind !== 'warmup') : this.stage.shades;
  }

  marksOf(plot) {
    if (plot.x === 'time') return this.stage.marks;
    return plot.x === 'run' ? this.doc.stages.filter((stage) => stage.started_s !== null).map((stage) => ({ kind: 'stage', agent: null, at_s: stage.started_s, text: stage.name })) : [];
  }

  /** Where the mouse is in a plot, in its own units. */
  pointed(plot) {
    const { echart, pointer } = this.charts.get(plot.id);
    return pointer && echart ? echart.convertFromPixel({ gridIndex: 0 }, pointer) : [NaN, NaN];
  }

  /** The bars of the lanes: when agents measured, and above that what is shaded. */
  laneItems(plot) {
    const key = `lanes ${this.stage.index}`;
    if (this.items.has(key)) return this.items.get(key);
    const { stage } = this;
    const shown = new Set(plot.agents);
    const step = stage.series.step_s;
    const bars = seriesOf(stage).filter(({ agent }) => shown.has(agent)).flatMap(({ part, agent }) => {
      const spans = [];
      part.at.forEach((at) => {
        if (spans.length && at - spans.at(-1).to_s <= 0.5 * step) spans.at(-1).to_s = at + step;
        else spans.push({ kind: 'measuring', agent, from_s: at, to_s: at + step });
      });
      return spans.map((span) => ({ ...span, to_s: Math.min(span.to_s, stage.length_s) }));
    });
    const over = stage.shades.flatMap((shade) => (shade.agent === null ? plot.agents.map((agent) => ({ ...shade, agent })) : shown.has(shade.agent) ? [shade] : []));
    const found = [...bars, ...over.filter((shade) => shade.kind !== 'warmup')];
    this.items.set(key, found);
    return found;
  }

  key(plot, line) {
    return line.agent === undefined ? super.key(plot, line) : `agent ${this.agentName(line.agent)}`;
  }

  hides(plot, line) {
    return (line.agent !== undefined && this.unlisted(line.agent)) || super.hides(plot, line);
  }

  /** Of very many agents only some are drawn until others are asked for. */
  unlisted(agent) {
    return this.doc.agents.length > SHOWN_AGENTS && !this.listed().has(agent);
  }

  listed() {
    if (this.wanted) return this.wanted;
    const { stage } = this;
    const worst = (agent) => Math.max(0, ...Object.values(stage.agents[agent]?.operations ?? {}).map((told) => told.p99_us));
    return new Set(this.doc.agents.map((_, agent) => agent).sort((a, b) => worst(b) - worst(a)).slice(0, SHOWN_AGENTS));
  }

  toggle(plot, line) {
    if (line.agent === undefined || this.doc.agents.length <= SHOWN_AGENTS) {
      super.toggle(plot, line);
      return;
    }
    this.wanted ??= this.listed();
    if (!this.wanted.delete(line.agent)) this.wanted.add(line.agent);
    this.update();
  }

  setRange(from, to) {
    const end = this.stage.length_s;
    const round = (value) => Math.round(Math.min(Math.max(value, 0), end) * 10) / 10;
    const [a, b] = [from === null ? null : round(from), to === null ? null : round(to)];
    if (a !== null && b !== null && b - a < 1) return;
    Object.assign(this.state, { from: a === 0 ? null : a, to: b !== null && b >= end ? null : b });
    this.update();
  }

  // --- building ----------------------------------------------------------------------------------------------------------------------------

  build() {
    super.build();
    this.controls = el('div', { class: 'controls', id: 'controls' });
    this.shadeLegend = el('div', { class: 'shade-legend' });
    this.agentLegend = el('div', { class: 'legend agents-legend', role: 'group', 'aria-label': 'Agents that are shown' });
    this.timeGrid = el('div', { class: 'charts' });
    this.body('time').append(this.controls, this.shadeLegend, this.agentLegend, this.timeGrid);
    this.distribution = el('div', { class: 'charts' });
    this.tables = el('div', { class: 'stack' });
    this.body('distribution').append(this.distribution, this.tables);
    this.linkTables = el('div', { class: 'stack' });
    this.linkCharts = el('div', { class: 'charts' });
    this.body('network').append(this.linkTables, this.linkCharts);
  }

  update() {
    const { doc, stage, state } = this;
    const operations = operationsOf(stage);
    if (state.op !== 'all' && !operations.includes(state.op)) state.op = 'all';
    if (state.view === 'endpoint' && !(doc.endpoints.length && stage.windows)) state.view = 'all';
    this.title(doc.verdict?.verdict ?? 'RUNNING', doc.run);
    this.part(this.stagePicker, doc.stages.map((one) => [one.name, one.kind, one.length_s > 0, one === stage]), () => this.stages());
    const head = { ...doc, stages: null, events: null, network: null, plan: null, agents: null, notes: null, written_at: null };
    this.part(this.body('verdict'), head, () => verdictSection(doc));
    const light = { ...stage, series: null, windows: null, percentiles: null };
    this.part(this.body('operations'), [stage.name, stage.seconds, stage.operations], () => operationsSection(doc, stage));
    this.part(this.body('findings'), [light, doc.notes, doc.agents, doc.network, stage.length_s], () => findingsSection(doc, stage));
    this.part(this.tables, [stage.name, stage.sizes, stage.splits], () => detailsSection(doc, stage));
    this.part(this.body('agents'), [stage.name, stage.agents, doc.agents], () => agentsSection(doc, stage));
    this.offer('endpoints', doc.endpoints.length > 0);
    if (doc.endpoints.length) this.part(this.body('endpoints'), [stage.name, stage.endpoints], () => endpointsSection(doc, stage));
    this.part(this.linkTables, [doc.network, doc.controller], () => networkSection(doc));
    this.part(this.body('losses'), doc.stages.map((one) => [one.shades, one.length_s, one.started_s, one.start_spread_ms]), () => lossesSection(doc));
    this.part(this.body('environment'), [doc.plan, doc.agents, doc.run.ended_at], () => environmentSection(doc));
    this.part(this.body('events'), doc.events, () => eventsSection(doc));
    this.part(this.controls, [state, operations, doc.endpoints.length, stage.index, stage.windows === null, doc.state === 'ended' ? stage.length_s : null], () => this.choices(operations));
    const kinds = Object.keys(SHADES).filter((kind) => stage.shades.some((shade) => shade.kind === kind));
    this.part(this.shadeLegend, [theme, kinds], () => shadeLegend(kinds));
    this.part(this.agentLegend, [theme, doc.agents.map((agent) => agent.id), [...this.hidden], this.doc.agents.map((_, agent) => this.unlisted(agent))], () => this.agentKeys());
    this.place(this.timeGrid, plotsOf(doc, stage, state));
    this.place(this.distribution, [{ id: 'percentiles', make: () => curves(stage) }]);
    this.place(this.linkCharts, linkPlots(doc));
  }

  /** Lines that are agents have their legend above all plots. */
  dressed(plot) {
    return plot.lines?.length && plot.lines.every((line) => line.agent !== undefined) ? { ...plot, agents: true } : plot;
  }

  stages() {
    const chosenStage = this.stage;
    return [el('legend', {}, 'Stage'), ...this.doc.stages.map((stage) => radio('stage', String(stage.index), stage.name, stage === chosenStage, () => {
      Object.assign(this.state, { stage: stage.index, from: null, to: null });
      this.update();
    }, stage.length_s > 0 ? null : 'not begun'))];
  }

  choices(operations) {
    const { state } = this;
    const views = { all: 'all agents', agent: 'by agent', ...(this.doc.endpoints.length && this.stage.windows ? { endpoint: 'by endpoint' } : {}) };
    const levels = PERCENTILES[state.view];
    if (!(state.percentile in levels)) state.percentile = 'p99';
    const single = state.view === 'all' && (state.op !== 'all' || operations.length < 2);
    const moment = (name, label, value) => el('label', { class: 'moment' }, label, el('input', {
      type: 'number', id: `range-${name}`, min: 0, max: Math.ceil(this.stage.length_s), step: 'any', value,
      on: { change: (event) => {
        const given = event.target.value === '' ? null : Number(event.target.value);
        this.setRange(name === 'from' ? given ?? 0 : state.from, name === 'to' ? given : state.to);
      } },
    }));
    return [
      this.group('Operation', 'op', { ...(operations.length > 1 ? { all: 'all' } : {}), ...Object.fromEntries(operations.map((op) => [op, op])) }),
      this.group('Show', 'view', views),
      this.group('Rate', 'metric', { ops: 'operations/s', bytes: 'MiB/s' }),
      single ? null : this.group('Latency', 'percentile', levels),
      el('fieldset', { class: 'range' }, el('legend', {}, 'Seconds of the stage'), moment('from', 'from', state.from ?? 0), moment('to', 'to', state.to ?? Math.ceil(this.stage.length_s)),
        el('button', { type: 'button', id: 'range-all', disabled: state.from === null && state.to === null, on: { click: () => this.setRange(null, null) } }, 'Show all')),
    ];
  }

  agentKeys() {
    return this.doc.agents.map((agent, place) => legendButton(`agent-key-${place}`, { ...agentLine(this.doc, place) }, !this.hides({}, { agent: place, name: agent.id }), () => this.toggle({}, { agent: place, name: agent.id })));
  }
}

function shadeLegend(kinds) {
  if (!kinds.length) return [el('p', { class: 'note' }, 'Nothing is shaded: all agents were in reach and measured all the time.')];
  return [el('p', { class: 'legend-title', id: 'shades-title' }, 'What is shaded'), el('ul', { 'aria-labelledby': 'shades-title' }, kinds.map((kind) => el('li', {}, swatch(kind), el('span', {}, el('b', {}, SHADES[kind].name), `: ${SHADES[kind].means}`))))];
}

function swatch(kind) {
  const canvas = el('canvas', { width: 30, height: 16, class: 'swatch', 'aria-hidden': 'true' });
  const pen = canvas.getContext('2d');
  pen.fillStyle = pen.createPattern(pattern(kind, true).image, 'repeat');
  pen.fillRect(0, 0, 30, 16);
  pen.strokeStyle = colors().shades[kind];
  if (kind === 'link_lost') pen.setLineDash([3, 2]);
  if (kind !== 'warmup') pen.strokeRect(0.5, 0.5, 29, 15);
  return canvas;
}

start(new Page());
