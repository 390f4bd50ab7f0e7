"""How files of text are read: separator, header, encoding and quotes."""

from __future__ import annotations

import codecs

from pydantic import field_validator, model_validator

from unimixer.settings import Settings


class Files(Settings):
    """How to read files of text; Parquet needs no such settings."""

    separator: str | None = None
    """What stands between two fields, one or several characters (default: a tab in ``.tsv`` files, else a comma)."""
    header: tuple[str, ...] | None = None
    """Names of the columns of files that have no header line."""
    encoding: str = "utf-8"
    """Encoding of the text, such as ``latin-1``."""
    quote: str = '"'
    """Character around fields that hold a separator; empty where quotes are ordinary characters."""

    @field_validator("separator", mode="before")
    @classmethod
    def _tab(cls, value: object) -> object:
        return "\t" if value in ("\\t", "tab") else value

    @field_validator("header", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        return [name.strip() for name in value.split(",")] if isinstance(value, str) else value

    @field_validator("quote", mode="before")
    @classmethod
    def _none(cls, value: object) -> object:
        return "" if value is None else value

    @model_validator(mode="after")
    def _can_be_read(self) -> Files:
        if self.separator is not None and (not self.separator or set(self.separator) & {"\r", "\n", self.quote}):
            raise ValueError(f"separator={self.separator!r} cannot stand between two fields; name another")
        if len(self.quote) > 1 or self.quote in ("\r", "\n"):
            raise ValueError(f"quote={self.quote!r} is not one character; leave it empty where nothing is quoted")
        if self.header is not None and ("" in self.header or len(set(self.header)) < max(1, len(self.header))):
            raise ValueError("header must name every column once")
        try:
            plain = "a,\n".encode(codecs.lookup(self.encoding).name) == b"a,\n"
        except (LookupError, ValueError):
            raise ValueError(f"encoding={self.encoding!r} is not known; for example utf-8 or latin-1") from None
        if not plain:
            raise ValueError(f"encoding={self.encoding!r} is not read; convert the files to UTF-8")
        return self
