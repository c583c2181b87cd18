// Small pieces that every page uses.

import { h, render } from "./dom.js";
import { NONE, ago, count, fullTime, ms, percent, serverNow, time } from "./format.js";

const TONES = {
  running: "info", ready: "info", queued: "wait", submitted: "wait", waiting: "wait",
  finished: "good", succeeded: "good", alive: "good", valid: "good",
  failed: "bad", lost: "bad", executor_lost: "bad", stage_retried: "bad", not_successful: "wait",
  killed: "warn", cancelled: "warn", draining: "warn", incomplete: "warn", left: "wait",
};

export function badge(state, text) {
  const tone = TONES[state] || "wait";
  return h("span", { class: `badge ${tone}` }, h("i", { "aria-hidden": "true" }), (text || state || "unknown").replaceAll("_", " "));
}

export function validity(query) {
  if (!query.validity || query.validity === "unknown" || query.validity === "not_successful") return h("span", { class: "dim" }, NONE);
  const text = { valid: "valid", executor_lost: "executor lost", stage_retried: "stage retried" }[query.validity];
  return h("span", { title: query.validity_reason || null }, badge(query.validity, text));
}

export function when(at) {
  return at ? h("time", { datetime: new Date(at).toISOString(), title: fullTime(at) }, time(at)) : h("span", { class: "dim" }, NONE);
}

export function age(at) {
  return at ? h("time", { datetime: new Date(at).toISOString(), title: fullTime(at) }, ago(at)) : h("span", { class: "dim" }, NONE);
}

/// Ticks by itself while `to` is missing.
export function duration(from, to) {
  if (!from) return h("span", { class: "dim" }, NONE);
  return to ? h("span", { class: "num" }, ms(to - from)) : h("span", { class: "num", "data-since": from }, ms(serverNow() - from));
}

setInterval(() => {
  if (document.hidden) return;
  for (const node of document.querySelectorAll("[data-since]")) {
    const text = ms(serverNow() - Number(node.dataset.since));
    if (node.firstChild && node.firstChild.data !== text) node.firstChild.data = text;
  }
}, 1000);

export function bar(part, whole, label, tone) {
  const share = percent(part, whole);
  return h("div", { class: `bar ${tone || ""}`, role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": Math.round(share), "aria-label": label, title: label },
    h("span", { style: { width: `${share}%` } }));
}

export function runProgress(run) {
  const progress = run.progress;
  if (run.state === "finished") return bar(1, 1, "done", "good");
  if (!progress) return run.state === "running" ? h("div", { class: "bar busy", role: "progressbar", "aria-label": "running" }, h("span")) : h("span", { class: "dim" }, NONE);
  const label = progress.total ? `${progress.phase}: ${count(progress.done)} of ${count(progress.total)}` : progress.phase;
  const live = run.state === "running";
  return h("div", { class: "progress" },
    progress.total ? bar(progress.done, progress.total, label, live ? "" : "still") : live ? h("div", { class: "bar busy", role: "progressbar", "aria-label": label }, h("span")) : null,
    h("small", { title: label }, label));
}

export function card(title, value, detail, extra) {
  return h("article", { class: "card" }, h("h3", null, title), h("p", { class: "figure" }, value), detail ? h("p", { class: "dim" }, detail) : null, extra || null);
}

export function section(title, aside, ...content) {
  return h("section", { class: "panel" }, h("header", null, h("h2", null, title), aside || null), ...content);
}

export function empty(title, hint) {
  return h("div", { class: "empty" }, h("p", null, title), hint ? h("p", { class: "dim" }, hint) : null);
}

export function errorBox(error) {
  return h("div", { class: "errorbox", role: "alert" },
    h("p", null, error.code ? h("code", null, error.code) : null, h("strong", null, error.message || "Something went wrong.")),
    error.remedy ? h("p", { class: "remedy" }, h("span", { class: "label" }, "What to do"), error.remedy) : null);
}

export function loading() {
  return h("div", { class: "skeleton", "aria-busy": "true", "aria-label": "Loading" }, h("span"), h("span"), h("span"));
}

export function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.filter(Boolean).map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value))));
}

export const link = (href, text, title) => h("a", { href, title: title || null }, text);

export function crumbs(...items) {
  return h("nav", { class: "crumbs", "aria-label": "Breadcrumb" }, h("ol", null, items.map(([text, href], index) =>
    h("li", null, href ? link(href, text) : h("span", { "aria-current": index === items.length - 1 ? "page" : null }, text)))));
}

/// columns: {title, cell(row), sort(row), num}. With `state` ({by, down}) the headers sort. Wide tables scroll within themselves.
export function table({ columns, rows, key, caption, state, onSort, onRow, rowClass }) {
  let shown = rows;
  const by = state && columns[state.by];
  if (by && by.sort) {
    shown = [...rows].sort((a, b) => {
      const [x, y] = [by.sort(a), by.sort(b)];
      if (x === y) return 0;
      if (x === null || x === undefined) return 1;
      if (y === null || y === undefined) return -1;
      return (x < y ? -1 : 1) * (state.down ? -1 : 1);
    });
  }
  const head = (column, index) => {
    const sorted = state && state.by === index;
    const content = state && column.sort
      ? h("button", { type: "button", class: "sort", on: { click: () => { onSort(index, sorted ? !state.down : Boolean(column.num)); } } },
        column.title, h("span", { "aria-hidden": "true" }, sorted ? (state.down ? " ↓" : " ↑") : ""))
      : column.title;
    return h("th", { scope: "col", class: column.num ? "num" : null, "aria-sort": sorted ? (state.down ? "descending" : "ascending") : null }, content);
  };
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", null,
      h("caption", { class: "sr" }, caption),
      h("thead", null, h("tr", null, columns.map(head))),
      h("tbody", null, shown.map((row) => h("tr", {
        key: key(row),
        class: [onRow ? "clickable" : "", rowClass ? rowClass(row) : ""].join(" ").trim() || null,
        on: onRow ? { click: (event) => { if (!event.target.closest("a,button") && !String(getSelection())) onRow(row); } } : null,
      }, columns.map((column) => h("td", { class: column.num ? "num" : column.wide ? "wide" : null }, column.cell(row))))))));
}

/// A table that remembers how it is sorted and draws itself anew.
export function sortable(options) {
  const state = { by: options.sortBy ?? -1, down: Boolean(options.sortDown) };
  const holder = h("div", { own: options.caption });
  let last = [];
  const draw = (rows) => {
    last = rows;
    render(holder, rows.length ? table({ ...options, rows, state, onSort: (by, down) => { Object.assign(state, { by, down }); draw(last); } }) : empty(options.empty || "Nothing here."));
  };
  return { node: holder, draw };
}

/// Buttons for a list that is fetched page by page; offsets are the cursors.
export function pager({ total, shown, offset, limit, next, go }) {
  if (total <= limit && offset === 0) return h("p", { class: "dim pager" }, total === 1 ? "1 in all" : `${total} in all`);
  return h("nav", { class: "pager", "aria-label": "Pages" },
    h("button", { type: "button", disabled: offset === 0, on: { click: () => go(Math.max(0, offset - limit)) } }, "← Newer"),
    h("span", { class: "dim" }, shown ? `${offset + 1}–${offset + shown} of ${total}` : `none of ${total}`),
    h("button", { type: "button", disabled: !next, on: { click: () => go(next) } }, "Older →"));
}

export function copyable(text, label) {
  return h("button", { type: "button", class: "copy", title: `Copy ${label}`, "aria-label": `Copy ${label}`, on: { click(event) {
    const button = event.currentTarget;
    const done = () => { button.classList.add("done"); setTimeout(() => button.classList.remove("done"), 1200); };
    if (navigator.clipboard) navigator.clipboard.writeText(text).then(done, () => {});
  } } }, "copy");
}

/// A button that asks before it acts. `act` answers a promise; its error is shown where the question was.
export function confirmed({ label, question, text, act, done }) {
  return h("button", { type: "button", class: "danger", on: { click: () => {
    const trouble = h("div");
    const no = h("button", { type: "button", class: "ghost", on: { click: () => dialog.close() } }, "Leave it");
    const yes = h("button", { type: "button", class: "danger solid", on: { click: async () => {
      yes.disabled = true;
      try {
        await act();
        dialog.close();
        done();
      } catch (error) {
        render(trouble, errorBox(error));
        yes.disabled = false;
      }
    } } }, label);
    const dialog = h("dialog", { class: "ask", "aria-label": question, on: { close: () => dialog.remove() } }, h("h2", null, question), h("p", null, text), trouble, h("div", { class: "buttons" }, no, yes));
    document.body.append(dialog);
    dialog.showModal();
    no.focus();
  } } }, label);
}

export function disclosure(title, build, open) {
  const body = h("div", { class: "disclosed" });
  const details = h("details", { class: "panel fold", open, on: { toggle() { if (details.open && !body.firstChild) body.append(build()); } } }, h("summary", null, title), body);
  if (open) body.append(build());
  return details;
}

export function keyValues(map) {
  const entries = Object.entries(map || {}).sort(([a], [b]) => (a < b ? -1 : 1));
  if (!entries.length) return empty("Nothing was set.");
  const list = h("div");
  const draw = (filter) => {
    const shown = entries.filter(([key, value]) => `${key} ${value}`.toLowerCase().includes(filter));
    render(list, shown.length ? h("div", { class: "scroll" }, h("table", { class: "kv" }, h("tbody", null, shown.map(([key, value]) =>
      h("tr", { key }, h("th", { scope: "row" }, key), h("td", null, value === null || value === "" ? h("span", { class: "dim" }, "empty") : String(value))))))) : empty("No key matches."));
  };
  draw("");
  return h("div", null, entries.length > 12 ? h("input", { type: "search", class: "filter", placeholder: "Filter keys", "aria-label": "Filter keys", on: { input: (event) => draw(event.currentTarget.value.toLowerCase()) } }) : null, list);
}
