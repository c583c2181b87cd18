// One run: what it does or why it failed, its queries, its micro-batches, its driver's log.

import { get, post, segment } from "../api.js";
import { badge, confirmed, copyable, crumbs, disclosure, empty, errorBox, facts, keyValues, link, runProgress, section, table, when } from "../components.js";
import { h, render } from "../dom.js";
import { count, percent, shortId } from "../format.js";
import { logTail } from "./log_tail.js";
import { queryColumns, queryHref, within } from "./queries.js";
import { runDuration } from "./runs.js";
import { streamingPanel } from "./streaming.js";

const QUERIES_SHOWN = 100;
const OVER = ["finished", "failed", "killed", "lost", "incomplete"];

export function runPage({ root, args: [runId], shared, signal, title, reload }) {
  const log = logTail(runId, signal);
  const stream = streamingPanel();
  const folds = h("div", { own: "folds", class: "stack" });
  let folded = "";
  let page = 0;

  const queries = (run, redraw) => {
    const all = [...run.queries].reverse();
    const shown = all.slice(page * QUERIES_SHOWN, (page + 1) * QUERIES_SHOWN);
    return section("Queries", h("span", { class: "dim" }, run.queries_total > all.length ? `the last ${count(all.length)} of ${count(run.queries_total)}` : count(all.length)),
      all.length ? table({ caption: "Queries of the run", rows: shown.map((query) => ({ ...query, title: within(query.label, run) })), key: (query) => query.job_id, columns: queryColumns, onRow: (query) => { location.hash = queryHref(query); } })
        : empty("This run has issued no query.", run.state === "running" ? "It may still be planning." : null),
      all.length > QUERIES_SHOWN ? h("nav", { class: "pager", "aria-label": "Pages of queries" },
        h("button", { type: "button", disabled: page === 0, on: { click: () => { page -= 1; redraw(); } } }, "← Newer"),
        h("span", { class: "dim" }, `${page * QUERIES_SHOWN + 1}–${page * QUERIES_SHOWN + shown.length}`),
        h("button", { type: "button", disabled: (page + 1) * QUERIES_SHOWN >= all.length, on: { click: () => { page += 1; redraw(); } } }, "Older →")) : null);
  };

  const header = (run) => {
    const cut = run.state === "incomplete";
    const progress = run.progress;
    return h("section", { class: "panel head" },
      h("div", { class: "headline" }, h("h1", null, run.name || run.job), badge(run.state), run.kill_requested && !run.ended_at_ms ? badge("killed", "kill requested") : null,
        shared.cluster.mode === "live" && !OVER.includes(run.state) && !run.kill_requested ? h("div", { class: "actions" }, confirmed({
          label: "Kill run", question: `Kill ${run.name || run.job}?`,
          text: "Its queries are cancelled and its driver is asked to end. What it has committed stays; nothing unfinished becomes visible.",
          act: () => post(`runs/${segment(runId)}/kill`), done: reload,
        })) : null),
      h("p", { class: "id" }, h("code", null, run.run_id), copyable(run.run_id, "run id")),
      run.state === "running" || (progress && !["finished"].includes(run.state)) ? h("div", { class: "bigprogress" }, runProgress(run),
        progress && progress.total ? h("strong", null, `${Math.floor(percent(progress.done, progress.total))} %`) : null) : null,
      facts([
        ["Job", run.job],
        ["Arguments", run.args.length ? h("code", null, run.args.join(" ")) : "–"],
        ["User", run.user || "–"],
        ["Driver", `${run.deploy_mode}${run.driver_location ? ` on ${shortId(run.driver_location)}` : ""}`],
        ["Attempt", run.attempt || "–"],
        ["Submitted", when(run.submitted_at_ms)],
        ["Started", when(run.started_at_ms)],
        ["Ended", cut ? "unknown: its log has no end" : when(run.ended_at_ms)],
        ["Duration", runDuration(run)],
        ["Rows", count(progress && progress.rows)],
        run.lost_executors.length ? ["Executors lost meanwhile", run.lost_executors.join(", ")] : null,
      ]));
  };

  const details = (run) => {
    const now = JSON.stringify([run.conf, run.report, progressMetrics(run)]);
    if (now === folded) return;
    folded = now;
    folds.replaceChildren(
      ...(run.report !== null && run.report !== undefined ? [disclosure("Report", () => report(run.report), true)] : []),
      ...(progressMetrics(run) ? [disclosure("Figures of the driver", () => report(progressMetrics(run)), false)] : []),
      disclosure(`Configuration (${Object.keys(run.conf).length})`, () => keyValues(run.conf), false));
  };

  return {
    leave: () => log.stop(),
    async load() {
      const run = await get(`runs/${segment(runId)}`, {}, signal);
      title(run.name || run.job);
      const draw = () => {
        render(root,
          crumbs(["Runs", "#/runs"], [run.name || run.job]),
          header(run),
          run.error ? errorBox(run.error) : null,
          run.streaming.length ? stream.node(run.streaming, draw) : null,
          queries(run, draw),
          folds,
          log.node);
        details(run);
      };
      draw();
      log.poll();
      return shared.cluster.mode === "history" ? 15000 : OVER.includes(run.state) ? 10000 : 1500;
    },
  };
}

const progressMetrics = (run) => (run.progress && run.progress.metrics && Object.keys(run.progress.metrics).length ? run.progress.metrics : null);

function report(value) {
  if (value && typeof value === "object" && !Array.isArray(value) && Object.values(value).every((one) => one === null || typeof one !== "object")) return keyValues(value);
  return h("pre", { class: "code", tabindex: "0" }, JSON.stringify(value, null, 2));
}
