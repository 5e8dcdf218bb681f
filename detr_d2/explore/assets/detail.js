// One image, large: ground truth and models side by side or over each other, zoom, and what there is to know of it.
import { detectionItems, drawScene, objectItems } from "./draw.js";
import { el } from "./tables.js";

export class Detail {
  constructor(app, dialog) {
    Object.assign(this, { app, dialog, zoom: 1, shift: [0, 0], place: 0, highlight: null, panels: [] });
    this.stage = el("div", { className: "stage" });
    this.info = el("div", { className: "info" });
    dialog.append(this.stage, this.info);
    dialog.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(this.stage);
    this.stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(event.deltaY < 0 ? 1.2 : 1 / 1.2, event);
    }, { passive: false });
    this.stage.addEventListener("pointerdown", (event) => this.drag(event));
    this.stage.addEventListener("dblclick", () => this.reset());
  }

  get index() {
    return this.app.chosen.order[this.place];
  }

  open(place) {
    this.place = place;
    this.reset();
    if (!this.dialog.open) this.dialog.showModal();
    this.render();
  }

  step(by) {
    this.place = Math.max(0, Math.min(this.app.chosen.order.length - 1, this.place + by));
    this.app.grid.go(this.place);
    this.highlight = null;
    this.render();
  }

  reset() {
    this.zoom = 1;
    this.shift = [0, 0];
    this.draw();
  }

  zoomBy(factor, at) {
    const canvas = at?.target.closest?.("canvas") ?? this.stage.querySelector("canvas");
    const box = canvas.getBoundingClientRect(), next = Math.max(1, Math.min(40, this.zoom * factor));
    const point = at ? [at.clientX - box.left - box.width / 2, at.clientY - box.top - box.height / 2] : [0, 0];
    this.shift = this.shift.map((value, axis) => point[axis] - ((point[axis] - value) * next) / this.zoom);
    if (next === 1) this.shift = [0, 0];
    this.zoom = next;
    this.draw();
  }

  drag(event) {
    if (event.target.tagName !== "CANVAS") return;
    let last = [event.clientX, event.clientY];
    event.target.setPointerCapture(event.pointerId);
    event.target.onpointermove = (move) => {
      this.shift = [this.shift[0] + move.clientX - last[0], this.shift[1] + move.clientY - last[1]];
      last = [move.clientX, move.clientY];
      this.draw();
    };
    event.target.onpointerup = () => (event.target.onpointermove = null);
  }

  key(event) {
    const act = {
      ArrowRight: () => this.step(1), ArrowLeft: () => this.step(-1), j: () => this.step(1), k: () => this.step(-1),
      "+": () => this.zoomBy(1.4), "=": () => this.zoomBy(1.4), "-": () => this.zoomBy(1 / 1.4), 0: () => this.reset(),
    }[event.key];
    if (!act || event.target.matches("input, select")) return;
    act();
    event.preventDefault();
    event.stopPropagation();
  }

  render() {
    if (!this.dialog.open || this.index === undefined) return;
    const { app } = this, { state, task, model, data } = app, i = this.index, image = data.images[i];
    const truth = { title: "ground truth", items: objectItems(state, task, model, i, false) };
    const shown = task.models.filter((m) => !state.hidden.has(m.name));
    const of = (m) => ({ title: m.name, items: [...objectItems(state, task, m, i, true), ...detectionItems(state, task, m, i)] });
    this.panels = state.overlay
      ? [{ title: `ground truth (dashed), ${shown.map((m) => m.name).join(", ")}`,
           items: [...truth.items.map((item) => ({ ...item, dashed: true })), ...shown.flatMap((m) => detectionItems(state, task, m, i))] }]
      : [truth, ...shown.map(of)];
    this.stage.replaceChildren(...this.panels.map((panel) => {
      panel.canvas = el("canvas", { role: "img", ariaLabel: `${panel.title}: ${panel.items.length} items` });
      return el("figure", {}, el("figcaption", {}, panel.title), panel.canvas);
    }));
    this.stage.dataset.count = this.panels.length;
    const button = (text, act, label) => el("button", { onclick: act, ariaLabel: label ?? text, title: label ?? text }, text);
    this.info.replaceChildren(
      el("div", { className: "tools" },
        button("\u2190", () => this.step(-1), "previous image"), button("\u2192", () => this.step(1), "next image"),
        el("span", {}, `${this.place + 1} / ${app.chosen.order.length}`),
        button("overlay", () => app.update({ overlay: !state.overlay })),
        button("\u2715", () => this.dialog.close(), "close")),
      el("h2", {}, image.file_name),
      el("dl", {}, ...[["id", image.id], ["size", `${image.width} \u00d7 ${image.height}`],
        ["objects", task.objects.start[i + 1] - task.objects.start[i]],
        ...(model.loss ? [["loss of AP50", model.loss[i].toFixed(3)]] : []),
        ["weight of errors", app.chosen.weights[i].toFixed(2)]].flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, String(v))])),
      el("div", { className: "group" }, ...task.models.map((m) => el("button", {
        ariaPressed: String(!state.hidden.has(m.name)), onclick: () => app.toggle("hidden", m.name),
      }, m.name))),
      this.list(of(model).items, task, model),
      el("h3", {}, "Command"), el("code", { className: "command" }, data.commands[model.name]),
    );
    this.draw();
  }

  list(items, task, model) {
    const rows = [...items].reverse().map((item) => {
      const row = el("tr", { tabIndex: 0 },
        el("td", {}, el("i", { className: "dot", style: { background: item.color } }), task.classes[item.label]),
        el("td", {}, item.isObject ? "" : item.score.toFixed(3)), el("td", {}, task.kinds[item.kind]),
        el("td", {}, item.isObject ? `#${item.of.id[item.index]}` : model.target[item.index] >= 0 ? `#${task.objects.id[model.target[item.index]]}` : ""));
      const mark = (value) => () => {
        this.highlight = value;
        this.draw();
      };
      row.onpointerenter = row.onfocus = mark(item);
      row.onpointerleave = row.onblur = mark(null);
      return row;
    });
    return el("div", { className: "list" }, el("table", {},
      el("thead", {}, el("tr", {}, ...["class", "score", "kind", "object"].map((t) => el("th", { scope: "col" }, t)))), el("tbody", {}, ...rows)));
  }

  draw() {
    if (!this.dialog.open || this.index === undefined) return;
    const index = this.index, image = this.app.data.images[index];
    this.app.pictures.get(index).then((bitmap) => {
      if (index !== this.index) return;
      for (const { canvas, items } of this.panels) {
        const ratio = Math.min(2, devicePixelRatio), width = canvas.clientWidth, height = canvas.clientHeight;
        canvas.width = width * ratio;
        canvas.height = height * ratio;
        const scale = Math.min(width / image.width, height / image.height) * this.zoom * ratio;
        const view = {
          x: (width / 2 + this.shift[0]) * ratio - (image.width * scale) / 2,
          y: (height / 2 + this.shift[1]) * ratio - (image.height * scale) / 2, scale,
        };
        drawScene(canvas.getContext("2d"), bitmap, image, items, view, { labels: true, highlight: this.highlight, ratio });
      }
    });
  }
}
