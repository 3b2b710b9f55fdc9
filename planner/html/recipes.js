// One block per recipe: figures, time, limits, memory, engine overrides and step times with their sources.

/** Heading of the section, and what stands in it. */
const ABOUT_CASES = {
  plan: ["The recipes of the table", el("p", {}, "Each recipe at the largest concurrency of its range, simulated at full length.")],
  simulate: ["The recipe", el("p", {}, "One recipe at one load, simulated.")],
  whatif: ["Base and scenarios in full", el("p", {}, "Memory, limits and times of the base and of the scenarios that change throughput most.")],
  size: ["A deployment of each fleet", el("p", {}, "One deployment at the peak with its share of arrivals, as servecast simulate predicts it.")],
  compare: ["Recipes of the fronts", el("p", {}, "Both ends and the middle of each platform's front, simulated in short runs.")],
};

function recipesSection(data) {
  const { plan, cases } = data;
  const blocks = cases.map((found, index) => recipeBlock(found, index, plan?.table.rows[index] ?? null, data.pool_names));
  return section(
    "recipes",
    ...ABOUT_CASES[data.kind],
    !plan && intervalsNote(cases.map((found) => found.prediction.intervals)),
    blocks,
  );
}

function recipeBlock(found, index, row, names) {
  const { prediction, explanation } = found;
  const heading = row
    ? `Concurrency ${range(row.min_concurrency, row.max_concurrency)}: ${found.topology}, ${plural(prediction.num_gpus, "GPU")}, ${number(prediction.metrics.total_tokens_per_s_per_gpu)} tok/s/GPU`
    : found.label ? `${found.label}: ${plural(prediction.num_gpus, "GPU")}, ${number(prediction.metrics.total_tokens_per_s_per_gpu)} tok/s/GPU`
    : `${found.topology} at concurrency ${whole(prediction.concurrency)}, ${plural(prediction.num_gpus, "GPU")}`;
  return el(
    "details",
    { id: `case-${index}`, open: index === 0 },
    el("summary", {}, heading),
    el("p", { class: "note" }, `${prediction.recipe}, digest `, el("code", {}, found.digest), found.source ? `, from ${found.source}` : "", row ? `, files in recipes/c${row.min_concurrency}-c${row.max_concurrency}` : ""),
    differenceNote(prediction, row),
    metricsTable(prediction),
    spreadTable(prediction.spread),
    row && row.predictions.length > 1 && loadsTable(row),
    el("div", { class: "pair" }, stagesFigure(prediction), limitFigure(prediction)),
    el("div", { class: "pair" }, explanation.roles.map((role) => memoryFigure(role, names))),
    rolesTable(prediction.roles),
    el("div", { class: "pair" }, Object.entries(prediction.breakdown).map(([step, parts]) => breakdownTable(step, parts))),
    notesOn(prediction, explanation),
  );
}

/** Says so where the table's figure and this simulation are not one: a shorter run, or a changed catalog. */
function differenceNote(prediction, row) {
  const stated = row?.predictions.find((entry) => entry.concurrency === prediction.concurrency);
  const figure = prediction.metrics.total_tokens_per_s_per_gpu;
  if (!stated || stated.total_tokens_per_s_per_gpu === figure) return null;
  return el("p", { class: "note bad" }, `The dispatch table says ${number(stated.total_tokens_per_s_per_gpu)} tok/s/GPU, this simulation ${number(figure)}: the table's is from a shorter run, or from another catalog or calibration.`);
}

function metricsTable(prediction) {
  const { metrics } = prediction;
  const interval = (name) => [prediction.intervals[name]?.low, prediction.intervals[name]?.high];
  const rows = [
    ["tok/s/GPU, input and output", "total_tokens_per_s_per_gpu"],
    ["tok/s/GPU, output", "output_tokens_per_s_per_gpu"],
    ["tok/s/user", "tokens_per_s_per_user"],
    ["requests/s", "requests_per_s"],
  ];
  const kinds = ["median", "mean", "p90", "p99"];
  const latencies = ["ttft", "tpot", "e2e"];
  return el(
    "div",
    { class: "pair" },
    dataTable("Throughput", [
      { label: "figure", left: true, value: (r) => r[0] },
      { label: "value", value: (r) => metrics[r[1]] ?? null, show: (r) => withInterval(metrics[r[1]], ...interval(r[1])) },
    ], rows),
    dataTable("Latency in ms", [
      { label: "", left: true, value: (name) => name.toUpperCase() },
      ...kinds.map((kind) => ({ label: kind, value: (name) => metrics[`${kind}_${name}_ms`] ?? null, show: (name) => withInterval(metrics[`${kind}_${name}_ms`], ...interval(`${kind}_${name}_ms`)) })),
    ], latencies),
  );
}

/** What parameters and seeds alone contribute, where they were drawn. */
function spreadTable(spread) {
  const rows = Object.entries(spread);
  if (!rows.length) return null;
  return dataTable(`Spread between ${plural(rows[0][1].draws, "draw")} of fitted parameters, and of seeds; 80 % half-widths`, [
    { label: "figure", left: true, value: (r) => words(r[0]) },
    { label: "parameters alone", value: (r) => r[1].parameters, show: (r) => `±${percent(r[1].parameters)}` },
    { label: "seeds alone", value: (r) => r[1].seeds, show: (r) => `±${percent(r[1].seeds)}` },
  ], rows);
}

function loadsTable(row) {
  return dataTable("At each concurrency of the range", [
    { label: "concurrency", value: (p) => p.concurrency, show: (p) => whole(p.concurrency) },
    { label: "tok/s/GPU", value: (p) => p.total_tokens_per_s_per_gpu, show: (p) => withInterval(p.total_tokens_per_s_per_gpu, p.total_tokens_per_s_per_gpu_low, p.total_tokens_per_s_per_gpu_high) },
    { label: "tok/s/user", value: (p) => p.tokens_per_s_per_user, show: (p) => withInterval(p.tokens_per_s_per_user, p.tokens_per_s_per_user_low, p.tokens_per_s_per_user_high) },
    { label: "TTFT s", value: (p) => p.median_ttft_ms, show: (p) => number(p.median_ttft_ms / 1000) },
    { label: "TPOT ms", value: (p) => p.median_tpot_ms },
    { label: "limit", left: true, value: (p) => p.limit },
  ], row.predictions);
}

function limitFigure(prediction) {
  const gains = Object.entries(prediction.gains).sort((a, b) => b[1] - a[1]);
  const share = prediction.ceiling_fraction;
  const widest = Math.max(0.01, ...gains.map(([, gain]) => Math.abs(gain)));
  return el(
    "figure",
    {},
    el("h3", {}, `Limit: ${prediction.limit}`),
    gains.length
      ? dataTable("Throughput gained by a tenth more of each resource (noise of one run: 2 %)", [
          { label: "resource", left: true, wrap: true, value: (g) => g[0] },
          { label: "tok/s/GPU", value: (g) => g[1], show: (g) => percent(g[1], true) },
          { label: "", left: true, value: () => null, show: (g) => gainBar(g[1], widest) },
        ], gains)
      : el("p", { class: "note" }, "What relieving each resource would give was not asked for (--explain); the limit is what is full or busiest."),
    share !== null && el("p", { class: "note" }, `This is ${percent(share)} of the ${number(prediction.metrics.total_tokens_per_s_per_gpu / share)} tok/s/GPU that the platform's FLOPs allow.`),
  );
}

function gainBar(gain, widest) {
  const box = el("span", { class: "gain", "aria-hidden": "true" }, el("i", { class: gain < 0 ? "loss" : null }));
  box.style.display = "inline-block";
  box.firstChild.style.left = gain < 0 ? `${50 * (1 + gain / widest)}%` : "50%";
  box.firstChild.style.width = `${50 * (Math.abs(gain) / widest)}%`;
  return box;
}

function rolesTable(roles) {
  const decodes = (use) => use.mean_batch_per_rank > 0;
  const prefills = (use) => use.mean_prefill_tokens_per_rank > 0;
  const when = (known, name) => (use) => (known(use) ? use[name] : null);
  const share = (label, known, name) => ({ label, value: when(known, name), show: (use) => percent(when(known, name)(use)) });
  return dataTable("How busy each role was, means over the run", [
    { label: "role", left: true, value: (use) => use.role },
    share("prefilling", prefills, "prefill_busy_fraction"),
    share("decoding", decodes, "decode_busy_fraction"),
    { label: "batch per rank", value: when(decodes, "mean_batch_per_rank") },
    { label: "context", value: when(decodes, "mean_context_tokens") },
    { label: "prefill tokens per rank", value: when(prefills, "mean_prefill_tokens_per_rank") },
    share("idle ranks", prefills, "idle_rank_fraction"),
    { label: "queue waits for", left: true, value: waitsFor },
  ], roles, { cards: true });
}

function waitsFor(use) {
  const causes = Object.entries(use.blocked_fraction).filter(([, part]) => part >= 0.0005);
  return causes.length ? causes.map(([cause, part]) => `${cause} ${percent(part)}`).join(", ") : null;
}

function breakdownTable(step, parts) {
  const rows = Object.entries(parts).map(([name, part]) => ({ name: words(name), ...part })).sort((a, b) => b.seconds - a.seconds);
  const total = rows.reduce((sum, row) => sum + row.seconds, 0);
  const [role, ...kind] = step.split(" ");
  const title = kind[0] === role ? kind.join(" ") : step;
  return el("div", {}, el("h3", {}, `Mean ${title}: ${number(1000 * total)} ms of GPU time`), dataTable("By component, with the source of its time", [
    { label: "component", left: true, wrap: true, value: (r) => r.name },
    { label: "ms", value: (r) => r.seconds, show: (r) => number(1000 * r.seconds) },
    { label: "share", value: (r) => r.seconds / total, show: (r) => percent(r.seconds / total) },
    { label: "source", left: true, value: (r) => r.source, show: (r) => el("span", { class: "tag" }, r.source) },
  ], rows));
}

function notesOn(prediction, explanation) {
  const overrides = explanation.roles.flatMap((role) => role.overrides.map((o) => `${role.role}: the engine runs ${o.field} ${o.asked} as ${o.runs} (${o.reason})`));
  const laws = explanation.laws.map((law) => `${law.severity} [${law.rule}] ${law.message}`);
  const notes = [...prediction.warnings, ...overrides, ...laws];
  if (!notes.length) return null;
  return el("div", {}, el("h3", {}, "Warnings and notes"), el("ul", {}, notes.map((note) => el("li", {}, note))));
}
