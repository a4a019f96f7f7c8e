"""Pictures of label maps, importance, errors and offsets.

Pure functions: NumPy arrays in, new uint8 "height width 3" RGB arrays out; nothing is changed in place.  Imports no
torch.
"""

from segfocus.viz.flow import arrows, flow_wheel, offset_colors, round_length
from segfocus.viz.maps import (
    BROKEN,
    FIXED,
    STILL_WRONG,
    WRONG,
    change_map,
    color_map,
    enlarge,
    error_map,
    fit,
    heat_map,
    outline,
    overlay,
    palette,
    panel,
)

__all__ = [
    "BROKEN",
    "FIXED",
    "STILL_WRONG",
    "WRONG",
    "arrows",
    "change_map",
    "color_map",
    "enlarge",
    "error_map",
    "fit",
    "flow_wheel",
    "heat_map",
    "offset_colors",
    "outline",
    "overlay",
    "palette",
    "panel",
    "round_length",
]
