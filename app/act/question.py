"""What is asked of an action: the fields that page, API and command line have in common."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from app.web.questions import Alpha, PromptText, Question, RangeText, Ridge, ShortText
from engine.errors import OptionError
from engine.frames.kinds import FrameName
from engine.interventions.action import DOSE, FACTOR, LARGEST, Action
from engine.interventions.written import Writing

PartName = Literal["block", "attention", "mlp"]
Strength = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
MAX_TEXTS = 64
MAX_WRITTEN = 64
Texts = Annotated[tuple[PromptText, ...], Field(max_length=MAX_TEXTS)]


class ActingQuestion(Question):
    """Where and how strongly something is done."""

    layers: RangeText | None = Field(None, description="At which layers: 25, 20:30; left out: "
        "five sixths of the way up.")  # fmt: skip
    positions: RangeText | None = Field(None, description="At which positions of the prompt; left "
        "out: the last one, for a swap all.")  # fmt: skip
    dose: Strength = Field(DOSE, description="How far to steer, in lengths of the state.")
    absolute: bool = Field(False, description="The dose is in the units of the states instead.")
    factor: Strength = Field(FACTOR, description="What 'scale' multiplies by.")
    frame: FrameName = Field("output", description="The frame that gives tokens their directions.")
    alpha: Alpha = None
    ridge: Ridge = None
    target: ShortText | None = Field(None, description="The token whose probability is watched; "
        "left out: what the action is about.")  # fmt: skip
    bos: Literal["auto", "yes", "no"] = Field("auto", description="Whether the model's first "
        "token is put before the prompt.")  # fmt: skip
    chat: bool = Field(False, description="Put the prompt into the model's chat template.")

    def where(self) -> dict[str, Any]:
        """These fields as an action takes them."""
        return {name: getattr(self, name) for name in ActingQuestion.model_fields}


class GoingOn(Question):
    """How far the text goes on, before and after."""

    generate: int = Field(0, ge=0, le=MAX_WRITTEN, description="Write so many tokens on as the "
        "model is, under the action and under a random one, held meanwhile.")  # fmt: skip
    temperature: float = Field(0.0, ge=0, le=100, description="Of the draws of what is written; 0 "
        "takes the likeliest token.")  # fmt: skip
    seed: int = Field(0, ge=0, le=2**53, description="Of the draws.")

    def writing(self) -> Writing:
        """The engine's options."""
        return Writing(self.generate, self.temperature, self.seed)


class ActQuestion(ActingQuestion, GoingOn):
    """A prompt and one thing that is done to the model while it reads it."""

    prompt: PromptText = Field(description="The text that is read.")
    steer: ShortText | None = Field(None, description="Push states towards this token.")
    foil: ShortText | None = Field(None, alias="from", description="And away from this one.")
    texts: Texts = Field((), description="Push towards the mean state after these texts instead.")
    texts_from: Texts = Field((), description="And away from the mean state after these.")
    random: Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(None, description="Push in "
        "the random direction of this seed instead.")  # fmt: skip
    swap: Annotated[tuple[ShortText, ...], Field(max_length=2)] = Field((), description="Exchange "
        "the directions of two tokens.")  # fmt: skip
    ablate: ShortText | None = Field(None, description="Take this token's direction out.")
    zero: PartName | None = Field(None, description="Switch this part of the block off.")
    scale: PartName | None = Field(None, description="Multiply what this part gives.")
    patch_from: PromptText | None = Field(None, description="Put in the states of this prompt.")

    def action(self) -> Action:
        """The engine's action.

        Raises:
            OptionError: none was named, or several.
        """
        pushed = self.steer is not None or bool(self.texts) or self.random is not None
        named: dict[str, dict[str, Any]] = {}
        if pushed:
            named["steer"] = {
                "token": self.steer,
                "foil": self.foil,
                "texts": self.texts,
                "texts_from": self.texts_from,
                "random": self.random,
            }
        if self.swap:
            if len(self.swap) != 2:
                raise OptionError("swap needs two tokens; name both.")
            named["swap"] = {"token": self.swap[0], "foil": self.swap[1]}
        if self.ablate is not None:
            named["ablate"] = {"token": self.ablate}
        for kind, part in (("zero", self.zero), ("scale", self.scale)):
            if part is not None:
                named[kind] = {"part": part}
        if self.patch_from is not None:
            named["patch"] = {"source": self.patch_from}
        if len(named) != 1:
            raise OptionError(
                "name one action: steer, swap, ablate, zero, scale or patch_from; got"
                f" {', '.join(named) or 'none'}."
            )
        ((kind, more),) = named.items()
        return Action(kind=kind, **more, **self.where())


class CausalQuestion(Question):
    """A prompt and its counterfactual twin."""

    prompt: PromptText = Field(description="The text that is read.")
    twin: PromptText = Field(description="As many tokens, some of them others, and another answer.")


class NudgeQuestion(Question):
    """A prompt, and the answer that is wanted."""

    prompt: PromptText = Field(description="The text that is read.")
    token: ShortText = Field(description="The answer that is wanted: its text, or #262 for an id.")
    bos: Literal["auto", "yes", "no"] = Field("auto", description="Whether the model's first "
        "token is put before the prompt.")  # fmt: skip
    chat: bool = Field(False, description="Put the prompt into the model's chat template.")
