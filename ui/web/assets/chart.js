// Charts over time, drawn as SVG at the width they have; colours come from CSS classes.

import { h, onWidth, render, s } from "./dom.js";
import { time } from "./format.js";

const HEIGHT = 150;
const PAD = { top: 12, right: 12, bottom: 22, left: 66 };

// A round number at or above the largest value; for sizes, round in powers of 1024.
const nice = (max, kind) => {
  if (max <= 0) return { binary: 1 << 30, whole: 2 }[kind] || 1;
  if (kind === "binary") {
    const power = 2 ** Math.floor(Math.log2(max));
    return [1, 1.5, 2].map((step) => step * power).find((candidate) => candidate >= max) || max;
  }
  const power = 10 ** Math.floor(Math.log10(max));
  // Half of a whole number's top must be whole, too.
  return (kind === "whole" && power === 1 ? [2, 4, 6, 8, 10] : [1, 2, 2.5, 5, 10]).map((step) => step * power).find((candidate) => candidate >= max) || max;
};

// `end`: where the data ends, if before the right edge.
function frame(width, top, format, from, to, end = width - PAD.right) {
  const inner = { width: width - PAD.left - PAD.right, height: HEIGHT - PAD.top - PAD.bottom };
  const y = (value) => PAD.top + inner.height * (1 - value / top);
  const grid = [0, 0.5, 1].map((share) => [
    s("line", { class: "grid", x1: PAD.left, x2: width - PAD.right, y1: y(top * share), y2: y(top * share) }),
    s("text", { class: "tick", x: PAD.left - 8, y: y(top * share) + 4, "text-anchor": "end" }, format(top * share)),
  ]);
  const labels = [
    s("text", { class: "tick", x: PAD.left, y: HEIGHT - 5 }, time(from)),
    end - PAD.left > 130 ? s("text", { class: "tick", x: end, y: HEIGHT - 5, "text-anchor": "end" }, time(to)) : null,
  ];
  return { inner, y, nodes: [grid.flat(), labels] };
}

/// series: [{name, class, value(point)}], points: [{at, ...}]; limitOf: an optional reference line; kind: "binary" (sizes), "whole" (counts) or nothing.
export function lineChart({ title, series, format, limitOf, kind, fewer }) {
  const holder = h("div", { class: "chart", role: "img", "aria-label": title, own: title });
  let points = [];
  let width = 0;
  const draw = () => {
    if (!width) return;
    if (points.length < 2) return render(holder, h("p", { class: "chart-empty dim" }, fewer || "Collecting…"));
    const limit = limitOf ? limitOf(points[points.length - 1]) : 0;
    const top = nice(Math.max(limit || 0, ...points.flatMap((point) => series.map((line) => line.value(point) || 0))), kind);
    const [from, to] = [points[0].at, points[points.length - 1].at];
    const { inner, y, nodes } = frame(width, top, format, from, to);
    const x = (at) => PAD.left + inner.width * ((at - from) / Math.max(1, to - from));
    const marks = series.map((line) => {
      const path = points.map((point, index) => `${index ? "L" : "M"}${x(point.at).toFixed(1)} ${y(line.value(point) || 0).toFixed(1)}`).join("");
      return s("g", { class: line.class }, s("path", { class: "area", d: `${path}L${x(to).toFixed(1)} ${y(0)}L${x(from).toFixed(1)} ${y(0)}Z` }), s("path", { class: "line", d: path }));
    });
    const cursor = s("line", { class: "cursor", y1: PAD.top, y2: HEIGHT - PAD.bottom, x1: -9, x2: -9 });
    const note = h("div", { class: "chart-note", hidden: true });
    const move = (event) => {
      const at = from + ((event.offsetX - PAD.left) / inner.width) * (to - from);
      const near = points.reduce((best, point) => (Math.abs(point.at - at) < Math.abs(best.at - at) ? point : best));
      cursor.setAttribute("x1", x(near.at));
      cursor.setAttribute("x2", x(near.at));
      note.hidden = false;
      note.textContent = `${time(near.at)}  ${series.map((line) => `${line.name} ${format(line.value(near) || 0)}`).join(", ")}`;
    };
    const leave = () => { note.hidden = true; cursor.setAttribute("x1", -9); cursor.setAttribute("x2", -9); };
    holder.replaceChildren(
      s("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, on: { mousemove: move, mouseleave: leave } }, nodes,
        limit ? s("line", { class: "limit", x1: PAD.left, x2: width - PAD.right, y1: y(limit), y2: y(limit) }) : null, marks, cursor), note);
  };
  onWidth(holder, (now) => { width = now; draw(); });
  return { node: holder, draw: (next) => { points = next; draw(); } };
}

/// Stacked bars, one per item. series: [{name, class, value(item)}], or a function of the items that answers it.
export function barChart({ title, series: given, format, label }) {
  const holder = h("div", { class: "chart", role: "img", "aria-label": title, own: title });
  let items = [];
  let width = 0;
  const draw = () => {
    if (!width || !items.length) return;
    const shown = items.slice(-Math.max(10, Math.floor((width - PAD.left - PAD.right) / 5)));
    const series = typeof given === "function" ? given(items) : given;
    const sum = (item) => series.reduce((total, part) => total + (part.value(item) || 0), 0);
    const top = nice(Math.max(...shown.map(sum)));
    const step = Math.min(28, (width - PAD.left - PAD.right) / shown.length);
    const { inner, y, nodes } = frame(width, top, format, shown[0].at, shown[shown.length - 1].at, PAD.left + step * shown.length);
    const bars = shown.map((item, index) => {
      let base = 0;
      return s("g", null, s("title", null, label(item)),
        s("rect", { class: "hit", x: PAD.left + index * step, y: PAD.top, width: step, height: inner.height }),
        series.map((part) => {
          const value = part.value(item) || 0;
          const rect = s("rect", { class: part.class, x: PAD.left + index * step + step * 0.12, width: Math.max(1, step * 0.76), y: y(base + value), height: Math.max(0, y(base) - y(base + value)), rx: Math.min(2, step / 6) });
          base += value;
          return value ? rect : null;
        }));
    });
    holder.replaceChildren(s("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}` }, nodes, bars));
  };
  onWidth(holder, (now) => { width = now; draw(); });
  return { node: holder, draw: (next) => { items = next; draw(); } };
}

export function legend(series) {
  return h("ul", { class: "legend" }, series.map((item) => h("li", { class: item.class }, h("i", { "aria-hidden": "true" }), item.name)));
}
