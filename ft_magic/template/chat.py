"""Renders chat templates as Hugging Face does: sandboxed jinja2, the same functions, filters and tags."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ft_magic.errors import TemplateError

# What rendering can raise: the template's own refusals, and operations on values of another kind.
_FAULTS = (jinja2.TemplateError, TypeError, KeyError, ValueError, AttributeError, IndexError)
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

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """Return the conversation as text.

        Args:
            messages: the turns.
            add_generation_prompt: whether the text ends where the model begins to answer.
            tools: JSON schemas of functions the model may call.

        Raises:
            TemplateError: the template refuses these messages.
        """
        if self.wants_parts:
            messages = [_in_parts(message) for message in messages]
        try:
            return self._text(messages, add_generation_prompt, tools)
        except _FAULTS as error:
            raise TemplateError(
                f"The model's chat template refuses this conversation: {error}",
                "Change the rows to what the template allows (roles, their order), or choose another model.",
            ) from error

    @cached_property
    def wants_parts(self) -> bool:
        """Whether it reads content as a list of parts (``{"type": "text", ...}``), as templates for images may."""
        said = {"role": "user", "content": "ft-magic probe"}
        try:
            if said["content"] in self._text([said], add_generation_prompt=True):
                return False
        except _FAULTS:
            pass
        try:
            return said["content"] in self._text([_in_parts(said)], add_generation_prompt=True)
        except _FAULTS:
            return False

    def _text(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        return self._template.render(
            messages=messages,
            tools=tools or None,  # None is what templates test for
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **self._special_tokens,
        )


def _in_parts(message: Mapping[str, Any]) -> Mapping[str, Any]:
    content = message.get("content")
    if not isinstance(content, str):
        return message
    return {**message, "content": [{"type": "text", "text": content}]}


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
