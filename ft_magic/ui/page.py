"""Plain values as HTML for a page with its own style sheet: tables from whatever JSON a run folder holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ft_magic.ui.show import DASH, Html, escape, gib, number, seconds


def table(rows: Iterable[Sequence[object]], header: Sequence[str] = ()) -> str:
    """Return an HTML table; columns of numbers are set right."""
    rows = [list(row) for row in rows]
    width = max([len(header), *map(len, rows)], default=0)
    right = {i for i in range(width) if _is_numeric(row[i] for row in rows if i < len(row))}
    head = "".join(_cell("th", title, i in right) for i, title in enumerate(header))
    body = "".join(
        f"<tr>{''.join(_cell('td', c, i in right) for i, c in enumerate(row))}</tr>" for row in rows
    )
    thead = f"<thead><tr>{head}</tr></thead>" if header else ""
    return f'<div class="scroll"><table>{thead}<tbody>{body}</tbody></table></div>'


def pairs(rows: Iterable[tuple[str, object]]) -> str:
    """Return a table of names and values, the values close to their names."""
    return table(rows).replace("<table>", '<table class="pairs">', 1)


def _cell(tag: str, value: object, right: bool) -> str:
    look = ' class="number"' if right else ""
    return f"<{tag}{look}>{escape(words(value))}</{tag}>"


def _is_numeric(cells: Iterable[object]) -> bool:
    kept = [cell for cell in cells if cell is not None]
    return bool(kept) and all(isinstance(cell, int | float) and not isinstance(cell, bool) for cell in kept)


def words(value: object, key: str = "") -> object:
    """Return a JSON scalar as a person reads it; the unit at the end of its key is applied."""
    if isinstance(value, Html):
        return value
    if value is None or value == "":
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _amount(value, key) if isinstance(value, int | float) else value


def _amount(value: float, key: str) -> str:
    if key.endswith("bytes"):
        return gib(value)
    if key.endswith(("_s", "seconds")):
        return seconds(value)
    return number(value) if isinstance(value, float) else f"{value:,}"


def any_html(value: object, depth: int = 0) -> str:
    """Return any JSON value as tables, lists and text; nested values become titled parts."""
    if isinstance(value, Mapping):
        return _mapping(value, depth)
    if isinstance(value, list | tuple):
        if value and all(isinstance(row, Mapping) and _flat(row) for row in value):
            return _records(value)
        return (
            "<ul>" + "".join(f"<li>{any_html(item, depth + 1)}</li>" for item in value) + "</ul>"
            if value
            else DASH
        )
    return escape(words(value))


def _mapping(value: Mapping[str, object], depth: int) -> str:
    plain = {key: item for key, item in value.items() if not isinstance(item, Mapping | list | tuple)}
    nested = {key: item for key, item in value.items() if key not in plain}
    parts = [pairs([(label(key), words(item, key)) for key, item in plain.items()])] if plain else []
    if len(nested) > 1 and all(isinstance(item, Mapping) and _flat(item) for item in nested.values()):
        named = [{"": key, **item} for key, item in nested.items() if isinstance(item, Mapping)]
        return "".join([*parts, _records(named)])
    parts += [
        f"<h3>{escape(label(key))}</h3>{any_html(item, depth + 1)}" for key, item in nested.items() if item
    ]
    return "".join(parts)


def _records(records: Sequence[Mapping[str, object]]) -> str:
    keys = list(dict.fromkeys(key for record in records for key in record))
    rows = [
        [words(record.get(key), key) if _unit(key) else record.get(key) for key in keys] for record in records
    ]
    return table(rows, [label(key) for key in keys])


def _flat(value: Mapping[str, object]) -> bool:
    return not any(isinstance(item, Mapping | list | tuple) for item in value.values())


def _unit(key: str) -> bool:
    return key.endswith(("bytes", "_s", "seconds"))


def label(key: str) -> str:
    """Return a key as words: ``mean_token_kl`` becomes ``mean token kl``; the unit is told by the value."""
    if key.isupper():
        return key  # the name of an environment variable
    for unit in ("_bytes", "_s"):
        key = key.removesuffix(unit)
    return key.replace("_", " ")
