// The page: its state, its controls and its keys.
import { renderAnalysis, renderTraining } from "./charts.js";
import { boxOf, Pictures, readBlock, readData } from "./data.js";
import { Detail } from "./detail.js";
import { classColor } from "./draw.js";
import { chooseImages, countKinds, CROWDING, detectionFits, FIRST_ERROR, missedKind, SIZES, SORTS } from "./filters.js";
import { Grid } from "./grid.js";
import { decodeRuns } from "./rle.js";
import { el } from "./tables.js";

const $ = (id) => document.getElementById(id);
const KEYS = [
  ["\u2190 \u2192 \u2191 \u2193", "move among the images, and from one to the next"], ["Enter, Esc", "open an image, close it"],
  ["[  ]", "lower, raise the least score"], ["m, 1 to 9", "next model, model of that number"], ["t", "boxes or masks"],
  ["i, a, l", "images, analysis, training logs"], ["c", "colours by kind of error or by class"], ["o", "models side by side or over each other"],
  ["+  -  0", "zoom in, out, all of the image"], ["s", "next order"], ["x", "clear all filters"], ["/", "search"], ["d", "light or dark"], ["?", "these keys"],
];

class App {
  constructor() {
    this.data = readData();
    this.pictures = new Pictures(readBlock("pictures"));
    const model = this.data.tasks[0].models[0];
    this.state = {
      task: 0, model: 0, threshold: model.threshold, kinds: new Set(), off: new Set(), hidden: new Set(), pair: null, size: 0, crowding: 0,
      sort: "loss", search: "", color: "kind", overlay: false, view: "images", tile: 190, curve: -1, metric: "",
    };
    this.fillControls();
    this.grid = new Grid(this, $("grid"), $("canvas-space"));
    this.detail = new Detail(this, $("detail"));
    this.listen();
    this.render();
    $("grid").focus();
  }

  get task() { return this.data.tasks[this.state.task]; }
  get model() { return this.task.models[Math.min(this.state.model, this.task.models.length - 1)]; }
  decodeRuns(text) { return decodeRuns(text); }
  views() { return [["images", "i"], ["analysis", "a"], ...(Object.keys(this.data.curves).length ? [["training", "l"]] : [])]; }
  isDark() { return getComputedStyle(document.documentElement).colorScheme === "dark"; }
  allBut(label) { return new Set(this.task.classes.map((_, i) => i).filter((i) => i !== label)); }
  onlyClass(label) { this.update({ off: this.allBut(label), pair: null, view: "images" }); }
  onlyKind(kind) { this.update({ kinds: new Set([kind]), pair: null, view: "images" }); }
  open(place) { if (this.chosen.order.length) this.detail.open(place); }

  /** Change the state, and draw what follows from it with the next frame. */
  update(changes) {
    if ("task" in changes || "model" in changes) {
      const before = this.task.task;
      Object.assign(this.state, changes);
      if (this.task.task !== before) Object.assign(this.state, { threshold: this.model.threshold, pair: null });
    } else Object.assign(this.state, changes);
    this.pending ??= requestAnimationFrame(() => {
      this.pending = undefined;
      this.render();
    });
  }

  toggle(name, value) {
    const set = new Set(this.state[name]);
    if (!set.delete(value)) set.add(value);
    this.update({ [name]: set });
  }

  clear() { this.update({ kinds: new Set(), off: new Set(), pair: null, size: 0, crowding: 0, search: "" }); }

  fillControls() {
    const options = (id, entries) => $(id).replaceChildren(...entries.map(([value, text]) => el("option", { value }, text)));
    document.title = $("title").textContent = this.data.dataset;
    options("sort", Object.entries(SORTS));
    options("size", SIZES.map(([text], i) => [String(i), text]));
    options("crowding", CROWDING.map(([text], i) => [String(i), text]));
    $("help").append(el("h2", {}, "Keys"), el("dl", { className: "keys" }, ...KEYS.flatMap(([key, text]) => [el("dt", {}, key), el("dd", {}, text)])),
      el("button", { onclick: () => $("help").close() }, "Close"));
  }

  listen() {
    for (const id of ["sort", "color"]) $(id).onchange = () => this.update({ [id]: $(id).value });
    for (const id of ["size", "crowding", "tile"]) $(id).oninput = () => this.update({ [id]: Number($(id).value) });
    $("threshold").oninput = () => this.update({ threshold: Number($("threshold").value) });
    $("search").oninput = () => this.update({ search: $("search").value });
    $("all-classes").onclick = () => this.update({ off: new Set() });
    $("no-classes").onclick = () => this.update({ off: new Set(this.task.classes.keys()) });
    $("export").onclick = () => this.download();
    $("theme").onclick = () => this.theme();
    $("help-open").onclick = () => $("help").showModal();
    $("filters-toggle").onclick = () => {
      const open = document.body.classList.toggle("with-filters");
      $("filters-toggle").ariaExpanded = String(open);
    };
    document.addEventListener("keydown", (event) => this.key(event));
    document.addEventListener("click", (event) => { // a click beside a dialog closes it
      if (event.target.tagName === "DIALOG") event.target.close();
    });
  }

  theme() {
    document.documentElement.dataset.theme = this.isDark() ? "light" : "dark";
    this.update({});
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input:not([type=range]), select")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const { state } = this, sorts = Object.keys(SORTS);
    const act = {
      "[": () => this.update({ threshold: Math.max(0, Math.round(100 * state.threshold - 1) / 100) }),
      "]": () => this.update({ threshold: Math.min(1, Math.round(100 * state.threshold + 1) / 100) }),
      m: () => this.update({ model: (state.model + 1) % this.task.models.length }),
      t: () => this.update({ task: (state.task + 1) % this.data.tasks.length }),
      c: () => this.update({ color: state.color === "kind" ? "class" : "kind" }),
      o: () => this.update({ overlay: !state.overlay }),
      s: () => this.update({ sort: sorts[(sorts.indexOf(state.sort) + 1) % sorts.length] }),
      ...Object.fromEntries(this.views().map(([view, key]) => [key, () => this.update({ view })])),
      x: () => this.clear(), d: () => this.theme(), "/": () => $("search").focus(), "?": () => $("help").showModal(),
    }[event.key] ?? (/^[1-9]$/.test(event.key) && event.key <= this.task.models.length ? () => this.update({ model: event.key - 1 }) : null);
    if (!act) return;
    act();
    event.preventDefault();
  }

  render() {
    const { state, task, model } = this;
    this.chosen = chooseImages(this.data, state, task, model);
    this.renderControls();
    this.renderFilters();
    for (const view of ["images", "analysis", "training"]) $(view === "images" ? "grid-view" : `${view}-view`).hidden = state.view !== view;
    this.grid.show(this.chosen.order);
    if (state.view === "images" && document.activeElement === document.body) $("grid").focus(); // keys go on working
    if (state.view === "analysis") renderAnalysis(this, $("analysis-view"));
    if (state.view === "training") renderTraining(this, $("training-view"));
    this.detail.render();
  }

  renderControls() {
    const { state, task, model } = this;
    const press = (text, pressed, act, title = "") => el("button", { ariaPressed: String(pressed), onclick: act, title }, text);
    $("tasks").replaceChildren(...(this.data.tasks.length > 1 ? this.data.tasks.map((t, i) => press({ bbox: "boxes", segm: "masks" }[t.task] ?? t.task, t === task, () => this.update({ task: i }), "(t)")) : []));
    $("models").replaceChildren(...task.models.map((m, i) => press(`${m.name} ${m.figures.AP.toFixed(1)}`, m === model, () => this.update({ model: i }), `AP of ${m.name} (${i + 1})`)));
    $("views").replaceChildren(...this.views().map(([view, key]) => press(view, state.view === view, () => this.update({ view }), `(${key})`)));
    $("threshold").value = state.threshold;
    $("threshold-text").textContent = state.threshold.toFixed(2);
    for (const id of ["sort", "color", "size", "crowding", "tile"]) $(id).value = state[id];
    if ($("search").value !== state.search) $("search").value = state.search;
    const count = this.chosen.order.length, items = this.chosen.order.reduce((sum, i) => sum + this.chosen.items[i], 0);
    $("count").textContent = `${count} of ${this.data.images.length} images, ${items} matching items`;
    const names = [...task.classes, "background"], chips = [];
    const chip = (text, changes) => chips.push(el("button", { className: "chip", ariaLabel: `remove ${text}`, onclick: () => this.update(changes) }, `${text} \u2715`));
    if (state.pair) chip(`is ${names[state.pair.truth]}, said ${names[state.pair.said]}`, { pair: null });
    for (const kind of state.kinds) chip(task.kinds[kind], { kinds: new Set([...state.kinds].filter((k) => k !== kind)) });
    if (state.off.size) chip(state.off.size === names.length - 2 ? names.find((_, i) => !state.off.has(i)) : `${names.length - 1 - state.off.size} classes`, { off: new Set() });
    $("chips").replaceChildren(...chips);
  }

  renderFilters() {
    const { state, task, model } = this, counts = countKinds(state, task, model);
    const row = (text, color, count, pressed, act, only) => el("div", { className: "filter" },
      el("button", { ariaPressed: String(pressed), onclick: act }, el("i", { className: "dot", style: { background: color } }), el("span", {}, text), el("b", {}, count)),
      ...(only ? [el("button", { className: "link", onclick: only, ariaLabel: `only ${text}` }, "only")] : []));
    const kinds = task.kinds.map((_, kind) => kind).filter((kind) => kind || counts[kind]);
    $("kinds").replaceChildren(...kinds.map((kind) => row(task.kinds[kind], task.colors[kind], String(counts[kind]), state.kinds.has(kind), () => this.toggle("kinds", kind))));
    $("classes").replaceChildren(...task.classes.map((name, label) => row(name, classColor(label), model.AP[label]?.toFixed(1) ?? "",
      !state.off.has(label), () => this.toggle("off", label), () => this.update({ off: this.allBut(label) }))));
  }

  /** The chosen images, their objects, and the detections that are shown, in COCO's format. */
  selection() {
    const { data, task, model, state } = this, chosen = this.chosen.order.map((i) => [i, data.images[i]]);
    const describe = (items, at, i, image) => {
      const [x, y, right, bottom] = boxOf(items, at, image).map((v) => Math.round(v * 100) / 100);
      const bbox = [x, y, Math.round((right - x) * 100) / 100, Math.round((bottom - y) * 100) / 100];
      const mask = items.mask ? { segmentation: { size: [image.height, image.width], counts: items.mask[at] } } : {};
      return { image_id: image.id, category_id: task.classIds[items.label[at]], bbox, area: items.area[at], ...mask };
    };
    const annotations = [], predictions = [];
    for (const [i, image] of chosen) {
      for (let g = task.objects.start[i]; g < task.objects.start[i + 1]; g++) annotations.push({ id: task.objects.id[g], iscrowd: task.objects.crowd[g], ...describe(task.objects, g, i, image) });
      for (let d = model.start[i]; d < model.start[i + 1]; d++) if (detectionFits(state, model, d)) predictions.push({ ...describe(model, d, i, image), score: model.score[d] });
    }
    const categories = task.classIds.map((id, label) => ({ id, name: task.classes[label] }));
    return { info: { description: `${chosen.length} images of ${data.dataset}` }, images: chosen.map(([, image]) => image), categories, annotations, predictions };
  }

  download() {
    const url = URL.createObjectURL(new Blob([JSON.stringify(this.selection())], { type: "application/json" }));
    el("a", { href: url, download: "selection.json" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }
}

document.documentElement.dataset.opened = "";
globalThis.app = new App();
