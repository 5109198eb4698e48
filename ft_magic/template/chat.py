"""Renders chat templates as Hugging Face does: sandboxed jinja2, the same functions, filters and tags."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ft_magic.errors import TemplateError

Clock = Callable[[], datetime]


def local_time() -> datetime:
    """Return the local time, as templates that write today's date expect."""
    return datetime.now().astimezone()


class _GenerationTag(Extension):
    """Accepts ``{% generation %}``, which marks answers in some templates, and renders what it holds."""

    tags = {"generation"}  # noqa: RUF012  jinja2 reads a class attribute

    def parse(self, parser: Parser) -> nodes.Node:
        """Return a scope that holds the tag's content."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: the jinja text.
        special_tokens: names the template may use (``bos_token``, ``eos_token`` ...).
        clock: gives the time for templates that write a date.

    Raises:
        TemplateError: the text is no jinja template.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str], clock: Clock = local_time) -> None:
        self.source = source
        self._special_tokens = dict(special_tokens)
        # trim_blocks, lstrip_blocks and loop controls: what templates on the hub are written for.
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, "jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda layout: clock().strftime(layout)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(
                f"The chat template is no valid jinja (line {error.lineno}: {error.message}).",
                "Restore chat_template in the model's folder from its source.",
            ) from error

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False) -> str:
        """Return the conversation as text.

        Raises:
            TemplateError: the template refuses these messages.
        """
        try:
            return self._template.render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        except (jinja2.TemplateError, TypeError, KeyError, ValueError, AttributeError, IndexError) as error:
            raise TemplateError(
                f"The model's chat template refuses this conversation: {error}",
                "Change the rows to what the template allows (roles, their order), or choose another model.",
            ) from error


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own filter escapes HTML, which would change what the model reads.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)
