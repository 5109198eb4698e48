// Rows of a template audit: which tokens are trained, which are not, special tokens framed.

const TRAINED = 1;
const SPECIAL = 2;

function piece([text, ids, flags], with_ids) {
  const look = ["ftm-piece"];
  if (flags & TRAINED) look.push("ftm-trained");
  if (flags & SPECIAL) look.push("ftm-special");
  const shown = text.replaceAll("\n", "\u21b5\n");
  const made = node("span", look.join(" "), with_ids ? "" : shown);
  made.title = `${ids.length > 1 ? "tokens" : "token"} ${ids.join(" ")}`;
  if (!with_ids) return [made];
  made.classList.add("ftm-stacked");
  made.append(node("span", "ftm-text", text.replaceAll("\n", "\u21b5")), node("span", "ftm-id", ids.join(" ")));
  return text.includes("\n") ? [made, node("br")] : [made];
}

function side(held, with_ids) {
  const part = node("div");
  const name = held.name ? `${held.name}: ` : "";
  const share = held.tokens ? ` (${Math.round((100 * held.trained) / held.tokens)} %)` : "";
  const head = node("div", "ftm-small", `${name}${held.tokens} tokens, ${held.trained} trained${share}`);
  if (held.cut) head.append(`, ${held.cut} more were cut off at the end`);
  const text = node("div", "ftm-tokens");
  for (const one of held.pieces) text.append(...piece(one, with_ids));
  part.append(head, text);
  if (held.more) part.append(node("div", "ftm-small", `${held.more} more tokens not shown`));
  return part;
}

function render({ model, el }) {
  const start = model.get("start");
  let with_ids = false;
  const ids = button("token ids", "show or hide token ids (i)", () => toggle());
  ids.setAttribute("aria-pressed", "false");
  function toggle() {
    with_ids = !with_ids;
    ids.setAttribute("aria-pressed", String(with_ids));
    shown.show();
    return true;
  }
  function draw(body, row) {
    const parts = row.why.map(([level, colour, message]) => {
      const line = node("div", "ftm-why");
      const word = node("b", "", level);
      word.style.color = colour;
      line.append(word, ` ${message}`);
      return line;
    });
    if (row.error) parts.push(node("div", "ftm-why", row.error));
    body.replaceChildren(...parts, ...row.sides.map((held) => side(held, with_ids)));
  }
  function tools(go) {
    const found = start.marked_all ?? 0;
    const made = [ids];
    if (found) {
      made.unshift(
        button("previous finding", "previous row with a finding (p)", () => go("previous-marked")),
        button(`next finding (${found})`, "next row with a finding (n)", () => go("next-marked")),
      );
    }
    const legend = node("span", "ftm-legend");
    legend.append(node("span", "ftm-trained", "trained"), " not trained ", node("span", "ftm-special", "special"));
    made.push(legend);
    return made;
  }
  const shown = pager(model, el, start, {
    label: "Rows, token by token",
    keys: "Click here, then: \u2190 \u2192 or k j = page, n p = next and previous finding, i = token ids, Home End",
    marked: () => start.marked,
    own: { i: "ids" },
    act: (what) => what === "ids" && toggle(),
    tools,
    draw,
  });
  return () => shown.end();
}

export default { render };
