// What every figure rests on, with the source of each part.

function assumptionsSection(data) {
  const { assumptions } = data;
  return section(
    "assumptions",
    "Assumptions and sources",
    el("p", {}, "All performance figures are simulated from step times, and each component of a step names its source. Measured: tables of kernels timed on this platform, interpolated inside their grid. Interpolated: tables of another platform or model, scaled by the ratio of rooflines. Fitted: a calibrated parameter enters. Analytic: a roofline alone. Of several sources the least sure is named."),
    errorBandsNote(assumptions.calibration.error_bands),
    [assumptions, ...data.other_platforms].map(hardwareTable),
    stackBlock(assumptions),
    calibrationBlock(assumptions),
    [assumptions, ...data.other_platforms].map((one) => kernelBlock(one.kernels)),
    provenanceTable(data.cases),
    modelBlock(assumptions.model),
  );
}

/** How the intervals of the page were found. */
function errorBandsNote(bands) {
  if (!bands) return el("p", {}, "This calibration has no error bands, so the figures carry no intervals. ", el("code", {}, "servecast validate"), " shows how far predictions are from published measurements.");
  return el("p", {}, `Intervals come from the errors of predictions of points that the fit had not seen (${bands.data}). They do not cover a recipe unlike all published ones, nor a machine that is itself slower than its kind.`);
}

function hardwareTable({ hardware, meanings }) {
  const rows = Object.entries(hardware).filter(([name]) => name !== "sources");
  const last = rows.filter(([name]) => name.startsWith("price"));
  const priced = [...last, ...rows.filter(([name]) => !name.startsWith("price"))];
  return el("div", {}, el("h3", {}, `Platform: ${hardware.gpu}`), dataTable("Each number with its source; peaks are dense, per GPU and direction", [
    { label: "field", left: true, wrap: true, value: (r) => words(r[0]) },
    { label: "value", value: (r) => r[1], show: (r) => quantity(r[0], r[1]) },
    { label: "meaning", left: true, wrap: true, value: (r) => meanings.Hardware[r[0]] || null },
    { label: "source", left: true, wrap: true, value: (r) => hardware.sources[r[0]] ?? null, show: (r) => (r[0].startsWith("price") ? el("strong", {}, `assumption: ${hardware.sources[r[0]] ?? "no source"}`) : hardware.sources[r[0]] ?? DASH) },
  ], priced, { cards: true }));
}

function stackBlock({ stack, switches_off: off }) {
  const rows = [...stack.switches.map((name) => ({ name, on: true })), ...off.map((name) => ({ name, on: false }))];
  return el("div", {}, el("h3", {}, `Engine: SGLang ${stack.version}, stack ${stack.name}`), dataTable("Optimisations of this stack", [
    { label: "switch", left: true, wrap: true, value: (r) => words(r.name) },
    { label: "state", left: true, value: (r) => (r.on ? "on" : "off") },
    { label: "source", left: true, wrap: true, value: (r) => stack.sources[r.name] ?? null },
  ], rows, { cards: true }), stack.sources.since ? el("p", { class: "note" }, `Builds since ${stack.since}: ${stack.sources.since}`) : null);
}

function calibrationBlock({ calibration, calibration_digest: digest, hardware, meanings }) {
  const host = calibration.hosts[hardware.host_cpu] ?? {};
  const sure = (name) => calibration.posterior?.parameters[name] ?? null;
  const rows = [
    ...Object.entries(calibration).filter(([, value]) => typeof value === "number").map(([name, value]) => ({ name, value, of: "all", sure: sure(name), meaning: meanings.Calibration[name] })),
    ...Object.entries(host).map(([name, value]) => ({ name, value, of: `${hardware.host_cpu} hosts`, sure: sure(`${hardware.host_cpu}.${name}`), meaning: meanings.HostCosts[name] })),
  ];
  const left = calibration.left_out.length;
  return el(
    "div",
    {},
    el("h3", {}, `Calibration: ${calibration.name}`),
    facts([["name", calibration.name], ["digest", el("code", {}, digest)], ["fitted to", calibration.data || "nothing stated"], ["left out of the fit", left ? plural(left, "point") : null]]),
    el("details", {}, el("summary", {}, `Its ${whole(rows.length)} parameters`), dataTable("Physical parameters, the same for every recipe; names end in their units", [
      { label: "parameter", left: true, wrap: true, value: (r) => words(r.name) },
      { label: "value", value: (r) => r.value, show: (r) => String(r.value) },
      { label: "80 %", left: true, value: (r) => r.sure && certainty(r.sure) },
      { label: "holds for", left: true, value: (r) => r.of },
      { label: "meaning", left: true, wrap: true, value: (r) => r.meaning || null },
    ], rows, { cards: true })),
  );
}

/** The posterior of a parameter, and whether the points say anything about it. */
function certainty({ low, high, identifiable }) {
  return `${Number(low.toPrecision(3))} to ${Number(high.toPrecision(3))}${identifiable ? "" : ", not pinned by the points"}`;
}

function kernelBlock(kernels) {
  const { meta } = kernels;
  const rows = Object.entries(kernels.rows).map(([name, count]) => ({ name, count, from: (meta.versions?.[name] ?? []).join(", ") || null }));
  return el(
    "div",
    {},
    el("h3", {}, `Kernel times: profile ${kernels.profile}`),
    facts([["source", meta.source ?? "no profile of this platform"], ["license", meta.license ?? ""], ["distilled by", meta.created_by ?? ""]]),
    rows.length > 0 && dataTable("Measured tables", [
      { label: "table", left: true, wrap: true, value: (r) => words(r.name) },
      { label: "rows", value: (r) => r.count, show: (r) => whole(r.count) },
      { label: "measured with", left: true, wrap: true, value: (r) => r.from },
    ], rows, { cards: true }),
    kernels.borrowed_from.length > 0 && el("p", { class: "note" }, `Where a table is missing, the efficiency of the nearest platform stands in, in this order: ${kernels.borrowed_from.join(", ")}.`),
    meta.digests && el("details", {}, el("summary", {}, "SHA-256 of the measured files"), dataTable("Files as published", [
      { label: "file", left: true, wrap: true, value: (r) => r[0] },
      { label: "SHA-256", left: true, wrap: true, value: (r) => r[1], show: (r) => el("code", {}, r[1]) },
    ], Object.entries(meta.digests), { cards: true })),
  );
}

/** Which source each component of a step had, over all recipes of the page. */
function provenanceTable(cases) {
  const found = new Map();
  for (const { prediction } of cases) {
    for (const parts of Object.values(prediction.breakdown)) {
      for (const [name, part] of Object.entries(parts)) {
        found.set(name, (found.get(name) ?? new Set()).add(part.source));
      }
    }
  }
  if (!found.size) return null;
  return dataTable("Source of each step component in the recipes above", [
    { label: "component", left: true, wrap: true, value: (r) => words(r[0]) },
    { label: "source", left: true, value: (r) => [...r[1]].sort().join(", ") },
  ], [...found.entries()]);
}

function modelBlock(model) {
  return el("div", {}, el("h3", {}, `Model: ${model.name}`), dataTable("Where its shapes come from", [
    { label: "part", left: true, wrap: true, value: (r) => words(r[0]) },
    { label: "source", left: true, wrap: true, value: (r) => r[1] },
  ], Object.entries(model.sources), { cards: true }));
}
