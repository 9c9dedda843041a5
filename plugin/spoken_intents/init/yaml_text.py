"""YAML as text that is edited: what is added goes between the lines, and everything else stays to the letter.

Comments, order, quotation marks, anchors and indentation are the author's. Where things are is said by ruamel.yaml, which
Rasa reads its files with; that an edit came out as it was meant, by reading its result.
"""

import re
import warnings
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ruamel.yaml import YAML
from ruamel.yaml.error import ReusedAnchorWarning, YAMLError
from ruamel.yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.tokens import BlockEntryToken

from spoken_intents.errors import ConfigError, one_line

Span = Tuple[int, int]


@dataclass(frozen=True)
class Edit:
    """``text[start:end]`` becomes `new`. `what` names it for people."""

    start: int
    end: int
    new: str
    what: str = ""


def edited(text: str, edits: Sequence[Edit]) -> str:
    """`text` with all `edits`, whose places are those before any of them; at the same place the first comes first."""
    for edit in sorted(edits, key=lambda one: one.start)[::-1]:
        text = text[: edit.start] + edit.new + text[edit.end :]
    return text


@dataclass(frozen=True)
class Block:
    """Something to be added: its lines as an author writes them, and what they mean.

    Attributes:
        lines: ``name: value`` and comments, relative to where it stands.
        data: What is read of them; also how they are written inside ``[...]`` and ``{...}``, where lines are none.
    """

    lines: Tuple[str, ...]
    data: Any


def read_yaml(text: str, name: str) -> Any:
    """What Rasa reads in `text`, but for variables, which stay as they are written. None of an empty one.

    Raises:
        ConfigError: No YAML, or one that Rasa refuses, such as a key that is there twice; with the line.
    """
    return _parsed(lambda yaml: yaml.load(text), name)


def _parsed(parse: Any, name: str) -> Any:
    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 2)  # type: ignore[assignment]  # as Rasa reads it: yes and no are words
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ReusedAnchorWarning)  # which YAML allows
            return parse(yaml)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}, line {mark.line + 1}" if mark else name
        said = [str(part) for part in (getattr(error, "context", None), getattr(error, "problem", None)) if part] or [str(error)]
        problem = ": ".join(part.partition(" with value ")[0] for part in said)  # which may be a secret
        raise ConfigError(f"{where}: this is no YAML that Rasa reads: {one_line(problem)}. Nothing was changed.") from None
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply. Nothing was changed.") from None
    except (ValueError, TypeError) as error:  # such as a date that is none
        raise ConfigError(f"{name}: {one_line(str(error))}. Nothing was changed.") from None


class YamlText:
    """A file's text, what it says, and where.

    Args:
        name: What messages call it.

    Raises:
        ConfigError: As `read_yaml`, or it is no mapping.
    """

    def __init__(self, text: str, name: str) -> None:
        self.text = text
        self.name = name
        self.data: Dict[Any, Any] = read_yaml(text, name) or {}
        if not isinstance(self.data, Mapping):
            raise ConfigError(f"{name}: expected names and values, got {type(self.data).__name__}. Nothing was changed.")
        root = _parsed(lambda yaml: yaml.compose(text), name)
        self.root: Optional[MappingNode] = root if isinstance(root, MappingNode) else None
        self._dashes = [token.start_mark for token in YAML(pure=True).scan(text) if isinstance(token, BlockEntryToken)]

    def node(self, key: str) -> Optional[Node]:
        """The value of a key at the top; of an alias, what it stands for."""
        return next((value for name, value in self._entries() if name.value == key), None)

    def fill(self, key: str, lines: Sequence[str], what: str, instead_of: str = "(?!)") -> Edit:
        """`lines` below a key at the top that has no value or an empty list, and instead of what matches `instead_of` there."""
        name = next(name for name, _ in self._entries() if name.value == key)
        start, end = self._line_start(name.start_mark.index), self._line_end(name.end_mark.index)
        own = re.sub(r":\s*(null|~|\[\s*\])(?=\s|$)", ":", self.text[start:end].rstrip("\n"))
        there = re.compile(instead_of).match(self.text, end)
        text = f"{own}\n{indented(lines, 2)}"
        return Edit(start, there.end() if there else end, text if self.text[start:end].endswith("\n") else text[:-1], what)

    def insert_item(self, items: Node, index: int, block: Block, what: str) -> Edit:
        """`block` as the item `index` of a list."""
        assert isinstance(items, SequenceNode)
        if items.flow_style:
            return self._insert_flow(items, index, flow(block.data), what)
        spans = self._spans(items)
        indent = self._column(self._dashes_of(items)[0])
        lines = [f"- {block.lines[0]}", *(f"  {line}" for line in block.lines[1:])]
        return self._insert_lines(spans[index][0] if index < len(spans) else spans[-1][1], lines, indent, what)

    def insert_entry(self, mapping: Node, key: str, block: Block, what: str) -> Edit:
        """``key: block`` as the last entry of a mapping that has some; `block.lines` begin with the key's."""
        assert isinstance(mapping, MappingNode)
        if mapping.flow_style:
            return self._insert_flow(mapping, len(mapping.value), f"{scalar(key)}: {flow(block.data)}", what)
        last, start = self._spans(mapping)[-1]
        apart = [""] if len(mapping.value) > 1 and self.text[:last].endswith("\n\n") else []  # as its neighbours
        return self._insert_lines(start, [*apart, *block.lines], mapping.value[0][0].start_mark.column, what)

    def append(self, key: str, block: Block, what: str) -> Edit:
        """``key: block`` at the end of the file; `block.lines` begin with the key's line, or with a comment."""
        if self.root is not None and self.root.flow_style:
            return self._insert_flow(self.root, len(self.root.value), f"{scalar(key)}: {flow(block.data)}", what)
        text = "\n".join(block.lines) + "\n"
        apart = "\n" if self.text.strip() and not re.search(r"\n[ \t]*\n\Z", self.text) else ""
        if self.text and not self.text.endswith("\n"):
            return Edit(len(self.text), len(self.text), f"\n{apart}{text}"[:-1], what)
        return Edit(len(self.text), len(self.text), apart + text, what)

    def remove(self, collection: CollectionNode, index: int, what: str) -> Edit:
        """An item of a list or an entry of a mapping, with the comments that belong to it."""
        spans = self._flow_spans(collection) if collection.flow_style else self._spans(collection)
        start, end = spans[index]
        if collection.flow_style and index + 1 < len(spans):
            end = spans[index + 1][0]
        elif collection.flow_style and index:
            start = spans[index - 1][1]
        return Edit(start, end, "", what)

    # ---------------------------------------------------------------- where things are

    def _entries(self) -> List[Tuple[Node, Node]]:
        return self.root.value if self.root is not None else []

    def _dashes_of(self, items: SequenceNode) -> List[int]:
        inside = [mark for mark in self._dashes if items.start_mark.index <= mark.index < items.end_mark.index]
        return [mark.index for mark in inside if mark.column == inside[0].column]

    def _flow_spans(self, collection: CollectionNode) -> List[Span]:
        pairs = collection.value if isinstance(collection, MappingNode) else [(one, one) for one in collection.value]
        return [(first.start_mark.index, last.end_mark.index) for first, last in pairs]

    def _spans(self, collection: CollectionNode) -> List[Span]:
        """Whole lines of each child: from the comments just above it to what is indented below it."""
        if isinstance(collection, MappingNode):
            starts = [key.start_mark.index for key, _ in collection.value]
        else:
            assert isinstance(collection, SequenceNode)
            starts = self._dashes_of(collection)
        tops = [self._top(start) for start in starts]
        behind = collection.end_mark.index
        is_last = collection is self.root or not self.text[behind:].strip()
        limit = len(self.text) if is_last else self._line_start(behind)
        return [(top, self._bottom(start, end)) for top, start, end in zip(tops, starts, [*tops[1:], limit])]

    def _top(self, start: int) -> int:
        """The first of the comment lines just above what starts there, and in its column."""
        column, line = self._column(start), self._line_start(start)
        while line:
            above = self._line_start(line - 1)
            if not re.match(rf" {{{column}}}#", self.text[above:line]):
                break
            line = above
        return line

    def _bottom(self, start: int, limit: int) -> int:
        """Behind its last line: what is empty, and comments that stand no deeper, are not its own."""
        end = max(limit, self._line_end(start))
        while end > self._line_end(start):
            line = self.text[self._line_start(end - 1) : end]
            if line.strip() and not (line.lstrip().startswith("#") and len(line) - len(line.lstrip()) <= self._column(start)):
                break
            end = self._line_start(end - 1)
        return end

    def _line_start(self, index: int) -> int:
        return self.text.rfind("\n", 0, index) + 1

    def _line_end(self, index: int) -> int:
        return self.text.find("\n", index) + 1 or len(self.text)

    def _column(self, index: int) -> int:
        return index - self._line_start(index) - (self.text[self._line_start(index)] == "\ufeff")

    # ---------------------------------------------------------------- what is put there

    def _insert_lines(self, start: int, lines: Sequence[str], indent: int, what: str) -> Edit:
        text = indented(lines, indent)
        at_end = start == len(self.text) and not self.text.endswith("\n")
        return Edit(start, start, f"\n{text[:-1]}" if at_end else text, what)

    def _insert_flow(self, collection: CollectionNode, index: int, text: str, what: str) -> Edit:
        spans = self._flow_spans(collection)
        if not spans:
            start = self.text.index("[" if isinstance(collection, SequenceNode) else "{", collection.start_mark.index) + 1
            return Edit(start, start, text, what)
        if index < len(spans):
            return Edit(spans[index][0], spans[index][0], f"{text}, ", what)
        end = spans[-1][1]
        apart = " " if self.text[end - 1] == ":" else ""  # {rest: }
        return Edit(end, end, f"{apart}, {text}", what)


def is_empty(node: Optional[Node]) -> bool:
    """Whether a key has no value: ``pipeline:``, ``pipeline: null``, or no such key."""
    return node is None or (isinstance(node, ScalarNode) and node.tag == "tag:yaml.org,2002:null")


def indented(lines: Sequence[str], indent: int) -> str:
    """`lines` of a file, each with so many blanks before it."""
    return "".join(f"{' ' * indent}{line}\n" if line else "\n" for line in lines)


def flow(data: Any) -> str:
    """`data` on one line: ``{name: a, base_model: b}``."""
    if isinstance(data, Mapping):
        return "{" + ", ".join(f"{scalar(key)}: {flow(value)}" for key, value in data.items()) + "}"
    if isinstance(data, (list, tuple)):
        return "[" + ", ".join(flow(value) for value in data) + "]"
    return scalar(data)


def scalar(value: Any) -> str:
    """A word, number, or sentence as YAML; in quotation marks where it is more than a word."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return str(value)
    if re.fullmatch(r"[A-Za-z_][\w./-]*", value) and value.lower() not in ("null", "true", "false"):
        return str(value)
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
