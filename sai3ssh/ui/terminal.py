"""The console of all views and summaries."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from ..plain import plain


class Terminal(Console):
    """A console that shows texts as they are: no markup in them counts, and nothing in them moves the cursor or changes colours."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """A text as it is shown, so that columns are as wide."""
        return super().render_str(plain(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What is printed, in parts; control codes of the console itself are parts of their own."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else plain(segment.text)
            yield segment if text is segment.text else Segment(text, segment.style)
