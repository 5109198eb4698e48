"""Small rows of each signal, made in place."""

COLOURS = ("red", "blue", "green", "black", "white", "brown")


def demos(count=24):
    return [
        {"prompt": f"Name colour {i}.", "completion": f"{COLOURS[i % 6]} is a colour, number {i}."}
        for i in range(count)
    ]


def pairs(count=24):
    return [
        {
            "prompt": f"Name colour {i}.",
            "chosen": f"{COLOURS[i % 6]} is a colour.",
            "rejected": f"No, not {i}.",
        }
        for i in range(count)
    ]


def texts(count=24):
    return [{"text": f"The {COLOURS[i % 6]} fox jumps over the lazy dog {i} times."} for i in range(count)]


def labels(count=24):
    """Every other answer is good."""
    return [
        {
            "prompt": f"Name colour {i}.",
            "completion": f"{COLOURS[i % 6]} is a colour." if i % 2 == 0 else f"No, not {i}.",
            "label": i % 2 == 0,
        }
        for i in range(count)
    ]


def prompts(count=24):
    return [{"prompt": f"Name colour {i}.", "answer": COLOURS[i % 6]} for i in range(count)]
