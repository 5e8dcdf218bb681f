"""The published ResNets (He et al., CVPR 2016)."""

# Depth -> blocks in res2 .. res5.
BLOCKS_PER_STAGE = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def has_bottlenecks(depth: int) -> bool:
    """Whether blocks have three convolutions, the second of which is narrow, rather than two."""
    return depth >= 50
