"""Trees of conversations as OASST writes them: nested replies, or a table of messages with parents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ft_magic.data.row import Message
from ft_magic.data.shaping.ranked import number_of
from ft_magic.data.turns import ROLE_NAMES, as_list, kind_of, turn

_TABLE_COLUMNS = frozenset(("message_id", "parent_id", "role", "text"))
TREE = "tree"  # the column that holds a tree after ``as_trees``


@dataclass(frozen=True)
class Node:
    """A message and what was replied to it.

    Attributes:
        role: who speaks, as the source calls it.
        text: what is said.
        rank: place among its siblings, 0 being the best; None where nobody ranked it.
        replies: the replies, in the order of the source.
    """

    role: str
    text: str
    rank: float | None = None
    replies: list[Node] = field(default_factory=list)

    @property
    def turn(self) -> Message:
        """The message in OpenAI's form."""
        return turn(ROLE_NAMES.get(self.role.lower(), self.role), self.text)

    @property
    def answers(self) -> list[Node]:
        """Replies of the assistant, the best first: ranked ones before the others, equals in their order."""
        found = [reply for reply in self.replies if reply.turn["role"] == "assistant"]
        return sorted(found, key=lambda reply: float("inf") if reply.rank is None else reply.rank)


@dataclass(frozen=True)
class RankedReplies:
    """The best and the worst ranked answer to one message.

    Attributes:
        prompt: turns up to that message.
        best: the best answer.
        worst: the worst one.
        between: number of answers that are neither.
    """

    prompt: list[Message]
    best: Node
    worst: Node
    between: int


def as_trees(records: list[Any]) -> tuple[list[Any], tuple[str, ...]] | None:
    """Return records as rows with one tree each and what to say about it; None where they hold no trees."""
    first = next((record for record in records if isinstance(record, Mapping)), {})
    if isinstance(first.get("prompt"), Mapping) and "replies" in first["prompt"]:
        return [
            {TREE: _nested(record.get("prompt"))} for record in records if isinstance(record, Mapping)
        ], ()
    if "replies" in first and "text" in first:
        return [{TREE: _nested(record)} for record in records], ()
    if set(first) >= _TABLE_COLUMNS:
        return _of_table([record for record in records if isinstance(record, Mapping)])
    return None


def _node(record: Mapping[str, Any]) -> Node:
    return Node(str(record.get("role", "")), str(record.get("text") or ""), number_of(record.get("rank")))


def _nested(record: Any) -> Node | None:
    if not isinstance(record, Mapping):
        return None
    root = _node(record)
    open_nodes: list[tuple[Node, Any]] = [(root, record.get("replies"))]
    while open_nodes:
        node, replies = open_nodes.pop()
        for reply in as_list(replies) or ():
            if isinstance(reply, Mapping) and not reply.get("deleted"):
                child = _node(reply)
                node.replies.append(child)
                open_nodes.append((child, reply.get("replies")))
    return root


def _of_table(records: list[Mapping[str, Any]]) -> tuple[list[Any], tuple[str, ...]]:
    kept = [record for record in records if not record.get("deleted")]
    nodes = {str(record["message_id"]): _node(record) for record in kept if record.get("message_id")}
    roots, orphans = [], 0
    for record in kept:
        node, parent = nodes.get(str(record.get("message_id"))), record.get("parent_id")
        is_root = kind_of(parent) == "none" or parent == ""
        if node is None or not (is_root or str(parent) in nodes):
            orphans += 1
        elif is_root:
            roots.append(node)
        else:
            nodes[str(parent)].replies.append(node)
    notes = [f"{len(records)} messages joined to {len(roots)} trees by parent_id"]
    if len(kept) < len(records):
        notes.append(f"{len(records) - len(kept)} deleted messages left out")
    if orphans:
        notes.append(f"{orphans} messages left out with their replies: the message they answer is not there")
    return [{TREE: root} for root in roots], tuple(notes)


def best_path(root: Node) -> list[Message]:
    """Return the conversation that follows the best answer each time, up to the last answer.

    Of several replies of the person to an answer the first one that was answered is followed: they are not ranked.
    """
    path = [root.turn]
    node = root
    while node.answers:
        answer = node.answers[0]
        path.append(answer.turn)
        followed = next((reply for reply in answer.replies if reply.answers), None)
        if followed is None:
            break
        path.append(followed.turn)
        node = followed
    return path


def ranked_replies(root: Node) -> Iterator[RankedReplies]:
    """Yield, for every message with at least two answers of different rank, the best and the worst."""
    open_nodes: list[tuple[Node, list[Message]]] = [(root, [])]
    while open_nodes:
        node, before = open_nodes.pop()
        path = [*before, node.turn]
        ranked = [answer for answer in node.answers if answer.rank is not None]
        if ranked and ranked[0].rank != ranked[-1].rank:
            yield RankedReplies(path, ranked[0], ranked[-1], len(node.answers) - 2)
        open_nodes += [(reply, path) for reply in reversed(node.replies)]
