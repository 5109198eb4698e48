// The form of an advice: one menu a question. Text is only ever set as textContent.

const UNANSWERED = "not answered";

// [["format", "the form of an answer"], ["yearly", ""]] -> what the menu says, the empty answer first
export function choices(answers) {
  return [["", UNANSWERED], ...answers.map(([word, meaning]) => [word, meaning ? `${word}: ${meaning}` : word])];
}

function render({ model, el }) {
  const start = model.get("start");
  const answers = {};
  const box = node("div", "ftm-box");
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "Questions that only you can answer");
  // JupyterLab leaves keys alone in here.
  box.setAttribute("data-lm-suppress-shortcuts", "true");
  const verdict = node("div", "ftm-why", start.verdict);
  verdict.setAttribute("aria-live", "polite");
  const code = node("div", "ftm-value", start.code);
  for (const question of start.questions) {
    answers[question.key] = question.given ?? "";
    const menu = node("select", "ftm-field");
    for (const [word, said] of choices(question.answers)) {
      const option = node("option", "", said);
      option.value = word;
      menu.append(option);
    }
    menu.value = answers[question.key];
    menu.addEventListener("change", () => {
      answers[question.key] = menu.value;
      verdict.textContent = "waiting for the kernel";
      model.send({ kind: "answer", answers });
    });
    const label = node("label", "ftm-name", question.asks);
    label.append(menu);
    box.append(label);
  }
  box.append(verdict, code);
  el.append(box);

  function take(message) {
    verdict.textContent = message.error ?? message.verdict;
    code.textContent = message.code ?? "";
  }
  model.on("msg:custom", take);
  return () => model.off("msg:custom", take);
}

export default { render };
