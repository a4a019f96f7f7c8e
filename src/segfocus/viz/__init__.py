"""Pictures of label maps, importance, errors, offsets, regions, probabilities and thresholds.

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
from segfocus.viz.regions import attention_map, cell_centres, dots, region_colors, region_palette, representative_dots
from segfocus.viz.thresholds import probability_pair, threshold_bar, threshold_colors, threshold_heat_map

__all__ = [
    "BROKEN",
    "FIXED",
    "STILL_WRONG",
    "WRONG",
    "arrows",
    "attention_map",
    "cell_centres",
    "change_map",
    "color_map",
    "dots",
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
    "probability_pair",
    "region_colors",
    "region_palette",
    "representative_dots",
    "round_length",
    "threshold_bar",
    "threshold_colors",
    "threshold_heat_map",
]
