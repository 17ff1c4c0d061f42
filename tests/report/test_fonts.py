"""A name gets fonts with its glyphs, according to fontTools."""

import pytest
from fontTools.ttLib import TTFont
from matplotlib import font_manager

from simmim_pl.report import fonts

ENTRIES = {entry.name: entry for entry in font_manager.fontManager.ttflist if entry.style == "normal"}


def glyphs(family: str) -> set[int]:
    return set(TTFont(ENTRIES[family].fname).getBestCmap())


def test_the_default_font_is_used_where_it_suffices() -> None:
    for text in ("cat", "Größe Δ", "кот", "قطة", ""):
        assert fonts.font_families(text) == [fonts.DEFAULT_FONT]
        assert set(map(ord, text)) <= glyphs(fonts.DEFAULT_FONT)


def test_another_font_is_used_for_missing_glyphs(monkeypatch: pytest.MonkeyPatch) -> None:
    other = ENTRIES["STIXGeneral"]
    only = chr(min(glyphs("STIXGeneral") - glyphs(fonts.DEFAULT_FONT) - set(range(0xE000, 0xF900))))
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [ENTRIES[fonts.DEFAULT_FONT], other])
    assert fonts.font_families(f"cat {only}") == [fonts.DEFAULT_FONT, "STIXGeneral"]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [ENTRIES[fonts.DEFAULT_FONT]])
    assert fonts.font_families(f"cat {only}") is None


def test_last_resort_fonts_and_invalid_files_are_ignored(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    none = tmp_path_factory.mktemp("fonts") / "none.ttf"
    none.write_bytes(b"none")
    entry = font_manager.FontEntry(fname=str(none), name="None", style="normal")
    boxes = [entry for entry in ENTRIES.values() if entry.name.startswith(fonts.PLACEHOLDER_FONT)]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [*boxes, entry])
    assert fonts.font_families("\ue000") is None
