"""Offset heads on frozen lite FoR-Nets: what borrowing gives, against controls of the same size.

python benchmarks/ovenet_camvid.py heads BASE [BASE ...] --root CAMVID [--quick]      -> results/ovenet_camvid.json
    BASE: best.safetensors of `segfocus train fornet-camvid`, one a seed.  Its logits and stride-4 features are
    computed once (float16, in memory); then every row trains its head on them for the same steps and batches.
python benchmarks/ovenet_camvid.py joint BASE [BASE ...] --root CAMVID --runs FOLDER  -> results/ovenet_joint.json
    OVeNet and the base alone, both trained on from BASE for the same steps, with all weights free
--quick rehearses: few pictures and steps, and nothing but the folder --runs (or nothing) is written
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from record import record

from segfocus.allocator import tune_allocator
from segfocus.files import write_json

tune_allocator()  # before torch allocates

import torch  # noqa: E402
from ovenet_heads import (  # noqa: E402
    BASE,
    BATCH,
    DEPTH,
    HIDDEN,
    OFFSETS,
    RESIDUAL,
    ROWS,
    SCALES,
    STRIDE,
    TAU,
    KnownBase,
    Scores,
    build_head,
    cache,
    labels_of,
    score_base,
    score_head,
    train_head,
    training_samples,
)
from torch import Tensor  # noqa: E402

from segfocus import checkpoint  # noqa: E402
from segfocus.data import open_dataset  # noqa: E402
from segfocus.methods.bases import FoRNetBase  # noqa: E402
from segfocus.methods.plain import PlainSegmenter  # noqa: E402

NOTE = (
    "post-hoc: the base is frozen; every row trains an equal head on the same cached maps and batches for the same "
    "steps (cross-entropy with the base's class weights; nothing was tuned); last weights, float32, CamVid val (101 "
    "pictures, one clip), void ignored, single scale; at 2x the frozen base sees pictures enlarged twice, and logits "
    "come back to the label's size before they are scored; fixed and broken against S_i of the same network and scale, "
    "in percent of the labelled pixels; [mean, standard deviation] over seeds; the bases have seen the training "
    "pictures whose maps the heads learn from"
)


@torch.no_grad()
def added_cost(path: Path, heads: dict[str, Any], class_weights: Any, image: Tensor, repeats: int) -> dict[str, Any]:
    """Parameters and median milliseconds that each head adds to its base; networks interleaved in this process.

    Also the share of pixels where head and base in one network predict otherwise than the head on cached maps.
    """
    network: Any = checkpoint.load(path).model
    base = FoRNetBase(network)
    size = (image.shape[-2], image.shape[-1])
    networks: dict[str, Any] = {BASE: PlainSegmenter(base, base.num_classes)}
    for name, head in heads.items():
        networks[name] = build_head(name, base, class_weights, size)
        missing = networks[name].load_state_dict(head.state_dict(), strict=False).missing_keys
        assert all(key.startswith("base.") for key in missing), missing
    times: dict[str, list[float]] = {name: [] for name in networks}
    image = image.contiguous(memory_format=torch.channels_last)
    known = cache(base, [(image[0], torch.zeros(size))])
    for network in networks.values():  # they share the base
        network.eval().to(memory_format=torch.channels_last)
    for repeat in range(repeats + 2):
        for name, network in networks.items():
            start = time.perf_counter()
            network(image)
            if repeat > 1:
                times[name].append(1000 * (time.perf_counter() - start))
    alone, own = statistics.median(times[BASE]), sum(parameter.numel() for parameter in base.parameters())
    found: dict[str, Any] = {BASE: {"parameters": own, "milliseconds": round(alone, 2)}}
    for name, head in heads.items():
        cached = head.eval().fuse(known.batch(slice(0, 1))[0], size)
        differ = cached.logits.argmax(1) != networks[name](image).logits.argmax(1)
        found[name] = {
            "parameters_added": sum(p.numel() for p in networks[name].parameters()) - own,
            "milliseconds_added": round(statistics.median(times[name]) - alone, 2),
            "latency_ratio": round(statistics.median(times[name]) / alone, 3),
            "pixels_that_caching_changes_percent": round(100 * differ.float().mean().item(), 4),
        }
    return found


def spread(values: list[float]) -> list[float | None]:
    """[mean, standard deviation]"""
    return [round(statistics.mean(values), 5), round(statistics.stdev(values), 5) if len(values) > 1 else None]


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """For every scale, row and output: mean and spread over seeds, and the paired differences to (a) and (b)."""
    found: dict[str, Any] = {}
    for scale in SCALES:
        table = found[scale] = {}
        for name in (BASE, *ROWS):
            for kind, first in runs[0]["rows"][name][scale].items():
                every = [run["rows"][name][scale][kind] for run in runs]
                entry = table.setdefault(name, {})
                if not isinstance(first, dict):
                    entry[kind] = spread(every)
                    continue
                entry[kind] = {key: spread([scores[key] for scores in every]) for key in first}
                controls = {BASE: "initial", RESIDUAL: "fused", OFFSETS: "fused"}
                for control in (key for key in controls if name not in (BASE, key)):
                    others = [run["rows"][control][scale][controls[control]] for run in runs]
                    pairs = list(zip(every, others, strict=True))
                    entry[kind][f"minus {control}"] = {
                        key: spread([mine[key] - other[key] for mine, other in pairs])
                        for key in ("miou", "boundary_iou_3", "pole_recall")
                    }
    return found


def heads(paths: list[Path], root: str, steps: int, draws: int, most: int, quick: bool) -> None:
    runs, costs, settings = [], {}, {}
    for seed, path in enumerate(paths):
        loaded = checkpoint.load(path)
        data, classes = loaded.recipe.data, loaded.classes
        weights: Any = loaded.recipe.model.class_weights  # numbers: a finished run has resolved them
        data.root = root
        clock = time.perf_counter()
        network = loaded.model.to(memory_format=torch.channels_last)
        known = cache(network, training_samples(data, seed, most, draws))
        stored = open_dataset(data, data.val_split)
        chosen = range(0, len(stored), 1 if len(stored) <= most else len(stored) // most)
        tests = {
            scale: cache(network, ((stored[i]["image"], stored[i]["target"]) for i in chosen), factor)
            for scale, factor in SCALES.items()
        }
        run: dict[str, Any] = {"seed": seed, "base": path.parent.name, "base_steps": loaded.recipe.training.steps}
        run["seconds_caching"] = round(time.perf_counter() - clock, 1)
        run["rows"] = {BASE: {scale: score_base(test, classes) for scale, test in tests.items()}}
        print(seed, run["seconds_caching"], run["rows"][BASE], flush=True)
        trained: dict[str, Any] = {}
        for name in ROWS:
            torch.manual_seed(seed)
            base = KnownBase(classes.num_classes, known.features.shape[1])
            trained[name] = head = build_head(name, base, weights, known.size).to(memory_format=torch.channels_last)
            run["rows"][name] = {"training": train_head(head, known, steps, seed)}
            clock = time.perf_counter()
            run["rows"][name] |= {scale: score_head(head, test, classes, name) for scale, test in tests.items()}
            shown = {
                scale: {k: v["miou"] for k, v in run["rows"][name][scale].items() if isinstance(v, dict)}
                for scale in SCALES
            }
            print(seed, name, run["rows"][name]["training"], round(time.perf_counter() - clock), shown, flush=True)
        runs.append(run)
        if not costs:
            costs = added_cost(path, trained, weights, stored[0]["image"][None], 3 if quick else 15)
            settings = {
                "steps": steps,
                "batch": BATCH,
                "samples": len(known.targets),
                "size": list(known.size),
                "optimizer": {"name": "adamw", "learning_rate": 2e-3, "weight_decay": 0.02, "schedule": "poly"},
                "head": {
                    "trunk": "convs",
                    "hidden": HIDDEN,
                    "depth": DEPTH,
                    "feature_channels": known.features.shape[1],
                },
                "reach_px": [TAU * (length - STRIDE) / 2 for length in reversed(known.size)],
            }
        results = {"settings": settings, "cost": costs, "val": summarise(runs), "runs": runs}
        if quick:
            print(json.dumps({"settings": settings, "cost": costs, "val": results["val"]["1x"][OFFSETS]}, indent=1))
            continue
        print(record("ovenet_camvid", results, seeds=list(range(len(runs))), note=NOTE), flush=True)


def joint(paths: list[Path], root: str, runs: Path, steps: int, most: int, quick: bool) -> None:
    found: dict[str, Any] = {}
    for seed, path in enumerate(paths):
        base = {"base": {"kind": "fornet", "checkpoint": str(path)}}
        offsets = {**base, "trunk": "convs", "hidden": HIDDEN, "depth": DEPTH}
        for name, method, options in (("OVeNet, joint", "ovenet", offsets), ("base alone", "plain", base)):
            folder = runs / f"joint-{method}-{seed}"
            if not (folder / "scores.json").is_file():
                command = [
                    sys.executable,
                    "-m",
                    "segfocus",
                    "train",
                    "fornet-camvid",
                    "--out",
                    str(folder),
                    "--overwrite",
                ]
                settings = {
                    "data.root": root,
                    "model.method": method,
                    "model.options": json.dumps(options),
                    "optimizer.learning_rate": "0.001",
                    "training.seed": str(seed),
                    "training.steps": str(steps),
                    "training.precision": "bf16-mixed",
                    "training.ema_decay": "0.99",
                    "training.validate_every": "1000",
                }
                command += [part for key, value in settings.items() for part in (f"--{key}", value)]
                start = time.perf_counter()
                subprocess.run(command, check=True)
                write_json(folder / "minutes.json", {"minutes": (time.perf_counter() - start) / 60})
            minutes = json.loads((folder / "minutes.json").read_text())["minutes"]
            run = {"random_seed": seed, "minutes": round(minutes, 2)}
            loaded = checkpoint.load(folder / "last.safetensors")
            run |= score_network(loaded.model.to(memory_format=torch.channels_last), loaded, root, most)
            found.setdefault(name, {"steps": steps, "runs": []})["runs"].append(run)
            print(seed, name, run, flush=True)
    note = (
        "both rows go on from the same trained base for the same steps with all weights free, learning rate 0.001, "
        "averaged weights of the last step; CamVid val, float32, single scale"
    )
    if not quick:
        print(record("ovenet_joint", {"val": found}, seeds=list(range(len(paths))), note=note))


@torch.no_grad()
def score_network(network: Any, loaded: Any, root: str, most: int) -> dict[str, Any]:
    """Scores of a whole network's final prediction, and of S_i and S_s where it has them, on the pictures' own size."""
    loaded.recipe.data.root = root
    stored, scores = open_dataset(loaded.recipe.data, loaded.recipe.data.val_split), None
    for index in range(min(len(stored), most)):
        sample = stored[index]
        size = (sample["target"].shape[-2], sample["target"].shape[-1])
        output = network(sample["image"][None].contiguous(memory_format=torch.channels_last))
        predictions = {"fused": output.labels()[0].numpy().astype(np.uint8)}
        for name in {"initial", "seed"} & output.aux_logits.keys():
            predictions[name] = labels_of(output.aux_logits[name], STRIDE, size, size)
        scores = scores or Scores(loaded.classes, predictions)
        scores.add(
            sample["target"].numpy().astype(np.uint8), predictions.get("initial", predictions["fused"]), predictions
        )
    assert scores is not None
    return scores.summary()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["heads", "joint"])
    parser.add_argument("bases", nargs="+", type=Path)
    parser.add_argument("--root", required=True, help="CamVid folder")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--draws", type=int, default=2, help="augmented crops of every training picture")
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    most = 6 if arguments.quick else 100_000
    steps = 6 if arguments.quick else arguments.steps
    if arguments.what == "heads":
        heads(arguments.bases, arguments.root, steps, arguments.draws, most, arguments.quick)
    else:
        joint(arguments.bases, arguments.root, arguments.runs, steps, most, arguments.quick)


if __name__ == "__main__":
    main()
