// --- theme -------------------------------------------------------------------------------------

const THEMES = ["system", "light", "dark"];
const themeButton = document.getElementById("theme");
function remembered(value) {
  try {
    if (value !== undefined) localStorage.setItem("msinet-theme", value);
    return localStorage.getItem("msinet-theme");
  } catch {
    return null; // no storage for local files in this browser
  }
}
function setTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  themeButton.textContent = `Theme: ${theme}`;
  themeButton.dataset.now = theme;
}
setTheme(THEMES.includes(remembered()) ? remembered() : "system");
themeButton.addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(themeButton.dataset.now) + 1) % THEMES.length];
  remembered(next);
  setTheme(next);
});

// --- current section ------------------------------------------------------------------------------

const links = new Map(all(".bar nav a").map((link) => [link.getAttribute("href").slice(1), link]));
const watcher = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      links.forEach((link) => link.removeAttribute("aria-current"));
      const link = links.get(entry.target.id);
      link?.setAttribute("aria-current", "true");
      if (link) link.parentElement.scrollLeft = link.offsetLeft - link.parentElement.offsetLeft - 32; // on a phone
    }
  },
  { rootMargin: "-20% 0px -75% 0px" },
);
all("main > section").forEach((section) => watcher.observe(section));

// --- a faded edge where more can be scrolled into view --------------------------------------------

const fade = (box) => box.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 2);
const fader = new ResizeObserver((entries) => entries.forEach((entry) => fade(entry.target)));
for (const box of all(".scroll, .bar nav")) {
  box.addEventListener("scroll", () => fade(box), { passive: true });
  fader.observe(box);
}

// --- copying and downloading -------------------------------------------------------------------

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = make("textarea", { readonly: true });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

function download(name, text) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/plain;charset=utf-8" }));
  const link = make("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.matches(".copy")) {
    await copy(button.dataset.copy);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  } else if (button.matches(".download")) {
    const { table, figure, suffix } = button.dataset;
    if (table) download(table + suffix, data("tables")[table][suffix]);
    else download(figure + suffix, data("figures")[figure]);
  } else if (button.matches(".trace")) {
    openRuns(button.dataset.runs.split(" "));
  } else if (button.matches(".enlarge")) {
    const picture = find("img", button);
    const kind = button.matches(".drawing") ? "plate drawing" : "plate";
    showDialog("picture-dialog", picture.alt, make("div", { class: kind }, make("img", { src: picture.src, alt: picture.alt })));
  }
});

// --- tables: sorting and filtering -------------------------------------------------------------

const collator = new Intl.Collator("en", { numeric: true }); // far faster than localeCompare
function sortable(table) {
  // Groups of rows are not compared: each is sorted below its own heading.
  const originals = [...table.tBodies].map((body) => [body, all("tr:not(.group)", body)]);
  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const head = button.closest("th");
    const metric = Number(button.dataset.column);
    // first click: numbers from high to low, words from a to z; second: reversed; third: original order
    const order = head.classList.contains("num") ? ["descending", "ascending"] : ["ascending", "descending"];
    const turn = button.classList.contains("by") ? order.indexOf(head.getAttribute("aria-sort")) + 1 : 0;
    for (const other of all("th", table.tHead)) {
      other.setAttribute("aria-sort", "none");
      all("button", other).forEach((one) => one.classList.remove("by"));
    }
    if (turn === order.length) {
      originals.forEach(([body, rows]) => body.append(...rows));
      return;
    }
    head.setAttribute("aria-sort", order[turn]);
    button.classList.add("by");
    const sign = order[turn] === "ascending" ? 1 : -1;
    const numeric = head.classList.contains("num");
    for (const [body, rows] of originals) {
      const keyed = rows.map((row) => {
        const cell = row.cells[head.cellIndex];
        const key = numeric ? parseFloat((cell.dataset.v ?? "").split(" ")[metric]) : cell.textContent.trim();
        return { row, key, none: numeric ? Number.isNaN(key) : key === "" || key === "–" || key === "-" };
      });
      keyed.sort((a, b) => {
        if (a.none || b.none) return a.none - b.none; // missing values come last in both orders
        return sign * (numeric ? a.key - b.key : collator.compare(a.key, b.key));
      });
      body.append(...keyed.map((one) => one.row));
    }
  });
}
all("table.sortable").forEach(sortable);

const words = (text) => text.toLowerCase().split(/\s+/).filter(Boolean);
function filter(items, keep, output) {
  let shown = 0;
  for (const item of items) {
    const kept = keep(item);
    item.hidden = !kept;
    shown += kept;
  }
  output.textContent = `${shown} of ${items.length}`;
}
const has = (item, wanted) => {
  item.searched ??= `${item.dataset.group ?? ""} ${item.textContent}`.toLowerCase();
  return wanted.every((word) => item.searched.includes(word));
};

for (const panel of all("#tables .panel")) {
  const rows = all("tbody tr:not(.group)", panel);
  find(".row-search", panel).addEventListener("input", (event) => {
    const wanted = words(event.target.value);
    filter(rows, (row) => has(row, wanted), find("output", panel));
    for (const body of all("tbody", panel)) body.hidden = all("tr:not(.group)", body).every((row) => row.hidden);
  });
}

const picks = all("#tables .pick");
function pick(chosen) {
  for (const button of picks) {
    button.setAttribute("aria-pressed", String(button === chosen));
    document.getElementById(button.dataset.panel).hidden = button !== chosen;
  }
}
picks.forEach((button) => button.addEventListener("click", () => pick(button)));
if (picks.length) pick(picks.find((button) => button.getAttribute("aria-pressed") === "true") ?? picks[0]);

// --- claims ------------------------------------------------------------------------------------

const claims = all(".claims > li");
const verdicts = all("#claims .chip");
function filterClaims() {
  const wanted = words(document.getElementById("claim-search").value);
  const kept = new Set(verdicts.filter((v) => v.getAttribute("aria-pressed") === "true").map((v) => v.dataset.verdict));
  filter(claims, (claim) => kept.has(claim.dataset.status) && has(claim, wanted), document.getElementById("claim-count"));
}
verdicts.forEach((chip) =>
  chip.addEventListener("click", () => {
    chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
    filterClaims();
  }),
);
document.getElementById("claim-search").addEventListener("input", filterClaims);

// --- dialogs -----------------------------------------------------------------------------------

function showDialog(id, title, ...content) {
  const dialog = document.getElementById(id);
  const close = make("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => dialog.close() }, "×");
  const heading = make("h2", { id: id === "run-dialog" ? "run-title" : null }, title);
  find(".sheet", dialog).replaceChildren(make("div", { class: "top" }, heading, close), ...content.filter(Boolean));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}
for (const dialog of all("dialog")) {
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // outside the sheet
  });
}

// --- runs --------------------------------------------------------------------------------------

const runRows = all("#run-table tbody tr");
const runChoices = all("#run-state, #run-profile, #run-model"); // those with more than one value
function filterRuns() {
  const wanted = words(document.getElementById("run-search").value);
  const keep = (row) => runChoices.every(({ id, value }) => !value || row.dataset[id.slice(4)] === value) && has(row, wanted);
  filter(runRows, keep, document.getElementById("run-count"));
}
if (runRows.length) {
  document.getElementById("run-search").addEventListener("input", filterRuns);
  runChoices.forEach((choice) => choice.addEventListener("change", filterRuns));
}

function openRuns(ids) {
  const runs = ids.map((id) => data("runs").find((run) => run.id === id)).filter(Boolean);
  if (runs.length === 1) openRun(runs[0]);
  else {
    const buttons = runs.map((run) =>
      make("button", { type: "button", class: "trace run", "data-runs": run.id }, `${run.id}: ${run.network}, ${run.data}, seed ${run.seed}, mAP ${run.mAP}`),
    );
    showDialog("run-dialog", `${runs.length} runs`, make("div", { class: "choices" }, ...buttons));
  }
}

function definitions(title, pairs) {
  if (!pairs.length) return null;
  const entries = pairs.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)));
  return make("section", {}, make("h3", {}, title), make("dl", { class: "pairs" }, ...entries));
}

function block(title, text, kind) {
  return text ? make("section", {}, make("h3", {}, title), make("pre", { class: kind, tabindex: 0 }, text)) : null;
}

function openRun(run) {
  const { x, series, unit } = run.history;
  const charts = series ? Object.entries(series).map(([name, values]) => chart(name.replaceAll("_", " "), x, values, unit)) : [];
  showDialog(
    "run-dialog",
    run.network,
    make("p", { class: "source" }, [`run ${run.id}`, run.state, run.data, run.init, `profile ${run.profile}`].filter(Boolean).join(" · ")),
    block("Error", run.error, "error"),
    definitions("Metrics", run.metrics),
    charts.length ? make("section", {}, make("h3", {}, "Curves"), make("div", { class: "charts" }, ...charts)) : null,
    definitions("Costs and data", run.outcome),
    run.used.length ? make("section", {}, make("h3", {}, "Shown in"), make("ul", {}, ...run.used.map((place) => make("li", {}, place)))) : null,
    definitions("Configuration", run.configuration),
    definitions("Environment", run.environment),
    block("End of the log", run.log, "log"),
    make("p", { class: "note" }, "Files: ", make("code", {}, run.folder)),
  );
}

// A line of values against steps, with its range; the pointer selects a value to show.
function chart(name, x, values, unit) {
  const [width, height, left, right, top, bottom] = [300, 150, 44, 10, 10, 22];
  const draw = (tag, attributes, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const points = x.map((step, i) => [step, values[i]]).filter(([, value]) => value !== null);
  const [low, high] = [Math.min(...points.map((p) => p[1])), Math.max(...points.map((p) => p[1]))];
  const [first, last] = [points[0][0], points[points.length - 1][0]];
  const across = (step) => left + ((step - first) / (last - first || 1)) * (width - left - right);
  const up = (value) => height - bottom - (high === low ? 0.5 : (value - low) / (high - low)) * (height - top - bottom);
  const short = (value) => Number(value.toPrecision(3)).toString();

  const picture = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${name}: ${short(points[0][1])} at ${first} ${unit}, ${short(points[points.length - 1][1])} at ${last} ${unit}` });
  for (const value of high === low ? [low] : [low, (low + high) / 2, high]) {
    picture.append(draw("line", { x1: left, x2: width - right, y1: up(value), y2: up(value), class: "grid" }));
    picture.append(draw("text", { x: left - 6, y: up(value) + 3.5, "text-anchor": "end" }, short(value)));
  }
  picture.append(draw("text", { x: left, y: height - 6 }, String(first)));
  picture.append(draw("text", { x: width - right, y: height - 6, "text-anchor": "end" }, `${last} ${unit}`));
  if (points.length > 1) picture.append(draw("polyline", { points: points.map(([s, v]) => `${across(s).toFixed(1)},${up(v).toFixed(1)}`).join(" "), class: "line" }));
  const dot = draw("circle", { r: 3, class: "dot", cx: across(last), cy: up(points[points.length - 1][1]) });
  picture.append(dot);

  const reading = make("span", {}, short(points[points.length - 1][1]));
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * width;
    const [step, value] = points.reduce((best, point) => (Math.abs(across(point[0]) - at) < Math.abs(across(best[0]) - at) ? point : best));
    dot.setAttribute("cx", across(step));
    dot.setAttribute("cy", up(value));
    reading.textContent = `${short(value)} at ${step}`;
  });
  return make("figure", {}, make("figcaption", {}, name, " ", reading), picture);
}
