// The Pareto section: filters, the chart, its readout by mouse, finger and arrow keys, and the front as a table.

const REACH = 28; // pixels around the pointer in which the nearest point answers
const MARGIN = { left: 62, right: 14, top: 14, bottom: 44 };

function frontSection(plan, cases) {
  const points = planePoints(plan, cases);
  const chart = new FrontChart();
  const count = el("p", { role: "status", class: "note", id: "front-count" });
  const listed = el("div");
  const { form, read } = filterForm(points, update);
  function update() {
    const shown = passing(points, read());
    const front = paretoFront(shown);
    chart.show(shown, front);
    count.textContent = `${whole(shown.length)} of ${plural(points.length, "point")} shown, ${whole(front.length)} on the front`;
    listed.replaceChildren(frontTable(front));
  }
  const unusable = plan.points.length - plan.points.filter((point) => point.usable).length;
  const made = section(
    "front",
    "Throughput against interactivity",
    el("p", {}, "Each point is one simulated recipe at one concurrency. Up is cheaper, right is faster for each user. Point at, tap, or focus the chart and press the arrow keys to read a point."),
    form,
    count,
    chart.node,
    chartKey(),
    unusable > 0 && el("p", { class: "note" }, `${plural(unusable, "simulated point")} that the engine could not sustain left out.`),
    el("details", {}, el("summary", {}, "The front as a table"), listed),
  );
  update();
  return { node: made, start: () => chart.start() };
}

function filterForm(points, changed) {
  const loads = unique(points.map((point) => point.concurrency));
  const gpus = unique(points.map((point) => point.num_gpus));
  const choice = (id, label, options, value) => {
    const select = el("select", { id }, options.map(([key, text]) => el("option", { value: key, selected: key === value }, text)));
    select.addEventListener("change", changed);
    return el("label", { for: id }, label, select);
  };
  const numbers = (values) => values.map((value) => [value, whole(value)]);
  const reset = el("button", { type: "reset" }, "Reset");
  const form = el(
    "form",
    { class: "controls", "aria-label": "Filter the points" },
    choice("f-low", "Concurrency from", numbers(loads), loads[0]),
    choice("f-high", "to", numbers(loads), loads[loads.length - 1]),
    choice("f-mtp", "Drafting (MTP)", [["all", "on or off"], ["on", "on"], ["off", "off"]], "all"),
    choice("f-gpus", "GPUs at most", numbers(gpus), gpus[gpus.length - 1]),
    choice("f-origin", "Recipes", [["all", "all"], ["public", "public only"], ["search", "searched only"]], "all"),
    reset,
  );
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(changed));
  const at = (id) => form.querySelector(`#${id}`).value;
  const read = () => ({ low: Number(at("f-low")), high: Number(at("f-high")), mtp: at("f-mtp"), gpus: Number(at("f-gpus")), origin: at("f-origin") });
  return { form, read };
}

function chartKey() {
  const item = (mark, text) => el("li", {}, svg("svg", { viewBox: "0 0 22 12", "aria-hidden": "true" }, mark), text);
  return el(
    "ul",
    { class: "key", "aria-label": "Key" },
    item(svg("circle", { class: "mark-search", cx: 11, cy: 6, r: 3.5 }), "searched recipe"),
    item(svg("path", { class: "mark-public", d: diamond(11, 6, 5) }), "public recipe"),
    item(svg("circle", { class: "mark-table", cx: 11, cy: 6, r: 5 }), "in the dispatch table"),
    item(svg("path", { class: "mark-front", d: "M0 6H22" }), "Pareto front of what is shown"),
  );
}

function diamond(x, y, size) {
  return `M${x} ${y - size}L${x + size} ${y}L${x} ${y + size}L${x - size} ${y}Z`;
}

function frontTable(front) {
  return dataTable("Points of the front, of what the filters show", [
    { label: "tok/s/user", value: (p) => p.tokens_per_s_per_user },
    { label: "tok/s/GPU", value: (p) => p.total_tokens_per_s_per_gpu },
    { label: "concurrency", value: (p) => p.concurrency, show: (p) => whole(p.concurrency) },
    { label: "recipe", left: true, value: (p) => p.topology },
    { label: "GPUs", value: (p) => p.num_gpus, show: (p) => whole(p.num_gpus) },
    { label: "TTFT s", value: (p) => p.median_ttft_ms, show: (p) => number(p.median_ttft_ms / 1000) },
    { label: "origin", left: true, value: (p) => p.origin, show: originOf },
  ], front, { sort: true });
}

function originOf(point) {
  return point.origin === "public" ? `public: ${shortName(point.recipe)}` : "searched";
}

/** What the readout says about a point, line by line. */
function pointLines(point) {
  return [
    `concurrency ${whole(point.concurrency)}, ${plural(point.num_gpus, "GPU")}`,
    `${number(point.total_tokens_per_s_per_gpu)} tok/s/GPU, ${number(point.tokens_per_s_per_user)} tok/s/user`,
    intervalLine(point.dispatched?.found),
    `median TTFT ${number(point.median_ttft_ms / 1000)} s`,
    originOf(point) + (point.full ? "" : ", short run"),
    point.dispatched ? `dispatched for concurrency ${range(point.dispatched.row.min_concurrency, point.dispatched.row.max_concurrency)}` : null,
    `digest ${point.digest}`,
  ].filter(Boolean);
}

function intervalLine(found) {
  const gpu = intervalText(found?.total_tokens_per_s_per_gpu_low, found?.total_tokens_per_s_per_gpu_high);
  const user = intervalText(found?.tokens_per_s_per_user_low, found?.tokens_per_s_per_user_high);
  const parts = [gpu && `${gpu} tok/s/GPU`, user && `${user} tok/s/user`].filter(Boolean);
  return parts.length ? `80 % within ${parts.join(", ")}` : null;
}

class FrontChart {
  constructor() {
    this.plane = svg("svg", {
      role: "application",
      "aria-roledescription": "scatter chart",
      tabindex: "0",
      "aria-label": "Throughput per GPU over tokens per second per user. Left and right move along the front, Escape closes the readout.",
    });
    this.tip = el("div", { class: "tip", role: "status", hidden: true });
    this.node = el("figure", { class: "chart" }, this.plane, this.tip);
    this.shown = [];
    this.front = [];
    this.chosen = null;
    this.pinned = false;
    this.width = 720;
    this.listen();
  }

  /** Draw at the size the page gives, once the chart is in it. */
  start() {
    new ResizeObserver(() => {
      const width = Math.round(this.node.clientWidth);
      if (width > 0 && width !== this.width) {
        this.width = width;
        this.draw();
      }
    }).observe(this.node);
  }

  show(points, front) {
    this.shown = points;
    this.front = front;
    this.choose(null);
    this.draw();
  }

  listen() {
    this.plane.addEventListener("pointermove", (event) => {
      if (!this.pinned && event.pointerType !== "touch") this.choose(this.nearest(event));
    });
    this.plane.addEventListener("pointerleave", () => this.pinned || this.choose(null));
    this.plane.addEventListener("click", (event) => {
      const found = this.nearest(event);
      this.pinned = found !== null;
      this.choose(found);
    });
    this.plane.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const last = this.front.length - 1;
    const at = this.front.indexOf(this.chosen);
    const next = { ArrowRight: Math.min(at + 1, last), ArrowLeft: Math.max(at - 1, 0), Home: 0, End: last }[event.key];
    if (event.key === "Escape") {
      this.pinned = false;
      this.choose(null);
    } else if (next !== undefined && last >= 0) {
      this.pinned = true;
      this.choose(this.front[next]);
      event.preventDefault();
    }
  }

  nearest(event) {
    const box = this.plane.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let found = null;
    let least = REACH;
    for (const point of this.shown) {
      const away = Math.hypot(this.x(point) - x, this.y(point) - y);
      if (away < least) [found, least] = [point, away];
    }
    return found;
  }

  choose(point) {
    this.chosen = point;
    this.ring?.remove();
    this.tip.hidden = point === null;
    if (point === null) return;
    const [x, y] = [this.x(point), this.y(point)];
    this.ring = svg("g", {}, point.dispatched && this.interval(point), svg("circle", { class: "mark-chosen", cx: x, cy: y, r: 9 }));
    this.plane.append(this.ring);
    this.tip.replaceChildren(el("strong", {}, point.topology), ...pointLines(point).map((line) => el("div", {}, line)));
    const { offsetWidth: wide, offsetHeight: high } = this.tip;
    const left = x + 14 + wide > this.width ? x - 14 - wide : x + 14;
    this.tip.style.left = `${Math.max(0, Math.min(left, this.width - wide))}px`;
    this.tip.style.top = `${Math.max(0, Math.min(y - high / 2, this.height - high))}px`;
  }

  x(point) {
    return this.xAt(point.tokens_per_s_per_user);
  }

  xAt(value) {
    return MARGIN.left + (value / this.most.x) * (this.width - MARGIN.left - MARGIN.right);
  }

  y(point) {
    return this.yAt(point.total_tokens_per_s_per_gpu);
  }

  yAt(value) {
    return this.height - MARGIN.bottom - (value / this.most.y) * (this.height - MARGIN.top - MARGIN.bottom);
  }

  draw() {
    this.height = Math.round(Math.min(470, Math.max(280, 0.62 * this.width)));
    const most = (value) => this.shown.reduce((high, point) => Math.max(high, value(point)), 0);
    const across = ticks(most((p) => p.tokens_per_s_per_user), this.width < 500 ? 4 : 8);
    const up = ticks(most((p) => p.total_tokens_per_s_per_gpu), 6);
    this.most = { x: across[across.length - 1], y: up[up.length - 1] };
    this.plane.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.plane.replaceChildren(...this.axes(across, up), ...this.marks());
    this.choose(this.chosen);
  }

  axes(across, up) {
    const [right, bottom] = [this.width - MARGIN.right, this.height - MARGIN.bottom];
    const label = (value) => value.toLocaleString("en-US");
    return [
      ...across.flatMap((value) => [
        svg("path", { class: "grid", d: `M${this.xAt(value)} ${MARGIN.top}V${bottom}` }),
        svg("text", { x: this.xAt(value), y: bottom + 17, "text-anchor": value === this.most.x ? "end" : "middle" }, label(value)),
      ]),
      ...up.flatMap((value) => [
        svg("path", { class: "grid", d: `M${MARGIN.left} ${this.yAt(value)}H${right}` }),
        svg("text", { x: MARGIN.left - 6, y: this.yAt(value) + 4, "text-anchor": "end" }, label(value)),
      ]),
      svg("text", { x: (MARGIN.left + right) / 2, y: this.height - 8, "text-anchor": "middle" }, "tok/s/user (1000 / median TPOT in ms)"),
      svg("text", { x: -(MARGIN.top + bottom) / 2, y: 13, transform: "rotate(-90)", "text-anchor": "middle" }, "tok/s/GPU (input + output)"),
    ];
  }

  marks() {
    const published = this.shown.filter((point) => point.origin === "public");
    const searched = this.shown.filter((point) => point.origin !== "public");
    const path = this.front.map((point, index) => `${index ? "L" : "M"}${this.x(point)} ${this.y(point)}`).join("");
    const dispatched = this.shown.filter((point) => point.dispatched);
    return [
      ...searched.map((point) => svg("circle", { class: "mark-search point", cx: this.x(point), cy: this.y(point), r: 3.5 })),
      path && svg("path", { class: "mark-front", d: path }),
      ...published.map((point) => svg("path", { class: "mark-public point", d: diamond(this.x(point), this.y(point), 5) })),
      ...dispatched.map((point) => svg("circle", { class: "mark-table", cx: this.x(point), cy: this.y(point), r: 6 })),
      ...this.labels(dispatched),
    ].filter(Boolean);
  }

  /** The 80 % intervals of a dispatched point as a cross, cut off at the frame. */
  interval({ dispatched: { found } }) {
    const [x, y] = [this.xAt(found.tokens_per_s_per_user), this.yAt(found.total_tokens_per_s_per_gpu)];
    const [low, slow] = [found.total_tokens_per_s_per_gpu_low, found.tokens_per_s_per_user_low];
    const up = low === null ? "" : `M${x} ${this.yAt(low)}V${this.yAt(Math.min(found.total_tokens_per_s_per_gpu_high, this.most.y))}`;
    const across = slow === null ? "" : `M${this.xAt(slow)} ${y}H${this.xAt(Math.min(found.tokens_per_s_per_user_high, this.most.x))}`;
    return svg("path", { class: "mark-interval", d: up + across });
  }

  /** Concurrency beside dispatched points, where no other label is. */
  labels(points) {
    const taken = [];
    const found = [];
    for (const point of points) {
      const at = { x: this.x(point) + 9, y: this.y(point) - 6 };
      if (at.x > this.width - 44 || taken.some((other) => Math.abs(other.x - at.x) < 44 && Math.abs(other.y - at.y) < 13)) continue;
      taken.push(at);
      found.push(svg("text", { class: "tag", x: at.x, y: at.y }, `c${point.concurrency}`));
    }
    return found;
  }
}
