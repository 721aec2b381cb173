# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Changes in a tree of ruamel.yaml in which aliases and merge keys have several places share one mapping.

A place that is to change first gets what it shares as its own; the other places keep what they had.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from copy import copy as shallow_copy
from typing import Any

from ruamel.yaml.anchor import Anchor
from ruamel.yaml.comments import Comment, CommentedMap, CommentedSeq
from ruamel.yaml.mergevalue import merge_attrib

from syshaxd.core.errors import ConfigError, ConfigFault


def unshared(content: Any, most: int) -> Any:
    """A copy of plain content in which no two places are the same object.

    Raises:
        ValueError: It has more than `most` values, or holds itself.
    """
    left = most

    def copy(value: Any, above: tuple[int, ...]) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"it has more than {most} values")
        if id(value) in above:
            raise ValueError("an alias stands inside of what it is an alias of")
        if isinstance(value, dict):
            return {key: copy(inner, (*above, id(value))) for key, inner in value.items()}
        if isinstance(value, list):
            return [copy(inner, (*above, id(value))) for inner in value]
        return value

    return copy(content, ())


def release(content: CommentedMap) -> None:
    """Has no mapping pass its changes on to those that merge it."""
    for node in _nodes(content, set()):
        if isinstance(node, CommentedMap):
            node._ref.clear()


def own(content: CommentedMap, sections: Sequence[str], *, make: bool) -> CommentedMap:
    """Gives a path sections of its own, as far as there are any: nothing that stands elsewhere changes with them.

    Args:
        content: The whole.
        sections: The path.
        make: Whether missing sections are made.

    Returns:
        The section at the path, or the last above it that there is.

    Raises:
        ConfigError: Something other than a section stands on the path.
    """
    uses = Counter(_uses(content))
    inner, is_shared = content, False
    for depth, name in enumerate(sections, start=1):
        outer, found = inner, inner.get(name)
        if not make and not isinstance(found, CommentedMap):
            return outer
        if found is None:
            outer[name] = inner = CommentedMap()
            continue
        if not isinstance(found, CommentedMap):
            raise ConfigError((ConfigFault(".".join(sections[:depth]), "must be a section with keys in it"),))
        is_shared = is_shared or uses[id(found)] > 1 or name not in dict(outer.non_merged_items())
        if is_shared:
            outer[name] = found = _copy(found)
        inner = found
    return inner


def remove(content: CommentedMap, sections: Sequence[str], name: str) -> None:
    """Takes a key out of a section that is its place's own; one that is left empty stays.

    What the section merges is written out if the key would show up again from there.
    """
    outer, inner = content, content
    for section in sections:
        outer, inner = inner, inner.get(section)
        if not isinstance(inner, CommentedMap):
            return
    if name not in inner:
        return
    if any(name in merged for merged in _merged(inner)):
        for key, value in tuple(inner.items()):
            inner[key] = _detached(value)
        delattr(inner, merge_attrib)
    del inner[name]
    if not inner:
        outer[sections[-1]] = None


def _copy(section: CommentedMap) -> CommentedMap:
    """The section once more, with the same values, comments and merge keys, and without its anchor."""
    copy = CommentedMap()
    for key, value in section.non_merged_items():
        copy[key] = value
    section.copy_attributes(copy)
    if hasattr(copy, Comment.attrib):
        delattr(copy, Comment.attrib)
    _copy_comments(section, copy)
    if merged := _merged(section):
        setattr(copy, merge_attrib, shallow_copy(merged))
        for other in merged:
            for key, value in other.items():
                if key not in copy:
                    dict.__setitem__(copy, key, value)
    if hasattr(copy, Anchor.attrib):
        delattr(copy, Anchor.attrib)
    return copy


def _copy_comments(section: CommentedMap, copy: CommentedMap) -> None:
    """Each with slots of its own, else both would lose what one loses."""
    copy.ca.comment, copy.ca.end = section.ca.comment, list(section.ca.end)
    copy.ca._items = {key: list(slots) for key, slots in section.ca.items.items()}


def _detached(value: Any) -> Any:
    """A copy without anchors."""
    if isinstance(value, CommentedMap):
        copy = CommentedMap()
        for key, inner in value.items():
            copy[key] = _detached(inner)
        return copy
    if isinstance(value, CommentedSeq):
        copied = CommentedSeq([_detached(inner) for inner in value])
        copied.fa.set_flow_style()
        return copied
    return value


def _merged(section: CommentedMap) -> Sequence[CommentedMap]:
    return getattr(section, merge_attrib, ())


def _inner(node: Any) -> Iterator[Any]:
    if isinstance(node, CommentedMap):
        yield from (value for _, value in node.non_merged_items())
        yield from _merged(node)
    elif isinstance(node, CommentedSeq):
        yield from node


def _nodes(node: Any, seen: set[int]) -> Iterator[Any]:
    if isinstance(node, CommentedMap | CommentedSeq) and id(node) not in seen:
        seen.add(id(node))
        yield node
        for inner in _inner(node):
            yield from _nodes(inner, seen)


def _uses(content: CommentedMap) -> Iterator[int]:
    """For each place at which a collection is used, which one."""
    for node in _nodes(content, set()):
        yield from (id(inner) for inner in _inner(node) if isinstance(inner, CommentedMap | CommentedSeq))
