// A grid over two fields: each cell is a scenario, coloured by its change against the base.

function heatMap(found, metric, shown) {
  const [down, across] = found.axes;
  const [, label, sign] = CHANGES.find(([key]) => key === metric);
  const known = found.scenarios.map((one) => one.differences[metric]).filter((change) => change !== undefined);
  const most = Math.max(0.01, ...known.map(Math.abs));
  const said = readout("Point at, tap or focus a cell to read its scenario.");
  const cell = (scenario) => {
    const change = scenario.differences[metric];
    const tone = change === undefined ? "level" : toneOf(change, sign);
    const button = el("button", { type: "button", class: `cell ${tone}${shown.has(scenario) ? "" : " faint"}`, "aria-label": `${scenario.name}: ${change === undefined ? "cannot run" : percent(change, true)}` },
      change === undefined ? "cannot run" : el("span", {}, number(metricOf(scenario, metric)), el("small", {}, percent(change, true))));
    button.style.setProperty("--strength", `${Math.round((100 * Math.abs(change ?? 0)) / most)}%`);
    for (const kind of ["pointerenter", "focus", "click"]) button.addEventListener(kind, () => said.say(scenario.name, scenarioLines(scenario, found.base)));
    return el("td", { "data-value": change ?? null }, button);
  };
  const width = across.values.length;
  const rows = down.values.map((value, row) => el("tr", {}, el("th", { scope: "row" }, value), found.scenarios.slice(row * width, (row + 1) * width).map(cell)));
  return el("figure", {},
    el("h3", {}, `${label}: ${down.field} down, ${across.field} across`),
    el("p", { class: "note" }, `The base has ${number(metricOf(found.base, metric))}; colours say how far a cell is from it.`),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Heat map of ${label}` },
      el("table", { class: "heat", id: "heat" },
        el("thead", {}, el("tr", {}, el("th", { scope: "col" }, ""), across.values.map((value) => el("th", { scope: "col" }, value)))),
        el("tbody", {}, rows))),
    el("ul", { class: "key", "aria-label": "Key" }, el("li", {}, el("span", { class: "swatch better" }), "better than the base"), el("li", {}, el("span", { class: "swatch worse" }), "worse")),
    said.node,
  );
}
