"""Region construction and interaction: which pixels belong to the same object, which of them represent it, and what
those exchange (RANet)."""

from segfocus.ops.regions.attention import attend
from segfocus.ops.regions.backends import BackendWarning, choose_backend
from segfocus.ops.regions.construct import Regions, construct_regions
from segfocus.ops.regions.interaction import attention_from, exchange
from segfocus.ops.regions.merging import merge
from segfocus.ops.regions.representatives import choose_representatives, representative_mask
from segfocus.ops.regions.rules import RegionRules
from segfocus.ops.regions.scores import representative_scores

__all__ = [
    "BackendWarning",
    "RegionRules",
    "Regions",
    "attend",
    "attention_from",
    "choose_backend",
    "choose_representatives",
    "construct_regions",
    "exchange",
    "merge",
    "representative_mask",
    "representative_scores",
]
