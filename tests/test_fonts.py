"""Names of other scripts and with dollars, in pictures and plots."""

import io
import logging
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager, rcParams
from matplotlib.figure import Figure

from detr_d2 import fonts
from detr_d2.analysis.error_plots import plot_confusion


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    """No font of this machine is known yet, and none has been missed."""
    for function in (fonts._file_with, fonts._letters, fonts._warn_once, fonts._font):
        function.cache_clear()
    monkeypatch.setitem(rcParams, "font.family", list(rcParams["font.family"]))
    monkeypatch.setattr(font_manager.fontManager, "ttflist", list(font_manager.fontManager.ttflist))
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])
    yield
    fonts._file_with.cache_clear()


@pytest.fixture
def square(tmp_path: Path, monkeypatch) -> Path:
    """A font of this machine, whose only letter but for the digit 9 is a Chinese one: a square."""
    pen = TTGlyphPen(None)
    for move, place in ((pen.moveTo, (0, 0)), *((pen.lineTo, place) for place in ((0, 900), (900, 900), (900, 0)))):
        move(place)
    pen.closePath()
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord("\u732b"): "square", ord("9"): "square"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (500, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=900, descent=0)
    builder.setupNameTable({"familyName": "Square", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "square.ttf")
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    found = [str(tmp_path / name) for name in ("broken.ttf", "square.ttf")]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: found)
    return tmp_path / "square.ttf"


def test_the_font_is_one_that_has_the_letters(square: Path, caplog) -> None:
    assert fonts.font_for("a cat 90%\n\u2026", 12).getname()[0] == "DejaVu Sans"
    assert fonts.font_for("\u732b9", 12).getname()[0] == "Square"
    assert not caplog.records


def test_what_no_font_has_is_told_once(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        assert fonts.font_for("\u732b 90%", 12).getname()[0] == "DejaVu Sans"
        fonts.font_for("\u72ac", 12)
        fonts.for_plots("\u81ea\u884c\u8f66")
    assert len(caplog.records) == 1
    assert "fonts-noto-cjk" in caplog.text


def drawn(text: str) -> np.ndarray:
    """What matplotlib makes of it."""
    figure, stream = Figure(figsize=(3, 1)), io.BytesIO()
    figure.text(0.1, 0.1, fonts.for_plots(text), fontsize=40)
    figure.savefig(stream, format="raw")
    return np.frombuffer(stream.getvalue(), np.uint8)


def test_plots_have_the_letters_beside_others(square: Path, recwarn) -> None:
    assert (drawn("9\u732b") == 0).sum() > 2 * (drawn("99") == 0).sum()
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_dollars_are_no_mathematics() -> None:
    figure = plot_confusion(np.eye(3, dtype=int), ["a $x_1$", "$\\frac", "5$\n\udce9"], "costs $1$")
    figure.savefig(io.BytesIO(), format="png")  # an error where it is parsed
    assert len(set(map(bytes, (drawn("$x$"), drawn("x"))))) == 2
