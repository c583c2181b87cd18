// Micro-batches of a streaming run over time: rows, rates, where the time goes, what waits; then the latest batches one by one.

import { barChart, legend, lineChart } from "../chart.js";
import { facts, section, sortable, when } from "../components.js";
import { h, render } from "../dom.js";
import { NONE, bytes, compact, count, ms, time } from "../format.js";

const BATCHES_SHOWN = 50;
// In the order in which a batch passes through them; others follow.
const PHASES = ["latestOffset", "queryPlanning", "addBatch", "commitOffsets"];

const known = (value) => value !== null && value !== undefined;
const perSecond = (value) => (known(value) ? `${compact(Math.round(value))}/s` : NONE);
const other = (batch) => Math.max(0, batch.duration_ms - Object.values(batch.phases_ms || {}).reduce((sum, part) => sum + part, 0));

function phasesOf(batches) {
  const names = new Set(batches.flatMap((batch) => Object.keys(batch.phases_ms || {})));
  const ordered = [...PHASES.filter((name) => names.has(name)), ...[...names].filter((name) => !PHASES.includes(name)).sort()];
  const series = ordered.map((name, index) => ({ name, class: `s${(index % 7) + 1}`, value: (batch) => (batch.phases_ms || {})[name] || 0 }));
  return [...series, { name: series.length ? "other" : "whole batch", class: series.length ? "s0" : "c1", value: other }];
}

export function streamingPanel() {
  const rowSeries = [
    { name: "written", class: "c1", value: (batch) => batch.written_rows },
    { name: "dead letters", class: "c4", value: (batch) => batch.dead_letter_rows },
  ];
  const rateSeries = [
    { name: "input rate", class: "c2", value: (batch) => batch.input_rows_per_second },
    { name: "processing rate", class: "c1", value: (batch) => batch.processed_rows_per_second },
  ];
  const lagSeries = [{ name: "waiting", class: "c3", value: (batch) => batch.lag_rows }];
  const head = (batch) => `Batch ${batch.batch} at ${time(batch.ended_at_ms)}`;
  const rows = barChart({ title: "Rows per micro-batch", series: rowSeries, format: compact, label: (batch) => `${head(batch)}: ${count(batch.input_rows)} in, ${count(batch.written_rows)} written, ${count(batch.dead_letter_rows)} dead letters` });
  const durations = barChart({
    title: "Duration of each micro-batch by phase", series: phasesOf, format: ms,
    label: (batch) => `${head(batch)}: ${ms(batch.duration_ms)} (${phasesOf([batch]).map((phase) => `${phase.name} ${ms(phase.value(batch))}`).join(", ")})`,
  });
  const fewer = "A line needs two batches.";
  const rates = lineChart({ title: "Rows per second over time", series: rateSeries, format: (value) => compact(Math.round(value)), fewer });
  const lag = lineChart({ title: "Rows that wait in the source over time", series: lagSeries, format: (value) => compact(Math.round(value)), kind: "whole", fewer });
  const phaseLegend = h("div", { own: "phase-legend" });
  const chart = (heading, key, keys, plot) => h("figure", { class: "plot" }, h("figcaption", null, h("h3", null, heading), keys), plot.node);
  const plots = h("div", { class: "plots", own: "plots" },
    chart("Rows per batch", "rows", legend(rowSeries), rows), chart("Rows per second", "rates", legend(rateSeries), rates),
    chart("Duration of a batch", "durations", phaseLegend, durations), chart("Waiting in the source", "lag", legend(lagSeries), lag));
  const list = sortable({
    caption: "Micro-batches",
    key: (batch) => batch.batch,
    sortBy: 0,
    sortDown: true,
    columns: [
      { title: "Batch", num: true, sort: (b) => b.batch, cell: (b) => b.batch },
      { title: "Ended", sort: (b) => b.ended_at_ms, cell: (b) => when(b.ended_at_ms) },
      { title: "Duration", num: true, sort: (b) => b.duration_ms, cell: (b) => ms(b.duration_ms) },
      { title: "Rows in", num: true, sort: (b) => b.input_rows, cell: (b) => count(b.input_rows) },
      { title: "Written", num: true, sort: (b) => b.written_rows, cell: (b) => count(b.written_rows) },
      { title: "Dead letters", num: true, sort: (b) => b.dead_letter_rows, cell: (b) => h("span", { class: b.dead_letter_rows ? "warn-text" : null }, count(b.dead_letter_rows)) },
      { title: "Processing rate", num: true, sort: (b) => b.processed_rows_per_second, cell: (b) => perSecond(b.processed_rows_per_second) },
      { title: "Read", num: true, sort: (b) => b.input_bytes, cell: (b) => bytes(b.input_bytes) },
      { title: "Files", num: true, sort: (b) => b.output_files, cell: (b) => (known(b.output_files) ? h("span", { title: bytes(b.output_bytes) }, count(b.output_files)) : NONE) },
      { title: "Waiting", num: true, sort: (b) => b.lag_rows, cell: (b) => count(b.lag_rows) },
      { title: "Newest event", cell: (b) => (b.event_time_max ? h("span", { title: b.event_time_max }, b.event_time_max.replace("T", " ").replace(/\.\d+/, "").replace("Z", " UTC")) : NONE) },
    ],
  });
  let chosen = null;

  /// A run may have several queries that stream; one is shown at a time.
  const node = (batches, redraw) => {
    const names = [...new Set(batches.map((batch) => batch.query))];
    if (!names.includes(chosen)) chosen = names[0];
    const own = batches.filter((batch) => batch.query === chosen);
    const last = own[own.length - 1];
    const sum = (of) => own.reduce((total, batch) => total + of(batch), 0);
    const picker = names.length > 1 ? h("div", { class: "chips", role: "group", "aria-label": "Streaming query" }, names.map((name) =>
      h("button", { type: "button", class: "chip", key: name, "aria-pressed": String(name === chosen), on: { click: () => { chosen = name; redraw(); } } }, name))) : h("span", { class: "dim" }, chosen);
    queueMicrotask(() => {
      const items = own.map((batch) => ({ at: batch.ended_at_ms, ...batch }));
      for (const plot of [rows, rates, durations, lag]) plot.draw(items);
      render(phaseLegend, legend(phasesOf(own)));
      list.draw(own.slice(-BATCHES_SHOWN));
    });
    return [
      section("Streaming", picker, facts([
        ["Last batch", `${last.batch}, ${ms(last.duration_ms)}`],
        ["Processing rate", perSecond(last.processed_rows_per_second)],
        ["Input rate", perSecond(last.input_rows_per_second)],
        ["Waiting in the source", known(last.lag_rows) ? `${count(last.lag_rows)} rows` : NONE],
        ["Watermark", last.watermark ? h("span", { title: last.watermark }, last.watermark.replace("T", " ").replace(/\.\d+/, "").replace(/Z|\+00:00/, " UTC")) : NONE],
        ["State", known(last.state_rows) ? `${count(last.state_rows)} rows` : NONE],
        ["Rows shown", count(sum((batch) => batch.input_rows))],
        ["Dead letters shown", count(sum((batch) => batch.dead_letter_rows))],
      ]), plots),
      section("Micro-batches", h("span", { class: "dim" }, own.length > BATCHES_SHOWN ? `the last ${BATCHES_SHOWN} of ${own.length}` : count(own.length)), list.node),
    ];
  };
  return { node };
}
