import { segment } from "../api.js";
import { badge, bar, duration, link, validity, when } from "../components.js";
import { h } from "../dom.js";
import { NONE, count, shortId } from "../format.js";
import { listPage } from "./list.js";

/// A query's label begins with the name of its run, which a page of that run need not repeat.
export const within = (label, run) => (run && run.name && label.startsWith(`${run.name}: `) ? label.slice(run.name.length + 2) : label);

export const queryHref = (query) => `#/queries/${segment(query.job_id)}`;

/// Also used by the page of one run.
export const queryColumns = [
  { title: "Query", wide: true, cell: (query) => h("div", { class: "two" }, link(queryHref(query), query.title || query.label || shortId(query.job_id), query.label || null), h("code", { title: query.job_id }, query.job_id)) },
  { title: "State", cell: (query) => h("span", { title: query.error || null }, badge(query.state), query.attempt > 1 ? h("small", { class: "dim" }, ` attempt ${query.attempt}`) : null) },
  { title: "Result", cell: validity },
  { title: "Stages", num: true, cell: (query) => h("div", { class: "meter" }, h("span", null, `${query.stages_done} / ${query.stages_total}`), bar(query.stages_done, query.stages_total, "stages done", query.state === "succeeded" ? "good" : "")) },
  { title: "Rows", num: true, cell: (query) => count(query.output_rows) },
  { title: "Started", cell: (query) => when(query.started_at_ms || query.submitted_at_ms) },
  { title: "Duration", num: true, cell: (query) => duration(query.started_at_ms, ["running", "queued"].includes(query.state) ? null : query.ended_at_ms || query.started_at_ms) },
];

export function queriesPage(context) {
  return listPage(context, {
    name: "Queries",
    endpoint: "queries",
    placeholder: "Label, job id or run id",
    hint: "Run one: chainalytics sql -e 'SELECT 1'",
    states: () => ["running", "succeeded", "failed", "cancelled"],
    key: (query) => query.job_id,
    href: queryHref,
    columns: [...queryColumns.slice(0, 1), { title: "Run", cell: (query) => (query.run_id ? link(`#/runs/${segment(query.run_id)}`, shortId(query.run_id), query.run_id) : h("span", { class: "dim" }, NONE)) }, ...queryColumns.slice(1)],
  });
}
