// Puts the page together from the JSON in it.

function headline(data) {
  const { plan, assumptions, cases } = data;
  const { hardware, model, stack } = assumptions;
  const load = cases[0].workload;
  const lengths = load.trace ? `trace ${load.trace.path}` : `${whole(load.isl)} / ${whole(load.osl)} tokens × [${load.random_range_ratio}, 1]`;
  return [
    ["model", model.name],
    ["platform", `${hardware.name} (${hardware.gpu})`],
    ["GPUs", plan ? `up to ${whole(plan.table.num_gpus)}` : whole(cases[0].prediction.num_gpus)],
    ["input / output", lengths],
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
    el("p", {}, `With servecast ${data.version} this command gives the same figures:`),
    el("pre", { class: "command" }, el("code", { id: "command" }, data.command)),
    copyButton(data.command, "Copy the command"),
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
  const front = data.plan && frontSection(data.plan, data.cases);
  const sections = [
    front?.node,
    data.plan && dispatchSection(data.plan, data.cases, data.assumptions),
    recipesSection(data),
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
  front?.start();
  unfoldForPrint();
  openTarget();
  addEventListener("hashchange", openTarget);
}

main();
