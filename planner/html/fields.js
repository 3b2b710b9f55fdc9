// Controls: a labelled choice, a box to tick, a number.

function choiceField(id, label, options, value, changed) {
  const select = el("select", { id }, options.map(([key, text]) => el("option", { value: key, selected: key === value }, text)));
  select.addEventListener("change", changed);
  return { node: el("label", { for: id }, label, select), read: () => select.value };
}

function tickField(id, label, ticked, changed, colour = null) {
  const box = el("input", { id, type: "checkbox", checked: ticked });
  box.addEventListener("change", changed);
  return { node: el("label", { for: id, class: "tick" }, box, colour && el("span", { class: `swatch ${colour}`, "aria-hidden": "true" }), label), read: () => box.checked };
}

/** A number above 0; `read` gives null for anything else. */
function numberField(id, label, value, changed, step = "0.01") {
  const input = el("input", { id, type: "number", min: "0", step, value, inputmode: "decimal" });
  input.addEventListener("input", changed);
  return { node: el("label", { for: id }, label, input), read: () => (Number(input.value) > 0 ? Number(input.value) : null) };
}

/** Fields beside each other, in a form that is left out on paper. */
function controls(label, fields) {
  const form = el("form", { class: "controls", "aria-label": label }, fields.map((field) => field.node));
  form.addEventListener("submit", (event) => event.preventDefault());
  return form;
}

/** Prices by platform that the reader may change; each starts at what was assumed. */
function priceFields(assumptions, changed) {
  const fields = assumptions.map(({ hardware }) => [hardware.name, numberField(`price-${hardware.name}`, `$ per GPU-hour, ${hardware.name}`, hardware.price_per_gpu_hour, changed)]);
  const node = el("div", {},
    el("div", { class: "controls" }, fields.map(([, field]) => field.node)),
    el("p", { class: "note" }, `Prices are assumptions: ${assumptions.map(({ hardware }) => `${hardware.name} $${hardware.price_per_gpu_hour.toFixed(2)} (${hardware.sources.price_per_gpu_hour ?? "no source"})`).join("; ")}.`),
  );
  const found = Object.fromEntries(fields);
  return { node, read: (name) => found[name].read() };
}

/** What stands before and between changes: a status line that a chart of plain elements writes to. */
function readout(hint) {
  const node = el("p", { class: "readout", role: "status" }, hint);
  return { node, say: (title, lines) => node.replaceChildren(el("strong", {}, title), ` ${lines.filter(Boolean).join("; ")}`) };
}
