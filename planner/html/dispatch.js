// The dispatch table with costs at a price the reader may change, and what the plan says beside it.

function dispatchSection(plan, cases, assumptions) {
  const rows = plan.table.rows.map((row, index) => ({ row, index, best: row.predictions[row.predictions.length - 1] ?? null, about: cases[index] }));
  const place = el("div");
  const price = priceField(assumptions.hardware, () => place.replaceChildren(dispatchTable(rows, price.read())));
  const made = section(
    "dispatch",
    "Dispatch table",
    el("p", {}, "Which recipe serves which number of requests in flight. Figures are simulated, at the largest concurrency of each range; throughput counts input and output tokens over all GPUs. A lead is of the objective over the next best recipe; a tie is a lead within what the prediction errors of two recipes differ by."),
    intervalsNote([...cases.map((found) => found.prediction.intervals), ...plan.table.rows.flatMap((row) => row.predictions)]),
    price.node,
    place,
    switchingTable(plan.table.rows),
    skippedLoads(plan.skipped),
    comparisonTable(plan.comparisons),
    regretTable(plan.regret_by_recipes),
  );
  place.append(dispatchTable(rows, price.read()));
  return made;
}

function priceField(hardware, changed) {
  const input = el("input", { id: "price", type: "number", min: "0", step: "0.01", value: hardware.price_per_gpu_hour, inputmode: "decimal" });
  input.addEventListener("input", changed);
  const node = el(
    "div",
    {},
    el("div", { class: "controls" }, el("label", { for: "price" }, "Price, US dollars per GPU-hour", input)),
    el("p", { class: "note" }, `Assumed: $${hardware.price_per_gpu_hour.toFixed(2)} (${hardware.sources.price_per_gpu_hour ?? "no source"}). Costs count input and output tokens alike, at full load.`),
  );
  const read = () => (Number(input.value) > 0 ? Number(input.value) : null);
  return { node, read };
}

function dispatchTable(rows, price) {
  const figure = (name) => (entry) => entry.best?.[name] ?? null;
  const interval = (name, show) => (entry) => entry.best && withInterval(entry.best[name], entry.best[`${name}_low`], entry.best[`${name}_high`], show);
  const seconds = (ms) => number(ms / 1000);
  const cost = (entry) => (price === null || !entry.best ? null : costPerMillion(price, entry.best.total_tokens_per_s_per_gpu));
  return dataTable("Recipes by concurrency", [
    { label: "concurrency", value: (e) => e.row.min_concurrency, show: (e) => range(e.row.min_concurrency, e.row.max_concurrency) },
    { label: "recipe", left: true, wrap: true, value: (e) => e.about.topology, show: (e) => caseLink(e) },
    { label: "GPUs", value: (e) => e.about.prediction.num_gpus, show: (e) => whole(e.about.prediction.num_gpus) },
    { label: "tok/s/GPU", value: figure("total_tokens_per_s_per_gpu"), show: interval("total_tokens_per_s_per_gpu") },
    { label: "tok/s/user", value: figure("tokens_per_s_per_user"), show: interval("tokens_per_s_per_user") },
    { label: "TTFT s", value: figure("median_ttft_ms"), show: interval("median_ttft_ms", seconds) },
    { label: "TPOT ms", value: figure("median_tpot_ms"), show: interval("median_tpot_ms") },
    { label: "$/M tokens", value: cost, show: (e) => number(cost(e), 3) },
    { label: "regret", value: (e) => e.row.regret, show: (e) => percent(e.row.regret) },
    { label: "lead", left: true, wrap: true, value: figure("lead"), show: (e) => leadText(e.best) },
    { label: "limit", left: true, wrap: true, value: figure("limit") },
    { label: "launch digest", left: true, value: (e) => e.about.digest, show: digestCell },
  ], rows, { sort: true, cards: true });
}

/** How far the choice is ahead of the next recipe, or that it cannot be told from it. */
function leadText(best) {
  if (!best?.runner_up) return DASH;
  const ahead = el("span", { class: "figure", title: `over ${best.runner_up}` }, percent(best.lead, true));
  if (best.tie) ahead.append(el("small", { class: "interval" }, `tie with ${best.runner_up}`));
  return ahead;
}

function caseLink(entry) {
  const link = el("a", { href: `#case-${entry.index}` }, entry.about.topology);
  link.addEventListener("click", () => (document.getElementById(`case-${entry.index}`).open = true));
  return link;
}

function digestCell(entry) {
  return el("span", {}, el("code", {}, entry.about.digest), " ", copyButton(entry.about.digest, `Copy the digest of ${entry.about.topology}`));
}

/** When the table changes rows, and what that takes. */
function switchingTable(rows) {
  const pairs = rows.slice(1).map((after, index) => ({ before: rows[index], after })).filter((pair) => pair.before.to_next);
  if (!pairs.length) return null;
  return el("div", {}, el("h3", {}, "Switching between rows"), dataTable("Drain is predicted, warm-up is given (an assumption until it is measured)", [
    { label: "from", value: (p) => p.before.min_concurrency, show: (p) => range(p.before.min_concurrency, p.before.max_concurrency) },
    { label: "up at", value: (p) => p.before.switch_up_at, show: (p) => whole(p.before.switch_up_at) },
    { label: "back at", value: (p) => p.after.switch_down_at, show: (p) => whole(p.after.switch_down_at) },
    { label: "drain s", value: (p) => p.before.to_next.drain_s },
    { label: "warm-up s", value: (p) => p.before.to_next.warmup_s, show: (p) => whole(p.before.to_next.warmup_s) },
    { label: "GPU h lost", value: (p) => p.before.to_next.lost_gpu_s, show: (p) => number(p.before.to_next.lost_gpu_s / 3600, 3) },
    { label: "steps up", left: true, wrap: true, value: (p) => p.before.to_next.summary },
  ], pairs, { cards: true }));
}

function skippedLoads(skipped) {
  const loads = Object.entries(skipped);
  if (!loads.length) return null;
  return el("div", {}, el("h3", {}, "Concurrencies without a recipe"), el("ul", {}, loads.map(([load, reason]) => el("li", {}, `${load}: ${reason}`))));
}

function comparisonTable(pairs) {
  if (!pairs.length) return null;
  return el("div", {}, el("h3", {}, "Against public recipes"), dataTable("At the same concurrency, both simulated", [
    { label: "concurrency", value: (p) => p.concurrency, show: (p) => whole(p.concurrency) },
    { label: "public recipe", left: true, wrap: true, value: (p) => shortName(p.public) },
    { label: "its tok/s/GPU", value: (p) => p.public_tokens_per_s_per_gpu },
    { label: "our tok/s/GPU", value: (p) => p.recommended_tokens_per_s_per_gpu },
    { label: "its tok/s/user", value: (p) => p.public_tokens_per_s_per_user },
    { label: "our tok/s/user", value: (p) => p.recommended_tokens_per_s_per_user },
  ], pairs, { cards: true, sort: true }));
}

function regretTable(regrets) {
  const rows = regrets.map((regret, index) => ({ count: index + 1, regret }));
  return el("div", {}, el("h3", {}, "With fewer recipes"), dataTable("Worst share of throughput lost when the table may hold this many recipes", [
    { label: "recipes", value: (r) => r.count, show: (r) => whole(r.count) },
    { label: "regret", value: (r) => r.regret, show: (r) => percent(r.regret) },
  ], rows));
}
