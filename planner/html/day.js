// A day of traffic under several policies: what each pays for and what it misses.

const DAY_LINES = [
  ["gpus", "GPUs paid for", (moment) => moment.num_gpus],
  ["missed", "outside the goal, %", (moment) => 100 * (1 - moment.good_share)],
  ["rate", "requests/s", (moment) => moment.request_rate],
];

function daySection(data) {
  const result = data.autoscale;
  const chart = new LinesChart({ id: "day-chart", label: "The day", across: "hours", up: "", stairs: true, hours: true });
  const what = choiceField("d-what", "Show", DAY_LINES.map(([key, label]) => [key, label]), "gpus", update);
  const ticks = result.days.map((day, index) => [day.policy, tickField(`d-${day.policy}`, day.policy, true, update, seriesColour(index))]);
  function update() {
    const [, label, value] = DAY_LINES.find(([key]) => key === what.read());
    chart.show(result.days.map((day, index) => ({ name: day.policy, colour: seriesColour(index), points: ticks[index][1].read() ? stairsOf(day, value) : [] })), label);
  }
  update();
  const { request } = result;
  const kept = result.days[0].gpu_hours;
  const node = section(
    "autoscale",
    "The day under each policy",
    el("p", {}, `Recipes are simulated at rising arrival rates; the day is replayed on those curves with a fluid backlog. A fleet starts in ${number(request.provision_s)} s (an assumption), is paid for meanwhile, and is looked at every ${number(request.decide_every_s)} s.`),
    controls("Choose what is shown", [what, ...ticks.map(([, field]) => field)]),
    chart.node,
    dataTable("Policies", [
      { label: "policy", left: true, value: (day) => day.policy },
      { label: "GPU-hours", value: (day) => day.gpu_hours },
      { label: "change", value: (day) => day.gpu_hours / kept - 1, show: (day) => percent(day.gpu_hours / kept - 1, true) },
      { label: "$", value: (day) => day.dollars },
      { label: "outside the goal", value: (day) => day.missed_share, show: (day) => percent(day.missed_share) },
      { label: "most GPUs", value: (day) => day.peak_gpus, show: (day) => whole(day.peak_gpus) },
      { label: "starts", value: (day) => day.changes, show: (day) => whole(day.changes) },
    ], result.days, { cards: true, sort: true }),
    dataTable("One deployment of each row of the table", [
      { label: "concurrency", value: (row) => row.row.min_concurrency, show: (row) => range(row.row.min_concurrency, row.row.max_concurrency) },
      { label: "recipe", left: true, wrap: true, value: (row) => row.row.recipe.name },
      { label: "requests/s in the goal", value: (row) => row.curve.good_rate || null },
      { label: "stable", value: (row) => row.curve.stable_rate || null },
    ], request.table.rows.map((row, index) => ({ row, curve: result.curves[index] })), { cards: true, sort: true }),
  );
  return { node, start: () => chart.start() };
}

/** Moments at which the value changes, and the last one: what stairs need. */
function stairsOf(day, value) {
  const found = [];
  day.timeline.forEach((moment, index) => {
    const y = value(moment);
    if (index && index < day.timeline.length - 1 && y === found[found.length - 1].y) return;
    found.push({ x: moment.at_s / 3600, y, low: null, high: null, title: day.policy, lines: [`hour ${number(moment.at_s / 3600)}: ${number(moment.request_rate)} requests/s`, `${plural(moment.num_gpus, "GPU")} paid for`, `${percent(1 - moment.good_share)} outside the goal`] });
  });
  return found;
}
