// What is told in words and tables. Each function makes the children of one section from a document.

const MEANS = {
  COMPLETE: 'Every agent finished, every journal is whole, and all that was planned was measured.',
  PARTIAL: 'Something is missing; the figures below say of what they are.',
  FAILED: 'There is no usable result.',
  RUNNING: 'The run goes on; all figures are of what is here so far.',
};

function verdictSection(doc) {
  const name = doc.verdict ? doc.verdict.verdict : 'RUNNING';
  const reasons = doc.verdict?.reasons ?? [];
  const facts = [
    ['Agents', `${doc.reported} of ${doc.expected} finished`],
    ['Coverage', `${text.percent(doc.coverage, 2)} of the planned agent-seconds`],
    ['Started', text.moment(doc.run.started_at)],
    ['Took', text.clock(doc.run.seconds)],
    ['Target', doc.run.target],
    ['Failure policy', doc.run.policy],
  ];
  const revised = (doc.verdict?.revisions ?? []).map((one) => `It was ${one.before} before the journals of ${one.agents.join(', ')} were collected.`);
  return [verdictBox(name, MEANS[name], reasons.length ? [...reasons, ...revised] : []), factList(facts)];
}

function operationsSection(doc, stage) {
  const ops = Object.entries(stage.operations);
  if (!ops.length) return [el('p', { class: 'empty' }, 'Nothing was done in this stage.')];
  const failed = sum(ops.map(([, told]) => sum(Object.values(told.errors))));
  const done = sum(ops.map(([, told]) => told.ops));
  const worst = ops.reduce((a, b) => (b[1].p99_us > a[1].p99_us ? b : a));
  const tiles = [
    ['Operations', text.number(sum(ops.map(([, told]) => told.ops_per_s))), 'per second'],
    ['Throughput', text.number(sum(ops.map(([, told]) => told.mib_per_s))), 'MiB/s'],
    ['Highest p99', text.latency(worst[1].p99_us), `of ${worst[0]}`],
    ['Errors', text.count(failed), failed ? `of ${text.count(done + failed)} operations` : `in ${text.count(done)} operations`],
  ];
  const columns = [
    { name: 'Operation', head: true }, ...[['ops/s'], ['MiB/s'], ['p50'], ['p99'], ['p99.9'], ['max'], ['Errors'], ['Retries'], ['Operations']].map(([name]) => ({ name, number: true })),
    { name: 'Errors by class', wide: true },
  ];
  const rows = ops.map(([op, told]) => [
    op, el('b', {}, text.number(told.ops_per_s)), text.number(told.mib_per_s), text.latency(told.p50_us), el('b', {}, text.latency(told.p99_us)), text.latency(told['p99.9_us']),
    text.latency(told.max_us), count(sum(Object.values(told.errors))), text.count(told.retries), text.count(told.ops), errorText(told.errors) || '–',
  ]);
  return [
    el('dl', { class: 'tiles' }, tiles.map(([term, value, unit]) => el('div', { class: term === 'Errors' && failed ? 'bad' : null }, el('dt', {}, term), el('dd', {}, el('span', { class: 'big' }, value), ' ', el('span', { class: 'unit' }, unit))))),
    table('operations-table', `Operations of ${stage.name}: rates over ${text.seconds(stage.seconds)}, all agents, without warm-up`, columns, rows),
  ];
}

/** The highest of a column of the hosts, after the warm-up: [value, agent], or null. */
function peak(stage, key, over = (value) => value) {
  let found = null;
  for (const { part, agent } of seriesOf(stage)) {
    part.host[key].forEach((value, row) => {
      if (value === null || part.at[row] < stage.warmup_s) return;
      const told = over(value, part, row);
      if (!found || told > found[0]) found = [told, agent];
    });
  }
  return found;
}

const NOTES = {
  limit: ['warn', 'Client-bound', /^client-bound [^:]*: /],
  endpoint: ['plain', 'Slowest endpoint', /^slowest endpoint in [^:]*: /],
  full_strength: ['plain', 'Full strength', /^full strength [^:]*: /],
  splits: ['plain', 'Where time went', null],
  replay: ['warn', 'Replay', null],
  op_log: ['warn', 'Op-log', null],
  preflight: ['warn', 'Preflight', null],
};

function findingsSection(doc, stage) {
  const found = [];
  const add = (...told) => found.push(finding(...told));
  const notes = (kind) => doc.notes.filter((note) => note.kind === kind && (note.stage === null || note.stage === stage.index)).map((note) => note.text);
  const told = (kind) => notes(kind).forEach((line) => add(NOTES[kind][0], NOTES[kind][1], NOTES[kind][2] ? line.replace(NOTES[kind][2], '') : line, kind === 'full_strength' ? '; only seconds in which all agents measured.' : ''));
  const name = (agent) => doc.agents[agent].id;
  const limits = notes('limit');
  told('limit');
  if (!limits.length) {
    const peaks = [['host CPU', peak(stage, 'cpu_pct'), (x) => `${trim(x)} %`], ['busiest worker', peak(stage, 'worker_cpu_pct'), (x) => `${trim(x)} % of a core`], ['load loop late by', peak(stage, 'late_ms'), (x) => `${trim(x)} ms`]]
      .filter(([, told]) => told !== null).map(([what, [value, agent], say]) => `${what} ${say(value)} (${name(agent)})`);
    add('good', 'Not the clients', 'No worker, host or network interface was at its limit for half of a stage, and no load loop came late.', peaks.length ? ` Highest in a second of ${stage.name}: ${peaks.join(', ')}.` : '');
  }
  if (stage.slowest) {
    const { agent, ops_per_s: rate, median_ops_per_s: middle } = stage.slowest;
    const less = middle > 0 ? 1 - rate / middle : 0;
    add(less > 0.1 ? 'warn' : 'plain', 'Slowest agent', `${name(agent)} with ${text.number(rate)} ops/s in ${stage.name}: ${text.percent(less)} less than the median agent (${text.number(middle)}).`);
  }
  told('endpoint');
  doc.agents.forEach((agent) => {
    if (agent.lost) add('bad', 'Agent lost', `${agent.id}${agent.lost.at_s === null ? '' : `, given up at ${text.clock(agent.lost.at_s)}`}: ${agent.lost.text}`);
  });
  const losses = doc.network.map((told, agent) => [agent, told]).filter(([, told]) => told.losses.length);
  if (losses.length) {
    const kept = losses.filter(([agent]) => !doc.agents[agent].lost).map(([agent, told]) => `${name(agent)} ${told.losses.length === 1 ? 'once' : `${told.losses.length} times`}, ${text.seconds(told.unreachable_s)}`);
    if (kept.length) add('plain', 'Links lost', `${kept.join('; ')}. The agents went on, and nothing that they measured was lost.`);
  }
  ['full_strength', 'splits', 'replay', 'op_log', 'preflight'].forEach(told);
  const others = doc.notes.filter((note) => note.stage !== null && note.stage !== stage.index && note.kind in NOTES)
    .map((note) => finding(NOTES[note.kind][0], NOTES[note.kind][1], el('b', {}, doc.stages[note.stage].name), `: ${NOTES[note.kind][2] ? note.text.replace(NOTES[note.kind][2], '') : note.text}`));
  return [
    el('ul', { class: 'findings' }, found),
    others.length ? el('details', { id: 'other-findings' }, el('summary', {}, `Of other stages (${others.length})`), el('ul', { class: 'findings' }, others)) : null,
  ];
}

function detailsSection(doc, stage) {
  const found = [];
  const sizes = Object.entries(stage.sizes).flatMap(([op, parts]) => parts.map((part) => [op, part.bucket, text.number(part.ops_per_s), text.number(part.mib_per_s), text.latency(part.p50_us), text.latency(part.p99_us), text.latency(part.max_us), text.count(part.ops)]));
  if (sizes.length) {
    found.push(table('sizes-table', `By size of object, ${stage.name}`, [{ name: 'Operation', head: true }, { name: 'Size' }, ...['ops/s', 'MiB/s', 'p50', 'p99', 'max', 'Operations'].map((name) => ({ name, number: true }))], sizes));
  }
  const parts = { queue: 'Queue', connect: 'Connect', tls: 'TLS', first_byte: 'First byte', transfer: 'Transfer' };
  const splits = Object.entries(stage.splits).map(([op, told]) => [op, ...Object.keys(parts).map((part) => (told[part].count ? `${text.latency(told[part].mean)} / ${text.latency(told[part].p99)}` : '–'))]);
  if (splits.length) {
    found.push(table('splits-table', `Where the latency went, mean / p99, ${stage.name}`, [{ name: 'Operation', head: true }, ...Object.values(parts).map((name) => ({ name, number: true }))], splits));
  }
  return found;
}

function agentsSection(doc, stage) {
  const rates = doc.agents.map((_, agent) => (stage.agents[agent] ? sum(Object.values(stage.agents[agent].operations).map((told) => told.ops_per_s)) : null));
  const highest = Math.max(...rates.filter((rate) => rate !== null), 0);
  const middle = median(rates.filter((rate) => rate !== null));
  const rows = doc.agents.map((agent, place) => {
    const told = stage.agents[place];
    const ops = told ? Object.values(told.operations) : [];
    const worst = Object.entries(told?.operations ?? {}).filter(([, one]) => one.ops).reduce((a, b) => (a && a[1].p99_us >= b[1].p99_us ? a : b), null);
    const failed = sum(ops.map((one) => sum(Object.values(one.errors))));
    const bound = (told?.limits ?? []).map((limit) => limit.limit).join(', ');
    const known = told && told.outcome !== null;
    return [
      el('span', {}, agent.id, agent.lost ? el('span', { class: 'chip bad' }, 'lost') : null), bar(rates[place], highest),
      known && middle ? `${rates[place] >= middle ? '+' : '−'}${text.percent(Math.abs(rates[place] / middle - 1))}` : '–',
      told ? text.number(sum(ops.map((one) => one.mib_per_s))) : '–', worst ? `${text.latency(worst[1].p99_us)} (${worst[0]})` : '–', told ? count(failed) : '–',
      told?.late_ms === null || !told ? '–' : text.latency(1000 * told.late_ms), bound || '–', told ? told.outcome ?? 'end not known' : 'never began',
    ];
  });
  const columns = [{ name: 'Agent', head: true }, { name: 'ops/s', number: true }, { name: 'to the median', number: true }, { name: 'MiB/s', number: true }, { name: 'highest p99', number: true }, { name: 'Errors', number: true }, { name: 'Started late by', number: true }, { name: 'Limited by' }, { name: 'Ended' }];
  const spread = stage.start_spread_ms === null ? '' : ` The agents started within ${text.latency(1000 * stage.start_spread_ms)} of each other.`;
  return [el('p', {}, `Rates of each agent over its own time in the stage.${spread}`), table('agents-table', `Agents in ${stage.name}`, columns, rows)];
}

function endpointsSection(doc, stage) {
  const rows = doc.endpoints.flatMap((name, place) => Object.entries(stage.endpoints[place] ?? {}).map(([op, told]) =>
    [name, op, text.count(told.ops), text.bytes(told.bytes), text.latency(told.p50_us), text.latency(told.p99_us), text.latency(told['p99.9_us']), text.latency(told.max_us), count(told.errors), text.count(told.retries)]));
  const columns = [{ name: 'Endpoint', head: true }, { name: 'Operation' }, ...['Operations', 'Data', 'p50', 'p99', 'p99.9', 'max', 'Errors', 'Retries'].map((name) => ({ name, number: true }))];
  return [table('endpoints-table', `Endpoints in ${stage.name}`, columns, rows)];
}

function networkSection(doc) {
  const rows = doc.network.map((told, agent) => [
    doc.agents[agent].id, text.count(told.connects), count(told.losses.length), text.seconds(told.unreachable_s), text.latency(told.rtt_us?.p50), text.latency(told.rtt_us?.p99),
    text.latency(told.rtt_us?.max), told.clock?.drift_ppm === null || !told.clock ? '–' : `${told.clock.drift_ppm.toFixed(2)} ± ${told.clock.drift_error_ppm.toFixed(2)}`, told.clock ? text.latency(told.clock.max_error_ns / 1000) : '–',
    text.bytes(told.received_bytes), text.bytes(told.refetched_bytes),
  ]);
  const columns = [{ name: 'Agent', head: true }, ...['Connects', 'Losses', 'Out of reach', 'Round trip p50', 'p99', 'max'].map((name) => ({ name, number: true })), { name: 'Clock drift', unit: 'ppm', number: true }, { name: 'Offset known to', number: true }, { name: 'Received', number: true }, { name: 'Fetched after losses', number: true }];
  const losses = doc.network.flatMap((told, agent) => told.losses.map((loss) => [agent, loss])).sort((a, b) => a[1].at_s - b[1].at_s);
  const lost = losses.map(([agent, loss]) => [
    text.clock(loss.at_s), doc.agents[agent].id, loss.cause, loss.down_s === null ? `did not come back (${text.seconds(loss.unreachable_s)})` : text.seconds(loss.down_s),
    text.count(loss.attempts), text.count(loss.rounds), loss.resume_s === null ? '–' : text.latency(1e6 * loss.resume_s),
  ]);
  const cuts = doc.controller.cut_offs.map((cut) => `at ${text.clock(cut.at_s)} for ${cut.seconds === null ? 'the rest of the log' : text.seconds(cut.seconds)}`);
  return [
    table('links-table', 'Links between the controller and the agents', columns, rows),
    cuts.length ? el('p', {}, `The controller itself was off the network ${cuts.join(', ')}.`) : null,
    lost.length
      ? table('losses-table', 'Disconnects', [{ name: 'At', number: true, head: true }, { name: 'Agent' }, { name: 'Cause', wide: true }, { name: 'Back after', number: true }, { name: 'Attempts', number: true }, { name: 'Policy rounds', number: true }, { name: 'First byte after', number: true }], lost)
      : el('p', { class: 'empty' }, 'No link broke.'),
  ];
}

function lossesSection(doc) {
  const kinds = new Set(['not_measured', 'agent_lost']);
  const lost = doc.stages.flatMap((stage) => stage.shades.filter((shade) => kinds.has(shade.kind)).map((shade) => [doc.agents[shade.agent].id, stage.name, text.clock(shade.from_s), text.clock(shade.to_s), text.seconds(shade.to_s - shade.from_s), SHADES[shade.kind].name, shade.cause || '–']));
  const starts = doc.stages.filter((stage) => stage.length_s > 0).map((stage) => {
    const late = stage.agents.map((told, agent) => [told?.late_ms ?? null, agent]).filter(([ms]) => ms !== null).sort((a, b) => b[0] - a[0])[0];
    return [stage.name, stage.kind, text.clock(stage.started_s ?? 0), text.seconds(stage.length_s), stage.start_spread_ms === null ? '–' : text.latency(1000 * stage.start_spread_ms), late ? `${text.latency(1000 * late[0])} (${doc.agents[late[1]].id})` : '–'];
  });
  return [
    lost.length
      ? table('lost-table', 'Time that was planned and not measured', [{ name: 'Agent', head: true }, { name: 'Stage' }, ...['From', 'To', 'Lost'].map((name) => ({ name, number: true })), { name: 'What' }, { name: 'Cause', wide: true }], lost)
      : el('p', { class: 'empty' }, 'Every planned second of every agent was measured.'),
    table('starts-table', 'Stages, and how close together their agents started', [{ name: 'Stage', head: true }, { name: 'Kind' }, ...['Started at', 'Took', 'Start spread', 'Latest start'].map((name) => ({ name, number: true }))], starts),
  ];
}

function environmentSection(doc) {
  const rows = doc.agents.map((agent) => [agent.id, agent.host ?? '–', agent.address ?? '–', text.count(agent.cores), text.bytes(agent.memory_bytes), agent.kernel ?? '–', agent.python ?? '–', agent.version ?? '–', agent.nic_bytes_per_s ? `${trim((8 * agent.nic_bytes_per_s) / 1e9)} Gbit/s` : '–']);
  const notices = new Map();
  doc.agents.forEach((agent) => agent.notices.forEach((notice) => notices.set(notice, [...(notices.get(notice) ?? []), agent.id])));
  const noticed = [...notices].map(([notice, agents]) => [agents.length === doc.agents.length && agents.length > 1 ? 'all agents' : [...new Set(agents)].join(', '), notice]);
  const columns = [{ name: 'Agent', head: true }, { name: 'Host' }, { name: 'Address' }, { name: 'Cores', number: true }, { name: 'Memory', number: true }, { name: 'Kernel' }, { name: 'Python' }, { name: 'Agent version' }, { name: 'Network', number: true }];
  return [
    table('hosts-table', 'Hosts', columns, rows),
    noticed.length ? el('details', { id: 'notices' }, el('summary', {}, `What agents noticed (${noticed.length})`), table('notices-table', 'What agents noticed', [{ name: 'Agents', head: true }, { name: 'Notice', wide: true }], noticed)) : null,
    planTables(doc.plan),
    el('p', { class: 'note' }, `Run ${doc.run.run_id}. Written ${text.moment(doc.written_at)} by sai3ssh ${doc.by}; ${text.moment(doc.run.started_at)} to ${text.moment(doc.run.ended_at)}.`),
  ];
}

function eventsSection(doc) {
  const rows = doc.events.rows.map((row) => [text.clock(row.at_s), row.event.replaceAll('_', ' '), row.agent === null ? '–' : doc.agents[row.agent].id, row.details || '–']);
  const left = doc.events.left_out ? `${text.count(doc.events.left_out)} later events are in events.ndjson only.` : null;
  return [table('events-table', 'Events, by time since the start of the run', [{ name: 'At', number: true, head: true }, { name: 'Event' }, { name: 'Agent' }, { name: 'Details', wide: true }], rows, { note: left })];
}
