// Lines and points over two axes, read by mouse, finger and arrow keys. A series has a name, a colour and
// points {x, y, low, high, title, lines}; `low` and `high` are the ends of an interval of y, or null.

class LinesChart {
  /** options: {id, label, across, up, stairs, hours}; stairs draws each value until the next one's x. */
  constructor(options) {
    this.options = options;
    this.plane = svg("svg", { id: options.id, role: "application", "aria-roledescription": "line chart", tabindex: "0", "aria-label": `${options.label}. Left and right move along a line, up and down to another, Escape closes the readout.` });
    this.tip = el("div", { class: "tip", role: "status", hidden: true });
    this.key = el("ul", { class: "key", "aria-label": "Key" });
    this.node = el("figure", {}, el("div", { class: "chart" }, this.plane, this.tip), this.key);
    this.series = [];
    this.chosen = null;
    this.pinned = false;
    this.width = 720;
    this.listen();
  }

  start() {
    new ResizeObserver(() => {
      const width = Math.round(this.node.clientWidth);
      if (width > 0 && width !== this.width) {
        this.width = width;
        this.draw();
      }
    }).observe(this.node);
  }

  show(series, up) {
    this.series = series.filter((line) => line.points.length);
    this.up = up ?? this.options.up;
    this.choose(null);
    this.draw();
    this.key.replaceChildren(...this.series.map((line) => el("li", { class: line.colour }, svg("svg", { viewBox: "0 0 22 12", "aria-hidden": "true" }, svg("path", { class: "line", d: "M0 6H22" }), this.options.stairs ? null : svg("circle", { class: "dot", cx: 11, cy: 6, r: 4 })), line.name)));
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
    this.plane.addEventListener("keydown", (event) => this.pressed(event));
  }

  pressed(event) {
    if (event.key === "Escape") {
      this.pinned = false;
      this.choose(null);
    }
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step || !this.series.length) return;
    event.preventDefault();
    this.pinned = true;
    if (this.chosen === null) return this.choose({ line: 0, index: 0 });
    const line = Math.min(Math.max(this.chosen.line + step[0], 0), this.series.length - 1);
    const index = Math.min(Math.max(this.chosen.index + step[1], 0), this.series[line].points.length - 1);
    this.choose({ line, index });
  }

  nearest(event) {
    const box = this.plane.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let found = null;
    let least = REACH;
    this.series.forEach(({ points }, line) => points.forEach((point, index) => {
      const away = Math.hypot(this.x(point.x) - x, this.y(point.y) - y);
      if (away < least) [found, least] = [{ line, index }, away];
    }));
    return found;
  }

  choose(chosen) {
    this.chosen = chosen;
    this.ring?.remove();
    this.tip.hidden = chosen === null;
    if (chosen === null) return;
    const { colour, points } = this.series[chosen.line];
    const point = points[chosen.index];
    const [x, y] = [this.x(point.x), this.y(point.y)];
    const known = point.low !== null && point.low !== undefined;
    const ends = known && `M${x} ${this.y(point.low)}V${this.y(Math.min(point.high, this.most.y))}`;
    this.ring = svg("g", { class: colour }, ends && svg("path", { class: "line", d: ends }), svg("circle", { class: "mark-chosen", cx: x, cy: y, r: 8 }));
    this.plane.append(this.ring);
    this.tip.replaceChildren(el("strong", {}, point.title), ...point.lines.filter(Boolean).map((line) => el("div", {}, line)));
    const { offsetWidth: wide, offsetHeight: high } = this.tip;
    const left = x + 14 + wide > this.width ? x - 14 - wide : x + 14;
    this.tip.style.left = `${Math.max(0, Math.min(left, this.width - wide))}px`;
    this.tip.style.top = `${Math.max(0, Math.min(y - high / 2, this.height - high))}px`;
  }

  x(value) {
    return MARGIN.left + (value / this.most.x) * (this.width - MARGIN.left - MARGIN.right);
  }

  y(value) {
    return this.height - MARGIN.bottom - (value / this.most.y) * (this.height - MARGIN.top - MARGIN.bottom);
  }

  draw() {
    this.height = Math.round(Math.min(430, Math.max(270, 0.55 * this.width)));
    const most = (name) => this.series.reduce((high, line) => line.points.reduce((top, point) => Math.max(top, point[name]), high), 0);
    const across = this.options.hours && most("x") > 12 ? everyFourHours(most("x")) : ticks(most("x"), this.width < 500 ? 4 : 8);
    const up = ticks(most("y"), 6);
    this.most = { x: across[across.length - 1], y: up[up.length - 1] };
    this.plane.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.plane.replaceChildren(...this.axes(across, up), ...this.series.map((line) => this.line(line)));
    this.choose(this.chosen);
  }

  axes(across, up) {
    const [right, bottom] = [this.width - MARGIN.right, this.height - MARGIN.bottom];
    const label = (value) => Number(value.toPrecision(6)).toLocaleString("en-US");
    return [
      ...across.flatMap((value) => [
        svg("path", { class: "grid", d: `M${this.x(value)} ${MARGIN.top}V${bottom}` }),
        svg("text", { x: this.x(value), y: bottom + 17, "text-anchor": value === this.most.x ? "end" : "middle" }, label(value)),
      ]),
      ...up.flatMap((value) => [
        svg("path", { class: "grid", d: `M${MARGIN.left} ${this.y(value)}H${right}` }),
        svg("text", { x: MARGIN.left - 6, y: this.y(value) + 4, "text-anchor": "end" }, label(value)),
      ]),
      svg("text", { x: (MARGIN.left + right) / 2, y: this.height - 8, "text-anchor": "middle" }, this.options.across),
      svg("text", { x: -(MARGIN.top + bottom) / 2, y: 13, transform: "rotate(-90)", "text-anchor": "middle" }, this.up),
    ];
  }

  line({ colour, points }) {
    const { stairs } = this.options;
    const to = (point, index) => (index === 0 ? `M${this.x(point.x)} ${this.y(point.y)}` : stairs ? `H${this.x(point.x)}V${this.y(point.y)}` : `L${this.x(point.x)} ${this.y(point.y)}`);
    return svg("g", { class: `series ${colour}` },
      svg("path", { class: "line", d: points.map(to).join("") }),
      stairs ? null : points.map((point) => svg("circle", { class: "dot point", cx: this.x(point.x), cy: this.y(point.y), r: 4.5 })),
    );
  }
}

/** Steps of an axis in hours. */
function everyFourHours(most) {
  return Array.from({ length: Math.ceil(most / 4) + 1 }, (_, index) => 4 * index);
}

/** The colour class of the n-th thing that a page tells apart. */
function seriesColour(index) {
  return `s${index % 7}`;
}
