"""Moments of a dialogue as a script names them: when the user acts, and where an expectation begins and ends."""

from __future__ import annotations

from typing import NamedTuple

import yaml

from app.replay.nodes import Nodes


class At(NamedTuple):
    """At a time on the session clock."""

    at_s: float


class AfterHeard(NamedTuple):
    """When so many words of a reply have been heard; 0: when its first sample leaves the loudspeaker."""

    reply: int
    words: int


class AfterReply(NamedTuple):
    """So long after the last sample of a reply, whether it was heard to its end or cut off."""

    reply: int
    end_s: float


class AfterTurn(NamedTuple):
    """So long after the end of the user's n-th line of speech."""

    turn: int
    end_s: float


Cue = At | AfterHeard | AfterReply | AfterTurn


class Before(NamedTuple):
    """What stands before a cue and bounds what it can wait for."""

    speech: int
    """Lines of speech."""
    replies: int
    """Replies that they and keys can bring."""


def after(nodes: Nodes, node: yaml.Node, before: Before) -> Cue:
    """`{turn: 1, end: 0.5}`, `{reply: 1, heard_words: 4}` or `{reply: 1, end: 0.5}`."""
    fields = nodes.table(node, ("reply", "turn", "heard_words", "end"))
    if nodes.one_of(node, fields, ("reply", "turn")) == "turn":
        turn = nodes.count(fields["turn"])
        if "heard_words" in fields or "end" not in fields:
            raise nodes.refusal(node, "a cue after a turn needs its `end`, and nothing else", "{turn: 1, end: 0.5}")
        if turn > before.speech:
            why = f"{before.speech} lines of speech stand before this one"
            raise nodes.refusal(fields["turn"], why, "count them from 1")
        return AfterTurn(turn, nodes.seconds(fields["end"]))
    reply = nodes.count(fields["reply"])
    if reply > before.replies:
        why = f"what stands before it can bring {before.replies} replies and no more"
        raise nodes.refusal(fields["reply"], why, "lower it")
    if nodes.one_of(node, fields, ("heard_words", "end")) == "heard_words":
        return AfterHeard(reply, nodes.whole(fields["heard_words"]))
    return AfterReply(reply, nodes.seconds(fields["end"]))


def moment(nodes: Nodes, node: yaml.Node, before: Before) -> Cue:
    """A time in s, or what `after` reads."""
    return At(nodes.seconds(node)) if isinstance(node, yaml.ScalarNode) else after(nodes, node, before)
