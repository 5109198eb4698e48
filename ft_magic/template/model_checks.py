"""Checks of the model: its chat template, its special tokens and the token that ends an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ft_magic.data.report.finding import Finding
from ft_magic.data.report.finding import finding_of as finding
from ft_magic.data.row import contents, said, shortened
from ft_magic.template.proposal import propose, training
from ft_magic.template.row_facts import RowFacts, rows_where

if TYPE_CHECKING:
    from ft_magic.data.data import Data
    from ft_magic.template.tokenizer import Tokenizer

REASONING = "<think>"
# Tokens llama.cpp takes for an end of turn by their text, whatever eos a file names (src/llama-vocab.cpp).
_KNOWN_ENDS = frozenset(
    {"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<EOT>", "<|eom_id|>"}
)  # fmt: skip


def model_findings(tokenizer: Tokenizer, data: Data) -> list[Finding | None]:
    """Return what concerns the template as such; nothing for raw text, which needs none."""
    if data.signal == "text":
        return []
    if tokenizer.chat is None:
        return _without_template(tokenizer, data)
    contract, every = tokenizer.contract, range(len(data))
    silent = [i for i, row in enumerate(data.rows) if not _has_system(row)]
    system = shortened(contract.injected_system, 80)
    return [
        finding(
            "default_system", "info", silent if contract.injected_system else [],
            f"{{n}} without a system turn get the template's own: '{system}'.",
        ),
        finding(
            "date", "info", every if contract.writes_date else [],
            "{n} with today's date, which the template writes: tomorrow they tokenize differently.",
        ),
        _header(tokenizer, data),
        *_reasoning(tokenizer, data),
        _split_special(tokenizer, data),
    ]  # fmt: skip


def _without_template(tokenizer: Tokenizer, data: Data) -> list[Finding | None]:
    chats = [index for index, row in enumerate(data.rows) if any(isinstance(v, list) for v in said(row))]
    plain = sorted(set(range(len(data))) - set(chats))
    proposal = propose(tokenizer)
    return [
        finding(
            "template", "broken", chats,
            "{n} of conversations, but the model has no chat template (a base model).",
            "use the instruct version of the model, or rows with prompt and completion; "
            f"audit.propose() gives a template: {proposal.says}",
        ),
        finding(
            "template", "warning", plain,
            "{n} without a chat template: prompt, answer and eos are joined as they are.",
            "end prompts with a clear mark (a newline, 'Answer:'), and write the same mark at inference; "
            f"or audit.propose() gives a template: {proposal.says}",
        ),
    ]  # fmt: skip


def _has_system(row: Mapping[str, Any]) -> bool:
    turns = row.get("messages") or row.get("prompt")
    return isinstance(turns, list) and any(turn["role"] == "system" for turn in turns)


def _header(tokenizer: Tokenizer, data: Data) -> Finding | None:
    contract = tokenizer.contract
    marked = any(text in contract.before_answer for text in contract.written)
    return finding(
        "generation_prompt", "info", range(len(data)) if marked else [],
        f"{{n}} train '{shortened(contract.before_answer)}' as the beginning of the answer: the template does not "
        "write it into the prompt, so the model writes it at inference.",
    )  # fmt: skip


def training_template(tokenizer: Tokenizer) -> str:
    """Return how to get a chat template that can be trained."""
    known = training(tokenizer)
    own = "put a template whose prompt is a beginning of the conversation into chat_template.jinja"
    return f"audit.propose('training').write(folder): {known.says}" if known else own


def _reasoning(tokenizer: Tokenizer, data: Data) -> list[Finding | None]:
    contract = tokenizer.contract
    if contract.keeps_reasoning and contract.keeps_old_reasoning:
        return []
    last, earlier = [], []
    for index, row in enumerate(data.rows):
        answers = [REASONING in text for text in _answers(row)]
        if any(answers[-1:]):
            last.append(index)
        if any(answers[:-1]):
            earlier.append(index)
    return [
        finding(
            "reasoning", "broken", [] if contract.keeps_reasoning else last,
            "{n} whose reasoning the template takes out of the answer: it is not trained.",
            training_template(tokenizer),
        ),
        finding(
            "reasoning", "info", [] if contract.keeps_old_reasoning else earlier,
            "{n} whose earlier answers lose their reasoning, as they do at inference; it is not trained there.",
            "audit.fix('reasoning') makes a row of each answer",
        ),
    ]  # fmt: skip


def _answers(row: Mapping[str, Any]) -> list[str]:
    if "messages" in row:
        return [str(turn.get("content") or "") for turn in row["messages"] if turn["role"] == "assistant"]
    sides = [row[name] for name in ("completion", "chosen") if name in row]
    return [
        text
        for side in sides
        for text in contents({"messages": side} if isinstance(side, list) else {"text": side})
    ]


def _split_special(tokenizer: Tokenizer, data: Data) -> Finding | None:
    pieces = {text: len(tokenizer.encode(text)) for text in tokenizer.contract.written}
    split = [text for text, count in pieces.items() if count > 1 or tokenizer.codec.id_of(text) is None]
    ends = [text for text in split if text in tokenizer.contract.after_answer]
    broken = bool(ends) and not tokenizer.contract.end_of_turn
    named = ", ".join(f"'{text}' in {pieces[text]}" for text in split)
    return finding(
        "split_special", "broken" if broken else "warning", range(len(data)) if split else [],
        f"{{n}} carry markers the tokenizer does not know and splits into pieces: {named}.",
        "use the model's own template, or add the tokens to the tokenizer and train them: "
        "modules_to_save: [embed_tokens, lm_head]",
    )  # fmt: skip


def stop_findings(tokenizer: Tokenizer, data: Data, facts: Sequence[RowFacts]) -> list[Finding | None]:
    """Return what is off with the token that ends an answer."""
    stops = tokenizer.stop_ids
    names = ", ".join(tokenizer.codec.token_of(token_id) for token_id in stops)
    every = range(len(data))
    mismatch = _mismatch(tokenizer, names) if data.signal != "text" and tokenizer.chat is not None else None
    if mismatch is not None:
        found = [finding("stop_mismatch", "broken", every, *mismatch)]
    elif not stops:
        message = "{n} without a stop token at the end: the tokenizer has no eos."
        found = [
            finding("stop_mismatch", "broken", every, message, "name eos_token in tokenizer_config.json")
        ]
    else:
        found = [_untrained(tokenizer, names, facts), _export_stop(tokenizer, data)]
    if tokenizer.pad_token_id in stops and tokenizer.pad_token_id is not None:
        message = f"Padding is the stop token {names}: labels must be masked by place, as here, never by id."
        found.append(Finding("pad_is_stop", "info", len(data), message))
    return found


def _untrained(tokenizer: Tokenizer, names: str, facts: Sequence[RowFacts]) -> Finding | None:
    return finding(
        "stop_untrained", "broken", rows_where(facts, {"stopped": False, "error": ""}),
        f"{{n}} whose answer does not end with a trained stop token ({names}): it will not stop.",
        training_template(tokenizer)
        if training(tokenizer)
        else "repair the chat template so that it writes the stop token after each answer",
    )  # fmt: skip


def _export_stop(tokenizer: Tokenizer, data: Data) -> Finding | None:
    """Say where a GGUF file, which carries the tokenizer's eos, will name another stop than answers end with."""
    end, eos = tokenizer.contract.end_of_turn, tokenizer.named_tokens.get("eos_token", "")
    if data.signal == "text" or not end or end == eos:
        return None
    known = end in _KNOWN_ENDS
    return finding(
        "export_stop", "info" if known else "warning", range(len(data)),
        f"{{n}} end with '{end}', while a GGUF file will name the tokenizer's eos '{eos}'; the Modelfile names both"
        + (", and llama.cpp knows this one by its text." if known else ", other runtimes stop at the latter alone."),
        "" if known else f"set eos_token to '{end}' in tokenizer_config.json",
    )  # fmt: skip


def _mismatch(tokenizer: Tokenizer, names: str) -> tuple[str, str] | None:
    """Return message and fix where the template ends a turn with a token that does not stop generation."""
    contract = tokenizer.contract
    end, stops = contract.end_of_turn, [tokenizer.codec.token_of(token_id) for token_id in tokenizer.stop_ids]
    eos = tokenizer.named_tokens.get("eos_token", "")
    if not end or end in stops:
        generation = [tokenizer.codec.token_of(token_id) for token_id in tokenizer.generation_stop_ids]
        if end and generation and end not in generation:
            return (
                f"{{n}} end with '{end}', but generation_config.json stops only at {', '.join(generation)}.",
                f"add the id of '{end}' to eos_token_id in generation_config.json",
            )
        return None
    role = ", which begins a turn" if eos in contract.turn_starts else ""
    way_on = f"set eos_token to '{end}' in tokenizer_config.json and eos_token_id in generation_config.json"
    if tokenizer.from_gguf:
        way_on = f"write tokenizer.ggml.eos_token_id = {tokenizer.codec.id_of(end)} into the file, or export it again"
    return (
        f"{{n}} end with '{end}', but generation stops at {names or 'nothing'}{role}: it will not stop.",
        way_on,
    )
