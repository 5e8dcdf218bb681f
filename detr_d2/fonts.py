"""Names in pictures and plots as they are: with the letters of every script, and dollars that are no mathematics."""

import logging
import warnings
from functools import cache, lru_cache

from PIL import ImageFont

_logger = logging.getLogger(__name__)


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """A font, ``size`` pixels high, with the letters of a text: the one that matplotlib brings along, or where that
    lacks some the font of this machine that lacks the fewest. What none has is told once.
    """
    return _font(_file_for(text), size)


def in_one_line(text: str) -> str:
    """Without line breaks and without what is no letter, as in names of files that are not UTF-8: PIL takes neither."""
    return " ".join(text.encode("utf-8", "replace").decode().split())


def for_plots(text: str) -> str:
    """A text for matplotlib, which then has the letters that `font_for` finds and shows it as it is."""
    from matplotlib import font_manager, rcParams

    text = in_one_line(text)
    path = _file_for(text)
    if path not in {font.fname for font in font_manager.fontManager.ttflist}:
        font_manager.fontManager.addfont(path)
    family = font_manager.FontProperties(fname=path).get_name()
    if family not in rcParams["font.family"]:
        rcParams["font.family"] = [*rcParams["font.family"], family]
    return text.replace("$", r"\$")


def _file_for(text: str) -> str:
    return _file_with(frozenset(letter for letter in text if not letter.isspace()))


@lru_cache(maxsize=64)
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


@cache
def _file_with(letters: frozenset[str]) -> str:
    from matplotlib import font_manager  # takes a second to import

    plain = font_manager.findfont("DejaVu Sans")
    if letters <= _letters(plain):
        return plain
    # Not matplotlib's list of fonts, which it made before the user has installed one.
    best = max([plain, *sorted(font_manager.findSystemFonts())], key=lambda path: len(letters & _letters(path)))
    if letters - _letters(best):
        _warn_once()
    return best


@cache
def _letters(path: str) -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(map(chr, FT2Font(path).get_charmap()))
    except (RuntimeError, OSError):  # a font that FreeType cannot read
        return frozenset()


@cache
def _warn_once() -> None:
    warnings.filterwarnings("ignore", "Glyph .* missing from")  # matplotlib tells of each letter
    _logger.warning(
        "No font of this machine has all letters of the names that are drawn: boxes stand in their place. Install one "
        "that has them, such as the package fonts-noto-cjk for Chinese, Japanese and Korean."
    )
