// The shell: hash routes, one page at a time, one refresh loop with an owner, banner, theme.

import { get } from "./api.js";
import { errorBox, loading } from "./components.js";
import { h, render } from "./dom.js";
import { ago, setServerNow } from "./format.js";
import { clusterPage } from "./pages/cluster.js";
import { queriesPage } from "./pages/queries.js";
import { queryPage } from "./pages/query.js";
import { runPage } from "./pages/run.js";
import { runsPage } from "./pages/runs.js";

// [pattern, page, navigation entry]
const ROUTES = [
  [/^\/cluster$/, clusterPage, "cluster"],
  [/^\/runs$/, runsPage, "runs"],
  [/^\/runs\/([^/]+)$/, runPage, "runs"],
  [/^\/queries$/, queriesPage, "queries"],
  [/^\/queries\/([^/]+)$/, queryPage, "queries"],
];
const RETRY_MS = 3000;

const main = document.getElementById("main");
const banner = document.getElementById("banner");
const shared = { cluster: null, history: [] };
let current = null;
let paused = false;

function parse() {
  const [path, query] = (location.hash.slice(1) || "/cluster").split("?");
  for (const [pattern, page, entry] of ROUTES) {
    const match = pattern.exec(path);
    if (match) return { page, entry, args: match.slice(1).map(decodeURIComponent), params: new URLSearchParams(query || "") };
  }
  return null;
}

/// Replaces the query of the current route without a new history entry or a new page.
export function setParams(changes) {
  const [path, query] = location.hash.slice(1).split("?");
  const params = new URLSearchParams(query || "");
  for (const [key, value] of Object.entries(changes)) value === null || value === "" || value === undefined ? params.delete(key) : params.set(key, value);
  history.replaceState(null, "", `#${path}${params.size ? `?${params}` : ""}`);
  return params;
}

// --- refresh loop: exactly one timer; a page says after each load in how many ms it wants the next one (0 = never)

function open() {
  if (current) { current.abort.abort(); clearTimeout(current.timer); if (current.page.leave) current.page.leave(); }
  const route = parse();
  nav(route && route.entry);
  if (!route) {
    current = null;
    return render(main, errorBox({ message: "There is no such page.", remedy: "Pick one from the bar above." }));
  }
  const abort = new AbortController();
  const root = h("div", { class: "page" }, loading());
  main.replaceChildren(root);
  const session = { abort, root, timer: 0, lastGood: 0, page: null };
  current = session;
  session.page = route.page({ root, args: route.args, params: route.params, shared, signal: abort.signal, setParams, reload: () => load(session), title });
  load(session);
}

async function load(session) {
  clearTimeout(session.timer);
  let wait = RETRY_MS;
  try {
    const cluster = get("cluster", {}, session.abort.signal).then((info) => { shared.cluster = info; setServerNow(info.now_ms); frame(); });
    wait = (await Promise.all([cluster.then(() => session.page.load()), cluster]))[0];
    if (session !== current) return;
    session.lastGood = Date.now();
    session.root.classList.remove("stale");
    render(banner);
  } catch (error) {
    if (session !== current || session.abort.signal.aborted) return;
    const lost = error.status === 0;
    if (!session.lastGood || (error.status && error.status < 500)) {
      render(session.root, errorBox(error));
      session.lastGood = 0;
      session.page.reset && session.page.reset();
    } else {
      session.root.classList.add("stale");
      render(banner, h("p", { class: "notice" }, lost ? "Connection lost. " : `${error.message} `, `Shown is the state of ${ago(session.lastGood)}. Trying again…`));
    }
    if (!lost && !(error instanceof Error && "status" in error)) console.error(error);
  }
  if (session === current && wait && !paused && !document.hidden) session.timer = setTimeout(() => load(session), wait);
}

document.addEventListener("visibilitychange", () => {
  if (!current) return;
  clearTimeout(current.timer);
  if (!document.hidden && !paused) load(current);
});

// --- frame

function nav(active) {
  const history = shared.cluster && shared.cluster.mode === "history";
  render(document.getElementById("nav"), [["cluster", history ? "Overview" : "Cluster"], ["runs", "Runs"], ["queries", "Queries"]].map(([entry, text]) =>
    h("a", { href: `#/${entry}`, key: entry, "aria-current": entry === active ? "page" : null }, text)));
}

function frame() {
  const info = shared.cluster;
  const mode = document.getElementById("mode");
  mode.hidden = false;
  mode.className = `mode ${info.mode}`;
  mode.textContent = info.mode === "history" ? "History" : "Live";
  mode.title = info.mode === "history" ? `Replayed from ${info.event_log_dir || "event logs"}` : `Scheduler ${info.scheduler_id}`;
  nav((parse() || {}).entry);
  const other = /^https?:\/\//.test(info.other_url || "") ? info.other_url : null;
  render(document.getElementById("footer"),
    h("span", null, `ChainAnalytics ${info.version}`), info.scheduler_url ? h("code", null, info.scheduler_url) : null,
    other ? h("a", { href: other }, info.mode === "history" ? "Live scheduler" : "History server") : null,
    h("a", { href: "/metrics" }, "Metrics"));
}

function title(text) {
  document.title = text ? `${text} · ChainAnalytics` : "ChainAnalytics";
}

const refresh = document.getElementById("refresh");
function drawRefresh() {
  refresh.textContent = paused ? "▶ Paused" : "● Auto refresh";
  refresh.classList.toggle("on", !paused);
  refresh.setAttribute("aria-pressed", String(!paused));
  refresh.title = paused ? "Refresh by itself again" : "Stop refreshing";
}
refresh.addEventListener("click", () => {
  paused = !paused;
  drawRefresh();
  if (current) paused ? clearTimeout(current.timer) : load(current);
});
drawRefresh();

const theme = document.getElementById("theme");
const drawTheme = () => {
  theme.textContent = { auto: "◐", light: "☀", dark: "☾" }[window.caTheme.choice];
  theme.setAttribute("aria-label", `Theme: ${window.caTheme.choice}`);
  theme.title = `Theme: ${window.caTheme.choice}`;
};
theme.addEventListener("click", () => { window.caTheme.next(); drawTheme(); });
drawTheme();

addEventListener("hashchange", () => { scrollTo(0, 0); open(); });
open();
