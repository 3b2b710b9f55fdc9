// Platforms side by side: fronts in throughput or in cost, and the least cost at a speed the reader asks for.

function comparingSection(data) {
  const result = data.compare;
  const everything = [data.assumptions, ...data.other_platforms];
  const prices = priceFields(everything.filter((one) => result.fronts.some((front) => front.hardware === one.hardware.name)), update);
  const chart = new LinesChart({ id: "fronts-chart", label: "Fronts of the platforms", across: "tok/s/user (1000 / median TPOT in ms)", up: "" });
  const axis = choiceField("c-axis", "Up the chart", [["rate", "tok/s/GPU"], ["cost", "$ per million tokens"]], "rate", update);
  const speed = numberField("c-speed", "Users need tok/s of at least", 40, update, "1");
  const ticks = result.fronts.map((front, index) => [front.hardware, tickField(`c-${front.hardware}`, front.hardware, true, update, seriesColour(index))]);
  const listed = el("div");
  function update() {
    const rows = result.fronts.filter((front) => ticks.find(([name]) => name === front.hardware)[1].read()).flatMap((front) => front.points.map((point) => ({ front, point, cost: costPerMillion(prices.read(front.hardware), point.total_tokens_per_s_per_gpu) })));
    const series = result.fronts.map((front, index) => ({ name: front.hardware, colour: seriesColour(index), points: rows.filter((row) => row.front === front && (axis.read() === "rate" || row.cost !== null)).map((row) => frontMark(row, axis.read())) }));
    chart.show(series, axis.read() === "rate" ? "tok/s/GPU (input + output)" : "$ per million tokens");
    listed.replaceChildren(...[cheapestTable(result.fronts, rows, speed.read()), comparedTable(rows)].filter(Boolean));
  }
  update();
  const node = section(
    "compare",
    "Platforms side by side",
    el("p", {}, "Recipes are screened by the fluid model; the members of each front are simulated in short runs. Prices are assumptions."),
    prices.node,
    controls("Choose what is shown", [axis, speed, ...ticks.map(([, field]) => field)]),
    chart.node,
    listed,
    intervalsNote(result.fronts.flatMap((front) => front.points.map((point) => point.intervals))),
    refusedList(result.refused),
  );
  return { node, start: () => chart.start() };
}

function frontMark({ front, point, cost }, axis) {
  const interval = axis === "rate" ? point.intervals.total_tokens_per_s_per_gpu : null;
  return {
    x: point.tokens_per_s_per_user,
    y: axis === "rate" ? point.total_tokens_per_s_per_gpu : cost,
    low: interval?.low ?? null,
    high: interval?.high ?? null,
    title: `${front.hardware}: ${point.topology}`,
    lines: [
      `concurrency ${whole(point.concurrency)}, ${plural(point.num_gpus, "GPU")}`,
      `${number(point.total_tokens_per_s_per_gpu)} tok/s/GPU, ${number(point.tokens_per_s_per_user)} tok/s/user`,
      interval && `80 % within ${intervalText(interval.low, interval.high)} tok/s/GPU`,
      cost !== null && `$${number(cost)} per million tokens`,
      `median TTFT ${number(point.median_ttft_ms / 1000)} s`,
      `limit ${point.limit}`,
    ],
  };
}

/** Per platform the point of least cost that is fast enough. */
function cheapestTable(fronts, rows, speed) {
  if (speed === null) return null;
  const best = fronts.map((front) => {
    const able = rows.filter((row) => row.front === front && row.cost !== null && row.point.tokens_per_s_per_user >= speed);
    return { front, row: able.sort((a, b) => a.cost - b.cost)[0] ?? null };
  }).filter(({ front }) => rows.some((row) => row.front === front));
  return dataTable(`Least dollars per million tokens at ${number(speed)} tok/s/user or more`, [
    { label: "platform", left: true, value: (one) => one.front.hardware },
    { label: "$/M tokens", value: (one) => one.row?.cost ?? null },
    { label: "recipe", left: true, wrap: true, value: (one) => one.row?.point.topology ?? null },
    { label: "concurrency", value: (one) => one.row?.point.concurrency ?? null, show: (one) => whole(one.row?.point.concurrency) },
  ], best, { sort: true });
}

function comparedTable(rows) {
  const of = (name) => (row) => row.point[name];
  const interval = (name, show) => (row) => withInterval(row.point[name], row.point.intervals[name]?.low, row.point.intervals[name]?.high, show);
  return dataTable("Members of the fronts", [
    { label: "platform", left: true, value: (row) => row.front.hardware },
    { label: "recipe", left: true, wrap: true, value: of("topology") },
    { label: "GPUs", value: of("num_gpus"), show: (row) => whole(row.point.num_gpus) },
    { label: "concurrency", value: of("concurrency"), show: (row) => whole(row.point.concurrency) },
    { label: "tok/s/GPU", value: of("total_tokens_per_s_per_gpu"), show: interval("total_tokens_per_s_per_gpu") },
    { label: "tok/s/user", value: of("tokens_per_s_per_user"), show: interval("tokens_per_s_per_user") },
    { label: "TTFT s", value: of("median_ttft_ms"), show: interval("median_ttft_ms", (ms) => number(ms / 1000)) },
    { label: "$/M tokens", value: (row) => row.cost },
    { label: "limit", left: true, wrap: true, value: of("limit") },
  ], rows, { cards: true, sort: true });
}
