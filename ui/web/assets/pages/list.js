// What the lists of runs and queries share: filters that live in the address, paging, refresh.

import { get } from "../api.js";
import { empty, pager, section, table } from "../components.js";
import { h, render } from "../dom.js";

const LIMIT = 25;

export function listPage({ root, params, setParams, reload, signal, title }, { name, endpoint, states, columns, key, href, placeholder, hint }) {
  title(name);
  let filters = params;
  let timer = 0;
  let reset = true;
  const change = (changes) => { filters = setParams({ after: null, ...changes }); reload(); };
  const search = h("input", { type: "search", class: "filter", placeholder, "aria-label": placeholder, value: filters.get("q") || "", on: { input: (event) => {
    clearTimeout(timer);
    const q = event.currentTarget.value;
    timer = setTimeout(() => change({ q }), 250);
  } } });
  const body = h("div", { own: "list" });
  const chips = h("div", { class: "chips", role: "group", "aria-label": "State", own: "chips" });
  const skeleton = () => render(root, h("h1", { class: "sr" }, name), section(name, h("div", { class: "filters" }, chips, search), body));

  return {
    reset() { reset = true; },
    leave() { clearTimeout(timer); },
    async load() {
      const offset = Number(filters.get("after")) || 0;
      const state = filters.get("state") || "";
      const page = await get(endpoint, { limit: LIMIT, after: offset || "", state, q: filters.get("q"), job: filters.get("job"), run_id: filters.get("run_id") }, signal);
      if (reset) { skeleton(); reset = false; }
      render(chips, ["", ...states()].map((one) => h("button", { type: "button", key: one, class: "chip", "aria-pressed": String(one === state), on: { click: () => change({ state: one }) } }, one || "all")));
      const filtered = state || filters.get("q") || filters.get("job") || filters.get("run_id");
      render(body,
        page.items.length
          ? table({ caption: name, rows: page.items, key, columns, onRow: (row) => { location.hash = href(row); } })
          : filtered ? empty("Nothing matches.", "Loosen the filter.") : empty(`No ${name.toLowerCase()} yet.`, hint),
        page.total ? pager({ total: page.total, shown: page.items.length, offset, limit: LIMIT, next: page.next, go: (after) => { filters = setParams({ after: Number(after) ? after : null }); reload(); } }) : null);
      return page.items.some((row) => ["running", "queued", "submitted"].includes(row.state)) ? 2500 : 6000;
    },
  };
}
