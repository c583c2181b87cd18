// The two charts of the cluster page: the server's samples of the last half hour, then what this page has seen itself.

import { legend, lineChart } from "../chart.js";
import { h } from "../dom.js";
import { bytes, count } from "../format.js";

export function chartsOf() {
  const taskSeries = [{ name: "running tasks", class: "c1", value: (point) => point.tasks }];
  const memorySeries = [
    { name: "resident", class: "c2", value: (point) => point.rss },
    { name: "reserved in pools", class: "c1", value: (point) => point.used },
  ];
    const tasks = lineChart({ title: "Running tasks over time", series: taskSeries, format: count, kind: "whole", limitOf: (point) => point.cores });
  const memory = lineChart({ title: "Memory over time", series: memorySeries, format: bytes, kind: "binary" });
  const panel = (title, series, chart) => h("section", { class: "panel" }, h("header", null, h("h2", null, title), legend(series)), chart.node);
  const node = h("div", { class: "pair", key: "charts", own: "charts" }, panel("Running tasks", taskSeries, tasks), panel("Memory", memorySeries, memory));
  return { node, draw: (points) => { tasks.draw(points); memory.draw(points); } };
}
