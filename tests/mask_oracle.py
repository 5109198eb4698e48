"""What of a conversation must be trained, found another way than the package does.

The text of an answer is where the rendering changes when that answer is replaced by a single sign; the trained
stretch runs from the end of the prompt of generation to the first stop behind that text. Tokens are assigned
by the places the tokenizer reports for the whole text.
"""

from ft_magic.errors import TemplateError

SIGNS = "\u2460\u2461"  # two signs no test content holds


class UnknownError(Exception):
    """The template changes what the answer says, so its place cannot be found this way."""


def stretch(say, messages, index, stop):
    """Return (begin, end) of what must be trained of one answer, in the rendering that ends with it."""
    turns = messages[: index + 1]
    whole, prompt = say(turns), say(turns[:-1], add_generation_prompt=True)
    first, second = (say([*turns[:-1], {**turns[-1], "content": sign}]) for sign in SIGNS)
    begin = next(i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b)
    behind = first[begin + 1 :]
    if not (whole.startswith(first[:begin]) and whole.endswith(behind)):
        raise UnknownError
    if not first.startswith(prompt):
        return None
    at = behind.find(stop)
    end = len(whole) - len(behind) + (at + len(stop) if at >= 0 else len(behind))
    return len(prompt), end


def expected(say, messages, stop):
    """Return the stretches in the rendering of the whole conversation, and whether only the last could be.

    None instead of stretches where the last answer cannot be told from its prompt.
    """
    answers = [i for i, turn in enumerate(messages) if turn["role"] == "assistant"]
    whole = say(messages)
    found = [stretch(say, messages, index, stop) for index in answers]
    if found[-1] is None:
        return None, False
    kept = all(
        place is not None and whole.startswith(say(messages[: index + 1])[: place[1]])
        for index, place in zip(answers, found, strict=True)
    )
    prompts = all(whole.startswith(say(messages[:index], add_generation_prompt=True)) for index in answers)
    return (found, False) if kept and prompts else (found[-1:], len(answers) > 1)


def mask_of(backend, text, stretches):
    """Return ids and mask of a text by the places its tokens have in it."""
    encoded = backend.encode(text, add_special_tokens=False)
    mask = [
        any(begin <= start and end <= stop for begin, stop in stretches) for start, end in encoded.offsets
    ]
    return encoded.ids, mask


def refused(function, *arguments):
    """Return the package's refusal, None where there is none."""
    try:
        function(*arguments)
    except TemplateError as error:
        return error
    return None
