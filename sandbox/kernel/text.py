"""Long text in bounded memory: its two ends, and how much lay between. For the kernel and for its host."""

from __future__ import annotations


def head_tail(text: str, limit: int) -> str:
    """`text` if it has at most `limit` characters, else its two ends and a count of what lay between."""
    if len(text) <= limit:
        return text
    half = max(limit // 2, 0)
    return text[:half] + _gap(len(text) - 2 * half) + text[len(text) - half :]


def _gap(characters: int) -> str:
    return f"\n... [{characters} characters omitted] ...\n"


class HeadTail:
    """Accumulates text: the first and the last half of `limit` characters, and a count."""

    def __init__(self, limit: int) -> None:
        self._keep = max(limit // 2, 1)
        self._head: list[str] = []
        self._room = self._keep
        self._tail: list[str] = []
        self._tail_chars = self._omitted = 0

    def add(self, text: str) -> str:
        """Append `text`; returns what of it belongs to the head."""
        head = text[: self._room]
        if head:
            self._head.append(head)
            self._room -= len(head)
        if len(head) < len(text):
            start = max(len(head), len(text) - self._keep)  # a slice of the rest would copy a gigabyte
            self._tail.append(text[start:])
            self._tail_chars += len(text) - start
            self._omitted += start - len(head)
            if self._tail_chars > 4 * self._keep or len(self._tail) > 4096:
                self._compact()
        return head

    def _compact(self) -> None:
        text = "".join(self._tail)
        self._omitted += max(len(text) - self._keep, 0)
        self._tail = [text[-self._keep :]]
        self._tail_chars = len(self._tail[0])

    @property
    def omitted(self) -> int:
        """How many characters are not kept."""
        self._compact()
        return self._omitted

    def rest(self) -> str:
        """What follows the head: the count, unless it is nothing, and the tail."""
        return (_gap(self.omitted) if self.omitted else "") + "".join(self._tail)

    def text(self) -> str:
        """What was kept."""
        return "".join(self._head) + self.rest()
