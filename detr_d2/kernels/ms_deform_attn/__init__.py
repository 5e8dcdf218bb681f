"""Multi-scale deformable attention: its definition (`reference`), and the operator that runs the fastest backend."""

from .backends import BACKENDS, VARIABLE
from .op import even_points, ms_deform_attn, ms_deform_attn_flops
