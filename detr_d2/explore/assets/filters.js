// Which images and which of their items are shown. What an item's kind is, Python has said.

export const IGNORED = 0;
export const FIRST_ERROR = 2; // kinds below it: ignored, correct
export const SIZES = [["any", 0, Infinity], ["small, below 32\u00b2", 0, 1024], ["medium", 1024, 9216], ["large, from 96\u00b2", 9216, Infinity]];
export const CROWDING = [["any number", 0, Infinity], ["none", 0, 1], ["1 to 4", 1, 5], ["5 to 9", 5, 10], ["10 to 19", 10, 20], ["20 and more", 20, Infinity]];
export const SORTS = { loss: "loss of AP50", errors: "weight of errors", matches: "matching items", objects: "objects", name: "name", id: "id" };

export const missedKind = (task) => task.kinds.length - 1;

/** Whether detection `d` is among what the state asks for. */
export function detectionFits(state, model, d) {
  if (model.score[d] < state.threshold || state.off.has(model.label[d])) return false;
  if (state.kinds.size && !state.kinds.has(model.kind[d])) return false;
  const [, least, most] = SIZES[state.size], pair = state.pair;
  if (model.area[d] < least || model.area[d] >= most) return false;
  return !pair || (model.kind[d] !== IGNORED && model.truth[d] === pair.truth && model.label[d] === pair.said);
}

/** Whether object `g` is among it: as one that was missed where kinds are chosen, as one that nothing answers to in a cell. */
export function objectFits(state, task, model, g) {
  const objects = task.objects, pair = state.pair;
  if (state.off.has(objects.label[g])) return false;
  const [, least, most] = SIZES[state.size];
  if (objects.area[g] < least || objects.area[g] >= most) return false;
  if (state.kinds.size && !(state.kinds.has(missedKind(task)) && isMissed(state, task, model, g))) return false;
  if (!pair) return true;
  const left = !objects.crowd[g] && model.chosen[g] < state.threshold;
  return left && pair.said === task.classes.length && objects.label[g] === pair.truth;
}

export const isMissed = (state, task, model, g) => !task.objects.crowd[g] && model.found[g] < state.threshold;

/** The images that have an item that fits, in order: {order, items}, the number of items by image. */
export function chooseImages(data, state, task, model) {
  const { start } = model, objects = task.objects, count = data.images.length;
  const items = new Uint32Array(count), weights = new Float64Array(count), order = [];
  const asked = state.kinds.size || state.pair || state.off.size || state.size;
  const words = state.search.toLowerCase(), [, least, most] = CROWDING[state.crowding];
  for (let i = 0; i < count; i++) {
    for (let d = start[i]; d < start[i + 1] && model.score[d] >= state.threshold; d++) {
      if (detectionFits(state, model, d)) items[i]++;
      if (model.kind[d] >= FIRST_ERROR) weights[i] += model.score[d];
    }
    for (let g = objects.start[i]; g < objects.start[i + 1]; g++) {
      if (objectFits(state, task, model, g)) items[i]++;
      if (isMissed(state, task, model, g)) weights[i]++;
    }
    const objectsHere = objects.start[i + 1] - objects.start[i], image = data.images[i];
    if (asked && !items[i]) continue;
    if (objectsHere < least || objectsHere >= most) continue;
    if (words && !image.file_name.toLowerCase().includes(words) && String(image.id) !== words) continue;
    order.push(i);
  }
  const key = {
    loss: (i) => -(model.loss ?? weights)[i],
    errors: (i) => -weights[i],
    matches: (i) => -items[i],
    objects: (i) => -(objects.start[i + 1] - objects.start[i]),
    id: (i) => data.images[i].id,
  }[state.sort];
  if (key) order.sort((a, b) => key(a) - key(b) || a - b);
  else order.sort((a, b) => data.images[a].file_name.localeCompare(data.images[b].file_name));
  return { order, items, weights };
}

/** How many detections of each kind there are from the threshold on, and how many missed objects. */
export function countKinds(state, task, model) {
  const counts = new Array(task.kinds.length).fill(0);
  for (let d = 0; d < model.score.length; d++) if (model.score[d] >= state.threshold) counts[model.kind[d]]++;
  for (let g = 0; g < model.found.length; g++) if (isMissed(state, task, model, g)) counts[missedKind(task)]++;
  return counts;
}

/** Rows are what there is, columns what was said, the last of both background. */
export function confusionMatrix(state, task, model) {
  const size = task.classes.length + 1, matrix = Array.from({ length: size }, () => new Array(size).fill(0));
  for (let d = 0; d < model.score.length; d++) {
    if (model.score[d] >= state.threshold && model.kind[d] !== IGNORED) matrix[model.truth[d]][model.label[d]]++;
  }
  for (let g = 0; g < model.chosen.length; g++) {
    if (!task.objects.crowd[g] && model.chosen[g] < state.threshold) matrix[task.objects.label[g]][size - 1]++;
  }
  return matrix;
}

/** What becomes of the objects of image `i`: a kind by object. */
export function fates(state, task, model, i) {
  const kinds = new Map(), objects = task.objects;
  for (let g = objects.start[i]; g < objects.start[i + 1]; g++) kinds.set(g, objects.crowd[g] ? IGNORED : missedKind(task));
  for (let d = model.start[i]; d < model.start[i + 1] && model.score[d] >= state.threshold; d++) {
    const g = model.target[d];
    if (g >= 0 && (model.kind[d] === 1 || kinds.get(g) === missedKind(task))) kinds.set(g, model.kind[d]);
  }
  return kinds;
}
