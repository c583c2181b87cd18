// The end of a driver's log: the last 64 KiB first, then whatever comes; a bounded number of lines.

import { get, segment } from "../api.js";
import { h } from "../dom.js";
import { bytes } from "../format.js";

const LINES_MAX = 3000;
const TAIL_BYTES = 64 * 1024;
// Colours and cursor moves of a terminal.
const ESCAPES = /\u001b\[[0-9;?]*[A-Za-z]/g;

export function logTail(runId, signal) {
  let next = null;
  let partial = "";
  let busy = false;
  let complete = false;
  let stopped = false;
  let follow = true;
  const view = h("pre", { class: "log", tabindex: "0", role: "log", "aria-label": "Driver log", on: { scroll() { follow = view.scrollTop + view.clientHeight > view.scrollHeight - 24; } } });
  const status = h("span", { class: "dim" });
  const raw = h("a", { href: `/api/v1/runs/${segment(runId)}/logs?offset=0`, target: "_blank", rel: "noopener" }, "From the start");
  const node = h("section", { class: "panel", own: "log", key: "log" }, h("header", null, h("h2", null, "Driver log"), h("div", { class: "filters" }, status, raw)), view);
  view.append(h("span", { class: "dim" }, "Loading…"));

  const level = (line) => (/\b(ERROR|FATAL|panicked)\b/.test(line) ? "l-error" : /\bWARN(ING)?\b/.test(line) ? "l-warn" : /\b(DEBUG|TRACE)\b/.test(line) ? "l-debug" : "");

  const add = (text, first) => {
    const lines = (partial + text.replace(ESCAPES, "")).split("\n");
    partial = lines.pop();
    if (first && lines.length > 1 && next.cut) lines.shift();
    if (first) view.replaceChildren();
    view.append(...lines.map((line) => h("span", { class: level(line) }, `${line}\n`)));
    while (view.childElementCount > LINES_MAX) view.firstElementChild.remove();
    if (follow) view.scrollTop = view.scrollHeight;
  };

  return {
    node,
    stop() { stopped = true; },
    async poll() {
      if (busy || complete || stopped) return;
      busy = true;
      try {
        const first = next === null;
        const page = await get(`runs/${segment(runId)}/logs`, first ? { limit: TAIL_BYTES } : { offset: next.at, limit: 4 * TAIL_BYTES }, signal);
        next = { at: page.next_offset, cut: first && page.offset > 0 };
        if (page.text || first) add(page.text, first);
        if (page.complete && partial) { view.append(h("span", { class: level(partial) }, partial)); partial = ""; }
        if (!view.firstChild) view.append(h("span", { class: "dim" }, page.complete ? "No log was kept; a driver in client mode writes to its own terminal." : "Nothing was written yet; a driver in client mode writes to its own terminal."));
        complete = page.complete;
        status.textContent = bytes(page.total_bytes);
      } catch (error) {
        if (next === null && error.status) view.replaceChildren(h("span", { class: "dim" }, error.status === 404 ? "No log was kept." : error.message));
      } finally {
        busy = false;
      }
    },
  };
}
