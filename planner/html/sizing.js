// Sizing: fleets by level of load and platform, what they cost at the reader's prices, what they can lose.

function sizingSection(data) {
  const result = data.size;
  const everything = [data.assumptions, ...data.other_platforms];
  const names = everything.map((one) => one.hardware.name);
  const prices = priceFields(everything, update);
  const level = choiceField("s-level", "Level of load", result.levels.map((one, index) => [String(index), `${one.name}, ${number(one.request_rate)} requests/s`]), "0", update);
  const ticks = names.map((name, index) => [name, tickField(`s-${name}`, name, true, update, seriesColour(index))]);
  const place = el("div");
  function update() {
    const chosen = result.levels[Number(level.read())];
    const wanted = new Set(ticks.filter(([, field]) => field.read()).map(([name]) => name));
    const fleets = chosen.fleets.filter((fleet) => wanted.has(fleet.hardware)).map((fleet) => priced(fleet, prices.read(fleet.hardware), everything));
    place.replaceChildren(...[
      levelsFigure(result.levels, names.filter((name) => wanted.has(name)), names),
      fleets.length ? el("div", {}, fleetTable(fleets), costTable(fleets)) : el("p", { class: "note" }, "No platform that is chosen has a fleet at this level."),
      el("ul", {}, fleets.map(({ fleet }) => el("li", {}, `${fleet.hardware} reaches ${reachedText(fleet.service)} with ${whole(fleet.concurrency)} requests in flight`))),
      intervalsNote(fleets.map(({ fleet }) => fleet.intervals)),
      refusedList(chosen.refused),
      ...fleets.map(({ fleet }) => lossesTable(fleet)),
    ].filter(Boolean));
  }
  update();
  return section(
    "size",
    "Fleets",
    el("p", {}, "The fewest deployments of one recipe that keep the goal, each simulated with its share of arrivals. Deployments are packed onto nodes; all GPUs of the nodes are paid for. Power counts GPU boards alone."),
    prices.node,
    controls("Choose what is shown", [level, ...ticks.map(([, field]) => field)]),
    place,
    dayNote(result),
  );
}

/** A fleet with what its nodes cost at a price per GPU-hour; null where there is no price. */
function priced(fleet, price, everything) {
  const { hardware } = everything.find((one) => one.hardware.name === fleet.hardware);
  return { fleet, hourly: price === null ? null : price * fleet.nodes * hardware.gpus_per_node };
}

/** GPUs of the deployments to add. */
function spareGpus(fleet) {
  return (fleet.spare_replicas * fleet.num_gpus) / fleet.replicas;
}

function levelsFigure(levels, wanted, names) {
  const rows = levels.flatMap((level) => level.fleets.filter((fleet) => wanted.includes(fleet.hardware)).map((fleet) => ({ level, fleet, all: fleet.num_gpus + spareGpus(fleet) })));
  const most = Math.max(1, ...rows.map((row) => row.all));
  const bar = ({ fleet, all }) => {
    const node = el("span", { class: `stretch ${seriesColour(names.indexOf(fleet.hardware))}`, role: "img", "aria-label": `${fleet.num_gpus} GPUs, ${all} with the spare` }, el("i"), el("i", { class: "pale" }));
    node.firstChild.style.width = `${(100 * fleet.num_gpus) / most}%`;
    node.lastChild.style.width = `${(100 * (all - fleet.num_gpus)) / most}%`;
    return node;
  };
  return dataTable("GPUs by level of load; pale: what the spare adds", [
    { label: "level", left: true, wrap: true, value: (row) => row.level.name },
    { label: "requests/s", value: (row) => row.level.request_rate },
    { label: "platform", left: true, value: (row) => row.fleet.hardware },
    { label: "fleet", left: true, wrap: true, value: (row) => `${row.fleet.replicas} x ${row.fleet.topology}` },
    { label: "GPUs", value: (row) => row.fleet.num_gpus, show: (row) => whole(row.fleet.num_gpus) },
    { label: "with spare", value: (row) => row.all, show: (row) => whole(row.all) },
    { label: "", left: true, value: () => null, show: bar },
  ], rows, { cards: true });
}

function fleetTable(fleets) {
  const of = (name) => (row) => row.fleet[name];
  const interval = (row) => row.fleet.intervals.tokens_per_s_per_user;
  return dataTable("Fleets of the level", [
    { label: "platform", left: true, value: of("hardware") },
    { label: "fleet", left: true, wrap: true, value: (row) => `${row.fleet.replicas} x ${row.fleet.topology}` },
    { label: "GPUs", value: of("num_gpus"), show: (row) => whole(row.fleet.num_gpus) },
    { label: "nodes", value: of("nodes"), show: (row) => whole(row.fleet.nodes) },
    { label: "racks", value: of("racks"), show: (row) => whole(row.fleet.racks) },
    { label: "tok/s/user", value: of("tokens_per_s_per_user"), show: (row) => withInterval(row.fleet.tokens_per_s_per_user, interval(row)?.low, interval(row)?.high) },
    { label: "goodput", value: (row) => row.fleet.service.goodput, show: (row) => percent(row.fleet.service.goodput) },
    { label: "headroom", value: of("headroom"), show: (row) => percent(row.fleet.headroom) },
    { label: "limit", left: true, wrap: true, value: of("limit") },
  ], fleets, { cards: true, sort: true });
}

/** Costs follow the price per GPU-hour of all nodes, at the traffic of the level. */
function costTable(fleets) {
  const of = (name) => (row) => row.fleet[name];
  const per = (share) => (row) => (row.hourly === null ? null : row.hourly * share(row.fleet));
  return dataTable("What they cost", [
    { label: "platform", left: true, value: of("hardware") },
    { label: "$/h", value: (row) => row.hourly },
    { label: "$/h with spare", value: per((fleet) => (fleet.nodes + fleet.spare_nodes) / fleet.nodes) },
    { label: "$/M in+out", value: per((fleet) => fleet.cost.per_million_tokens / fleet.cost.dollars_per_hour) },
    { label: "$/M out", value: per((fleet) => fleet.cost.per_million_output_tokens / fleet.cost.dollars_per_hour) },
    { label: "$/user-hour", value: per((fleet) => fleet.cost_per_user_hour / fleet.cost.dollars_per_hour) },
    { label: "kW", value: of("power_kw") },
  ], fleets, { cards: true, sort: true });
}

function reachedText(service) {
  return Object.entries(service.attained_ms).map(([name, value]) => `${name} ${number(value)} ms`).join(", ");
}

function refusedList(refused) {
  const rows = Object.entries(refused);
  return rows.length ? el("ul", {}, rows.map(([name, why]) => el("li", {}, `${name}: no fleet; ${why}`))) : null;
}

/** What the fleet can lose, way out by way out. */
function lossesTable(fleet) {
  if (!fleet.losses.length) return null;
  const rows = fleet.losses.flatMap((loss) => {
    const ways = [["its usual share", loss.in_place], ["shared by what is left", loss.shared]].filter(([, service]) => service !== null);
    return (ways.length ? ways : [["nothing is left", null]]).map(([way, service]) => ({ loss, way, service }));
  });
  const spare = fleet.spare_replicas
    ? `${plural(fleet.spare_replicas, "deployment")} more (${whole(spareGpus(fleet))} GPUs on ${plural(fleet.spare_nodes, "node")}) make any of these harmless`
    : "the fleet loses any of these as it is";
  return el("div", {}, el("h3", {}, `${fleet.hardware}: what it can lose`), dataTable(`${fleet.replicas} x ${fleet.topology}: ${spare}`, [
    { label: "loss of a", left: true, value: (row) => row.loss.kind },
    { label: "that is", left: true, wrap: true, value: (row) => lostText(row.loss.lost) },
    { label: "arrivals", left: true, wrap: true, value: (row) => row.way },
    { label: "goal", left: true, wrap: true, value: (row) => verdict(row.service), show: (row) => (verdict(row.service) === "kept" ? "kept" : el("span", { class: "bad" }, verdict(row.service))) },
    { label: "goodput", value: (row) => row.service?.goodput ?? null, show: (row) => percent(row.service?.goodput) },
    { label: "reached", left: true, wrap: true, value: (row) => row.service && reachedText(row.service) },
  ], rows, { cards: true }));
}

function verdict(service) {
  if (service === null) return "broken";
  const worst = Object.entries(service.misses).sort((a, b) => b[1] - a[1])[0]?.[0] ?? (service.is_stable ? null : "throughput");
  return worst === null ? "kept" : `broken: ${worst}`;
}

/** Workers by role of each hurt deployment, equal ones counted. */
function lostText(lost) {
  const counted = new Map();
  for (const part of lost) {
    const text = Object.entries(part).map(([role, workers]) => `${workers} ${role}`).join(" + ");
    counted.set(text, (counted.get(text) ?? 0) + 1);
  }
  return [...counted].map(([text, count]) => (count === 1 ? text : `${count} x (${text})`)).join(" and ");
}

function dayNote(result) {
  const [kept, scaled] = [result.static_gpu_hours_per_day, result.scaled_gpu_hours_per_day];
  if (kept === null || scaled === null) return null;
  return el("p", {}, `Over the day ${number(kept)} GPU-hours when kept at the peak, ${number(scaled)} by level (${percent(scaled / kept - 1, true)}); changes of the fleet are taken as instant.`);
}
