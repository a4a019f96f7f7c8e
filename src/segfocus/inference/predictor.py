"""Predictor: a picture in any form -> labels and probabilities at its own size."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, UInt8
from PIL import Image, ImageOps
from torch import Tensor, nn

from segfocus.checkpoint import Checkpoint, load
from segfocus.data.classes import Classes
from segfocus.data.pictures import read_picture
from segfocus.errors import SegfocusError
from segfocus.inference.augment import check_scales, test_time_augmentation
from segfocus.inference.focus import focus_settings, set_focus
from segfocus.inference.fold import fold_batch_norm
from segfocus.inference.prediction import Prediction
from segfocus.inference.sliding import check_window, sliding_window
from segfocus.methods.base import Segmenter
from segfocus.ops.resample import enlarge
from segfocus.output import Output
from segfocus.output import probabilities as to_probabilities

FIRST_PREDICTIONS = ("initial", "coarse")
"""keys of `Output.aux_logits` that hold what a method says before its own idea comes in; the first one there counts"""


class Hints(NamedTuple):
    """What a network says beside its prediction, each None where there is none."""

    importance: Float[Tensor, "batch 1 rows columns"] | None = None
    selected: Bool[Tensor, "batch 1 rows columns"] | None = None
    offsets: Float[Tensor, "batch 2 offset_rows offset_columns"] | None = None
    confidence: Float[Tensor, "batch 1 offset_rows offset_columns"] | None = None
    regions: Int[Tensor, "batch region_rows region_columns"] | None = None
    representatives: Bool[Tensor, "batch region_rows region_columns"] | None = None
    boundary: Float[Tensor, "batch 1 boundary_rows boundary_columns"] | None = None
    whole: bool = False
    """whether one pass saw the picture whole, as it is"""
    initial: Float[Tensor, "batch classes height width"] | None = None
    """initial probabilities, averaged over windows and views like the final ones"""
    initial_kind: str | None = None
    """which of `FIRST_PREDICTIONS` they are"""


def weights_digest(model: nn.Module) -> str:
    """A hash of a network's kind and weights."""
    digest = hashlib.sha256(type(model).__name__.encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class Predictor:
    """Runs a segmenter on pictures, in float32, without gradients.

    Args:
        model: a checkpoint file ('shipped': the package's own), a loaded `Checkpoint`, or a Segmenter (of which a copy
            is used: the network itself stays as and where it is, and may be trained on).
        classes: needed with a bare Segmenter for coloured output; the checkpoint's own otherwise.
        window: height and width in px of a sliding window; None sees pictures whole.
        stride: step of the window; two thirds of it when None.
        scales: picture scales whose probabilities are averaged; the window slides over the scaled picture.
        flip: average with the mirrored picture.
        focus: FoR-Net: share of the regions that are refined, in [0, 1]; as trained when None.
        adaptive: FoR-Net: refine the fewest regions that hold this share, in (0, 1], of a picture's importance.
        device: "auto" (cuda, then mps, then cpu) or any torch device.
        channels_last: memory layout; faster convolutions on CPUs and tensor cores.
        max_pixels: larger picture files are refused.
        fold: merge BatchNorms into convolutions (`segfocus.inference.fold`): the same up to rounding, and faster.
        initial: also give `initial_labels` where the method has a first prediction (`Output.aux_logits["initial"]` or
            `["coarse"]`); their probabilities take as much memory again.

    Probabilities, not logits, are averaged over windows and views.  What comes beside them (`importance`, `offsets`,
    `regions`, ...) is that of the pass that saw the whole picture at scale 1, unmirrored; where there is none (a
    window, or scales without 1) it is None.  The initial prediction is averaged like the final one, so that the two
    differ by what the method's idea changed and by nothing else.

    Raises:
        SegfocusError: window, stride, scales, focus or device that cannot be used; and what `segfocus.load` raises.
    """

    def __init__(
        self,
        model: Segmenter | Checkpoint | Path | str,
        classes: Classes | None = None,
        *,
        window: Sequence[int] | None = None,
        stride: Sequence[int] | None = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        focus: float | None = None,
        adaptive: float | None = None,
        device: str | torch.device = "auto",
        channels_last: bool = True,
        max_pixels: int = 180_000_000,
        fold: bool = True,
        initial: bool = False,
    ) -> None:
        if window is None and stride is not None:
            raise SegfocusError(f"stride: expected a window with it, got stride {list(stride)} alone; try --window")
        self.window, self.stride = (None, None) if window is None else check_window(window, stride)
        self.scales = check_scales(scales)
        self.flip = flip
        self.initial = initial
        self.device = choose_device(device)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.max_pixels = max_pixels
        mine = isinstance(model, str | Path)
        if isinstance(model, str | Path):
            model = load(model)
        if not isinstance(model, Segmenter):
            classes = model.classes if classes is None else classes
            model = model.model  # pyright: ignore[reportAssignmentType]
        if not isinstance(model, Segmenter):
            raise SegfocusError(
                f"expected a network that sees pictures, got {type(model).__name__}, which refines probability maps; "
                "try segfocus refine apply"
            )
        model = (model if mine else copy.deepcopy(model)).eval().to(device=self.device, dtype=torch.float32)
        self._digest = weights_digest(model)  # of the weights as they are stored, whether folded or not
        set_focus(model, focus, adaptive)
        self.model = fold_batch_norm(model) if fold else model
        self.model.to(memory_format=self.memory_format)  # pyright: ignore[reportCallIssue]
        self.classes = classes
        if classes is not None and classes.num_classes != model.num_classes:
            raise SegfocusError(f"expected {model.num_classes} classes as the network has, got {classes.num_classes}")

    def __call__(self, picture: str | Path | np.ndarray | Image.Image, name: str | None = None) -> Prediction:
        """Predict one picture: a file, uint8 RGB array height x width x 3 (also gray or RGBA), or PIL picture.

        Args:
            name: of the Prediction; a file's name without extension when None.

        Raises:
            SegfocusError: the file cannot be read (one line says why), another kind of array, or memory ran out.
        """
        pixels = self._read(picture)
        if name is None:
            name = Path(picture).stem if isinstance(picture, str | Path) else "picture"
        try:
            probabilities, hints = self.predict(self._image(pixels))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            other = "" if self.device.type == "cpu" else " or device cpu"
            raise SegfocusError(
                f"{name}: a picture of {pixels.shape[1]}x{pixels.shape[0]} px did not fit into the memory of "
                f"{self.device}; try --window 512x512{other}"
            ) from error
        return Prediction(
            labels=_labels(probabilities),
            probabilities=probabilities[0].cpu().contiguous().numpy(),
            importance=None if hints.importance is None else _array(hints.importance)[0],
            selected=None if hints.selected is None else hints.selected[0, 0].cpu().numpy(),
            name=name,
            picture=pixels,
            offsets=None if hints.offsets is None else _array(hints.offsets),
            confidence=None if hints.confidence is None else _array(hints.confidence)[0],
            initial_labels=None if hints.initial is None else _labels(hints.initial),
            initial_kind=hints.initial_kind,
            regions=None if hints.regions is None else hints.regions[0].to(torch.int32).cpu().numpy(),
            representatives=None if hints.representatives is None else hints.representatives[0].cpu().numpy(),
            boundary=None if hints.boundary is None else _array(hints.boundary)[0],
            look_from=self._attention_of(pixels) if hints.whole else None,
        )

    def _image(self, pixels: UInt8[np.ndarray, "height width 3"]) -> Float[Tensor, "1 3 height width"]:
        image = torch.from_numpy(pixels).to(self.device).permute(2, 0, 1)[None].float().div_(255)
        return image.contiguous(memory_format=self.memory_format)

    def _attention_of(
        self, pixels: UInt8[np.ndarray, "height width 3"]
    ) -> Callable[[int, int], np.ndarray | None] | None:
        """`Prediction.look_from`, which keeps the picture's bytes alone; None where the method has no attention."""
        if type(self.model).attention is Segmenter.attention:
            return None

        @torch.inference_mode()
        def look_from(row: int, column: int) -> np.ndarray | None:
            found = self.model.attention(self._image(pixels), row, column)
            return None if found is None else found.float().cpu().contiguous().numpy()

        return look_from

    @torch.inference_mode()
    def predict(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch classes height width"], Hints]:
        """Probabilities at the size of `image` (in [0, 1], on the predictor's device), and what comes with them."""
        hints = Hints()
        classes = self.model.num_classes
        kind: str | None = None

        def whole(view: Tensor) -> Tensor:
            nonlocal hints
            output = self.model(view)
            if view is image:  # resizing to the same size hands back the same tensor: this is the plain pass
                hints = _hints(output)
            return both(output)

        def both(output: Output) -> Tensor:
            """Probabilities, and in further channels the initial ones, so that both are averaged alike."""
            nonlocal kind
            kind = first_prediction(output)
            initial = initial_probabilities(output) if self.initial else None
            found = output.probabilities()
            return found if initial is None else torch.cat([found, initial], 1)

        def windows(view: Tensor) -> Tensor:
            assert self.window is not None
            return sliding_window(lambda part: both(self.model(part)), view, self.window, self.stride)

        found = test_time_augmentation(windows if self.window else whole, image, self.scales, self.flip)
        if found.shape[1] > classes:
            hints = hints._replace(initial=found[:, classes:], initial_kind=kind)
        return found[:, :classes], hints

    def settings(self) -> dict[str, Any]:
        """What decides a prediction, JSON safe: a hash of the weights, window, stride, scales, flip, focus."""
        return {
            "weights": self._digest,
            "window": self.window and list(self.window),
            "stride": self.stride and list(self.stride),
            "scales": list(self.scales),
            "flip": self.flip,
            "focus": focus_settings(self.model),
        }

    def _read(self, picture: str | Path | np.ndarray | Image.Image) -> UInt8[np.ndarray, "height width 3"]:
        if isinstance(picture, str | Path):
            return np.ascontiguousarray(read_picture(picture, self.max_pixels))
        if isinstance(picture, Image.Image):
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
        if picture.dtype == np.uint8 and picture.size:
            if picture.ndim == 2:
                return np.repeat(picture[:, :, None], 3, axis=2)
            if picture.ndim == 3 and picture.shape[2] in (3, 4):
                return np.require(picture[:, :, :3], requirements=["C", "W"])  # torch warns of read-only memory
        raise SegfocusError(
            f"expected a uint8 picture height x width x 3, got {picture.dtype} of shape {picture.shape}; "
            "try (picture * 255).astype(np.uint8) when it is in [0, 1]"
        )


def _hints(output: Output) -> Hints:
    boundary = None if output.boundary_logits is None else output.boundary_logits.float().sigmoid()
    return Hints(
        output.importance,
        output.selected,
        output.offsets,
        output.confidence,
        output.regions,
        output.representatives,
        boundary,
        whole=True,
    )


def first_prediction(output: Output) -> str | None:
    """Which of `FIRST_PREDICTIONS` a method gives; None where it predicts but once."""
    return next((kind for kind in FIRST_PREDICTIONS if kind in output.aux_logits), None)


def initial_probabilities(output: Output) -> Float[Tensor, "batch classes height width"] | None:
    """Probabilities, at the picture's size, of what a method predicted before it borrowed or saw the context; None
    where it says none.

    `aux_logits["initial"]` lies on the grid of the offsets and `aux_logits["coarse"]` on that of the regions, or
    reaches beyond it where the method pads the picture; without such a grid its own cells must cover the picture.

    Raises:
        ValueError: a grid that no square cells explain.
    """
    kind = first_prediction(output)
    if kind is None:
        return None
    initial = output.aux_logits[kind]
    height, width = output.logits.shape[-2:]
    beside = output.offsets if kind == "initial" else output.regions
    grid = initial if beside is None else beside
    stride = _stride((height, width), (grid.shape[-2], grid.shape[-1]))
    return to_probabilities(enlarge(initial.float(), stride, 1, (height, width)))


def _stride(size: tuple[int, int], grid: tuple[int, int]) -> int:
    """Side in px of the square cells that cover a picture in so many rows and columns: a power of two if one does."""
    for stride in (*(2**power for power in range(11)), *range(1, 1024)):
        if all(-(-side // stride) == cells for side, cells in zip(size, grid, strict=True)):
            return stride
    raise ValueError(f"expected a grid of square cells over {size[0]}x{size[1]} px, got {grid[0]}x{grid[1]} cells")


def _labels(probabilities: Float[Tensor, "1 classes height width"]) -> UInt8[np.ndarray, "height width"]:
    return probabilities[0].max(0).indices.to(torch.uint8).cpu().numpy()


def _array(maps: Float[Tensor, "1 channels rows columns"]) -> Float32[np.ndarray, "channels rows columns"]:
    return maps[0].float().cpu().contiguous().numpy()


def out_of_memory(error: BaseException) -> bool:
    """CUDA and NumPy have classes for it; torch on CPU and MPS says so only in a RuntimeError's text."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return any(words in text for words in ("can't allocate memory", "not enough memory", "out of memory"))


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The device itself; for "auto" the first of cuda, mps, cpu that is there."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise SegfocusError(f"device: expected auto, cpu, cuda, cuda:1, mps, ..., got '{device}'") from error
    absent = {
        "cuda": not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count(),
        "mps": not torch.backends.mps.is_available(),
    }
    if absent.get(chosen.type, False):
        raise SegfocusError(f"device: expected one this machine has, got '{device}'; try auto or cpu")
    return chosen
