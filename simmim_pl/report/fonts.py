"""Fonts for names in any script: those that are installed, asked for the glyphs that the usual one lacks."""

from __future__ import annotations

from functools import cache

from matplotlib import font_manager

USUAL = "DejaVu Sans"  # comes with matplotlib
BOXES = "Last Resort"  # has a box for every character, and no glyph


@cache
def characters(path: str) -> frozenset[int]:
    """The code points for which a font has a glyph; none where it cannot be read, or only has bitmaps."""
    try:
        font = font_manager.get_font(path)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError):
        return frozenset()


def families(text: str) -> list[str] | None:
    """The usual font and what else has the glyphs of a text; nothing when a character is in no font.

    >>> families("Δ-cat")
    ['DejaVu Sans']
    """
    found = [USUAL]
    missing = {ord(each) for each in text} - characters(font_manager.findfont(USUAL))
    for entry in font_manager.fontManager.ttflist if missing else ():
        if entry.style == "normal" and not entry.name.startswith(BOXES) and missing & characters(entry.fname):
            found.append(entry.name)
            missing -= characters(entry.fname)
    return None if missing else found
