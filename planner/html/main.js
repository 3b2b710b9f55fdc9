// Puts the page together from the JSON in it.

function headline(data) {
  const { size, compare, autoscale } = data;
  if (size) return [...manyPlatforms(data), ...sizingFacts(size.request)];
  if (compare) return [...manyPlatforms(data), ...comparedFacts(compare.request)];
  if (autoscale) return [...manyPlatforms(data), ...dayFacts(autoscale.request)];
  return deploymentFacts(data);
}

/** Where there is no single deployment to describe. */
function manyPlatforms(data) {
  const { model, stack, calibration, seed } = data.assumptions;
  const names = [data.assumptions, ...data.other_platforms].map((one) => one.hardware.name);
  return [
    ["model", model.name],
    [names.length === 1 ? "platform" : "platforms", names.join(", ")],
    ["engine", `SGLang ${stack.version}, stack ${stack.name}`],
    ["calibration", calibration.name],
    ["seed", String(seed)],
  ];
}

function lengthsText(load) {
  return load.trace ? `trace ${load.trace.path}` : `${whole(load.isl)} / ${whole(load.osl)} tokens × [${load.random_range_ratio}, 1]`;
}

function goalText(goal) {
  const limits = goal.limits.map((limit) => `${limit.metric}.p${limit.percentile} ≤ ${limit.max_ms} ms`);
  return [...limits, goal.goodput ? `goodput ≥ ${percent(goal.goodput)}` : null].filter(Boolean).join(", ");
}

function sizingFacts({ demand, goal, spare, deployment_gpus: most, mtp }) {
  return [
    ["traffic at the peak", demand.users === null ? `${number(demand.request_rate)} requests/s` : `${whole(demand.users)} users with ${number(demand.think_s)} s of thought`],
    ["input / output", lengthsText(demand.workload)],
    ["goal", goalText(goal)],
    ["must be able to lose", spare === "none" ? "nothing" : `a ${spare}`],
    ["GPUs of a deployment", `up to ${whole(most)}`],
    ["drafting (MTP)", mtp ? "allowed" : "off"],
    ["day", demand.profile?.source || null],
  ];
}

function comparedFacts(request) {
  return [
    ["input / output", lengthsText(request)],
    ["concurrencies", request.concurrencies.map(whole).join(", ")],
    ["GPUs of a deployment", `up to ${whole(request.num_gpus)}`],
    ["limits asked for", sloText(request.slo)],
    ["drafting (MTP)", request.mtp ? "allowed" : "off"],
  ];
}

function dayFacts(request) {
  return [
    ["input / output", lengthsText(request.table)],
    ["peak", `${number(request.peak_rate)} requests/s`],
    ["day", request.profile.source || "as given"],
    ["goal", goalText(request.goal)],
    ["margin", `${percent(request.margin - 1)} over the load`],
    ["shrinks after", `${number(request.hold_s)} s`],
  ];
}

function deploymentFacts(data) {
  const { plan, assumptions, cases } = data;
  const { hardware, model, stack } = assumptions;
  const load = cases[0].workload;
  return [
    ["model", model.name],
    ["platform", `${hardware.name} (${hardware.gpu})`],
    ["GPUs", plan ? `up to ${whole(plan.table.num_gpus)}` : whole(cases[0].prediction.num_gpus)],
    ["input / output", lengthsText(load)],
    ["concurrency", data.whatif ? whole(cases[0].prediction.concurrency) : null],
    ["prompts", plan ? null : load.prompts],
    ["arrivals", load.request_rate === null || load.request_rate === undefined ? "closed loop" : `${number(load.request_rate)} per second`],
    ["sessions", load.turns > 1 ? `${load.turns} turns, ${load.think_s} s apart` : null],
    ["shared prefix", load.shared_prefix_tokens ? `${whole(load.shared_prefix_tokens)} tokens in ${plural(load.prefix_groups, "group")}` : null],
    ["engine", `SGLang ${stack.version}, stack ${stack.name}`],
    ["calibration", assumptions.calibration.name],
    ["seed", String(assumptions.seed)],
    ...(plan ? planFacts(plan) : []),
  ];
}

function planFacts(plan) {
  const { counts } = plan;
  const pruned = Object.values(counts.pruned_by_rule).reduce((sum, count) => sum + count, 0);
  return [
    ["limits asked for", sloText(plan.request.slo)],
    ["objective", plan.request.objective],
    ["judged by", plan.request.risk === "lower" ? "the worse end of the interval" : "what is expected"],
    ["recipes considered", `${whole(counts.considered)}, ${whole(pruned)} pruned by rule`],
    ["screened / simulated", `${whole(counts.screened_by_fluid_model)} / ${whole(counts.simulations)}`],
  ];
}

function sloText(slo) {
  const set = Object.entries(slo).filter(([, value]) => value !== null);
  return set.length ? set.map(([name, value]) => `${words(name)} ${value}`).join(", ") : "none";
}

function reproduceSection(data) {
  return section(
    "reproduce",
    "Reproduce",
    el("p", {}, data.command ? `With servecast ${data.version} this command gives the same figures:` : `Made with servecast ${data.version} from Python; the request stands in the data of this page.`),
    data.command && el("pre", { class: "command" }, el("code", { id: "command" }, data.command)),
    data.command && copyButton(data.command, "Copy the command"),
  );
}

/** Paper has no clicks: open what is folded, and fold it again afterwards. */
function unfoldForPrint() {
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach((node) => (node.open = true));
  });
  addEventListener("afterprint", () => folded.forEach((node) => (node.open = false)));
}

/** Opens the recipe that the address names. */
function openTarget() {
  const target = document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) target.open = true;
}

function main() {
  const data = JSON.parse(document.getElementById("data").textContent);
  const charted = (data.plan && frontSection(data.plan, data.cases)) || (data.compare && comparingSection(data)) || (data.autoscale && daySection(data));
  const sections = [
    charted?.node,
    data.plan && dispatchSection(data.plan, data.cases, data.assumptions),
    data.whatif && whatifSection(data.whatif),
    data.size && sizingSection(data),
    data.cases.length > 0 && recipesSection(data),
    assumptionsSection(data),
    reproduceSection(data),
  ].filter(Boolean);
  document.getElementById("head").append(
    el("h1", {}, document.title),
    el("p", { class: "muted" }, "Every figure is simulated by Servecast unless it says otherwise."),
    facts(headline(data)),
  );
  document.getElementById("contents").append(
    el("ul", {}, sections.map((part) => el("li", {}, el("a", { href: `#${part.id}` }, part.querySelector("h2").textContent)))),
  );
  document.getElementById("main").append(...sections);
  charted?.start();
  unfoldForPrint();
  openTarget();
  addEventListener("hashchange", openTarget);
}

main();
