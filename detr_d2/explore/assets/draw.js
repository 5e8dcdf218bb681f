// Boxes and masks over pictures.
import { boxOf } from "./data.js";
import { detectionFits, fates, missedKind, objectFits } from "./filters.js";
import { maskPixels } from "./rle.js";

// Okabe and Ito's colours, told apart with any colour vision; further classes take hues of the golden angle.
const OKABE = ["rgb(230, 159, 0)", "rgb(86, 180, 233)", "rgb(0, 158, 115)", "rgb(240, 228, 66)", "rgb(0, 114, 178)", "rgb(213, 94, 0)", "rgb(204, 121, 167)"];

export function classColor(label) {
  if (label < OKABE.length) return OKABE[label];
  const hue = (label * 137.508) % 360, light = [0.45, 0.6, 0.72][label % 3];
  const part = (n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (light - 0.65 * Math.min(light, 1 - light) * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return `rgb(${part(0)}, ${part(8)}, ${part(4)})`;
}

const channels = (color) => color.match(/\d+/g).map(Number);

/** Black or white, whichever is read better on a colour. */
export function inkOn(color) {
  const [r, g, b] = channels(color).map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
}

/** The detections of a model in image `i` that are shown. */
export function detectionItems(state, task, model, i) {
  const items = [];
  for (let d = model.start[i]; d < model.start[i + 1] && model.score[d] >= state.threshold; d++) {
    if (!detectionFits(state, model, d)) continue;
    const kind = model.kind[d], label = model.label[d];
    const color = state.color === "kind" ? task.colors[kind] : classColor(label);
    items.push({ of: model, index: d, kind, label, color, score: model.score[d], text: `${task.classes[label]} ${model.score[d].toFixed(2)}` });
  }
  return items.reverse(); // the best on top
}

/** Objects of image `i`: all of them, or those that are missed. */
export function objectItems(state, task, model, i, onlyMissed) {
  const items = [], kinds = fates(state, task, model, i), { objects } = task;
  for (const [g, kind] of kinds) {
    const label = objects.label[g];
    if (onlyMissed ? kind !== missedKind(task) || !objectFits(state, task, model, g) : state.off.has(label)) continue;
    const color = state.color === "kind" ? task.colors[kind] : classColor(label);
    items.push({ of: objects, index: g, kind, label, color, dashed: onlyMissed, isObject: true, text: task.classes[label] });
  }
  return items;
}

/**
 * Draw an image and items over it.
 * view: {x, y, scale}: where the image's corner lies, and pixels of the canvas for one of the image.
 */
export function drawScene(context, bitmap, image, items, view, { labels, highlight, ratio = 1 }) {
  const { x, y, scale } = view, width = image.width * scale, height = image.height * scale;
  context.save();
  context.imageSmoothingEnabled = scale < 4;
  if (bitmap) context.drawImage(bitmap, x, y, width, height);
  else {
    context.fillStyle = "#888";
    context.fillRect(x, y, width, height);
  }
  for (const item of items) if (item.of.mask) drawMask(context, item, image, view);
  for (const item of items) {
    const [left, top, right, bottom] = boxOf(item.of, item.index, image);
    const strong = highlight && highlight.of === item.of && highlight.index === item.index;
    context.globalAlpha = highlight && !strong ? 0.35 : 1;
    const outline = (color, line) => {
      context.strokeStyle = color;
      context.lineWidth = line * ratio;
      context.strokeRect(x + left * scale, y + top * scale, (right - left) * scale, (bottom - top) * scale);
    };
    context.setLineDash(item.dashed ? [5 * ratio, 3 * ratio] : []);
    if (!item.of.mask || strong) {
      outline("rgba(0, 0, 0, 0.55)", strong ? 5 : 3.2); // seen on any picture
      outline(item.color, strong ? 3 : 1.7);
    }
    if (labels) drawLabel(context, item, x + left * scale, y + top * scale, ratio);
  }
  context.restore();
}

function drawMask(context, item, image, { x, y, scale }) {
  const patch = new OffscreenCanvas(image.width, image.height);
  patch.getContext("2d").putImageData(
    maskPixels(item.of.mask[item.index], image.width, image.height, channels(item.color), item.dashed ? 60 : 115, 255), 0, 0);
  context.drawImage(patch, x, y, image.width * scale, image.height * scale);
}

function drawLabel(context, item, left, top, ratio) {
  const size = 11 * ratio;
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.setLineDash([]);
  const width = context.measureText(item.text).width + 6 * ratio, height = size + 4 * ratio;
  const at = Math.max(0, Math.min(left, context.canvas.width - width));
  const above = top - height < 0 ? top : top - height;
  context.fillStyle = item.color;
  context.fillRect(at, above, width, height);
  context.fillStyle = inkOn(item.color);
  context.textBaseline = "middle";
  context.fillText(item.text, at + 3 * ratio, above + height / 2);
}
