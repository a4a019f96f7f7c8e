"""What every number of the report means: one text for each, shown on the page and in the documentation.

Keys are those of the scores JSON where there is one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Definition:
    """A score's name, and what it is in two or three sentences."""

    name: str
    text: str
    source: str = ""
    """where it was defined"""


DEFINITIONS: dict[str, Definition] = {
    "iou": Definition(
        "IoU",
        "Intersection over union of one class: pixels that truth and prediction both give to it, divided by the pixels "
        "that either gives to it. Both are summed over all pictures before dividing. A class in neither has none (–).",
    ),
    "miou": Definition(
        "mIoU", "The mean of the IoU over the classes that occur in the truth or in a prediction, each counted alike."
    ),
    "pixel_accuracy": Definition("Pixel accuracy", "Correct pixels divided by labelled pixels."),
    "mean_accuracy": Definition(
        "Mean accuracy", "The mean of the recall over the classes that occur in the truth, each counted alike."
    ),
    "frequency_weighted_iou": Definition(
        "Frequency-weighted IoU", "The mean of the IoU, each class weighted by its share of the labelled pixels."
    ),
    "category_iou": Definition(
        "Category IoU", "The IoU of groups of classes: pixels confused inside one group count as right."
    ),
    "recall": Definition("Recall", "Of the pixels that truly are of the class, the share that is predicted as it."),
    "precision": Definition("Precision", "Of the pixels predicted as the class, the share that truly is of it."),
    "iou_inside": Definition(
        "IoU inside a part",
        "The IoU counted on the pixels of the part alone, which the truth decides. A class that is not in the part but "
        "predicted there has 0 and lowers the mean; the share of right pixels and the recall do not know it.",
    ),
    "share_of_pixels": Definition("Share of pixels", "The part's share of all labelled pixels of the truth."),
    "share_of_errors": Definition(
        "Share of errors",
        "The part's share of all wrong pixels, counted where the truth says they belong. Above its share of pixels "
        "means that it is harder than the rest.",
    ),
    "error_rate": Definition("Error rate", "Wrong pixels of the part divided by its labelled pixels."),
    "taken_for": Definition(
        "Mostly taken for",
        "The classes that get most of this class's missed pixels; the share is of all true pixels of the class.",
    ),
    "of_true_class": Definition(
        "Of the true class", "The share of all true pixels of the class that is taken for the other."
    ),
    "interval": Definition(
        "95 % interval",
        "How much the number could change with other pictures of the same kind: a percentile bootstrap over pictures "
        "(each picture gets a Poisson weight, 1000 times). It takes the pictures for independent: neighbouring frames "
        "of a video are not, and then it is too narrow. It says nothing about training the model again.",
        "Efron & Tibshirani 1993; Poisson weights as in Chamandy et al. 2012",
    ),
    "difference": Definition(
        "Change",
        "The score minus the baseline's, in percentage points, on the same pictures. Its interval resamples both "
        "together (paired); a change is called clear only where the interval leaves out zero.",
    ),
    "boundary_iou": Definition(
        "Boundary IoU",
        "The IoU of a class counted only within d px of the edge of its true or of its predicted mask. The picture's "
        "frame counts as an edge. It shows what large areas hide.",
        "Cheng et al., CVPR 2021",
    ),
    "boundary_f": Definition(
        "Boundary F",
        "How well outlines agree: the harmonic mean of the share of predicted edge pixels that have a true edge pixel "
        "of the same class within the tolerance, and the reverse. Counted over all pictures, mean over classes.",
        "Csurka et al. 2013; DAVIS, Perazzi et al. 2016",
    ),
    "trimap": Definition(
        "Trimap mIoU",
        "The mIoU counted only on pixels within d px of a true boundary.",
        "Krähenbühl & Koltun 2011",
    ),
    "mba": Definition(
        "Mean boundary accuracy (mBA)",
        "Accuracy of each class's mask inside bands around its true edge, averaged over five widths, classes and "
        "pictures. Half of a band is right even for a blunt edge: values near 50 % are poor.",
        "CascadePSP, Cheng et al. 2020",
    ),
    "distance": Definition(
        "Distance to boundary",
        "How far a pixel is from the nearest true boundary: 1 px is on it. Chessboard distance (a diagonal step is 1); "
        "the picture's frame and void count as boundaries.",
    ),
    "thickness": Definition(
        "Thickness",
        "The side, in px, of the largest square of one true class that lies inside the picture and covers the pixel: "
        "small in poles and cables, and also in the corners and tips of larger things.",
    ),
    "component_size": Definition(
        "Component size",
        "The area, in px, of the connected piece of one true class that the pixel belongs to (8 neighbours).",
    ),
    "found": Definition(
        "Found",
        "The share of connected pieces of the truth of which at least half of the pixels are predicted as their class.",
    ),
    "thin_recall": Definition(
        "Recall by width", "The share of a thin class's true pixels that is found, by the thickness at the pixel."
    ),
    "cldice": Definition(
        "clDice",
        "Agreement of skeletons: the harmonic mean of the share of the predicted skeleton that lies in the true mask "
        "and of the true skeleton that lies in the predicted mask. A gap in a wire costs more than a fuzzy edge.",
        "Shit et al., CVPR 2021",
    ),
    "topology_precision": Definition(
        "Skeleton precision", "Share of the predicted skeleton's pixels that lie in the true mask."
    ),
    "topology_sensitivity": Definition(
        "Skeleton recall", "Share of the true skeleton's pixels that lie in the predicted mask."
    ),
    "iiou": Definition(
        "iIoU",
        "The IoU in which every object weighs alike: the found pixels of an object count mean size / own size. Low "
        "beside the IoU means that small objects are missed.",
        "Cityscapes, Cordts et al. 2016",
    ),
    "confidence": Definition("Confidence", "The highest predicted probability at a pixel, averaged over the part."),
    "ece": Definition(
        "Calibration error (ECE)",
        "Mean gap between confidence and accuracy: pixels are put into 15 bins by confidence, and the gaps are "
        "weighted by the bins' pixels. 0 is perfect.",
        "Guo et al., ICML 2017",
    ),
    "brier": Definition(
        "Brier score",
        "Mean squared distance between the predicted probabilities and the truth, summed over classes: 0 to 2, lower "
        "is better.",
    ),
    "nll": Definition(
        "Negative log-likelihood",
        "Mean of -ln(probability of the true class), probabilities clipped at 1e-7; lower is better.",
    ),
    "foreground_iou": Definition(
        "Foreground IoU", "The IoU of the second class, pooled over all pictures, or as the mean over pictures."
    ),
    "dice": Definition(
        "Dice (F1)", "Twice the intersection divided by the sum of true and predicted foreground pixels."
    ),
    "mae": Definition("MAE", "Mean absolute difference between foreground probability and truth; lower is better."),
    "max_f": Definition(
        "Max F",
        "The highest F-measure (precision weighs more: beta² = 0.3) over all thresholds of the foreground probability.",
        "Achanta et al. 2009",
    ),
    "headroom": Definition(
        "Headroom",
        "What a method's idea would gain if it always decided right. The truth decides here, so this is a ceiling: "
        "a real refiner gets a part of it. Compare budgets, not only gains: a larger budget always has more headroom.",
    ),
    "headroom_fornet": Definition(
        "FoR-Net: perfect regions",
        "The top K % of 16 px regions of each picture become right. Chosen by truth (most wrong pixels first), by the "
        "prediction's entropy, or by the network's importance.",
    ),
    "headroom_ovenet": Definition(
        "OVeNet: borrow from near by",
        "A pixel becomes right if any pixel within r px (a square window) is predicted as its true class.",
    ),
    "headroom_ranet": Definition(
        "RANet: one vote per region",
        "All pixels of a true connected region take the class that most of them are predicted as; or only where this "
        "does not lose right pixels.",
    ),
    "headroom_threshnet": Definition(
        "ThreshNet: best threshold per patch",
        "Each patch of P x P px may shift the decision for one class by one threshold, the one with most right pixels.",
    ),
    "measured": Definition(
        "Measured", "Predictions that a refiner really made from these predictions, scored like them."
    ),
    "fixed": Definition("Fixed", "Pixels that the baseline had wrong and the prediction has right."),
    "broken": Definition("Broken", "Pixels that the baseline had right and the prediction has wrong."),
    "net": Definition("Net", "Fixed minus broken pixels: above zero where the prediction has more right."),
    "still_wrong": Definition("Still wrong", "Pixels that both have wrong, whichever the wrong classes are."),
    "initial": Definition(
        "Initial prediction",
        "What the network itself predicts before it borrows anything, in the same forward pass.",
        "OVeNet, arXiv 2303.14516",
    ),
    "coarse": Definition(
        "Coarse prediction",
        "What the network itself predicts before it has looked at the context of regions, in the same forward pass.",
        "RANet, Shen et al., NeurIPS 2020",
    ),
    "base": Definition(
        "The base's prediction",
        "What another network says before its probability maps are refined: the class of the highest probability, of "
        "two classes the foreground where its probability is above 0.5.",
    ),
    "probability": Definition(
        "Probability before and after",
        "Of one class at every pixel, as the base gives it and as the refiner does; dark is 0, pale yellow is 1. Of "
        "three or more classes the one with the most changed pixels is shown.",
    ),
    "best_threshold": Definition(
        "Best threshold",
        "Of the thresholds 0.05, 0.10, ... 1 the one that gives a patch of the base's map the best IoU with the truth "
        "(one pixel is added above and below, so that a patch without foreground has one too). Of equal ones the one "
        "nearest to 0.5.",
        "ThreshNet, Nagendra et al., arXiv 2211.06560",
    ),
    "implied_threshold": Definition(
        "Implied threshold",
        "The threshold at which a patch of the base's map comes nearest to the refined mask, found like the best one. "
        "It tells how much of the refining is a matter of thresholds.",
    ),
    "region": Definition(
        "Region",
        "Pixels that the network takes together: what it sees on the line between two of them looks like no boundary, "
        "and their class probabilities agree. Colours only tell neighbours apart; they mean no class.",
        "RANet, Shen et al., NeurIPS 2020",
    ),
    "representative": Definition(
        "Representative",
        "The pixels of a region that agree most with all of it. Regions exchange what they know through them.",
        "RANet, Shen et al., NeurIPS 2020",
    ),
    "boundary_probability": Definition(
        "Boundary map", "The network's probability that a cell of its own grid lies on a boundary between classes."
    ),
    "attention": Definition(
        "Attention",
        "How much each cell enters what the network makes of the ringed pixel, the middle of the picture's largest "
        "mistake. The brightest is the largest value beside the pixel's own; square roots are shown, so that what is "
        "weak can be seen.",
    ),
    "offset": Definition(
        "Offset",
        "The vector from a pixel to its seed pixel, whose prediction it borrows. Colour tells the direction, "
        "saturation the length, white is none; all pictures of a page share one scale.",
        "colours: Baker et al., IJCV 2011",
    ),
    "borrowing_confidence": Definition(
        "Confidence in the seed pixel",
        "How much of the borrowed prediction is taken, 0 to 1; the rest is the pixel's own initial prediction.",
        "OVeNet, arXiv 2303.14516",
    ),
    "seed_same_class": Definition(
        "Seed pixel of the same class",
        "The share of pixels whose seed pixel truly is of the same class as they are. Where the seed pixel is void it "
        "is left out.",
    ),
    "seed_right": Definition(
        "Seed pixel predicted right",
        "The share of pixels whose seed pixel was first predicted as the class that is true for the pixel itself: "
        "what borrowing would give with full confidence.",
    ),
    "importance": Definition(
        "Importance",
        "How hard the network expects a region to be, 0 to 1. Outlined regions are refined, the others are not.",
    ),
    "importance_recall": Definition(
        "Found in K % of the regions",
        "Of all pixels searched for, the share inside the K % of regions that the network finds most important in each "
        "picture. At best: the regions that hold most of them. By chance: what random regions hold on average.",
    ),
    "importance_gain": Definition(
        "Gain over chance",
        "Recall minus that of chance, divided by the best recall minus that of chance: 100 % is the best choice, 0 is "
        "no better than chance, below 0 is worse.",
    ),
    "importance_area": Definition(
        "Area under the recall",
        "The mean recall over all K from 0 to 100 %: 50 % for chance. The best possible one is below 100 %, since "
        "what is searched for lies in many regions.",
    ),
    "importance_error": Definition(
        "Errors in important regions",
        "Wrong pixels of the final prediction. Where the network refined the regions it chose, fewer are left there: "
        "this tells where it is still wrong.",
    ),
    "importance_error_before": Definition(
        "Errors before refining", "Wrong pixels of the first prediction: what the refinement should have looked at."
    ),
    "importance_boundary": Definition(
        "Boundary pixels",
        "Labelled pixels with another class among their eight neighbours; void and the frame are none.",
    ),
    "importance_thin": Definition(
        "Thin parts",
        "Pixels that no 5 x 5 px square of their class inside the picture covers: poles and wires of up to 4 px, and "
        "the corners and tips of larger things.",
    ),
    "void": Definition("Void", "Pixels without a true label are never counted, whatever is predicted there."),
}
