// One row at a time: what the widgets share. Text from data is only ever set as textContent.

const KEYS = {
  ArrowRight: "next", j: "next", ArrowLeft: "previous", k: "previous",
  n: "next-marked", p: "previous-marked", Home: "first", End: "last",
};

// The action of a key, or undefined: keys with a modifier belong to the page, keys in a field to the field.
export function action(event, own = {}) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.typing) return undefined;
  return own[event.key] ?? KEYS[event.key];
}

// The row an action leads to, from 0 to count - 1; marked holds the rows worth a stop, in ascending order.
export function moved(place, what, count, marked) {
  const last = count - 1;
  if (what === "first") return 0;
  if (what === "last") return last;
  if (what === "next") return Math.min(place + 1, last);
  if (what === "previous") return Math.max(place - 1, 0);
  // Past the end it begins again at the other side.
  if (what === "next-marked") return marked.find((row) => row > place) ?? marked[0] ?? place;
  if (what === "previous-marked") return marked.findLast((row) => row < place) ?? marked.at(-1) ?? place;
  return place;
}

function node(tag, name = "", text = "") {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== "") made.textContent = text;
  return made;
}

function button(label, title, pressed) {
  const made = node("button", "ftm-button", label);
  made.type = "button";
  made.title = title;
  made.addEventListener("click", pressed);
  return made;
}

const WAIT_MS = 1000; // a free kernel answers in a tenth of it
const AHEAD = 4; // rows asked for before they are needed

// Draws one row of many, with its controls.
//   start: {count, first, rows}; how.draw(body, row) draws a row; how.marked() gives the rows worth a stop;
//   how.own: key -> action name; how.act(name, row) does the widget's own actions; how.tools: further buttons.
function pager(model, el, start, how) {
  const rows = new Map(Object.entries(start.rows).map(([place, row]) => [Number(place), row]));
  const asked = new Set();
  let place = start.first;
  let timer;

  const box = node("div", "ftm-box");
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", how.label);
  // JupyterLab leaves keys alone in here.
  box.setAttribute("data-lm-suppress-shortcuts", "true");
  const bar = node("div", "ftm-bar");
  const number = node("input", "ftm-number");
  Object.assign(number, { type: "number", min: 0, max: start.count - 1, title: "row number" });
  number.setAttribute("aria-label", "row number");
  number.style.width = `${String(start.count).length + 4}ch`;
  const named = node("label", "ftm-words", "row ");
  named.append(number, ` of 0 to ${start.count - 1}`);
  const body = node("div", "ftm-body");
  body.setAttribute("aria-live", "polite");
  const keys = node("div", "ftm-keys", how.keys);
  bar.append(
    button("\u2039", "previous row (left arrow or k)", () => go("previous")),
    named,
    button("\u203a", "next row (right arrow or j)", () => go("next")),
    ...how.tools(go),
  );
  box.append(bar, body, keys);
  el.append(box);

  function go(what) {
    place = typeof what === "number" ? what : moved(place, what, start.count, how.marked());
    show();
  }

  function show() {
    clearTimeout(timer);
    number.value = place;
    const row = rows.get(place);
    if (row) how.draw(body, row);
    else timer = setTimeout(() => body.replaceChildren(waiting()), WAIT_MS);
    const near = [place];
    for (let i = 1; i <= AHEAD; i += 1) near.push(place + i, place - i);
    want(near.filter((at) => at >= 0 && at < start.count));
  }

  function waiting() {
    const text = `Row ${place} comes when the kernel is free. Rows that can be shown until then: ${ranges([...rows.keys()])}.`;
    return node("div", "ftm-small", text);
  }

  function want(places) {
    const missing = places.filter((at) => !rows.has(at) && !asked.has(at));
    if (!missing.length) return;
    missing.forEach((at) => asked.add(at));
    model.send({ kind: "rows", want: missing });
  }

  function take(message) {
    for (const row of message.rows ?? []) {
      rows.set(row.index, row);
      asked.delete(row.index);
      if (row.index === place) show();
    }
    how.take?.(message, place);
  }

  box.addEventListener("keydown", (event) => {
    const typing = ["INPUT", "TEXTAREA"].includes(event.target.tagName);
    const { key, ctrlKey, metaKey, altKey } = event;
    const what = action({ key, ctrlKey, metaKey, altKey, typing }, how.own);
    if (!what) return;
    event.preventDefault();
    event.stopPropagation();
    if (!how.act?.(what)) go(what);
  });
  number.addEventListener("change", () => {
    const asked_for = Math.round(Number(number.value));
    go(Math.min(Math.max(Number.isFinite(asked_for) ? asked_for : place, 0), start.count - 1));
  });
  number.addEventListener("keydown", (event) => {
    if (event.key === "Enter") box.focus();
  });
  model.on("msg:custom", take);
  if (start.count) show();
  else body.replaceChildren(node("div", "ftm-small", "There are no rows."));
  return { go, show, body, box, current: () => rows.get(place), place: () => place, end: () => model.off("msg:custom", take) };
}

// 0, 1, 2, 7 -> "0 to 2, 7"
export function ranges(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b);
  const parts = [];
  for (let i = 0; i < sorted.length; i += 1) {
    const begun = sorted[i];
    while (sorted[i + 1] === sorted[i] + 1) i += 1;
    parts.push(begun === sorted[i] ? `${begun}` : `${begun} to ${sorted[i]}`);
  }
  return parts.join(", ");
}
