// COCO's compressed run lengths, which pycocotools defines: six bits a letter, from the third run on differences.

/** The runs of a mask, down the columns: background first. */
export function decodeRuns(text) {
  const runs = [];
  for (let at = 0; at < text.length;) {
    let value = 0, shift = 0, code;
    do {
      code = text.charCodeAt(at++) - 48;
      value |= (code & 31) << shift;
      shift += 5;
    } while (code & 32 && at < text.length);
    if (code & 16 && shift < 32) value |= -1 << shift; // negative
    if (runs.length > 2) value += runs[runs.length - 2];
    runs.push(value);
  }
  return runs;
}

/** The mask as pixels of one colour, `alpha` of 255 inside and `edge` where it ends. */
export function maskPixels(text, width, height, [r, g, b], alpha, edge) {
  const inside = new Uint8Array(width * height);
  let place = 0, on = 0;
  for (const run of decodeRuns(text)) {
    const end = Math.min(place + Math.max(run, 0), inside.length);
    if (on) for (let i = place; i < end; i++) inside[(i % height) * width + Math.floor(i / height)] = 1;
    place = end;
    on = 1 - on;
  }
  const pixels = new ImageData(width, height), to = pixels.data;
  for (let i = 0, at = 0; i < inside.length; i++, at += 4) {
    if (!inside[i]) continue;
    const x = i % width;
    const border = !(x && x < width - 1 && inside[i - 1] && inside[i + 1] && inside[i - width] && inside[i + width]);
    to[at] = r; to[at + 1] = g; to[at + 2] = b; to[at + 3] = border ? edge : alpha;
  }
  return pixels;
}
