"""Choose installed fonts for texts in any script, by the glyphs that they have."""

from __future__ import annotations

from functools import cache

from matplotlib import font_manager

DEFAULT_FONT = "DejaVu Sans"  # comes with matplotlib
PLACEHOLDER_FONT = "Last Resort"  # shows a box for every character


@cache
def font_characters(path: str) -> frozenset[int]:
    """Code points for which a font file has a glyph; empty if it cannot be read or has bitmaps only."""
    try:
        font = font_manager.get_font(path)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError):
        return frozenset()


def font_families(text: str) -> list[str] | None:
    """The default font, and further fonts for the glyphs that it lacks; ``None`` if no font has some character.

    >>> font_families("Δ-cat")
    ['DejaVu Sans']
    """
    found = [DEFAULT_FONT]
    missing = {ord(each) for each in text} - font_characters(font_manager.findfont(DEFAULT_FONT))
    for entry in font_manager.fontManager.ttflist if missing else ():
        if (
            entry.style == "normal"
            and not entry.name.startswith(PLACEHOLDER_FONT)
            and missing & font_characters(entry.fname)
        ):
            found.append(entry.name)
            missing -= font_characters(entry.fname)
    return None if missing else found
