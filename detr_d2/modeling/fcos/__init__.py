"""FCOS, from its model down to its losses."""

from .model import FCOS
