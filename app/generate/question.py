"""What is asked of a text that goes on, by the page and by the API, and links that ask it again."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from app.settings import K_CEILING, NEW_TOKEN_CEILING
from app.web.questions import PageQuestion, PromptText, ReadingQuestion, undialled
from engine import GenerateOptions, TraceOptions
from engine.errors import OptionError
from engine.frames.kinds import FrameName
from engine.generation.options import SETTLED, TOKENS
from engine.reading.geometries import GeometryName

EXAMPLE = "The capital of France is"
MAX_FORKS = 8

FORK = r"[0-9]{1,4}:[0-9]{1,9}(\.[0-9]{1,4}:[0-9]{1,9}){0,15}"
ForkPath = Annotated[str, Field(max_length=256, pattern=rf"^{FORK}$")]
"""Where a text is made to go on otherwise: ``3:1234`` puts token 1234 in the place of new token 3;
a fork of a fork stands behind a point, ``3:1234.7:99``."""
Forced = tuple[tuple[int, int], ...]


class GenerateQuestion(ReadingQuestion):
    """A prompt, how it goes on, and how that is read."""

    prompt: PromptText = Field(description="The text that goes on.")
    tokens: int = Field(TOKENS, ge=1, le=NEW_TOKEN_CEILING, description="New tokens at most.")
    temperature: float | None = Field(None, ge=0, le=100, description="Of the draws: logits are "
        "divided by it. 0 takes the likeliest token; left out: 0, or 1 with top_k or top_p."
        )  # fmt: skip
    top_k: int | None = Field(None, ge=1, le=10_000_000, description="Draw among the k likeliest "
        "tokens; left out: among all.")  # fmt: skip
    top_p: float | None = Field(None, ge=1e-6, le=1, description="Draw among the fewest tokens "
        "whose probabilities sum to at least p; left out: among all.")  # fmt: skip
    seed: int = Field(0, ge=0, le=2**53, description="Of the draws.")
    fork: ForkPath | None = Field(None, description="Other tokens in the place of new ones, as "
        "number:id from 0, several with points between: 3:1234.7:99.")  # fmt: skip
    settled: float = Field(SETTLED, ge=1e-6, le=0.69, description="Nats of divergence from the "
        "last layer's reading below which a layer has settled.")  # fmt: skip
    reading_temperature: float | None = Field(None, ge=1e-3, le=1e4, description="Of the "
        "reading's probabilities; left out: the one that fits this model best.")  # fmt: skip
    k: int = Field(3, ge=1, le=K_CEILING, description="Nearest tokens per cell.")

    def options(self) -> GenerateOptions:
        """The engine's options."""
        names = TraceOptions.__dataclass_fields__.keys() & ReadingQuestion.model_fields.keys()
        own = GenerateOptions.__dataclass_fields__.keys() & type(self).model_fields.keys()
        reading = {name: getattr(self, name) for name in names}
        return GenerateOptions(
            **{name: getattr(self, name) for name in own},
            forced=forced(self.fork),
            reading=TraceOptions(**reading, temperature=self.reading_temperature),
        )


def forced(fork: str | None) -> Forced:
    """A fork as (number of the new token, id)."""
    pairs = (one.split(":") for one in fork.split(".")) if fork else ()
    return tuple((int(number), int(token)) for number, token in pairs)


class GeneratePageQuery(GenerateQuestion, PageQuestion):
    """The whole state of the page; read as the model itself does where nothing else is asked."""

    empty_counts = ("prompt",)
    prompt: PromptText = EXAMPLE
    geometry: GeometryName = "matmul"
    frame: FrameName = "head"
    forks: str | None = Field(None, max_length=2100, pattern=rf"^{FORK}(,{FORK}){{0,7}}$")
    """Branches of the text, each as :data:`app.generate.question.ForkPath`."""
    branch: Annotated[int, Field(ge=0, le=MAX_FORKS)] = 0
    """Which is shown: 0 the text itself, else one of `forks`, from 1."""
    whole: bool = False
    """Whether the page waits for the finished text."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The branches."""
        return tuple(self.forks.split(",")) if self.forks else ()

    @property
    def path(self) -> str | None:
        """The branch that is shown."""
        return ("", *self.paths)[self.branch] or self.fork

    def options(self) -> GenerateOptions:
        """The engine's options of the branch; raises where there is no such branch."""
        if self.branch > len(self.paths):
            raise OptionError(
                f"branch must be at most {len(self.paths)}, as many as there are forks; got"
                f" {self.branch}."
            )
        asked = undialled(self.model_copy(update={"fork": self.path}))
        return super(GeneratePageQuery, asked).options()
