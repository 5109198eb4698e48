"""What a plan warns of and notes."""

from __future__ import annotations

from ft_magic.axes import Method, Update
from ft_magic.memory import Memory
from ft_magic.planning.plans import Advice, Settings, Situation

_FEW_ROWS = 100  # below this, answers mostly memorise: LIMA (arXiv 2305.11206) needed 1,000 for a style
# Learning rates outside these ranges diverge or do nothing (QLoRA paper table 9, TRL and Unsloth recipes).
_SANE_RATES = {"adapter": (1e-6, 1e-3), "full": (1e-7, 2e-4)}
_MANY_EPOCHS = 5
_QLORA_CPU_SLOWDOWN = "a 64-token step of the 135M model took 12-30 s with NF4 on two CPU cores"


def warnings(
    situation: Situation, settings: Settings, update: Update, epochs: float, limit: int, memory: Memory
) -> tuple[Advice, ...]:
    """Return what a reader can act on, each with its fix."""
    rows = len(situation.lengths.tokens)
    # Rounded: a bound times a factor is rarely exact in binary, and a rate right at the bound is not beyond it.
    low, high = (float(f"{bound * update.rate_factor:.6g}") for bound in _SANE_RATES[update.family])
    room = settings.max_length - settings.max_completion_length
    cut = sum(length > room for length in situation.lengths.tokens)
    fate = "left out, as their answers would not fit" if settings.max_completion_length else "cut"
    found = [
        (
            rows < _FEW_ROWS,
            f"only {rows} rows to train on.",
            "With fewer than 100, try prompting with examples first: %ft advise MODEL DATA measures it.",
        ),
        (
            settings.learning_rate > high,
            f"learning rate {settings.learning_rate:g} is high.",
            f"Stay below {high:g}.",
        ),
        (
            settings.learning_rate < low,
            f"learning rate {settings.learning_rate:g} is low.",
            f"Stay above {low:g}.",
        ),
        (
            epochs > _MANY_EPOCHS,
            f"{epochs:.1f} passes over the data memorise it.",
            "Use fewer steps or more rows.",
        ),
        (
            cut > 0,
            f"{cut} of {rows} rows are longer than {settings.max_length} tokens and are {fate}.",
            "Raise max_length.",
        ),
        (
            bool(update.bits) and settings.device == "cpu",
            f"{update.name} is slow without a GPU: {_QLORA_CPU_SLOWDOWN}.",
            "Write update: lora, which fits in memory here.",
        ),
        (
            memory.total_bytes > limit,
            f"about {memory.total_bytes / 2**30:.1f} GiB needed, {limit / 2**30:.1f} GiB free.",
            "Use a smaller model or max_length, or update: lora.",
        ),
        (
            situation.heldout_examples == 0,
            "no rows are held out, so overfitting stays unseen.",
            "Set eval_fraction.",
        ),
    ]
    return tuple(Advice(message, fix) for applies, message, fix in found if applies)


def notes(situation: Situation, settings: Settings, method: Method, update: Update) -> tuple[str, ...]:
    """Return what a reader may want to know, in sentences."""
    tokens = sum(situation.lengths.tokens)
    trained = sum(situation.lengths.trained)
    share = trained / tokens if tokens else 0
    notes = [f"{trained:,} of {tokens:,} tokens carry loss ({share:.0%})."] if trained else []
    if method.reference == "live" and update.family == "full":
        notes.append("The reference policy is a second copy of the model; adapter updates need none.")
    if settings.packing:
        notes.append("Examples are packed into full-length sequences.")
    if settings.device == "cpu" and situation.hardware.mkl_leaves_units:
        notes.append(
            "Products by oneDNN: MKL leaves this processor's AVX-512 units unused (FT_MAGIC_MATMUL)."
        )
    return tuple(notes)
