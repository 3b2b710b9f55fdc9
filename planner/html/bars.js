// Stacked bars: parts of a whole as widths, with every figure in a table below.

const ROOM = 0.11; // share of a bar from which on its part is labelled inside

/** A bar of {name, value, colour, sub} parts; `all` is what a full bar stands for. */
function stackedBar(title, parts, all) {
  const drawn = parts.filter((part) => part.value > 0 && !part.sub);
  const said = drawn.map((part) => `${part.name} ${percent(part.value / all)}`).join(", ");
  const bar = el("div", { class: "bar", role: "img", "aria-label": `${title}: ${said}` });
  for (const part of drawn) {
    const share = part.value / all;
    const piece = el("span", { class: `${part.colour}${share >= ROOM ? "" : " thin"}`, title: `${part.name}: ${percent(share)}` }, share >= ROOM ? `${part.name} ${percent(share)}` : "");
    piece.style.width = `${100 * share}%`;
    bar.append(piece);
  }
  return bar;
}

function partsTable(caption, unit, parts, all, show) {
  return dataTable(caption, [
    { label: "part", left: true, wrap: true, value: (p) => p.name, show: (p) => (p.sub ? p.name : el("span", {}, swatch(p.colour), p.name)), sub: (p) => p.sub },
    { label: unit, value: (p) => p.value, show: (p) => show(p.value) },
    { label: "share", value: (p) => p.value / all, show: (p) => percent(p.value / all) },
  ], parts);
}

/** Where the bytes of one GPU go, in the order in which the engine takes them. */
function memoryParts(memory, names) {
  const weights = Object.entries(memory.weights_bytes);
  const pools = Object.entries(names).filter(([name]) => name in memory.pools_bytes);
  const total = weights.reduce((sum, [, bytes]) => sum + bytes, 0);
  return [
    { name: "runtime", value: memory.runtime_bytes, colour: "c0" },
    { name: "weights", value: total, colour: "c1" },
    ...weights.map(([name, value]) => ({ name: words(name), value, sub: true })),
    { name: "rope tables", value: memory.rope_tables_bytes, colour: "c0" },
    { name: "slot state", value: memory.slot_state_bytes, colour: "c2" },
    ...pools.map(([name, label], index) => ({ name: `${label} pool`, value: memory.pools_bytes[name], colour: `c${3 + (index % 6)}` })),
    { name: "headroom", value: memory.headroom_bytes, colour: "c9" },
  ];
}

function memoryFigure(role, names) {
  const parts = memoryParts(role.memory, names);
  const title = `Memory of one GPU (${role.role})`;
  const all = role.memory.hbm_bytes;
  return el(
    "figure",
    {},
    el("h3", {}, `Memory: ${role.role}, ${plural(role.num_workers, "worker")} ${role.label}`),
    stackedBar(title, parts, all),
    partsTable(`${title}; all parts make up ${gb(all)} GB`, "GB", parts, all, gb),
    el("p", { class: "note" }, `${whole(role.limits.full_tokens)} tokens fit the full pool, ${whole(role.limits.swa_tokens)} the window pool, ${whole(role.limits.max_running)} requests may run on a rank. First to run out: ${role.binds_first}.`),
  );
}

function stagesFigure(prediction) {
  const parts = Object.entries(prediction.stages_ms).map(([name, value], index) => ({ name, value, colour: `c${index}` }));
  const total = parts.reduce((sum, part) => sum + part.value, 0);
  return el(
    "figure",
    {},
    el("h3", {}, "Where a request's time goes"),
    stackedBar("Mean time of a request", parts, total),
    partsTable(`Mean times of a request; together ${number(total / 1000)} s`, "ms", parts, total, number),
  );
}
