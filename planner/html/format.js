// Numbers as text. Every figure on the page passes through here once, from the JSON it came with.

const DASH = "–";
const GB = 1e9;

/** About `digits` significant digits, whole from 10**(digits-1) on, no exponent. */
function number(value, digits = 4) {
  if (value === null || value === undefined) return DASH;
  if (value === 0) return "0";
  let size = Math.abs(value);
  let places = 0;
  while (size < 10 ** (digits - 1) && places < digits + 2) {
    size *= 10;
    places += 1;
  }
  return value.toLocaleString("en-US", { minimumFractionDigits: places, maximumFractionDigits: places, roundingMode: "halfEven" });
}

function whole(value) {
  return value === null || value === undefined ? DASH : Math.round(value).toLocaleString("en-US");
}

/** A fraction in per cent with one decimal. */
function percent(fraction, signed = false) {
  if (fraction === null || fraction === undefined) return DASH;
  // Rounded as the command line rounds.
  const text = (100 * fraction).toLocaleString("en-US", { minimumFractionDigits: 1, maximumFractionDigits: 1, useGrouping: false, roundingMode: "halfEven" });
  return `${signed && !text.startsWith("-") ? "+" : ""}${text} %`;
}

function gb(bytes) {
  return (bytes / GB).toFixed(2);
}

/** Both ends of an interval; nothing where either is unknown. */
function intervalText(low, high, show = number) {
  const known = low !== null && low !== undefined && high !== null && high !== undefined;
  return known ? `${show(low)} to ${show(high)}` : null;
}

function words(name) {
  return name.replaceAll("_", " ");
}

function plural(count, noun) {
  return `${whole(count)} ${noun}${count === 1 ? "" : "s"}`;
}

function range(low, high) {
  return low === high ? `${low}` : `${low}–${high}`;
}

/** A public recipe's name without the collection before the slash. */
function shortName(name) {
  return name.slice(name.lastIndexOf("/") + 1);
}

/** US dollars per million tokens, input and output alike, at a price per GPU-hour. */
function costPerMillion(pricePerHour, tokensPerSecondPerGpu) {
  return tokensPerSecondPerGpu > 0 ? (pricePerHour / 3600 / tokensPerSecondPerGpu) * 1e6 : null;
}

/** A catalog value in the unit that its field's name says. */
function quantity(name, value) {
  if (typeof value !== "number") return String(value);
  if (name.endsWith("bytes_per_s")) return `${number(value / GB)} GB/s`;
  if (name.endsWith("_bytes")) return `${number(value / GB)} GB`;
  if (name.endsWith("_flops")) return `${number(value / 1e12)} TFLOPS`;
  if (name === "power_w") return `${whole(value)} W`;
  if (name === "price_per_gpu_hour") return `$${value.toFixed(2)}`;
  return String(value);
}
