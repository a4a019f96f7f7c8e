"""`segfocus VERB ...`: finds the verb, and turns every problem a user can mend into one line.

Exit status: 0 done, 1 done but something was found wrong (doctor) or left out (report), 2 a problem that the line on
standard error explains, 130 stopped by Ctrl-C.
This module imports nothing heavy: `segfocus --help` answers without torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from segfocus import __version__
from segfocus.console import notices, say, table
from segfocus.errors import SegfocusError, nearest
from segfocus.verbs import function_of

VERBS = {
    "demo": "train, measure and look: generated scenes, CPU, no download, a few minutes",
    "train": "train a recipe on pictures and masks; writes a run folder with weights, scores and a report",
    "evaluate": "score a checkpoint on a split of a data set",
    "report": "say where predictions of any model are wrong, from files on disk: one HTML page",
    "refine": "better masks from probability maps of any model: export-maps, train, apply, compare",
    "doctor": "examine pictures and masks before training: sizes, values, classes, duplicates",
    "predict": "label pictures",
    "list": "what there is: methods, datasets, recipes",
    "describe": "a recipe or checkpoint in numbers: parameters, GMAC, output maps",
}
"""verb -> what it does; see `segfocus.verbs.function_of`"""

_ABOUT = """segfocus: semantic segmentation where it fails.

usage: segfocus VERB [arguments]        segfocus VERB --help tells more

{verbs}

  --version  version of segfocus
  --help     this text

Starts: segfocus demo
        segfocus train fornet-folder --data.images IMAGES --data.masks MASKS --data.classes classes.yaml
        segfocus predict runs/NAME/best.safetensors PICTURES --out predictions

Environment: SEGFOCUS_ALLOCATOR=default leaves glibc's memory allocator alone (otherwise it is set to keep
large blocks for reuse: up to twice as fast on CPUs); NO_COLOR turns colours off."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; `argv` defaults to the process's own arguments."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except SegfocusError as error:
        say(f"segfocus: error: {' '.join(str(error).split())}", error=True, style="red")
        return 2
    except KeyboardInterrupt as stop:
        say(f"segfocus: {str(stop) or 'stopped'}", error=True)
        return 130
    except BrokenPipeError:
        # the reader (head, less) has gone: what is still buffered has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # a last resort: whatever was not told better where it happened
        if error.filename is None:
            raise
        say(f"segfocus: error: {error.filename}: {error.strerror}", error=True, style="red")
        return 2
    except SystemExit as end:  # jsonargparse ends --help this way
        return end.code if isinstance(end.code, int) else 0


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in {"--help", "-h", "help"}:
        say(_ABOUT.format(verbs=table(list(VERBS.items()))))
        return 0
    verb, *rest = arguments
    if verb in {"--version", "-V", "version"}:
        say(f"segfocus {__version__}")
        return 0
    if verb not in VERBS:
        raise SegfocusError(f"unknown verb '{verb}'; {nearest(verb, VERBS)}; segfocus --help tells more")
    from segfocus.allocator import tune_allocator

    tune_allocator()  # before anything allocates large blocks
    function = function_of(verb)
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        with notices():
            return function(rest) or 0
    # a process that a multi-process run started: the first one speaks for all
    return function(rest) or 0
