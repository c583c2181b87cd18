// The cluster: what is there and what it does now. History mode shows counts and the latest runs only.

import { get, segment } from "../api.js";
import { chartsOf } from "./cluster_charts.js";
import { age, badge, bar, card, empty, link, runProgress, section, sortable, table, when } from "../components.js";
import { h, render } from "../dom.js";
import { runDuration } from "./runs.js";
import { bytes, count, shortId, time } from "../format.js";

const POINTS_MAX = 1200;

const pointOf = (sample) => ({ at: sample.at_ms, tasks: sample.tasks_running, cores: sample.cores.total, used: sample.memory.used_bytes, rss: sample.memory.rss_bytes, limit: sample.memory.limit_bytes });

export function clusterPage({ root, shared, signal, title }) {
  title("Cluster");
  const charts = chartsOf();
  const executors = sortable({
    caption: "Executors",
    empty: "No executor has registered yet.",
    key: (executor) => executor.id,
    rowClass: (executor) => (executor.state === "lost" || executor.state === "left" ? "faded" : ""),
    sortBy: 0,
    columns: [
      { title: "Executor", sort: (e) => e.name || e.id, cell: (e) => h("div", { class: "two" }, h("strong", null, e.name || shortId(e.id)), h("code", { title: e.id }, shortId(e.id))) },
      { title: "State", sort: (e) => e.state, cell: (e) => h("div", { class: "two" }, h("span", null, badge(e.state)), e.reason ? h("small", { class: "dim reason", title: e.reason }, e.reason) : null) },
      { title: "Host", sort: (e) => e.host, cell: (e) => h("div", { class: "two" }, h("span", null, e.host), h("small", { class: "dim" }, `pid ${e.pid || "–"}, gRPC ${e.grpc_port}, Flight ${e.flight_port}`)) },
      { title: "Tasks / cores", num: true, sort: (e) => e.tasks_running, cell: (e) => h("div", { class: "meter" }, h("span", null, `${e.tasks_running} / ${e.cores}`), bar(e.tasks_running, e.cores, `${e.tasks_running} of ${e.cores} cores busy`)) },
      { title: "Memory pool", num: true, sort: (e) => e.memory_used_bytes, cell: (e) => h("div", { class: "meter", title: `resident ${bytes(e.memory_rss_bytes)}` }, h("span", null, `${bytes(e.memory_used_bytes)} / ${bytes(e.memory_limit_bytes)}`), bar(e.memory_used_bytes, e.memory_limit_bytes, "memory pool in use")) },
      { title: "Disk", num: true, sort: (e) => e.disk_used_bytes, cell: (e) => h("span", { title: e.work_dir || null }, bytes(e.disk_used_bytes)) },
      { title: "Drivers", cell: (e) => (e.drivers.length ? e.drivers.map((id) => [link(`#/runs/${segment(id)}`, shortId(id), id), " "]) : h("span", { class: "dim" }, "–")) },
      { title: "Started", sort: (e) => e.started_at_ms, cell: (e) => when(e.started_at_ms) },
      { title: "Last seen", sort: (e) => e.last_seen_at_ms, cell: (e) => (e.state === "alive" ? age(e.last_seen_at_ms) : when(e.ended_at_ms || e.last_seen_at_ms)) },
    ],
  });

  const recent = (runs) => section("Latest runs", link("#/runs", "All runs"), runs.items.length ? table({
    caption: "Latest runs",
    rows: runs.items,
    key: (run) => run.run_id,
    onRow: (run) => { location.hash = `#/runs/${segment(run.run_id)}`; },
    columns: [
      { title: "Run", cell: (run) => link(`#/runs/${segment(run.run_id)}`, run.name || run.job || shortId(run.run_id), run.run_id) },
      { title: "State", cell: (run) => badge(run.state) },
      { title: "Progress", cell: runProgress },
      { title: "Submitted", cell: (run) => when(run.submitted_at_ms) },
      { title: "Duration", num: true, cell: runDuration },
    ],
  }) : empty("No run yet.", "Submit one: chainalytics submit <job>"));

  return {
    async load() {
      const live = shared.cluster.mode !== "history";
      const [runs, list] = await Promise.all([get("runs", { limit: 8 }, signal), live ? get("executors", { limit: 500 }, signal) : null]);
      const info = shared.cluster;
      const states = ["queued", "finished", "failed", "lost", "incomplete"].filter((state) => info.runs[state]).slice(0, 4);
      const total = Object.values(info.runs).reduce((sum, number) => sum + number, 0);
      const runsCard = card("Runs", count(live ? info.runs.running || 0 : total), live ? "running now" : "in the event logs",
        h("p", { class: "chips" }, states.map((state) => h("a", { href: `#/runs?state=${state}`, class: "chip" }, badge(state, `${info.runs[state]} ${state}`)))));
      if (!live) {
        render(root,
          h("h1", { class: "sr" }, "Overview"),
          h("div", { class: "cards" }, runsCard,
            card("Event logs", h("span", { class: "path" }, info.event_log_dir || "–"), info.unreadable_logs ? `${info.unreadable_logs} could not be read` : "all readable"),
            card("History server", `since ${time(info.started_at_ms)}`, "Shows runs that ended, also when the scheduler is gone.")),
          recent(runs));
        return 15000;
      }
      if (!shared.history.length) {
        const samples = await get("cluster/samples", {}, signal).catch(() => ({ items: [] }));
        shared.history.push(...samples.items.map(pointOf).filter((point) => point.at < info.now_ms));
      }
      shared.history.push(pointOf({ ...info, at_ms: info.now_ms || Date.now() }));
      if (shared.history.length > POINTS_MAX) shared.history.splice(0, shared.history.length - POINTS_MAX);
      const { alive, draining, lost } = info.executors;
      render(root,
        h("h1", { class: "sr" }, "Cluster"),
        h("div", { class: "cards" },
          card("Executors", count(alive), [draining ? `${draining} draining` : "", lost ? `${lost} lost since the start` : "none lost"].filter(Boolean).join(", ")),
          card("Cores", `${count(info.cores.used)} / ${count(info.cores.total)}`, "busy of all", bar(info.cores.used, info.cores.total, "cores in use")),
          card("Memory pools", bytes(info.memory.used_bytes), `of ${bytes(info.memory.limit_bytes)}, resident ${bytes(info.memory.rss_bytes)}`, bar(info.memory.used_bytes, info.memory.limit_bytes, "memory in use")),
          runsCard,
          card("Queries", count(info.queries_running), `running, with ${count(info.tasks_running)} ${info.tasks_running === 1 ? "task" : "tasks"}`)),
        charts.node,
        section("Executors", null, executors.node),
        recent(runs));
      charts.draw(shared.history);
      executors.draw(list.items);
      return 2000;
    },
  };
}
