"""The formulas of the Method page: what each means, where it comes from, which code computes it."""

from __future__ import annotations

from engine.explanation import PAPER, Explanation
from engine.frames.kinds import FRAMES
from engine.reading.geometries import GEOMETRIES

ENTRIES: tuple[Explanation, ...] = (
    *(one.explanation for one in FRAMES.values() if one.explanation is not None),
    *(one.explanation for one in GEOMETRIES.values()),
    Explanation(
        "centred",
        "Centring",
        "Subtracts from each state its layer's mean over the prompt, and from each reference "
        "vector the mean of them all.",
        "ours",
        True,
        (("reading.similarity", "scores"), ("frames.frame", "Frame.centre_scores")),
    ),
    Explanation(
        "softmax",
        "Probability and entropy",
        "A softmax over the whole vocabulary at temperature T, with the log-sum-exp carried in "
        "float32 or better.",
        f"{PAPER}, Algorithm 1 (T = 1 there); the temperature is ours",
        False,
        (("reading.read", "Reading"), ("reading.read", "read")),
    ),
    Explanation(
        "rank",
        "Exact rank",
        "Counted over the whole vocabulary, chunk by chunk; never estimated from a top-k.",
        "ours",
        True,
        (("reading.read", "read"),),
    ),
    Explanation(
        "kl",
        "KL to the final prediction",
        "p is the model's final distribution, q the same head on the state of layer l.",
        "Belrose et al. 2023 (tuned lens) use the same figure",
        False,
        (("reading.similarity", "divergence"),),
    ),
    Explanation(
        "settling",
        "Settling layer, deep-thinking ratio",
        "The first layer from which on the reading stays that of the last one, for a token that "
        "the model writes. A control that settles as late (random bases that are as sharp, layers "
        "in a shuffled order) says that the ratio tells nothing.",
        "ours (reconstruction) after arXiv 2602.13517",
        True,
        (
            ("generation.settling", "settling_layer"),
            ("generation.settling", "jensen_shannon"),
            ("generation.settling", "deep_thinking"),
        ),
    ),
    Explanation(
        "sampling",
        "How the next token is chosen",
        "Greedy takes the likeliest. Else softmax(z/T), of which top-k and then top-p leave the "
        "likeliest; u is the next number of a seeded sequence, one for each token.",
        "Fan et al. 2018 (top-k); Holtzman et al. 2020 (top-p)",
        False,
        (("generation.sampling", "distribution"), ("generation.sampling", "Sampler")),
    ),
    Explanation(
        "agreement",
        "Agreement with the model",
        "Over all positions of the prompt, at each layer. Disagreement is a finding about a "
        "reading, not a fault of it, and the controls show what chance gives.",
        f"ours, after {PAPER}, Table 6",
        True,
        (("trace.agreement", "compute_agreement"),),
    ),
    Explanation(
        "region",
        "Semantic region, border, crossing",
        "Keeping only the nearest basis cuts the space into regions. The distance to the border is "
        "exact over the whole vocabulary.",
        f"{PAPER}, §3.1 (fields and regions); the distance is ours",
        True,
        (("reading.regions", "borders"),),
    ),
    Explanation(
        "acting",
        "Steering, swapping, ablating, patching",
        "States are changed while the model reads, and the answer with the change stands beside "
        "the answers with random changes of the same size. An effect that those reach as well is "
        "not claimed. The swap is a mirror that exchanges two directions and keeps lengths.",
        "ours; steering and patching are common practice",
        True,
        (
            ("interventions.changes", "Push"),
            ("interventions.changes", "Reflect"),
            ("interventions.effect", "effect"),
            ("interventions.effect", "beyond"),
            ("interventions.many", "many"),
        ),
    ),
    Explanation(
        "causal",
        "Causal map",
        "The states of a counterfactual twin are put in one layer and position at a time. The "
        "share of the contrast between both answers that comes over says where the answer hangs.",
        "activation patching; the control and the carriers are ours",
        True,
        (("interventions.causal", "causal_map"), ("interventions.causal", "CausalMap")),
    ),
    Explanation(
        "nudge",
        "The smallest nudge",
        "Of all changes of the last state that move one contrast by a given amount, the one along "
        "a difference of semantic bases disturbs all other logits least, in squared sum.",
        "ours (frame theory)",
        True,
        (("interventions.nudge", "nudge"), ("interventions.nudge", "along")),
    ),
    Explanation(
        "resolution",
        "Exact resolution of a state into tokens",
        "The bases are the canonical dual frame of the head rows, so every state is exactly a sum "
        "of bases with its logits as coordinates. The shares say what each token accounts for.",
        "ours (frame theory)",
        True,
        (("reading.similarity", "resolve"),),
    ),
    Explanation(
        "pursuit",
        "A state in a few words",
        "The vector that points most along what is not explained yet is taken, and all that were "
        "taken get their best weights anew; at most ten times. A random vocabulary of v "
        "directions in d dimensions explains much by luck, so its share stands beside.",
        "Bruckstein, Elad, Zibulevsky 2008 (non-negative matching pursuit); the control is ours",
        True,
        (("reading.pursuit", "pursue"), ("reading.pursuit", "by_chance")),
    ),
    Explanation(
        "contexts",
        "Nearest contexts",
        "Over every position of other texts at the same layer, past the final norm; the best of "
        "each text is listed. The same texts with their tokens shuffled are the control.",
        "ours",
        True,
        (("trace.contexts", "ContextFinder.nearest"), ("trace.bank", "Bank.similarities")),
    ),
    Explanation(
        "compare",
        "Two prompts",
        "Read in the same way and paired position by position; p and q are the two readings' "
        "distributions over the whole vocabulary. A prompt beside itself is 0 in every cell.",
        "Ratcliff & Obershelp 1988 (pairing)",
        False,
        (
            ("compare.two_prompts", "compare_prompts"),
            ("compare.divergence", "divergence_of_readings"),
        ),
    ),
    Explanation(
        "leverage",
        "Leverage, self-logit, round trip",
        "A basis does not give its token a logit of 1 but of h, the leverage, d/v on average: it "
        "reproduces the one-hot's direction as well as d dimensions allow.",
        "ours",
        True,
        (("frames.decomposition", "HeadDecomposition"),),
    ),
    Explanation(
        "figures",
        "Figures of a frame",
        "λ are the eigenvalues of G above the cut-off.",
        "ours (frame theory); Penrose 1955",
        True,
        (
            ("frames.decomposition", "HeadDecomposition.residuals"),
            ("frames.decomposition", "HeadDecomposition"),
        ),
    ),
    Explanation(
        "target",
        "Similarity to the answer",
        "y is the model's answer after this position.",
        f"after {PAPER}, §3.2",
        True,
        (("trace.compute", "transitions"),),
    ),
    Explanation(
        "virtual",
        "Virtual path, deviation, gain, alignment",
        "The authors describe virtual and factual transitions (arXiv 2406.11753) without a public "
        "formula; the straight path is the one of their neuron-patching code (arXiv 2312.05356). "
        "What stands here is our reconstruction.",
        "ours (reconstruction)",
        True,
        (("trace.compute", "transitions"),),
    ),
    Explanation(
        "isotropy",
        "Local isotropy",
        "The paper rests on latent space being locally isotropic (Cai et al. 2021). Three readings "
        "of it, each 1 for vectors that fill all directions evenly and 0 for a cone.",
        f"{PAPER}, §3.2 names it; the measures are ours",
        True,
        (("frames.isotropy", "isotropy"),),
    ),
    Explanation(
        "pca",
        "Shared frame (A)",
        "One plane for every layer, and for before and after: the two or three directions in which "
        "the semantic bases differ most, found once, exactly, and never from the states that are "
        "drawn. Movement on it is real movement; what happens in other directions is not seen, and "
        "a mere change of basis between layers looks like movement.",
        "principal component analysis; fitting it on the bases is ours",
        True,
        (("maps.axes", "principal_axes"), ("maps.axes", "variance_shown")),
    ),
    Explanation(
        "procrustes",
        "Frame of the layer (B)",
        "The plane that shows most of this layer's points, turned so that the bases stay as still "
        "as they can. It shows each layer's own shape; absolute movement is taken out by "
        "construction.",
        "Schönemann 1966 (orthogonal Procrustes); bases as landmarks are ours",
        True,
        (("maps.axes", "procrustes"),),
    ),
    Explanation(
        "umap",
        "UMAP (C)",
        "Neighbours are drawn near each other, nothing else is promised: gaps, sizes and distances "
        "between groups mean nothing. Another seed moves the points: the median movement, over "
        "three pairs of seeds, is the noise floor beside any displacement, and the displacement in "
        "noise floors is about 1 where nothing but the seed differs.",
        "McInnes, Healy, Melville 2018; the noise floor is ours",
        False,
        (("maps.reduction", "reduce"),),
    ),
    Explanation(
        "regions",
        "Regions of a layout",
        "Where many points of a UMAP lie close together, found at three levels and named by the "
        "words nearest to the middle of all members in the model's own space. A name is a member; "
        "what a region has in common is for the reader to see.",
        "HDBSCAN: Campello, Moulavi, Sander 2013; naming is ours",
        False,
        (("maps.named_regions", "regions_of"),),
    ),
    Explanation(
        "preprocessing",
        "Before projecting",
        "A few large dimensions can carry most of a distance. What is done about it is a visible "
        "choice and stands in every title.",
        "ours",
        True,
        (("maps.preprocessing", "treat_states"), ("maps.preprocessing", "moments_of_bases")),
    ),
    Explanation(
        "quality",
        "How true a picture is",
        "N and M are a point's k nearest in the model and on the map, r and s the ranks there. "
        "Every figure stands beside the same figure of a random projection: what a picture shows "
        "by chance.",
        "Venna & Kaski 2001 (trustworthiness, continuity)",
        False,
        (("maps.quality", "measure_quality"), ("maps.quality", "distortion")),
    ),
    Explanation(
        "border-of-map",
        "Points beyond the window",
        "A first token tens of radii away is normal. It is drawn at the border, counted and "
        "listed, never dropped.",
        "ours",
        True,
        (("maps.border", "window"), ("maps.border", "draw_border")),
    ),
    Explanation(
        "movement",
        "Movement between two layers",
        "On the map: how far a point moved in radii of the picture, and how much of that its "
        "neighbours did not share. In the model's own space: which neighbours it gained and lost.",
        "after Sivaraman, Wu, Perer 2022 (Emblaze); relative displacement is ours",
        True,
        (("maps.changes", "measure_changes"), ("maps.neighbours", "jaccard")),
    ),
    Explanation(
        "cka",
        "Similarity of two layers",
        "1 where two layers arrange the same points alike up to rotation and scale. A few huge "
        "dimensions can decide it, so it is given with and without them.",
        "Kornblith et al. 2019 (linear CKA)",
        False,
        (("maps.neighbours", "linear_cka"),),
    ),
    Explanation(
        "two-models",
        "Two models on one text",
        "How far apart two models read the same text, over the tokens that both vocabularies have; "
        "a model beside itself is 0 in every cell. Neighbouring positions say what chance is.",
        "Lin 1991 (Jensen–Shannon divergence); the pairing is ours",
        True,
        (
            ("compare.two_models", "compare_models"),
            ("compare.cells", "cells_of"),
            ("compare.shared", "shared_vocabulary"),
        ),
    ),
    Explanation(
        "debiased-cka",
        "Layers of two models",
        "As between two layers, but without the bias that makes few states in many dimensions look "
        "alike: unrelated states have 0 on average, and shuffled ones stand beside it.",
        "Song et al. 2012, eq. 5; Kornblith et al. 2019",
        False,
        (("compare.alike", "debiased_cka"),),
    ),
    Explanation(
        "frames-apart",
        "Frames of two models",
        "What is left between the vectors of the same tokens after the best turn and scale: 0 for "
        "one figure, 1 for none in common. The same with the pairs shuffled stands beside it.",
        "Schönemann 1966 (Procrustes); on frames of vocabularies it is ours",
        True,
        (("compare.frames", "compare_frames"),),
    ),
    Explanation(
        "one-map",
        "Two models on one map",
        "A state is placed by its cosines with the vectors of tokens that both models have, so "
        "models of other widths share one space. How often a word finds itself in the other model, "
        "beside landmarks named at random, says what the map is worth.",
        "after SemAlign (arXiv 2510.24208); the check is ours",
        True,
        (("compare.one_map", "one_map"),),
    ),
    Explanation(
        "drift",
        "Interface drift",
        "How far reading a state by the head and writing it again with the embedding is from doing "
        "nothing, up to one factor. For the semantic bases it is 0 by construction.",
        "after arXiv 2602.04556 (pseudo-inverse tying)",
        True,
        (("bases.drift", "interface_drift"),),
    ),
    Explanation(
        "activation-difference",
        "What one model has and another has not",
        "The mean difference of their states on the same texts, read as a state; beside its length "
        "that of the difference between two halves of the texts by one model.",
        "ours",
        True,
        (("compare.over_texts", "compare_over"),),
    ),
    Explanation(
        "module",
        "Calibration module",
        "A small network behind the frozen model: channels of the state are weighed, then moved. "
        "It has 33/8·d² weights besides biases and norm.",
        f"{PAPER}, Eq. 1, 2 and App. A.2; what its pools run over is open there",
        False,
        (
            ("calibration.training.module", "CalibrationModule"),
            ("calibration.training.module", "weight_count"),
        ),
    ),
    Explanation(
        "clustering",
        "Clustering losses",
        "The centroids are known and fixed: the bases of the label words. Training pulls each "
        "state to the basis of its own label; the language model never changes. sm-gt looks at "
        "the own basis only.",
        f"{PAPER}, §3.3 and Table 6; the temperature is ours",
        False,
        (
            ("calibration.training.losses", "clustering_loss"),
            ("calibration.training.losses", "Centroids"),
        ),
    ),
    Explanation(
        "untaught",
        "Words that were never taught",
        "A module can learn any few directions, so calibrated states are also read by words that "
        "took no part in the training; and each class is left out in turn and found by its own "
        "basis. Random bases and shuffled labels stand beside both.",
        "ours",
        True,
        (
            ("calibration.evidence.untaught", "measure_untaught"),
            ("calibration.evidence.left_out", "leave_one_out"),
        ),
    ),
    Explanation(
        "uses",
        "What semantic bases are for",
        "Facts that the model knows are pushed towards another fact's answer, h + a·‖h‖·û with û "
        "the difference of two tokens' vectors, at four layers and three doses. Counted are "
        "answers that turn, and the KL of the next token before and after without the two tokens. "
        "Head rows and random vectors of the same size stand beside every figure; with next "
        "words, neighbours and untaught words that makes one verdict for each use.",
        "ours",
        True,
        (
            ("interventions.doses", "measure_doses"),
            ("interventions.doses", "rest_apart"),
            ("trace.dial", "measure_dial"),
            ("uses.words", "measure_words"),
            ("uses.findings", "findings"),
        ),
    ),
    Explanation(
        "plane",
        "The plane of the labels",
        "One frame for the states before and after: the linear map that puts the labels' bases on "
        "the corners of a regular polygon. No state takes part in the choice.",
        "ours",
        True,
        (
            ("calibration.evidence.plane", "fit_plane"),
            ("calibration.evidence.own_text", "place_text"),
        ),
    ),
    Explanation(
        "competitors",
        "Competitors",
        "Every method gets the same rows, the same split and the same seeds. Controls with random "
        "bases and shuffled labels say what the machinery reaches without meaning.",
        "Zhao et al. 2021; Khandelwal et al. 2020; Xu et al. 2023; Hu et al. 2022 (LoRA); "
        "Liu et al. 2022 (IA3)",
        False,
        (
            ("calibration.evidence.retrieval", "knn_prompting"),
            ("calibration.evidence.retrieval", "knn_lm"),
            ("calibration.evidence.probes", "fit_probe"),
            ("calibration.evidence.peft_tuning", "adapt"),
        ),
    ),
    Explanation(
        "intervals",
        "Intervals and scores",
        "Intervals are 95 % bootstraps over test rows; two methods are compared row by row. ECE is "
        "the mean gap between confidence and accuracy over 15 bins. Over several splits both the "
        "splits and the distinct rows that were tested are drawn.",
        "Efron 1979; Guo et al. 2017 (ECE); Hubert & Arabie 1985 (ARI)",
        False,
        (
            ("calibration.evidence.metrics", "bootstrap_interval"),
            ("calibration.evidence.metrics", "paired_interval"),
            ("calibration.evidence.metrics", "expected_calibration_error"),
            ("calibration.evidence.repeated", "repeat_splits"),
        ),
    ),
)
