// Elements, and tables whose columns sort. Text is only ever set as text: names come from strangers' files.

/** An element with properties (`style` and `dataset` as objects) and children; strings become text. */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "style" || key === "dataset") Object.assign(node[key], value);
    else if (key === "role" || key === "scope") node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children);
  return node;
}

/**
 * A table that sorts by a click on a head.
 * columns: [{name, value(row), text(row)?, title?}]; onRow: called with the row that is clicked.
 */
export function sortedTable(rows, columns, { caption, onRow, sort = 0, down = false, name = "" }) {
  const body = el("tbody"), head = el("tr");
  const state = { sort, down };
  const fill = () => {
    const { value } = columns[state.sort];
    const key = (row) => value(row) ?? -Infinity; // what is not known lies below all
    const sorted = [...rows].sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0) * (state.down ? -1 : 1));
    body.replaceChildren(...sorted.map((row) => {
      const cells = columns.map((column, place) => {
        const text = column.text ? column.text(row) : String(column.value(row) ?? "");
        if (place || !onRow) return el("td", {}, text);
        return el("th", { scope: "row" }, el("button", { className: "link", onclick: () => onRow(row) }, text));
      });
      return el("tr", {}, ...cells);
    }));
    [...head.children].forEach((th, place) => (th.ariaSort = place !== state.sort ? "none" : state.down ? "descending" : "ascending"));
  };
  head.append(...columns.map((column, place) => el("th", { scope: "col", title: column.title ?? "" }, el("button", {
    className: "link",
    onclick: () => {
      state.down = state.sort === place ? !state.down : place > 0;
      state.sort = place;
      fill();
    },
  }, column.name))));
  fill();
  return el("div", { className: "table", id: name }, el("table", {}, el("caption", {}, caption), el("thead", {}, head), body));
}
