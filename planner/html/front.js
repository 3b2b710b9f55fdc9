// The plane of tok/s/GPU over tok/s/user: which points are shown, and which no other beats.

/** Points of the plan, each with what the dispatch table says about it, and table entries no point shows. */
function planePoints(plan, cases) {
  const key = (digest, load, y) => `${digest} ${load} ${y}`;
  const chosen = new Map();
  plan.table.rows.forEach((row, index) => row.predictions.forEach((found) => {
    chosen.set(key(cases[index].digest, found.concurrency, found.total_tokens_per_s_per_gpu), { row, index, found });
  }));
  const points = plan.points.filter((point) => point.usable).map((point) => {
    const name = key(point.digest, point.concurrency, point.total_tokens_per_s_per_gpu);
    const dispatched = chosen.get(name) ?? null;
    chosen.delete(name);
    return { ...point, dispatched };
  });
  const rest = [...chosen.values()].map((entry) => ({
    ...entry.found,
    recipe: entry.row.recipe.name,
    topology: cases[entry.index].topology,
    digest: cases[entry.index].digest,
    num_gpus: cases[entry.index].prediction.num_gpus,
    mtp_steps: (entry.row.recipe.decode ?? entry.row.recipe.aggregated).mtp?.num_steps ?? 0,
    origin: "search",
    full: false,
    dispatched: entry,
  }));
  return [...points, ...rest];
}

/** Points that pass the filters: {low, high} concurrency, mtp "all", "on" or "off", gpus at most, origin. */
function passing(points, filters) {
  return points.filter(
    (point) =>
      point.concurrency >= filters.low &&
      point.concurrency <= filters.high &&
      point.num_gpus <= filters.gpus &&
      (filters.mtp === "all" || (filters.mtp === "on") === point.mtp_steps > 0) &&
      (filters.origin === "all" || point.origin === filters.origin),
  );
}

/** Points that no other beats on both axes, by rising tok/s/user. */
function paretoFront(points) {
  const ordered = [...points].sort(
    (a, b) =>
      b.tokens_per_s_per_user - a.tokens_per_s_per_user ||
      b.total_tokens_per_s_per_gpu - a.total_tokens_per_s_per_gpu,
  );
  const found = [];
  let best = -1;
  for (const point of ordered) {
    if (point.total_tokens_per_s_per_gpu > best) {
      found.push(point);
      best = point.total_tokens_per_s_per_gpu;
    }
  }
  return found.reverse();
}

/** Round steps from 0 to at least `highest`, about `count` of them. */
function ticks(highest, count) {
  if (!(highest > 0)) return [0, 1];
  const rough = highest / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let index = 0; (index - 1) * step < highest; index += 1) found.push(index * step);
  return found;
}

function unique(values) {
  return [...new Set(values)].sort((a, b) => a - b);
}
