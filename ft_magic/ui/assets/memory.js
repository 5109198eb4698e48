// What a step needs: menus and sliders, the parts as a bar against the card's limit, and the cell they stand for.
// The kernel computes everything; this draws it. Text is only ever set as textContent.

const SVG = "http://www.w3.org/2000/svg";
const BAR = { width: 1000, height: 64, top: 22, thick: 34 };
const LOST_MS = 10000; // a kernel that has not answered by then has lost the message

const LABELS = {
  model: "model", method: "method", update: "update", precision: "precision", optim: "optimizer", gpu: "card",
  max_length: "length (tokens)", micro_batch_size: "micro-batch (examples)", lora_r: "rank",
  gradient_checkpointing: "checkpointing", fill: "fill the card with",
};

// The stop nearest to a value, as its place among the stops.
export function nearest_stop(stops, value) {
  let best = 0;
  stops.forEach((stop, place) => {
    if (Math.abs(Math.log(stop / value)) < Math.abs(Math.log(stops[best] / value))) best = place;
  });
  return best;
}

// Where the parts lie on a bar of so many units: [[name, x, width], ...].
export function laid_out(parts, axis, width) {
  let x = 0;
  return parts.map(([name, size]) => {
    const wide = (size / axis) * width;
    x += wide;
    return [name, x - wide, wide];
  });
}

// One question at a time: while the kernel has one, only the last of the next ones is kept.
export function asker(send, now = () => Date.now()) {
  let number = 0;
  let open = null; // {number, since}
  let next = null;
  function ask(choice) {
    if (open && now() - open.since < LOST_MS) {
      next = choice;
      return;
    }
    number += 1;
    open = { number, since: now() };
    next = null;
    send(number, choice);
  }
  function answered(which) {
    if (!open || which !== open.number) return false;
    open = null;
    const waiting = next;
    if (waiting) ask(waiting);
    return !waiting;
  }
  return { ask, answered, waits: () => Boolean(open) };
}

function drawn(tag, attributes, ...inner) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...inner);
  return made;
}

function titled(text) {
  const made = document.createElementNS(SVG, "title");
  made.textContent = text;
  return made;
}

function bar(answer) {
  const places = laid_out(answer.parts, answer.axis, BAR.width);
  const rects = answer.parts.map(([name, , words, colour, meaning], i) =>
    drawn(
      "rect",
      { x: places[i][1], y: BAR.top, width: places[i][2], height: BAR.thick, fill: colour, "data-part": name },
      titled(`${name} ${words}: ${meaning}`),
    ),
  );
  const x = (answer.limit / answer.axis) * BAR.width;
  const left = x > BAR.width / 2;
  const label = drawn("text", { x: x + (left ? -6 : 6), y: 14, "text-anchor": left ? "end" : "start", fill: answer.colour });
  label.textContent = answer.limit_words;
  const line = drawn("line", { x1: x, x2: x, y1: 2, y2: BAR.height - 2, stroke: answer.colour, "stroke-width": 3, "data-limit": "" });
  const ground = drawn("rect", { x: 0, y: BAR.top, width: BAR.width, height: BAR.thick, fill: "#8882" });
  const view = { viewBox: `0 0 ${BAR.width} ${BAR.height}`, class: "ftm-chart", role: "img", "aria-label": answer.verdict };
  return drawn("svg", view, ground, ...rects, line, label);
}

function legend(answer) {
  const parts = answer.parts.map(([name, , words, colour, meaning]) => {
    const part = node("span", "ftm-part");
    const swatch = node("span", "ftm-swatch");
    swatch.style.background = colour;
    part.append(swatch, `${name} ${words}`);
    part.title = meaning;
    return part;
  });
  const made = node("div", "ftm-parts");
  made.append(...parts);
  return made;
}

function copied(text, box, said) {
  const marked = () => {
    const range = document.createRange();
    range.selectNodeContents(box);
    const selection = window.getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    said("marked: press Ctrl+C");
  };
  // Pages without https have no clipboard of their own.
  if (!navigator.clipboard) return marked();
  return navigator.clipboard.writeText(text).then(() => said("copied"), marked);
}

function code(title, name) {
  const box = node("div");
  const head = node("div", "ftm-head");
  const text = node("pre", `ftm-code ${name}`);
  const copy = button("copy", `copy ${title}`, () => {
    copied(text.textContent, text, (word) => {
      copy.textContent = word;
      setTimeout(() => { copy.textContent = "copy"; }, 1500);
    });
  });
  head.append(node("span", "ftm-title", title), copy);
  box.append(head, text);
  return { box, text };
}

function render({ model, el }) {
  const start = model.get("start");
  const view = Math.random().toString(36).slice(2);
  const fields = {};
  let choice = { ...start.answer.choice };
  let timer;

  const box = node("div", "ftm-box ftm-memory");
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "Memory of a training step");
  box.setAttribute("data-lm-suppress-shortcuts", "true");
  // JupyterLab would keep the arrow keys from the sliders.
  box.addEventListener("keydown", (event) => event.stopPropagation());
  const controls = node("div", "ftm-controls");
  const verdict = node("div", "ftm-verdict");
  verdict.setAttribute("aria-live", "polite");
  const picture = node("div");
  const notes = node("div");
  const ways = node("div", "ftm-ways");
  const largest = node("div", "ftm-largest");
  const others = node("div", "ftm-others");
  const cell = code("The cell it stands for", "ftm-cell");
  const python = code("The estimate in Python", "ftm-python");
  const codes = node("div", "ftm-codes");
  const waits = node("div", "ftm-small ftm-waits");
  codes.append(cell.box, python.box);
  box.append(controls, verdict, picture, waits, notes, ways, largest, others, codes);
  el.append(box);

  const questions = asker((number, asked) => {
    model.send({ kind: "memory", choice: asked, number, view });
    clearTimeout(timer);
    timer = setTimeout(() => { waits.textContent = "The answer comes when the kernel is free."; }, 1000);
  });

  function choose(changes) {
    choice = { ...choice, ...changes };
    place(choice);
    questions.ask(choice);
  }

  // A slider that is moved by hand stops following the card.
  function slid(name, value) {
    choose({ [name]: value, ...(choice.fill === name ? { fill: "" } : {}) });
  }

  function control(name, ...inner) {
    const made = node("label", "ftm-control");
    made.dataset.field = name;
    made.append(node("span", "ftm-label", LABELS[name]), ...inner);
    controls.append(made);
    return made;
  }

  function menu(name) {
    const made = node("select", "ftm-select");
    for (const [value, words] of start.menus[name]) {
      const option = node("option", "", words);
      option.value = value;
      made.append(option);
    }
    made.addEventListener("change", () => choose({ [name]: made.value }));
    control(name, made);
    fields[name] = (value) => { made.value = value; };
  }

  function slider(name) {
    const stops = start.stops[name];
    const range = node("input");
    Object.assign(range, { type: "range", min: 0, max: stops.length - 1, step: 1 });
    const number = node("input", "ftm-number");
    Object.assign(number, { type: "number", min: 1, title: `any ${LABELS[name]}` });
    number.setAttribute("aria-label", LABELS[name]);
    range.addEventListener("input", () => slid(name, stops[Number(range.value)]));
    number.addEventListener("change", () => {
      const asked = Math.round(Number(number.value));
      if (asked >= 1) slid(name, asked);
      else number.value = choice[name];
    });
    const row = node("span", "ftm-slide");
    row.append(range, number);
    control(name, row);
    fields[name] = (value) => {
      range.value = nearest_stop(stops, value);
      range.setAttribute("aria-valuetext", String(value));
      number.value = value;
    };
  }

  function tick(name, words) {
    const made = node("input");
    made.type = "checkbox";
    made.addEventListener("change", () => choose({ [name]: made.checked }));
    const row = node("span", "ftm-check");
    row.append(made, words);
    control(name, row);
    fields[name] = (value) => { made.checked = value; };
  }

  function place(values) {
    for (const [name, put] of Object.entries(fields)) put(values[name]);
  }

  function lines(target, title, rows) {
    target.replaceChildren(...(rows.length ? [node("div", "ftm-title", title), ...rows] : []));
  }

  function row(text, press) {
    const made = node("div", "ftm-row");
    if (press) made.append(press);
    made.append(text);
    return made;
  }

  function show(answer) {
    clearTimeout(timer);
    waits.textContent = "";
    choice = { ...answer.choice };
    place(choice);
    for (const part of controls.children) {
      part.dataset.filled = String(part.dataset.field === choice.fill);
      part.dataset.off = String(part.dataset.field === "lora_r" && !answer.has_rank);
    }
    verdict.textContent = answer.verdict;
    verdict.dataset.level = answer.level;
    verdict.style.borderColor = answer.colour;
    verdict.style.color = answer.colour;
    picture.replaceChildren(bar(answer), legend(answer));
    notes.replaceChildren(...answer.notes.map((text) => node("div", "ftm-small", text)));
    const apply = (changes, title) => button("use", title, () => choose({ fill: "", ...changes }));
    lines(ways, "What would make it fit, the least costly first", answer.ways.map((way) => {
      const text = node("span", "", `${way.name}: ${way.words}`);
      if (way.fits) text.style.fontWeight = "600";
      return row(text, Object.keys(way.set).length ? apply(way.set, `set ${way.name}`) : null);
    }));
    lines(largest, "The largest that fits this card, all else as set", [
      row("", null),
    ]);
    largest.lastChild.replaceChildren(...answer.largest.flatMap(([name, words, value]) => [
      value ? button(`${words} ${value.toLocaleString("en")}`, `set the ${words} to ${value}`, () => choose({ fill: "", [name]: value }))
        : node("span", "ftm-small", `(no ${words} fits)`),
    ]));
    const good = answer.models.filter(([, fits]) => fits).map(([name]) => name);
    const bad = answer.models.filter(([, fits]) => !fits).map(([name]) => name);
    const said = [`Models that fit so: ${good.join(", ") || "none"}${bad.length ? `; too large: ${bad.join(", ")}` : ""}.`,
      `Cards it fits: ${answer.cards.join(", ") || "none of the table"}.`];
    others.replaceChildren(...said.map((text) => node("div", "ftm-small", text)));
    cell.text.textContent = answer.cell;
    python.text.textContent = answer.code;
  }

  function take(message) {
    if (message.error !== undefined) {
      const about = message.about ?? {};
      if (about.view !== view || !questions.answered(about.number)) return;
      waits.textContent = message.error;
      clearTimeout(timer);
    } else if (message.view === view && questions.answered(message.number)) show(message.answer);
  }

  for (const name of ["model", "method", "update"]) menu(name);
  for (const name of start.searched) slider(name);
  for (const name of ["precision", "optim"]) menu(name);
  tick("gradient_checkpointing", "recompute activations");
  for (const name of ["gpu", "fill"]) menu(name);
  model.on("msg:custom", take);
  show(start.answer);
  return () => {
    clearTimeout(timer);
    model.off("msg:custom", take);
  };
}

export default { render };
