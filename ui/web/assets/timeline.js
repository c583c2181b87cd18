// Tasks over time, one band per executor, packed into as few lanes as overlap allows; colour tells the stage.

import { h, onWidth, render, s } from "./dom.js";
import { count, ms, serverNow, shortId } from "./format.js";

const LANE = 14;
const TASKS_MAX = 4000;
const LABEL = 120;

export function timeline() {
  const note = h("p", { class: "chart-note still", "aria-live": "off" });
  const area = h("div", { class: "gantt", role: "img", "aria-label": "Tasks over time, by executor" });
  const node = h("div", { class: "gantt-frame", own: "timeline" }, area, note);
  let query = null;
  let nameOf = shortId;
  let width = 0;

  const bands = () => {
    const tasks = query.stages.flatMap((stage) => stage.tasks.map((task) => ({ ...task, stage: stage.stage_id }))).filter((task) => task.started_at_ms);
    tasks.sort((a, b) => a.started_at_ms - b.started_at_ms);
    const shown = tasks.slice(0, TASKS_MAX);
    const now = serverNow();
    const byExecutor = new Map();
    for (const task of shown) {
      const end = task.ended_at_ms || (task.state === "running" ? now : task.started_at_ms);
      const name = task.executor_id || "all executors";
      if (!byExecutor.has(name)) byExecutor.set(name, []);
      const lanes = byExecutor.get(name);
      let lane = lanes.find((candidate) => candidate.end <= task.started_at_ms);
      if (!lane) { lane = { end: 0, tasks: [] }; lanes.push(lane); }
      lane.end = end;
      lane.tasks.push({ ...task, end });
    }
    return { byExecutor: [...byExecutor].sort(([a], [b]) => nameOf(a).localeCompare(nameOf(b), undefined, { numeric: true })), hidden: tasks.length - shown.length, shown };
  };

  const draw = () => {
    if (!query || !width) return;
    const { byExecutor, hidden, shown } = bands();
    if (!shown.length) { render(area, h("p", { class: "dim" }, "No task has started yet.")); return; }
    const from = shown[0].started_at_ms;
    const to = Math.max(from + 1, ...byExecutor.flatMap(([, lanes]) => lanes.map((lane) => lane.end)));
    const x = (at) => LABEL + ((width - LABEL - 10) * (at - from)) / (to - from);
    let y = 4;
    const groups = byExecutor.map(([name, lanes]) => {
      const top = y;
      y += lanes.length * LANE + 8;
      return s("g", null,
        s("title", null, name),
        s("text", { class: "tick", x: LABEL - 8, y: top + Math.min(lanes.length * LANE, LANE * 2) / 2 + 4, "text-anchor": "end" }, nameOf(name)),
        s("rect", { class: "band", x: LABEL, y: top - 2, width: width - LABEL - 10, height: lanes.length * LANE + 4, rx: 4 }),
        lanes.flatMap((lane, index) => lane.tasks.map((task) => bar(task, top + index * LANE, x))));
    });
    const ticks = [0, 0.25, 0.5, 0.75, 1].map((share) => s("text", { class: "tick", x: LABEL + (width - LABEL - 10) * share, y: y + 10, "text-anchor": share === 0 ? "start" : share === 1 ? "end" : "middle" }, ms((to - from) * share)));
    area.replaceChildren(s("svg", { width, height: y + 16, viewBox: `0 0 ${width} ${y + 16}` }, groups, ticks));
    note.textContent = hidden ? `The first ${count(TASKS_MAX)} tasks; ${count(hidden)} more are not drawn.` : "\u00a0";
  };

  const bar = (task, top, x) => s("rect", {
    class: `task s${task.stage % 8} ${task.state}`, x: x(task.started_at_ms), y: top + 1, width: Math.max(2, x(task.end) - x(task.started_at_ms) - 0.5), height: LANE - 2, rx: 3,
    on: { pointerenter: () => { note.textContent = `Stage ${task.stage}, task ${task.task_id} (${task.state}): ${ms(task.end - task.started_at_ms)}, ${count(task.input_rows)} rows in, ${count(task.output_rows)} out${task.executor_id ? `, on ${nameOf(task.executor_id)}` : ""}${task.error ? `; ${task.error}` : ""}`; } },
  });

  onWidth(area, (now) => { width = now; draw(); });
  return { node, draw: (next, names) => { query = next; nameOf = names || shortId; draw(); } };
}
