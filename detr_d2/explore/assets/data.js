// What Python wrote into the page, as typed arrays.

/** The array of {type, bytes}: bytes in base64, the lowest first, as all of today's processors have them. */
export function unpack({ type, bytes }) {
  const text = atob(bytes), raw = new Uint8Array(text.length);
  for (let i = 0; i < raw.length; i++) raw[i] = text.charCodeAt(i);
  return new globalThis[`${type}Array`](raw.buffer);
}

/** Every packed array in an object, and in the objects and lists that it holds. */
function unpackAll(value) {
  if (Array.isArray(value)) return typeof value[0] === "object" ? value.map(unpackAll) : value;
  if (value === null || typeof value !== "object") return value;
  if (typeof value.bytes === "string") return unpack(value);
  return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, unpackAll(part)]));
}

export function readBlock(id) {
  const block = document.getElementById(id), value = JSON.parse(block.textContent);
  block.remove(); // the text is as large as all that it holds
  return value;
}

export function readData() {
  const data = readBlock("data");
  data.tasks = data.tasks.map(unpackAll);
  return data;
}

/** Pictures by image, decoded when they are first shown; the last few hundred stay decoded. */
export class Pictures {
  constructor(encoded, limit = 300) {
    this.encoded = encoded;
    this.limit = limit;
    this.bitmaps = new Map();
  }

  /** A promise of the bitmap; of null where the image could not be read. */
  get(index) {
    let bitmap = this.bitmaps.get(index);
    if (bitmap) this.bitmaps.delete(index); // it becomes the youngest
    else bitmap = this.decode(index);
    this.bitmaps.set(index, bitmap);
    if (this.bitmaps.size > this.limit) {
      const [oldest, old] = this.bitmaps.entries().next().value;
      this.bitmaps.delete(oldest);
      old.then((value) => value?.close());
    }
    return bitmap;
  }

  async decode(index) {
    try {
      const bytes = unpack({ type: "Uint8", bytes: this.encoded[index] });
      return bytes.length ? await createImageBitmap(new Blob([bytes], { type: "image/jpeg" })) : null;
    } catch {
      return null;
    }
  }
}

/** Four corners of the box of item `i`, in pixels of its image. */
export function boxOf(items, i, image) {
  const at = 4 * i, x = image.width / 65535, y = image.height / 65535;
  return [items.box[at] * x, items.box[at + 1] * y, items.box[at + 2] * x, items.box[at + 3] * y];
}
