"""An API key that cannot be printed, logged, stored or pickled by accident."""

from __future__ import annotations

from urllib.parse import quote

from mappa.errors import ConfigError

SHORTEST = 8
"""Shorter keys are placeholders (`none`, `ollama`) that ordinary text may contain."""


class Secret:
    """Holds one key; `reveal()` is for the client alone."""

    def __init__(self, value: str | None) -> None:
        """Surrounding white space is dropped. Raises `ConfigError`, without showing it, if it cannot be a header."""
        self._value = (value or "").strip()
        if not (self._value.isascii() and self._value.isprintable()):
            raise ConfigError(
                "judge.api_key holds characters that no API key has; look for quotes or line breaks in it"
            )

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "Secret(***)"

    def __reduce__(self):
        raise TypeError("an API key is never written out")

    def reveal(self) -> str:
        return self._value

    def scrub(self, text: str) -> str:
        """`text` without the key, as it is or as part of a URL."""
        if len(self._value) < SHORTEST:
            return text
        return text.replace(self._value, "***").replace(quote(self._value, safe=""), "***")
