import { segment } from "../api.js";
import { badge, duration, link, runProgress, when } from "../components.js";
import { h } from "../dom.js";
import { NONE, count, shortId } from "../format.js";
import { listPage } from "./list.js";

/// Nobody knows how long a run took whose log has no end.
export const runDuration = (run) => (run.state === "incomplete" ? h("span", { class: "dim" }, NONE) : duration(run.started_at_ms || run.submitted_at_ms, run.ended_at_ms));

export function runsPage(context) {
  const href = (run) => `#/runs/${segment(run.run_id)}`;
  return listPage(context, {
    name: "Runs",
    endpoint: "runs",
    placeholder: "Name, job, user or id",
    hint: "Submit one: chainalytics submit <job>",
    states: () => (context.shared.cluster && context.shared.cluster.mode === "history" ? ["finished", "failed", "killed", "lost", "incomplete"] : ["running", "queued", "finished", "failed", "killed", "lost"]),
    key: (run) => run.run_id,
    href,
    columns: [
      { title: "Run", cell: (run) => h("div", { class: "two" }, link(href(run), run.name || run.job || shortId(run.run_id)), h("code", { title: run.run_id }, shortId(run.run_id))) },
      { title: "Job", cell: (run) => h("div", { class: "two" }, h("span", null, run.job), h("small", { class: "dim" }, [run.user, `${run.deploy_mode} mode`].filter(Boolean).join(", "))) },
      { title: "State", cell: (run) => h("span", { title: run.error ? `${run.error.code}: ${run.error.message}` : null }, badge(run.state), run.attempt > 1 ? h("small", { class: "dim" }, ` attempt ${run.attempt}`) : null) },
      { title: "Progress", cell: runProgress },
      { title: "Rows", num: true, cell: (run) => count(run.progress && run.progress.rows) },
      { title: "Queries", num: true, cell: (run) => count(run.queries_total) },
      { title: "Submitted", cell: (run) => when(run.submitted_at_ms) },
      { title: "Duration", num: true, cell: runDuration },
    ],
  });
}
