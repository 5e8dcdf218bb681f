// The images as tiles, of which only those in sight exist.
import { detectionItems, drawScene, objectItems } from "./draw.js";

const GAP = 8, CAPTION = 20;

export class Grid {
  constructor(app, box, space) {
    Object.assign(this, { app, box, space, tiles: new Map(), order: [], current: 0, version: 0 });
    box.addEventListener("scroll", () => this.request());
    new ResizeObserver(() => this.layout()).observe(box);
    box.addEventListener("keydown", (event) => this.key(event));
  }

  /** Show images in this order; what is drawn on them has changed, too. */
  show(order) {
    const same = order.length === this.order.length && order.every((image, place) => image === this.order[place]);
    this.order = order;
    this.version++;
    if (!same) {
      this.current = 0;
      this.box.scrollTop = 0;
    }
    this.layout();
  }

  layout() {
    const width = this.box.clientWidth - 2 * GAP;
    if (width <= 0) return;
    this.columns = Math.max(1, Math.floor((width + GAP) / (this.app.state.tile + GAP)));
    this.width = Math.floor((width + GAP) / this.columns) - GAP;
    this.height = Math.round(this.width * 0.75) + CAPTION;
    this.space.style.height = `${Math.ceil(this.order.length / this.columns) * (this.height + GAP) + GAP}px`;
    this.request();
  }

  request() {
    this.pending ??= requestAnimationFrame(() => {
      this.pending = undefined;
      this.fill();
    });
  }

  fill() {
    const row = this.height + GAP, top = this.box.scrollTop;
    const first = Math.max(0, Math.floor(top / row) - 1) * this.columns;
    const last = Math.min(this.order.length, (Math.ceil((top + this.box.clientHeight) / row) + 1) * this.columns);
    for (const [place, tile] of this.tiles) {
      if (place < first || place >= last) {
        tile.remove();
        this.tiles.delete(place);
      }
    }
    for (let place = first; place < last; place++) {
      let tile = this.tiles.get(place);
      if (!tile) this.tiles.set(place, (tile = this.make(place)));
      this.place(tile, place);
    }
    const chosen = this.tiles.get(this.current);
    if (chosen) this.box.setAttribute("aria-activedescendant", chosen.id);
    else this.box.removeAttribute("aria-activedescendant");
  }

  make(place) {
    const tile = document.createElement("div"), caption = document.createElement("span");
    tile.className = "tile";
    tile.id = `tile-${place}`;
    tile.setAttribute("role", "option");
    tile.append(document.createElement("canvas"), caption);
    tile.addEventListener("click", () => {
      this.current = place;
      this.app.open(place);
    });
    this.space.append(tile);
    return tile;
  }

  place(tile, place) {
    const { app } = this, index = this.order[place], image = app.data.images[index];
    tile.style.transform = `translate(${GAP + (place % this.columns) * (this.width + GAP)}px, ${GAP + Math.floor(place / this.columns) * (this.height + GAP)}px)`;
    tile.style.width = `${this.width}px`;
    tile.style.height = `${this.height}px`;
    tile.setAttribute("aria-selected", String(place === this.current));
    const drawn = `${index} ${this.version} ${this.width}`;
    if (tile.drawn === drawn) return;
    tile.drawn = drawn;
    const count = app.chosen.items[index];
    tile.lastChild.textContent = `${image.file_name} \u00b7 ${count}`;
    tile.title = image.file_name;
    tile.setAttribute("aria-label", `${image.file_name}, ${count} matching items`);
    app.pictures.get(index).then((bitmap) => {
      if (tile.drawn === drawn) this.draw(tile.firstChild, index, image, bitmap);
    });
  }

  draw(canvas, index, image, bitmap) {
    const { state, task, model } = this.app, ratio = Math.min(2, devicePixelRatio);
    canvas.width = this.width * ratio;
    canvas.height = (this.height - CAPTION) * ratio;
    const scale = Math.min(canvas.width / image.width, canvas.height / image.height);
    const view = { x: (canvas.width - image.width * scale) / 2, y: (canvas.height - image.height * scale) / 2, scale };
    const items = [...objectItems(state, task, model, index, true), ...detectionItems(state, task, model, index)];
    drawScene(canvas.getContext("2d"), bitmap, image, items, view, { labels: false, ratio });
  }

  key(event) {
    const page = this.columns * Math.max(1, Math.floor(this.box.clientHeight / (this.height + GAP)));
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity }[event.key];
    if (step) this.go(this.current + step);
    else if (event.key === "Enter" || event.key === " ") this.app.open(this.current);
    else return;
    event.preventDefault();
  }

  /** Make the image at a place the current one, and bring it into sight. */
  go(place) {
    this.current = Math.max(0, Math.min(this.order.length - 1, place));
    const row = this.height + GAP, top = Math.floor(this.current / this.columns) * row;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    else if (top + row + GAP > this.box.scrollTop + this.box.clientHeight) this.box.scrollTop = top + row + GAP - this.box.clientHeight;
    this.request();
  }
}
