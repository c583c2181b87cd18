// The plan graph: draws the layout, zooms and pans, shows details of the operator under the pointer or the focus.

import { facts } from "./components.js";
import { h, render, s } from "./dom.js";
import { bytes, compact, count, ms, ns } from "./format.js";
import { NODE, layout } from "./plan_layout.js";

const ZOOM = { min: 0.08, max: 2.5 };

const cut = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);
const rows = (metrics) => (metrics.output_rows === null || metrics.output_rows === undefined ? null : `${metrics.approximate ? "≈ " : ""}${compact(metrics.output_rows)} rows`);

export function planGraph() {
  const canvas = s("g");
  const svg = s("svg", { class: "plan-svg", tabindex: "0", role: "group", "aria-label": "Plan graph; arrow keys move it, plus and minus zoom" },
    s("defs", null, s("marker", { id: "arrow", viewBox: "0 0 8 8", refX: "7", refY: "4", markerWidth: "7", markerHeight: "7", orient: "auto" }, s("path", { d: "M0 0L8 4L0 8z", class: "arrowhead" }))), canvas);
  const details = h("aside", { class: "plan-details", "aria-live": "polite" });
  const view = { x: 0, y: 0, k: 1, touched: false };
  let drawn = "";
  let size = { width: 0, height: 0 };
  let pinned = null;

  const apply = () => canvas.setAttribute("transform", `translate(${view.x.toFixed(1)} ${view.y.toFixed(1)}) scale(${view.k.toFixed(4)})`);
  const zoom = (factor, x = svg.clientWidth / 2, y = svg.clientHeight / 2) => {
    const k = Math.min(ZOOM.max, Math.max(ZOOM.min, view.k * factor));
    view.x = x - ((x - view.x) * k) / view.k;
    view.y = y - ((y - view.y) * k) / view.k;
    view.k = k;
    view.touched = true;
    apply();
  };
  const fit = () => {
    const [width, height] = [svg.clientWidth, svg.clientHeight];
    if (!width || !size.width) return;
    view.k = Math.min(1.1, Math.max(ZOOM.min, Math.min((width - 40) / size.width, (height - 40) / size.height)));
    view.x = (width - size.width * view.k) / 2;
    view.y = Math.max(20, (height - size.height * view.k) / 2);
    apply();
  };
  // A tall plan fitted as a whole is unreadable: the frame grows with it up to a point, then the view begins at its top.
  const start = () => {
    node.style.height = `${Math.round(Math.min(820, Math.max(360, size.height * 0.85 + 60)))}px`;
    fit();
    if (view.k < 0.7 && size.width < size.height) {
      view.k = Math.min(0.85, (svg.clientWidth - 40) / size.width);
      view.x = (svg.clientWidth - size.width * view.k) / 2;
      view.y = 20;
      apply();
    }
  };

  svg.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey && document.activeElement !== svg && !svg.matches(":focus-within")) return;
    event.preventDefault();
    const box = svg.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0016)), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });
  let drag = null;
  svg.addEventListener("pointerdown", (event) => { if (event.button === 0) drag = { x: event.clientX - view.x, y: event.clientY - view.y, id: event.pointerId, moved: false }; });
  svg.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const [x, y] = [event.clientX - drag.x, event.clientY - drag.y];
    if (!drag.moved && Math.hypot(x - view.x, y - view.y) < 4) return;
    if (!drag.moved) { drag.moved = true; svg.setPointerCapture(drag.id); svg.classList.add("dragging"); }
    Object.assign(view, { x, y, touched: true });
    apply();
  });
  const drop = () => { drag = null; svg.classList.remove("dragging"); };
  svg.addEventListener("pointerup", drop);
  svg.addEventListener("pointercancel", drop);
  svg.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
    if (moves[event.key] && event.target === svg) { view.x += moves[event.key][0]; view.y += moves[event.key][1]; view.touched = true; apply(); }
    else if (event.key === "+" || event.key === "=") zoom(1.2);
    else if (event.key === "-") zoom(1 / 1.2);
    else if (event.key === "0") { view.touched = false; fit(); }
    else if (event.key === "Escape") { pinned = null; return; }
    else return;
    event.preventDefault();
  });

  const button = (text, label, action) => h("button", { type: "button", "aria-label": label, title: label, on: { click: action } }, text);
  const node = h("div", { class: "plan", own: "plan" },
    h("div", { class: "plan-view" }, svg, h("div", { class: "plan-tools" },
      button("+", "Zoom in", () => zoom(1.25)), button("−", "Zoom out", () => zoom(1 / 1.25)), button("⤢", "Fit the whole plan", () => { view.touched = false; fit(); }))),
    details);
  new ResizeObserver(() => { if (!view.touched) requestAnimationFrame(start); }).observe(svg);

  const hint = (query) => render(details, h("h3", null, "Plan"), h("p", { class: "dim" }, "Data flows downward. Point at an operator, or move to it with Tab, to see its details; click to keep them. Colour shows its share of all computing time."),
    h("div", { class: "scale", "aria-hidden": "true" }, h("span", null, "0 %"), h("i"), h("span", null, "100 %")), hottest(query));

  const hottest = (query) => {
    const all = [];
    const walk = (operator, stage) => { all.push({ operator, stage }); for (const child of operator.children) walk(child, stage); };
    for (const stage of query.stages) if (stage.operators) walk(stage.operators, stage);
    const total = all.reduce((sum, one) => sum + (one.operator.metrics.elapsed_ns || 0), 0);
    const top = all.filter((one) => one.operator.metrics.elapsed_ns).sort((a, b) => b.operator.metrics.elapsed_ns - a.operator.metrics.elapsed_ns).slice(0, 6);
    if (!total || !top.length) return null;
    return h("div", null, h("h4", null, "Most computing time"), h("ol", { class: "hot" }, top.map(({ operator, stage }) =>
      h("li", null, h("button", { type: "button", class: "linklike", on: { click: () => focus(operator.id) } }, operator.name),
        h("span", { class: "dim" }, ` stage ${stage.stage_id}, `), `${Math.round((100 * operator.metrics.elapsed_ns) / total)} %, ${ns(operator.metrics.elapsed_ns)}`))));
  };

  const focus = (id) => {
    const target = [...canvas.querySelectorAll(".op")].find((op) => op.caId === id);
    if (!target) return;
    const box = target.getBoundingClientRect();
    const frame = svg.getBoundingClientRect();
    view.x += frame.left + frame.width / 2 - (box.left + box.width / 2);
    view.y += frame.top + frame.height / 2 - (box.top + box.height / 2);
    view.touched = true;
    apply();
    target.focus({ preventScroll: true });
  };

  const show = (operator, stage, share) => {
    const m = operator.metrics;
    render(details,
      h("h3", null, operator.name), h("p", { class: "dim" }, `Stage ${stage.stage_id}, ${operator.id}`),
      facts([
        ["Rows out", m.output_rows === null || m.output_rows === undefined ? "–" : `${m.approximate ? "≈ " : ""}${count(m.output_rows)}`],
        ["Computing time", m.elapsed_ns === null || m.elapsed_ns === undefined ? "–" : `${ns(m.elapsed_ns)} (${(100 * share).toFixed(1)} %)`],
        m.output_bytes ? ["Bytes out", bytes(m.output_bytes)] : null,
        m.spilled_bytes ? ["Spilled", `${bytes(m.spilled_bytes)}, ${count(m.spilled_rows)} rows`] : null,
      ]),
      operator.detail ? h("pre", { class: "code detail" }, operator.detail) : null,
      Object.keys(m.other).length ? h("table", { class: "kv small" }, h("tbody", null, Object.entries(m.other).map(([key, value]) => h("tr", null, h("th", { scope: "row" }, key), h("td", null, value))))) : null);
  };

  const draw = (query) => {
    const now = JSON.stringify([query.stages.map((stage) => [stage.stage_id, stage.state, stage.attempt, stage.operators, stage.output_rows, stage.tasks.length, stage.tasks.filter((task) => task.state === "succeeded").length]), query.edges]);
    if (now === drawn) return;
    const first = !drawn;
    drawn = now;
    const plan = layout(query);
    size = plan;
    let total = 0;
    for (const box of plan.stages) for (const own of box.nodes) total += own.node.metrics.elapsed_ns || 0;
    const held = document.activeElement && document.activeElement.caId;
    canvas.replaceChildren(...plan.stages.map(stageShape), ...plan.edges.map(edgeShape), ...plan.stages.map(stageHead), ...plan.stages.flatMap((box) => box.nodes.map((own) => operatorShape(box, own, total))));
    if (held && canvas.isConnected) focusQuietly(held);
    if (pinned === null) hint(query);
    if (first || !view.touched) start();
    query = null;
  };
  const focusQuietly = (id) => { const again = [...canvas.querySelectorAll(".op")].find((op) => op.caId === id); if (again) again.focus({ preventScroll: true }); };

  const stageShape = (box) => {
    const { stage } = box;
    const lines = box.links.map(({ from, to }) => {
      const [x1, y1, x2, y2] = [from.x + NODE.width / 2, from.y + NODE.height, to.x + NODE.width / 2, to.y];
      const middle = (y1 + y2) / 2;
      return s("path", { class: "flow", d: x1 === x2 ? `M${x1} ${y1}L${x2} ${y2 - 1}` : `M${x1} ${y1}C${x1} ${middle} ${x2} ${middle} ${x2} ${y2 - 1}`, "marker-end": "url(#arrow)" });
    });
    return s("g", { class: `stage ${stage.state}`, transform: `translate(${box.x} ${box.y})` },
      s("rect", { width: box.width, height: box.height, rx: 12 }), lines);
  };

  // Drawn after the edges, which pass through the head of a stage.
  const stageHead = (box) => {
    const { stage } = box;
    const done = stage.tasks.filter((task) => task.state === "succeeded").length;
    const time = stage.started_at_ms && stage.ended_at_ms && stage.state !== "running" ? `, ${ms(stage.ended_at_ms - stage.started_at_ms)}` : "";
    return s("g", { class: `stage-head ${stage.state}`, transform: `translate(${box.x} ${box.y})` },
      s("text", { class: "stage-name", x: 16, y: 24 }, `Stage ${stage.stage_id}`),
      s("text", { class: "stage-note", x: box.width - 16, y: 24, "text-anchor": "end" }, cut(`${stage.state === "succeeded" ? "" : `${stage.state}, `}${stage.attempt ? `attempt ${stage.attempt + 1}, ` : ""}${stage.tasks.length ? `${done}/${stage.tasks.length} tasks` : "no tasks yet"}${time}`, Math.floor((box.width - 88) / 5.7))));
  };

  const edgeShape = (edge) => {
    const middle = (edge.y1 + edge.top) / 2;
    return s("g", { class: "edge" },
      s("path", { d: `M${edge.x1} ${edge.y1}C${edge.x1} ${middle + 14} ${edge.x2} ${middle - 14} ${edge.x2} ${edge.top}L${edge.x2} ${edge.y2 - 1}`, "marker-end": "url(#arrow)" }),
      edge.rows === null || edge.rows === undefined ? null : s("text", { x: (edge.x1 + edge.x2) / 2 + 8, y: middle + 4 }, `${compact(edge.rows)} rows`));
  };

  const operatorShape = (box, own, total) => {
    const { node: operator } = own;
    const metrics = operator.metrics;
    const share = total > 0 ? (metrics.elapsed_ns || 0) / total : 0;
    const second = [rows(metrics), metrics.elapsed_ns ? ns(metrics.elapsed_ns) : null].filter(Boolean).join(" · ");
    const set = () => show(operator, box.stage, share);
    const shape = s("g", {
      class: "op", tabindex: "0", role: "button", transform: `translate(${box.x + own.x} ${box.y + own.y})`,
      "aria-label": `${operator.name}, stage ${box.stage.stage_id}${second ? `, ${second}` : ""}`,
      style: { "--share": `${Math.round(100 * Math.sqrt(share))}%` },
      on: {
        pointerenter: () => { if (!pinned && !drag) set(); },
        focus: () => { pinned = operator.id; set(); },
        blur: () => { pinned = null; },
      },
    },
      s("rect", { class: "body", width: NODE.width, height: NODE.height, rx: 8 }),
      share > 0 ? s("rect", { class: "share", x: 8, y: NODE.height - 6, width: Math.max(2, (NODE.width - 16) * share), height: 3, rx: 1.5 }) : null,
      s("text", { class: "op-name", x: 12, y: 20 }, cut(operator.name.replace(/Exec$/, ""), 28)),
      s("text", { class: "op-note", x: 12, y: 37 }, second || cut(operator.detail.replaceAll("\n", " "), 34)),
      metrics.spilled_bytes ? s("text", { class: "op-spill", x: NODE.width - 12, y: 20, "text-anchor": "end" }, `spilled ${bytes(metrics.spilled_bytes)}`) : null);
    shape.caId = operator.id;
    return shape;
  };

  return { node, draw };
}
