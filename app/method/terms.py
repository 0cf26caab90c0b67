"""The words of the pages, each explained once.

Every number on every page links to its word on the Method page and carries the same sentence as its
tooltip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """A word of the pages, in plain words."""

    key: str
    name: str
    entry: str | None
    """The formula that belongs to it."""
    plain: str

    @property
    def anchor(self) -> str:
        """Its place on the Method page."""
        return f"term-{self.key}"


_TERMS = (
    Term("token", "token", None,
         "A piece of text that the model reads and writes as one: a word, a part of one, a sign."
         " Spaces are drawn as ␣, line ends as ⏎."),
    Term("layer", "layer", None,
         "A step of the model's work. Layer 0 is the embedding, before any block; the last layer"
         " is what the head reads to predict the next token."),
    Term("causal", "causal map", "causal",
         "A prompt and another one that differs in a word: the other's state is put in at one layer"
         " and position at a time, and the colour says how much of the answer comes over."),
    Term("nudge", "smallest nudge", "nudge",
         "The change of the last state that makes the model say another token, and disturbs all"
         " others least."),
    Term("position", "position", None,
         "Where a token stands in the prompt, counted from 0. The state at a position has read"
         " the tokens up to it and predicts the one after it."),
    Term("state", "hidden state", None,
         "The list of d numbers that the model holds at one layer and one position: a point in"
         " latent space."),
    Term("normed", "final-normed or raw", "matmul",
         "The head only ever reads states that went through the final norm. Final-normed passes"
         " each layer's state through it first; raw leaves it as it is."),
    Term("basis", "semantic basis", "output",
         "The point in latent space that belongs to one vocabulary token: the state that comes"
         " closest to making the head say this token and nothing else."),
    Term("frame", "frame", "output",
         "One reference point per vocabulary token. There are several ways to choose them; the"
         " random one is the control."),
    Term("geometry", "geometry", "cosine",
         "How nearness to a reference point is measured: by angle (cosine), by distance (squared"
         " L2) or by the matrix product that the model itself uses."),
    Term("score", "score", "cosine",
         "How near a state stands to a token's reference point. Larger is nearer, in every"
         " geometry."),
    Term("probability", "probability", "softmax",
         "The softmax of all the scores of a cell, divided by the temperature. They sum to 1 over"
         " the whole vocabulary."),
    Term("temperature", "temperature", "softmax",
         "What scores are divided by before the softmax. Cosines lie so close together that at 1"
         " all tokens come out nearly equal, so each geometry has a default of its own."),
    Term("entropy", "entropy", "softmax",
         "How undecided a cell is, in nats: 0 when one token has all the probability, the"
         " logarithm of the vocabulary's size when all have the same."),
    Term("rank", "rank", "rank",
         "A token's place when all tokens are sorted by score; 1 is the nearest. Exact, counted"
         " over the whole vocabulary."),
    Term("kl", "KL divergence", "kl",
         "How far the prediction at this layer, read by the model's own head, still is from the"
         " final one, in nats; 0 when equal."),
    Term("answer", "the model's answer", None,
         "The token that the model itself finds most probable after a position: the first token"
         " of its last layer's own logits."),
    Term("agreement", "agreement", "agreement",
         "How often a reading's first token is the model's own prediction at that position."),
    Term("overlap", "overlap", "agreement",
         "What share of a reading's first k tokens stands among the first k of the model's own"
         " prediction too."),
    Term("region", "semantic region", "region",
         "All the states for which the same token is the nearest. A state always lies in the"
         " region of its first token."),
    Term("border", "distance to the border", "region",
         "How far the state would have to move until another token became the nearest: an angle"
         " in radians for cosine, else a length."),
    Term("crossing", "crossing", "region",
         "A layer at which the state enters the region of another token than below."),
    Term("target", "similarity to the answer", "target",
         "The cosine between the state and the output-side basis of the model's answer: 1 is the"
         " same direction, 0 a right angle."),
    Term("virtual", "virtual path", "virtual",
         "The straight way from the current token's input basis to the answer's output basis, in"
         " equal steps over the layers."),
    Term("deviation", "deviation", "virtual",
         "How far the state's direction is from the virtual path at this layer: 0 on it, 1 at a"
         " right angle, 2 opposite."),
    Term("gain", "gain", "virtual",
         "How much of the deviation this layer took away; negative where it added some."),
    Term("alignment", "alignment", "virtual",
         "The cosine between the step that the layer took and the step of the virtual path."),
    Term("isotropy", "isotropy", "isotropy",
         "How evenly vectors fill the directions around them: near 1 evenly, near 0 all in one"
         " narrow cone. Centred: after the mean is taken away."),
    Term("share", "share", "resolution",
         "What part of the state a token accounts for when the state is written exactly as a sum"
         " over the vocabulary. Signed shares may be negative; both kinds sum to 1."),
    Term("in-words", "in a few words", "pursuit",
         "The state as a sum of at most ten reference points, none with a negative weight. Ten"
         " random directions of as many explain something too, so only what exceeds them counts."),
    Term("context", "nearest context", "contexts",
         "A place in another text where the model's state at the same layer points most nearly the"
         " same way. Shuffled texts say how much of that the word alone makes."),
    Term("logit", "logit", "matmul",
         "The head's raw output for a token, before the softmax; also the token's coordinate in"
         " the frame of semantic bases."),
    Term("norm", "norm", None,
         "The length of a vector."),
    Term("leverage", "leverage", "leverage",
         "How much a token has a direction of its own, from 0 to 1. Tokens that training hardly"
         " touched have little. It equals the basis's logit for its own token."),
    Term("self-logit", "self-logit", "leverage",
         "The inner product of a token's vector with its own row of the head: for a semantic"
         " basis its leverage. A head bias is not in it."),
    Term("round-trip", "round trip", "leverage",
         "How often the head, given token i's basis, finds token i most probable."),
    Term("frame-rank", "rank of the frame", "figures",
         "In how many independent directions the reference points lie; at most the width d."),
    Term("condition", "condition number", "figures",
         "The ratio of the head's strongest to its weakest direction. The larger, the more the"
         " bases differ from the raw head rows, and the more they amplify noise."),
    Term("residual", "residual", "figures",
         "The largest relative error of the four equations that define the pseudo-inverse. Around"
         " 1e-12 means the bases are exact."),
    Term("bounds", "frame bounds", "figures",
         "The least and the largest sum of squared products that a state of length 1 can have"
         " with the reference points."),
    Term("redundancy", "redundancy", "figures",
         "Reference points per dimension that they span, v / rank: how many times over the space"
         " is covered."),
    Term("centred", "centred", "centred",
         "Subtract the layer's mean state over the prompt from each state and the mean reference"
         " point from each point, so that what all of them share does not count."),
    Term("words", "words only", None,
         "List only tokens that are words or parts of words. Probabilities, entropies and ranks"
         " stay those of the whole vocabulary."),
    Term("bos", "start token", None,
         "A special token that many models expect before the text. “As the model does” asks the"
         " model's own tokenizer."),
    Term("chat", "chat template", None,
         "Wraps the prompt as a user's message, the way the model was trained to be talked to."),
    Term("settling", "settling layer", "settling",
         "The first layer from which on a reading stays as good as that of the last layer: from"
         " there on nothing more is decided about the token."),
    Term("deep-thinking", "deep-thinking ratio", "settling",
         "The share of new tokens that settle only in the last 15 % of the layers."),
    Term("seed", "seed", "sampling",
         "The number from which the draws of a text begin; the same seed writes the same text."),
    Term("self-check", "self-check", None,
         "What Lexiscope tests on every model it loads, above all that reading the last layer"
         " gives the model's own logits."),
)  # fmt: skip
TERMS: Mapping[str, Term] = {term.key: term for term in _TERMS}
