// What-if: scenarios beside their base as a tornado or a heat map, as a table, and what limits each.

const NOISE = 0.02; // of one run; smaller changes say little
const COST = "cost_per_million_tokens";
const CHANGES = [
  ["total_tokens_per_s_per_gpu", "tok/s/GPU", 1],
  ["tokens_per_s_per_user", "tok/s/user", 1],
  ["median_ttft_ms", "median TTFT", -1],
  ["median_tpot_ms", "median TPOT", -1],
  [COST, "$ per million tokens", -1],
];

function whatifSection(found) {
  const metric = choiceField("w-metric", "Change of", CHANGES.map(([key, text]) => [key, text]), CHANGES[0][0], update);
  const loud = tickField("w-noise", `only changes above the noise of one run (${percent(NOISE)})`, false, update);
  const moved = tickField("w-limit", "only where the limit changes", false, update);
  const count = el("p", { role: "status", class: "note", id: "whatif-count" });
  const chart = el("div");
  const listed = el("div");
  const isGrid = found.is_grid && found.axes.length === 2;
  function update() {
    const name = metric.read();
    const shown = found.scenarios.filter((one) => passesScenario(one, found.base, name, loud.read(), moved.read()));
    count.textContent = `${whole(shown.length)} of ${plural(found.scenarios.length, "scenario")} shown`;
    chart.replaceChildren(isGrid ? heatMap(found, name, new Set(shown)) : tornado(shown, found.base, name));
    listed.replaceChildren(scenarioTable(found.base, shown));
  }
  update();
  return section(
    "whatif",
    "What changes when something changes",
    el("p", {}, `The base and every scenario are simulated with seed ${found.seed} unless that is what changes. Changes are against the base; TTFT and TPOT are medians; prices are assumptions.`),
    controls("Filter the scenarios", [metric, loud, moved]),
    count,
    chart,
    intervalsNote([found.base, ...found.scenarios].filter((one) => one.prediction).map((one) => one.prediction.intervals)),
    listed,
    limitsTable(found),
    outageTables(found),
    scenarioNotes(found),
  );
}

function limitOf(scenario) {
  return scenario.prediction?.limit ?? "cannot run";
}

function passesScenario(scenario, base, metric, loud, moved) {
  return (!loud || Math.abs(scenario.differences[metric] ?? 1) >= NOISE) && (!moved || limitOf(scenario) !== limitOf(base));
}

function metricOf(scenario, name) {
  if (name === COST) return scenario.cost?.per_million_tokens ?? null;
  return scenario.prediction?.metrics[name] ?? null;
}

/** What the readout says about a scenario. */
function scenarioLines(scenario, base) {
  if (!scenario.prediction) return [`cannot run: ${scenario.refused}`];
  const change = (name) => percent(scenario.differences[name], true);
  const was = limitOf(scenario) === limitOf(base) ? "" : ` (was ${limitOf(base)})`;
  return [
    ...CHANGES.map(([name, label]) => `${label} ${number(metricOf(scenario, name))}${name.endsWith("_ms") ? " ms" : ""} (${change(name)})`),
    `limit ${limitOf(scenario)}${was}`,
  ];
}

/** Rows by changed field, the widest first; a scenario of several changes is a row of its own. */
function tornadoRows(scenarios, metric) {
  const rows = new Map();
  for (const scenario of scenarios.filter((one) => metric in one.differences)) {
    const changes = Object.entries(scenario.changes);
    const [name, value] = changes.length === 1 ? changes[0] : [scenario.name, ""];
    rows.set(name, [...(rows.get(name) ?? []), { scenario, value, change: scenario.differences[metric] }]);
  }
  const span = (parts) => Math.max(0, ...parts.map((part) => part.change)) - Math.min(0, ...parts.map((part) => part.change));
  return [...rows.entries()].sort((a, b) => span(b[1]) - span(a[1]));
}

/** Whether a change is for the better; neither where it rounds to nothing. */
function toneOf(change, sign) {
  if (Math.abs(change) < 0.0005) return "level";
  return change * sign > 0 ? "better" : "worse";
}

function tornado(scenarios, base, metric) {
  const rows = tornadoRows(scenarios, metric);
  const [, label, sign] = CHANGES.find(([key]) => key === metric);
  const said = readout("Point at, tap or focus a bar to read its scenario.");
  const low = Math.min(0, ...rows.flatMap(([, parts]) => parts.map((part) => part.change)));
  const high = Math.max(0, ...rows.flatMap(([, parts]) => parts.map((part) => part.change)));
  const width = Math.max(high - low, 0.01);
  const at = (change) => (100 * (change - low)) / width;
  const bar = (part) => {
    const node = el("button", { type: "button", class: `swing ${toneOf(part.change, sign)}`, "aria-label": `${part.scenario.name}: ${percent(part.change, true)}` });
    node.style.left = `${Math.min(at(part.change), at(0))}%`;
    node.style.width = `${Math.abs(at(part.change) - at(0))}%`;
    for (const kind of ["pointerenter", "focus", "click"]) node.addEventListener(kind, () => said.say(part.scenario.name, scenarioLines(part.scenario, base)));
    return node;
  };
  const row = ([name, parts]) => {
    const zero = el("i", { class: "zero", "aria-hidden": "true" });
    zero.style.left = `${at(0)}%`;
    const ordered = [...parts].sort((a, b) => Math.abs(b.change) - Math.abs(a.change));
    return el("li", {}, el("span", { class: "name" }, name), el("span", { class: "track" }, zero, ordered.map(bar)), el("span", { class: "ends" }, parts.map((part) => el("span", {}, `${part.value ? `${part.value}: ` : ""}${percent(part.change, true)}`))));
  };
  return el("figure", {},
    el("h3", {}, `Change of ${label}, the widest first`),
    rows.length ? el("ul", { class: "tornado", id: "tornado" }, rows.map(row)) : el("p", { class: "note" }, "No scenario is left to show."),
    el("ul", { class: "key", "aria-label": "Key" }, el("li", {}, el("span", { class: "swatch better" }), "better than the base"), el("li", {}, el("span", { class: "swatch worse" }), "worse")),
    said.node,
  );
}

function scenarioTable(base, shown) {
  const metrics = (name, show) => (one) => {
    const interval = one.prediction?.intervals[name];
    const value = one.prediction?.metrics[name] ?? null;
    return value === null ? DASH : withInterval(value, interval?.low, interval?.high, show);
  };
  const change = (name) => ({ label: "change", value: (one) => one.differences[name] ?? null, show: (one) => (one === base ? DASH : percent(one.differences[name], true)) });
  const seconds = (ms) => number(ms / 1000);
  return dataTable("Scenarios", [
    { label: "scenario", left: true, long: true, value: (one) => one.name },
    { label: "GPUs", value: (one) => one.num_gpus, show: (one) => whole(one.num_gpus) },
    { label: "tok/s/GPU", value: (one) => metricOf(one, "total_tokens_per_s_per_gpu"), show: metrics("total_tokens_per_s_per_gpu") },
    change("total_tokens_per_s_per_gpu"),
    { label: "tok/s/user", value: (one) => metricOf(one, "tokens_per_s_per_user"), show: metrics("tokens_per_s_per_user") },
    change("tokens_per_s_per_user"),
    { label: "TTFT s", value: (one) => metricOf(one, "median_ttft_ms"), show: metrics("median_ttft_ms", seconds) },
    change("median_ttft_ms"),
    { label: "$/M tokens", value: (one) => metricOf(one, COST) },
    change(COST),
    { label: "limit", left: true, wrap: true, value: limitOf, show: (one) => limitCell(one, base) },
  ], [base, ...shown], { cards: true, sort: true });
}

function limitCell(scenario, base) {
  const limit = limitOf(scenario);
  if (!scenario.prediction) return el("span", { class: "bad" }, limit);
  return limit === limitOf(base) ? limit : el("span", { class: "figure" }, el("strong", {}, limit), el("small", { class: "interval" }, `was ${limitOf(base)}`));
}

/** What a tenth more of each resource gives in every scenario, where that was asked for. */
function limitsTable(found) {
  const asked = [found.base, ...found.scenarios].filter((one) => one.prediction && Object.keys(one.prediction.gains).length);
  if (!asked.length) return el("p", { class: "note" }, "What relieving each resource would give in every scenario was not asked for (--explain); a limit is what is full or busiest.");
  const resources = Object.keys(asked[0].prediction.gains);
  const best = (one) => Math.max(...Object.values(one.prediction.gains));
  return el("div", {}, el("h3", {}, "What limits each scenario"), dataTable("tok/s/GPU gained by a tenth more of each resource (noise of one run: 2 %)", [
    { label: "scenario", left: true, long: true, value: (one) => one.name },
    ...resources.map((name) => ({ label: name, value: (one) => one.prediction.gains[name], show: (one) => {
      const gain = one.prediction.gains[name];
      return gain === best(one) && gain > 0.01 ? el("strong", {}, percent(gain, true)) : percent(gain, true);
    } })),
  ], asked, { cards: true, sort: true }));
}

const PHASE_COLUMNS = [
  { label: "phase", left: true, value: (phase) => phase.name },
  { label: "from s", value: (phase) => phase.begin_s },
  { label: "to s", value: (phase) => phase.end_s },
  { label: "sent", value: (phase) => phase.sent, show: (phase) => whole(phase.sent) },
  { label: "completed", value: (phase) => phase.completed, show: (phase) => whole(phase.completed) },
  { label: "tok/s/GPU", value: (phase) => phase.total_tokens_per_s_per_gpu },
  { label: "median TTFT ms", value: (phase) => phase.median_ttft_ms },
  { label: "p99 TTFT ms", value: (phase) => phase.p99_ttft_ms },
  { label: "queue", value: (phase) => phase.mean_queue },
];

function outageTables(found) {
  const hit = [found.base, ...found.scenarios].filter((one) => one.prediction?.outage);
  return hit.map((one) => {
    const { outages, phases, resent, recovery_s: recovery } = one.prediction.outage;
    const gone = outages.map((out) => `${out.role}:${out.worker} after ${number(out.at_s)} s`).join(", ");
    return el("div", {}, el("h3", {}, `Outage: ${gone}`), dataTable(`${one.name}: ${plural(resent, "request")} sent again; ${recovery === null ? "the queue did not recover" : `the queue is back after ${number(recovery)} s`}`, PHASE_COLUMNS, phases, { cards: true }));
  });
}

function scenarioNotes(found) {
  const lines = [found.base, ...found.scenarios].flatMap((one) => [
    one.refused && `${one.name}: ${one.refused}`,
    ...one.notes.map((note) => `${one.name}: ${note}`),
    ...(one.prediction?.warnings ?? []).map((text) => `${one.name}: ${text}`),
  ].filter(Boolean));
  if (!lines.length) return null;
  return el("div", {}, el("h3", {}, "Notes"), el("ul", {}, [...new Set(lines)].map((line) => el("li", {}, line))));
}
