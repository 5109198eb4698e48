// Review of rows: accept, edit, reject, undo. A decision counts once the kernel says that it is on disk.

const NAMES = { a: "accepted", e: "edited", r: "rejected", u: "undecided" };

// "uuar" -> {a: 1, e: 0, r: 1, u: 2}
export function counted(states) {
  const found = { a: 0, e: 0, r: 0, u: 0 };
  for (const state of states) found[state] += 1;
  return found;
}

// The next undecided row after place, beginning again at the start; place itself where there is none.
export function next_open(states, place) {
  const after = states.indexOf("u", place + 1);
  if (after >= 0) return after;
  const before = states.indexOf("u");
  return before >= 0 ? before : place;
}

function render({ model, el }) {
  const start = model.get("start");
  const states = [...start.states];
  const saving = new Set();
  let editing = null; // the text fields, while a row is edited
  let problem = "";

  const total = node("div", "ftm-small");
  const waits = node("div", "ftm-small");
  const accept = button("accept", "accept this row (a)", () => decide("a"));
  const edit = button("edit", "change this row's texts (e)", () => begin());
  const reject = button("reject", "reject this row (r)", () => decide("r"));
  const undo = button("undo", "take back the decision about this row (u)", () => decide("u"));
  const save = button("save", "keep the new texts (Ctrl+Enter)", () => finish());
  const cancel = button("cancel", "leave the row as it was (Escape)", () => leave());

  function summary() {
    const found = counted(states);
    total.textContent = Object.keys(NAMES).map((letter) => `${found[letter]} ${NAMES[letter]}`).join(", ");
    waits.textContent = saving.size ? `Not saved yet: row ${ranges([...saving])}; waiting for the kernel.` : "";
  }

  function decide(state, texts) {
    const place = shown.place();
    if (!shown.current()) return true;
    problem = "";
    editing = null;
    saving.add(place);
    states[place] = state;
    model.send({ kind: "decide", index: place, state, texts: texts ?? null });
    summary();
    shown.go(state === "u" ? place : next_open(states, place));
    shown.box.focus();
    return true;
  }

  function begin() {
    if (!shown.current()) return true;
    editing = [];
    problem = "";
    shown.show();
    editing[0]?.focus();
    return true;
  }

  function finish() {
    decide("e", editing.map((field) => field.value));
  }

  function leave() {
    editing = null;
    shown.show();
    shown.box.focus();
  }

  function value(label, text, editable) {
    if (!editing || !editable) return node("div", "ftm-value", text);
    const field = node("textarea", "ftm-field");
    field.value = text;
    field.setAttribute("aria-label", label);
    field.rows = Math.min(16, Math.max(2, Math.ceil(text.length / 90) + text.split("\n").length - 1));
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") leave();
      else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) finish();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    editing.push(field);
    return field;
  }

  function draw(body, row) {
    if (editing) editing.length = 0;
    const state = saving.has(row.index) ? states[row.index] : row.state;
    const word = node("span", "ftm-status", NAMES[state]);
    word.dataset.state = state;
    const parts = [word];
    if (problem) parts.push(node("div", "ftm-problem", problem));
    for (const [label, text, editable] of row.fields) {
      parts.push(node("div", "ftm-name", label), value(label, text, editable));
    }
    if (row.origin) parts.push(node("div", "ftm-keys", row.origin));
    body.replaceChildren(...parts);
    for (const one of [accept, edit, reject, undo]) one.hidden = Boolean(editing);
    for (const one of [save, cancel]) one.hidden = !editing;
    undo.disabled = state === "u";
  }

  function take(message, place) {
    if (message.saved !== undefined) {
      saving.delete(message.saved);
      states[message.saved] = message.state;
    }
    if (message.error !== undefined) {
      const index = message.about?.index;
      if (index !== undefined) {
        saving.delete(index);
        states[index] = "u";
        problem = `row ${index}: ${message.error}`;
        shown.go(index);
      }
    }
    summary();
    if (message.saved === place && !editing) shown.show();
  }

  function tools(go) {
    const open = button("next undecided", "next undecided row (n)", () => go("next-marked"));
    return [accept, edit, reject, undo, save, cancel, open];
  }

  const acts = { accept: () => decide("a"), reject: () => decide("r"), undo: () => decide("u"), edit: begin };
  const shown = pager(model, el, start, {
    label: "Review of rows",
    keys: "Click here, then: a = accept, e = edit (Ctrl+Enter saves, Escape leaves), r = reject, u = undo, \u2190 \u2192 or k j = page, n = next undecided",
    marked: () => states.flatMap((state, place) => (state === "u" ? [place] : [])),
    own: { a: "accept", e: "edit", r: "reject", u: "undo" },
    act: (what) => {
      if (what in acts) return acts[what]();
      editing = null; // paging leaves the row as it was
      problem = "";
      return false;
    },
    tools,
    draw,
    take,
  });
  shown.body.before(total);
  shown.body.after(waits);
  summary();
  return () => shown.end();
}

export default { render };
