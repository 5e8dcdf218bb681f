// The analysis: AP by class, what errors cost, confusions, precision over recall. A click on any of it chooses images.
import { inkOn } from "./draw.js";
import { confusionMatrix, countKinds, FIRST_ERROR } from "./filters.js";
import { el, sortedTable } from "./tables.js";

const LINES = ["rgb(0, 114, 178)", "rgb(213, 94, 0)", "rgb(0, 158, 115)", "rgb(204, 121, 167)", "rgb(230, 159, 0)", "rgb(86, 180, 233)"];
const number = (value) => (value === null || value === undefined ? "" : value.toFixed(1));

export function renderAnalysis(app, box) {
  const cards = [classTable, errorBars, confusion, precisionRecall].map((card) => card(app));
  box.replaceChildren(el("div", { className: "cards" }, ...cards));
}

function classTable(app) {
  const { task, model, state } = app;
  const rows = task.classes.map((name, label) => ({ name, label }));
  const of = (key) => (row) => model[key][row.label];
  const columns = [{ name: "class", value: (row) => row.name }];
  for (const key of ["AP", "AP50", "AP75"]) columns.push({ name: key, value: of(key), text: (row) => number(of(key)(row)) });
  for (const other of task.models) {
    if (other !== model && !state.hidden.has(other.name)) columns.push({ name: `AP ${other.name}`, value: (row) => other.AP[row.label], text: (row) => number(other.AP[row.label]) });
  }
  const f = model.figures;
  const caption = `${task.task} of ${model.name}: AP ${number(f.AP)}, AP50 ${number(f.AP50)}, AP75 ${number(f.AP75)}`;
  return card("AP by class", sortedTable(rows, columns, { caption, name: "ap-table", sort: 1, onRow: (row) => app.onlyClass(row.label) }));
}

function errorBars(app) {
  const { task, model, state } = app, counts = countKinds(state, task, model), lost = model.figures.lost_AP50;
  const most = Math.max(0.1, ...Object.values(lost));
  const rows = task.kinds.slice(FIRST_ERROR).map((kind, place) => {
    const bar = el("span", { className: "bar", style: { width: `${(100 * Math.max(0, lost[kind])) / most}%`, background: task.colors[place + FIRST_ERROR] } });
    return el("tr", {},
      el("th", { scope: "row" }, el("button", { className: "link", dataset: { kind }, onclick: () => app.onlyKind(place + FIRST_ERROR) }, kind)),
      el("td", { className: "bars", onclick: () => app.onlyKind(place + FIRST_ERROR) }, bar),
      el("td", { className: "lost" }, number(lost[kind])), el("td", { className: "counted" }, String(counts[place + FIRST_ERROR])));
  });
  const heads = ["kind", "", "AP50 lost", "errors"].map((text) => el("th", { scope: "col" }, text));
  const caption = `What repairing each kind alone would add; errors of scores from ${state.threshold.toFixed(2)} on`;
  return card("Errors", el("div", { className: "table", id: "error-table" },
    el("table", {}, el("caption", {}, caption), el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...rows))));
}

function confusion(app) {
  const { task, state, model } = app, matrix = confusionMatrix(state, task, model), names = [...task.classes, "background"];
  const shown = names.map((_, i) => i).filter((i) => names.length <= 41 || matrix[i].some((n, j) => n && j !== i));
  const dark = app.isDark();
  const rows = shown.map((i) => {
    const total = Math.max(1, matrix[i].reduce((a, b) => a + b, 0));
    const cells = shown.map((j) => {
      const count = matrix[i][j], share = count / total;
      const [from, to] = dark ? [[22, 27, 34], [88, 166, 255]] : [[255, 255, 255], [3, 92, 168]];
      const color = `rgb(${from.map((c, k) => Math.round(c + (to[k] - c) * share)).join(", ")})`;
      const cell = el("button", { disabled: !count, style: { background: color, color: inkOn(color) }, dataset: { truth: i, said: j },
        title: `is ${names[i]}, said ${names[j]}: ${count}`, onclick: () => app.update({ pair: { truth: i, said: j }, kinds: new Set(), view: "images" }) }, count ? String(count) : "");
      return el("td", { className: i === j ? "right" : "" }, cell);
    });
    return el("tr", {}, el("th", { scope: "row" }, names[i]), ...cells);
  });
  const head = el("tr", {}, el("td"), ...shown.map((j) => el("th", { scope: "col" }, el("span", {}, names[j]))));
  return card("Confusions", el("div", { className: "table", id: "confusion" }, el("table", {},
    el("caption", {}, `Rows are what there is, columns what was said with scores from ${state.threshold.toFixed(2)} on`), el("thead", {}, head), el("tbody", {}, ...rows))));
}

function precisionRecall(app) {
  const { task, state } = app, models = task.models.filter((m) => m === app.model || !state.hidden.has(m.name));
  const choose = el("select", { ariaLabel: "Class of the curves", onchange: () => app.update({ curve: Number(choose.value) }) },
    el("option", { value: "-1" }, "mean of all classes"), ...task.classes.map((name, label) => el("option", { value: String(label) }, name)));
  choose.value = String(state.curve);
  const plot = el("div", { className: "plot", id: "precision-recall" });
  const recalls = Array.from({ length: 101 }, (_, i) => i / 100);
  const box = card("Precision over recall", el("label", {}, "Class ", choose), plot,
    el("p", { className: "note" }, state.curve < 0 ? "At IoU 0.5. Choose a class to set the score by a click on its curve." : "At IoU 0.5; a click sets the score, and shows the class's images."));
  const curves = models.map((m) => recalls.map((_, r) => {
    const at = (label) => m.precision[label * 101 + r];
    if (state.curve >= 0) return at(state.curve);
    const present = task.classes.map((_, label) => label).filter((label) => m.AP50[label] !== null);
    return present.reduce((sum, label) => sum + at(label), 0) / Math.max(1, present.length);
  }));
  const series = [{ label: "recall" }, ...models.map((m, i) => ({ label: m.name, stroke: LINES[i % LINES.length], width: 2, dash: i >= LINES.length ? [4, 3] : undefined, value: (_, v) => (v ?? 0).toFixed(3) }))];
  requestAnimationFrame(() => linePlot(plot, [recalls, ...curves], series, { x: [0, 1], y: [0, 1.02] }, (index) => {
    if (state.curve < 0) return;
    const score = app.model.scores[state.curve * 101 + index];
    app.update({ threshold: score, off: app.allBut(state.curve), view: "images", kinds: new Set(), pair: null });
  }));
  return box;
}

/** The course of one metric over the trainings. */
export function renderTraining(app, box) {
  const { curves } = app.data, names = Object.keys(curves), first = names.find((name) => name === `${app.task.task}/AP`) ?? names[0];
  const metric = app.state.metric || first, runs = Object.entries(curves[metric]);
  const choose = el("select", { id: "metric", ariaLabel: "Metric", onchange: () => app.update({ metric: choose.value }) }, ...names.map((name) => el("option", { value: name }, name)));
  choose.value = metric;
  const plot = el("div", { className: "plot", id: "training" });
  box.replaceChildren(el("div", { className: "cards" }, card("Training", el("label", {}, "Metric ", choose), plot)));
  const values = uPlot.join(runs.map(([, curve]) => [curve.iterations, curve.values]));
  const series = [{ label: "iterations" }, ...runs.map(([label], i) => ({ label, stroke: LINES[i % LINES.length], width: 2, spanGaps: true }))];
  requestAnimationFrame(() => linePlot(plot, values, series, {}));
}

/** A plot of uPlot in the page's colours; `onPoint` takes the index of the abscissa that is clicked. */
export function linePlot(box, values, series, range, onPoint) {
  const css = getComputedStyle(document.documentElement), ink = css.getPropertyValue("--muted"), lines = css.getPropertyValue("--line");
  const axis = { stroke: ink, grid: { stroke: lines, width: 1 }, ticks: { stroke: lines, width: 1 }, font: "11px system-ui, sans-serif" };
  const scales = { x: { time: false, ...(range.x && { range: range.x }) }, y: range.y ? { range: range.y } : {} };
  const plot = new uPlot({ width: Math.max(240, box.clientWidth), height: 260, scales, series, axes: [axis, { ...axis, size: 44 }], cursor: { drag: { x: false, y: false } } }, values, box);
  if (onPoint) plot.over.addEventListener("click", () => plot.cursor.idx !== null && onPoint(plot.cursor.idx));
  return plot;
}

export function card(title, ...content) {
  return el("section", { className: "card" }, el("h2", {}, title), ...content);
}
