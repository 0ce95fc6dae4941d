// Sends 20 requests and draws who answered. The page is complete without it.
"use strict";
(() => {
  const TOTAL = 20;
  const TITLES = { balancer: "Balancer", server: "Application server", shard: "Cache shard", database: "Database" };
  const card = document.querySelector("[data-live]");
  const button = card.querySelector("[data-send]");
  const bars = card.querySelector("[data-bars]");
  card.hidden = false;

  function line(kind, name, count) {
    const row = document.createElement("p");
    row.className = kind;
    const label = document.createElement("b");
    label.textContent = name;
    const number = document.createElement("span");
    number.textContent = count;
    const bar = document.createElement("i");
    bar.style.backgroundSize = `${(100 * count) / TOTAL}% 100%`;
    row.append(label, number, bar);
    return row;
  }

  function draw(counts, failed) {
    const groups = Object.entries(counts).map(([kind, names]) => {
      const group = document.createElement("div");
      const title = document.createElement("h3");
      title.textContent = TITLES[kind];
      const rows = Object.keys(names).sort().map((name) => line(kind, name, names[name]));
      group.append(title, ...rows);
      return group;
    });
    if (failed > 0) {
      const group = document.createElement("div");
      const title = document.createElement("h3");
      title.textContent = "No answer";
      group.append(title, line("failed", "failed", failed));
      groups.push(group);
    }
    bars.replaceChildren(...groups);
  }

  button.addEventListener("click", async () => {
    button.disabled = true;
    const counts = { balancer: {}, server: {}, shard: {}, database: {} };
    let failed = 0;
    for (let i = 0; i < TOTAL; i += 1) {
      try {
        const response = await fetch("/whoami", { cache: "no-store", signal: AbortSignal.timeout(10000) });
        if (!response.ok) throw new Error(String(response.status));
        const answer = await response.json();
        for (const kind of Object.keys(counts)) {
          const name = answer[kind] ?? (kind === "balancer" ? "direct" : "away");
          counts[kind][name] = (counts[kind][name] ?? 0) + 1;
        }
      } catch {
        failed += 1;
      }
      draw(counts, failed);
    }
    button.disabled = false;
  });
})();
