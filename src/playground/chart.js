// A metric over the steps, for one run or two, drawn as SVG.
import { h } from "./dom.js";

const WIDTH = 300, HEIGHT = 110, POINTS = 300;
const SPACE = "http://www.w3.org/2000/svg";

function svg(tag, attributes) {
  const element = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// A value as people read it.
export function short(value) {
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 999.5) return value.toFixed(0);
  return size >= 0.01 ? value.toPrecision(3) : value.toExponential(1);
}

// Means of neighbours, where there are more points than can be seen.
function fewer(points) {
  const each = Math.ceil(points.length / POINTS);
  if (each <= 1) return points;
  const mean = (part, at) => part.reduce((sum, point) => sum + point[at], 0) / part.length;
  return Array.from({ length: Math.ceil(points.length / each) }, (_, index) => {
    const part = points.slice(index * each, (index + 1) * each);
    return [mean(part, 0), mean(part, 1)];
  });
}

export class Chart {
  constructor(name) {
    this.name = name;
    this.values = h("b", {});
    this.picture = svg("svg", { viewBox: `-3 -4 ${WIDTH + 6} ${HEIGHT + 8}`, role: "img", "aria-label": name });
    this.range = h("span", {});
    this.steps = h("span", {});
    this.element = h("figure", {}, h("figcaption", {}, name, " ", this.values), this.picture,
      h("div", { class: "ends" }, this.range, this.steps));
  }

  // `lines`: for each run its points as [step, value]; a value that is not finite is not drawn.
  draw(lines) {
    const finite = lines.map((points) => points.filter(([, value]) => Number.isFinite(value)));
    let [first, last, least, most] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const [step] of lines.flat()) {
      first = Math.min(first, step);
      last = Math.max(last, step);
    }
    for (const [, value] of finite.flat()) {
      least = Math.min(least, value);
      most = Math.max(most, value);
    }
    const x = (step) => ((step - first) / Math.max(last - first, 1)) * WIDTH;
    const y = (value) => HEIGHT - ((value - least) / (most - least || 1)) * HEIGHT;
    this.picture.replaceChildren(...finite.flatMap((points, run) => {
      const shown = fewer(points).map(([step, value]) => [x(step).toFixed(1), y(value).toFixed(1)]);
      if (shown.length === 0) return [];
      const [cx, cy] = shown.at(-1);
      return [svg("polyline", { class: `line l${run}`, points: shown.map((point) => point.join(",")).join(" ") }),
        svg("circle", { class: `dot l${run}`, cx, cy, r: 3 })];
    }));
    const said = (value) => (Number.isFinite(value) ? short(value) : "not finite");
    const latest = lines.map((points) => (points.length ? said(points.at(-1)[1]) : "–")).join(" | ");
    const range = least <= most ? `${short(least)} to ${short(most)}` : "";
    this.values.textContent = latest;
    this.range.textContent = range;
    this.steps.textContent = `step ${first} to ${last}`;
    this.picture.setAttribute("aria-label", `${this.name}: ${latest}, ${range && `from ${range}, `}step ${first} to ${last}`);
  }
}
