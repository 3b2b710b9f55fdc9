// Elements and tables. Text only ever enters as text nodes, never as markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child);
  }
  return node;
}

function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function section(id, title, ...children) {
  return el("section", { id, "aria-labelledby": `${id}-title` }, el("h2", { id: `${id}-title` }, title), ...children);
}

function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== "");
  return el("dl", { class: "facts" }, shown.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

/** What an interval is, where any of these records holds one. */
function intervalsNote(records) {
  const known = records.some((record) => Object.entries(record).some(([name, value]) => value !== null && (name.endsWith("_low") || value.low !== undefined)));
  return known ? el("p", { class: "note" }, "A range below a figure is its 80 % interval: of deployments like this one, four in five measure within.") : null;
}

function swatch(colour) {
  return el("span", { class: `swatch ${colour}`, "aria-hidden": "true" });
}

/** A figure with its interval below it, where there is one. */
function withInterval(value, low, high, show = number) {
  const interval = intervalText(low, high, show);
  if (interval === null) return value === null || value === undefined ? DASH : show(value);
  return el("span", { class: "figure" }, show(value), el("small", { class: "interval" }, interval));
}

function copyButton(text, label) {
  const button = el("button", { type: "button", class: "copy", "aria-label": label }, "Copy");
  button.addEventListener("click", async () => {
    button.textContent = (await copied(text)) ? "Copied" : "Select it and copy";
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  return button;
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Browsers hand out the clipboard on secure pages only; a selection can be copied everywhere.
    const field = el("textarea", { class: "hidden", "aria-hidden": "true" });
    field.value = text;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
}

/**
 * A table.
 *
 * columns: {label, value(row), show(row), left, wrap, long, sub(row)}; long texts may break anywhere; `value` is the raw figure or text, which is
 * sorted by and kept in the cell; `show` is what a reader sees, `value` itself by default.
 * options: {sort: true, cards: true, wide: true}; cards is one block per row on narrow screens.
 */
function dataTable(caption, columns, rows, options = {}) {
  const body = el("tbody");
  const heads = columns.map((column) => tableHead(column, options.sort));
  const table = el(
    "table",
    { class: [options.cards && "cards", (options.cards || options.wide) && "wide"].filter(Boolean).join(" ") || null, role: "table" },
    el("caption", {}, caption),
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, heads)),
    body,
  );
  body.setAttribute("role", "rowgroup");
  const draw = (ordered) => body.replaceChildren(...ordered.map((row) => tableRow(columns, row)));
  draw(rows);
  heads.forEach((head, index) => {
    head.querySelector("button")?.addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      draw(sorted(rows, columns[index].value, falling));
    });
  });
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, table);
}

function tableHead(column, sortable) {
  const can = sortable && column.sort !== false;
  const attributes = { scope: "col", role: "columnheader", class: `${column.left ? "" : "num"}${can ? "" : " plain"}` };
  return el("th", attributes, can ? el("button", { type: "button" }, column.label) : column.label);
}

function tableRow(columns, row) {
  return el("tr", { role: "row" }, columns.map((column) => {
    const value = column.value(row);
    const shown = column.show ? column.show(row) : typeof value === "number" ? number(value) : value ?? DASH;
    const kind = `${column.left ? (column.long ? "wrap long" : column.wrap ? "wrap" : "") : "num"}${column.sub?.(row) ? " sub" : ""}`;
    return el("td", { role: "cell", class: kind.trim() || null, "data-label": column.label, "data-value": typeof value === "number" ? value : null }, shown);
  }));
}

/** Rows by a value; unknown ones last either way, equal ones in the order they had. */
function sorted(rows, value, falling) {
  const known = (row) => value(row) !== null && value(row) !== undefined;
  const order = (a, b) => {
    const [x, y] = [value(a), value(b)];
    const step = typeof x === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
    return falling ? -step : step;
  };
  return [...rows.filter(known).sort(order), ...rows.filter((row) => !known(row))];
}
