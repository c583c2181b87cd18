// Runs before the first paint, so that the page does not flash in the wrong theme. "auto" follows the system.
(() => {
  const stored = () => { try { return localStorage.getItem("ca-theme"); } catch { return null; } };
  const apply = (choice) => {
    const dark = choice === "dark" || (choice !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    document.documentElement.dataset.themeChoice = choice;
  };
  const initial = new URLSearchParams(location.search).get("theme") || stored() || "auto";
  apply(["auto", "light", "dark"].includes(initial) ? initial : "auto");
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => apply(document.documentElement.dataset.themeChoice));
  window.caTheme = {
    next() {
      const order = ["auto", "light", "dark"];
      const choice = order[(order.indexOf(document.documentElement.dataset.themeChoice) + 1) % order.length];
      try { localStorage.setItem("ca-theme", choice); } catch { /* private mode */ }
      apply(choice);
      return choice;
    },
    get choice() { return document.documentElement.dataset.themeChoice; },
  };
})();
