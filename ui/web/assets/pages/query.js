// One query: verdict, plan, stages and tasks, texts.

import { get, post, segment } from "../api.js";
import { badge, bar, confirmed, copyable, crumbs, disclosure, duration, empty, errorBox, facts, keyValues, link, section, sortable, table, validity, when } from "../components.js";
import { h, render } from "../dom.js";
import { compact, count, ms, shortId } from "../format.js";
import { planGraph } from "../plan.js";
import { timeline } from "../timeline.js";

const TASKS_SHOWN = 500;

const took = (stage) => (stage.started_at_ms && stage.ended_at_ms ? stage.ended_at_ms - stage.started_at_ms : null);

/// Longest task against the median; 1 = even. Meaningless below two tasks or for blinks.
export function skewOf(stage) {
  const times = stage.tasks.filter((task) => task.state === "succeeded").map((task) => task.duration_ms).sort((a, b) => a - b);
  if (times.length < 2 || times[times.length - 1] < 20) return null;
  return times[times.length - 1] / Math.max(1, times[Math.floor(times.length / 2)]);
}

export function queryPage({ root, args: [jobId], shared, signal, title, reload }) {
  const graph = planGraph();
  const gantt = timeline();
  const names = new Map();
  const nameOf = (id) => names.get(id) || shortId(id);
  const executorName = (id) => (id ? h("span", { title: id }, names.has(id) ? names.get(id) : h("code", null, shortId(id))) : "–");
  const tasks = sortable({
    caption: "Tasks",
    empty: "No task has started yet.",
    key: (task) => `${task.stage}/${task.task_id}`,
    columns: [
      { title: "Stage", sort: (t) => t.stage, cell: (t) => t.stage },
      { title: "Task", sort: (t) => t.task_id, cell: (t) => t.task_id },
      { title: "State", sort: (t) => t.state, cell: (t) => h("span", { title: t.error || null }, badge(t.state)) },
      { title: "Executor", sort: (t) => t.executor_id, cell: (t) => executorName(t.executor_id) },
      { title: "Partitions", sort: (t) => t.partitions[0], cell: (t) => h("span", { title: t.partitions.join(", ") }, t.partitions.length > 4 ? `${t.partitions.slice(0, 3).join(", ")} … (${t.partitions.length})` : t.partitions.join(", ")) },
      { title: "Started", sort: (t) => t.started_at_ms, cell: (t) => when(t.started_at_ms) },
      { title: "Duration", num: true, sort: (t) => t.duration_ms, cell: (t) => duration(t.started_at_ms, t.state === "running" ? null : t.ended_at_ms || t.started_at_ms) },
      { title: "Waited", num: true, sort: (t) => t.started_at_ms - t.scheduled_at_ms, cell: (t) => (t.scheduled_at_ms && t.started_at_ms ? ms(t.started_at_ms - t.scheduled_at_ms) : "–") },
      { title: "Rows in", num: true, sort: (t) => t.input_rows, cell: (t) => count(t.input_rows) },
      { title: "Rows out", num: true, sort: (t) => t.output_rows, cell: (t) => count(t.output_rows) },
    ],
  });
  let chosen = null;
  const choose = (stageId) => { chosen = chosen === stageId ? null : stageId; drawTasks(); };
  const taskTitle = h("h2", { own: "task-title" }, "Tasks");
  const drawTasks = () => {
    if (!query) return;
    const all = query.stages.filter((stage) => chosen === null || stage.stage_id === chosen).flatMap((stage) => stage.tasks.map((task) => ({ ...task, stage: stage.stage_id })));
    taskTitle.textContent = `Tasks${chosen === null ? "" : ` of stage ${chosen}`}${all.length > TASKS_SHOWN ? ` (the ${TASKS_SHOWN} longest of ${count(all.length)})` : ""}`;
    tasks.draw(all.length > TASKS_SHOWN ? [...all].sort((a, b) => b.duration_ms - a.duration_ms).slice(0, TASKS_SHOWN) : all);
    stages.draw(query.stages);
    render(summary, quantiles(all.filter((task) => task.state === "succeeded")), perExecutor(all, executorName));
  };
  const summary = h("div", { own: "task-summary" });
  const stages = sortable({
    caption: "Stages",
    empty: "The query has not been planned yet.",
    key: (stage) => stage.stage_id,
    onRow: (stage) => choose(stage.stage_id),
    rowClass: (stage) => (stage.stage_id === chosen ? "chosen" : ""),
    sortBy: 0,
    columns: [
      { title: "Stage", sort: (g) => g.stage_id, cell: (g) => h("button", { type: "button", class: "linklike", title: "Show its tasks only", "aria-pressed": String(g.stage_id === chosen), on: { click: () => choose(g.stage_id) } }, h("i", { class: `swatch s${g.stage_id % 8}`, "aria-hidden": "true" }), g.stage_id) },
      { title: "State", sort: (g) => g.state, cell: (g) => h("span", { title: g.error || null }, badge(g.state), g.attempt ? h("strong", { class: "bad-text" }, ` attempt ${g.attempt + 1}`) : null) },
      { title: "Tasks", num: true, sort: (g) => g.tasks.length, cell: (g) => { const done = g.tasks.filter((t) => t.state === "succeeded").length; return h("div", { class: "meter" }, h("span", null, `${done} / ${g.tasks.length}`), bar(done, g.tasks.length, "tasks done", g.state === "succeeded" ? "good" : "")); } },
      { title: "Partitions", num: true, sort: (g) => g.partitions, cell: (g) => count(g.partitions) },
      { title: "Rows in", num: true, sort: (g) => g.input_rows, cell: (g) => count(g.input_rows) },
      { title: "Rows out", num: true, sort: (g) => g.output_rows, cell: (g) => count(g.output_rows) },
      { title: "Started", sort: (g) => g.started_at_ms, cell: (g) => when(g.started_at_ms) },
      { title: "Duration", num: true, sort: took, cell: (g) => duration(g.started_at_ms, g.state === "running" ? null : g.ended_at_ms || g.started_at_ms) },
      { title: "Skew", num: true, sort: skewOf, cell: (g) => { const skew = skewOf(g); return skew === null ? "–" : h("span", { class: skew > 3 ? "warn-text" : null, title: "Longest task against the median" }, `${skew.toFixed(1)} ×`); } },
    ],
  });
  const folds = h("div", { own: "folds", class: "stack" });
  let folded = "";
  let query = null;

  const texts = () => {
    const now = JSON.stringify([query.statement, query.logical_plan, query.physical_plan, query.config]);
    if (now === folded) return;
    folded = now;
    const text = (heading, body) => (body ? [disclosure(heading, () => h("div", { class: "textblock" }, copyable(body, heading.toLowerCase()), h("pre", { class: "code", tabindex: "0" }, body)), false)] : []);
    folds.replaceChildren(...(isSql(query.statement) ? [] : text("Statement as planned", query.statement)), ...text("Logical plan", query.logical_plan), ...text("Physical plan", query.physical_plan),
      disclosure(`Configuration (${Object.keys(query.config).length})`, () => keyValues(query.config), false));
  };

  const verdict = () => {
    if (query.validity === "executor_lost" || query.validity === "stage_retried") {
      return h("p", { class: "notice" }, h("strong", null, "This result does not count: "), (query.validity_reason || (query.validity === "executor_lost" ? "an executor that worked on it was lost" : "a stage was tried again")).replace(/\.$/, ""), ". The driver runs such a query again from its start.");
    }
    return null;
  };

  return {
    async load() {
      const live = shared.cluster.mode === "live";
      const [detail, executors] = await Promise.all([get(`queries/${segment(jobId)}`, {}, signal), live && !names.size ? get("executors", { limit: 500 }, signal).catch(() => null) : null]);
      query = detail;
      for (const executor of executors ? executors.items : []) if (executor.name) names.set(executor.id, executor.name);
      const label = query.label || shortId(query.job_id);
      title(label);
      const over = ["succeeded", "failed", "cancelled"].includes(query.state);
      const rowsIn = query.stages.reduce((sum, stage) => sum + (stage.operators && !readsShuffle(stage.operators) ? stage.input_rows : 0), 0);
      render(root,
        query.run_id ? crumbs(["Runs", "#/runs"], [shortId(query.run_id), `#/runs/${segment(query.run_id)}`], [label]) : crumbs(["Queries", "#/queries"], [label]),
        h("section", { class: "panel head" },
          h("div", { class: "headline" }, h("h1", null, label), badge(query.state), ["valid", "executor_lost", "stage_retried"].includes(query.validity) ? validity(query) : null,
            live && !over ? h("div", { class: "actions" }, confirmed({
              label: "Cancel query", question: "Cancel this query?", text: "Its tasks are stopped. The run that issued it sees the cancellation and ends with it, unless it handles it.",
              act: () => post(`queries/${segment(jobId)}/cancel`), done: reload,
            })) : null),
          h("p", { class: "id" }, h("code", null, query.job_id), copyable(query.job_id, "job id")),
          facts([
            ["Run", query.run_id ? link(`#/runs/${segment(query.run_id)}`, shortId(query.run_id), query.run_id) : "–"],
            ["Attempt", query.attempt],
            ["Started", when(query.started_at_ms || query.submitted_at_ms)],
            ["Duration", duration(query.started_at_ms, over ? query.ended_at_ms || query.started_at_ms : null)],
            ["Stages", `${query.stages_done} of ${query.stages_total}`],
            ["Tasks", count(query.stages.reduce((sum, stage) => sum + stage.tasks.length, 0))],
            rowsIn ? ["Rows read", compact(rowsIn)] : null,
            ["Rows of the result", count(query.output_rows)],
          ]),
          isSql(query.statement) ? h("pre", { class: "code statement", tabindex: "0" }, query.statement) : null),
        verdict(),
        query.error ? errorBox({ message: query.error }) : null,
        query.stages.some((stage) => stage.operators) ? section("Plan", null, graph.node) : section("Plan", null, empty("No plan yet.", "It appears as soon as the first stage starts.")),
        section("Stages", h("span", { class: "dim" }, "Pick one to see its tasks only"), stages.node),
        section("Timeline", h("ul", { class: "legend" }, query.stages.slice(0, 12).map((stage) => h("li", null, h("i", { class: `swatch s${stage.stage_id % 8}`, "aria-hidden": "true" }), `stage ${stage.stage_id}`))), gantt.node),
        h("section", { class: "panel" }, h("header", null, taskTitle, h("button", { type: "button", class: "ghost", hidden: chosen === null, on: { click: () => choose(null) } }, "All stages")), summary, tasks.node),
        folds);
      graph.draw(query);
      gantt.draw(query, nameOf);
      drawTasks();
      texts();
      return over ? 15000 : 1500;
    },
  };
}

const isSql = (statement) => /^\s*(--|\/\*|\(|select|with|insert|create|merge|update|delete|alter|drop|truncate|explain|call|show|describe|values)\b/i.test(statement || "");

const QUANTILES = [["Min", 0], ["25th percentile", 0.25], ["Median", 0.5], ["75th percentile", 0.75], ["Max", 1]];

/// What tells an uneven stage: how the tasks spread, as Spark's page has it.
function quantiles(done) {
  if (done.length < 2) return null;
  const row = (name, of, format) => {
    const values = done.map(of).filter((value) => value !== null && value !== undefined).sort((a, b) => a - b);
    return values.length ? { name, cells: QUANTILES.map(([, at]) => format(values[Math.round(at * (values.length - 1))])) } : null;
  };
  const rows = [row("Duration", (t) => t.duration_ms, ms), row("Waited for a core", (t) => (t.scheduled_at_ms && t.started_at_ms ? Math.max(0, t.started_at_ms - t.scheduled_at_ms) : null), ms), row("Rows in", (t) => t.input_rows, count), row("Rows out", (t) => t.output_rows, count)].filter(Boolean);
  return table({
    caption: `Spread over ${count(done.length)} finished tasks`, rows, key: (one) => one.name,
    columns: [{ title: `Spread over ${count(done.length)} finished tasks`, cell: (one) => h("strong", { class: "rowhead" }, one.name) }, ...QUANTILES.map(([title], index) => ({ title, num: true, cell: (one) => one.cells[index] }))],
  });
}

function perExecutor(all, nameOf) {
  const by = new Map();
  for (const task of all) {
    if (!task.executor_id) continue;
    const one = by.get(task.executor_id) || { id: task.executor_id, tasks: 0, failed: 0, ms: 0, rows: 0 };
    one.tasks += 1;
    one.failed += task.state === "failed" ? 1 : 0;
    one.ms += task.duration_ms || 0;
    one.rows += task.input_rows || 0;
    by.set(task.executor_id, one);
  }
  if (by.size < 2) return null;
  return table({
    caption: "By executor", rows: [...by.values()].sort((a, b) => b.ms - a.ms), key: (one) => one.id,
    columns: [
      { title: "By executor", cell: (one) => nameOf(one.id) },
      { title: "Tasks", num: true, cell: (one) => count(one.tasks) },
      { title: "Failed", num: true, cell: (one) => (one.failed ? h("span", { class: "bad-text" }, count(one.failed)) : "0") },
      { title: "Task time", num: true, cell: (one) => ms(one.ms) },
      { title: "Rows in", num: true, cell: (one) => count(one.rows) },
    ],
  });
}

const readsShuffle = (operator) => operator.reads_stage !== null && operator.reads_stage !== undefined || operator.children.some(readsShuffle);
