"""The Act page: one change inside the model, and the answer before and after it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse
from pydantic import Field
from starlette.background import BackgroundTask
from starlette.responses import RedirectResponse, Response

from app.act.examples import EXAMPLES, FRANCE, Example
from app.act.many import ManyQuestion
from app.act.question import ActingQuestion, GoingOn, PartName
from app.act.reading import RUNNER_UP, ActReading, Colour, read
from app.act.work import start_causal
from app.calibrate.sets import Sets
from app.figures.act import COLUMNS, causal, controls, ranks, reading
from app.figures.theme import FRAMES, payload
from app.jobs.lanes import JobsDep
from app.method.terms import TERMS, Term
from app.model.explorer import Explorer, ExplorerDep
from app.model.recording import asked, recording, run_of
from app.web.questions import FormQuestion, PageQuestion, PromptText, ShortText, ask
from app.web.rendering import Page, as_text, link, render
from app.web.words import Choice, choices, seconds
from engine.errors import InputError, NonFiniteError
from engine.frames.kinds import FRAMES as FRAMES_BY_NAME
from engine.interventions.action import PARTS, Action, default_layer
from engine.interventions.effect import Answer
from engine.interventions.sentences import spans
from engine.model.vocabulary import Token, visible

router = APIRouter(include_in_schema=False)
PAGE = Page("Act", "/act", router, takes_prompt=True)
DOES = (
    ("steer", "steer", "Push the state along a token's direction."),
    ("swap", "swap", "Exchange the directions of two tokens."),
    ("ablate", "ablate", "Take a token's direction out of the state."),
    ("zero", "zero", "Switch a block, its attention or its MLP off."),
    ("scale", "scale", "Multiply what a block, its attention or its MLP gives."),
    ("patch", "patch", "Put in the state that another prompt has there."),
)
_COLOURS = (
    ("moved", "how far the state moved", "As a share of its length."),
    ("kl", "KL of the readings", "Before to after, nats."),
    ("rank", "rank of the watched token", "Before → after, by cosine."),
)
_PARTS = tuple((part, {"mlp": "MLP"}.get(part, part)) for part in PARTS)


class ActQuery(ActingQuestion, GoingOn, PageQuestion):
    """The whole state of the page."""

    prompt: PromptText | None = None
    do: Literal["steer", "swap", "ablate", "zero", "scale", "patch"] = "steer"
    token: ShortText | None = None
    foil: ShortText | None = None
    texts: PromptText = ""
    """One a line."""
    texts_from: PromptText = ""
    random: int | None = Field(None, ge=0, le=1_000_000)
    part: PartName = "block"
    source: PromptText | None = None
    twin: PromptText | None = None
    colour: Colour = "moved"
    """What the grid with the action is coloured by."""

    def action(self) -> Action:
        """The engine's action; raises OptionError."""
        where = self.where()
        if not FRAMES_BY_NAME[self.frame].dialled:
            where["alpha"] = where["ridge"] = None
        texts, away = (
            tuple(line for line in text.splitlines() if line.strip())
            for text in (self.texts, self.texts_from)
        )
        match self.do:
            case "steer" | "ablate" if texts or self.random is not None:
                own: dict[str, Any] = {"texts": texts, "texts_from": away, "random": self.random}
                return Action(kind=self.do, **own, **where)
            case "steer" if self.token is None:
                return replace(RUNNER_UP, **where)
            case "zero" | "scale":
                return Action(kind=self.do, part=self.part, **where)
            case "patch":
                return Action(kind=self.do, source=self.source, **where)
        foil = None if self.do == "ablate" else self.foil
        return Action(kind=self.do, token=self.token, foil=foil, **where)


@dataclass(frozen=True)
class ActPage:
    """What ``act/page.html`` shows."""

    query: ActQuery
    examples: tuple[Choice, ...]
    look: str | None
    does: tuple[Choice, ...]
    frames: tuple[Choice, ...]
    parts: tuple[Choice, ...]
    colours: tuple[Choice, ...]
    kept: tuple[tuple[str, object], ...]
    """State that no visible field of this action holds."""
    default_layer: int
    layers: int
    """With the embedding."""
    found: ActReading | None
    where: str
    """Layers and positions in words."""
    token: Callable[[Any], Token]
    """A result's id and text as a token that can be shown."""
    rows: tuple[tuple[str, float, int, Answer], ...]
    """(what is done, probability of the target, its rank, answer)."""
    figures: Mapping[str, dict[str, Any]]
    window: str
    takes: str | None
    """What the causal map would take."""
    map_action: str
    many_action: str
    sets: tuple[Choice, ...]
    many_fields: tuple[tuple[str, object], ...]
    exports: Mapping[str, str]
    problem: str | None
    terms: Mapping[str, Term]


_FIELDS = {
    "steer": ("token", "foil", "dose", "absolute", "random", "texts", "texts_from", "frame",
              "alpha", "ridge"),
    "swap": ("token", "foil", "frame", "alpha", "ridge"),
    "ablate": ("token", "random", "texts", "texts_from", "frame", "alpha", "ridge"),
    "zero": ("part",),
    "scale": ("part", "factor"),
    "patch": ("source",),
}  # fmt: skip
_ALWAYS = ("prompt", "layers", "positions", "target", "bos", "chat", "generate", "temperature",
           "seed")  # fmt: skip


@router.get("/act", response_class=HTMLResponse)
async def act_page(request: Request, explorer: ExplorerDep) -> HTMLResponse:
    """The page; a mistake is a sentence where the result would stand."""
    facts = explorer.facts()
    query, mistake = ask(ActQuery, request)
    known = EXAMPLES.get(facts.fingerprint, ())
    if not request.query_params and known:
        query = ActQuery.model_validate(known[0].state)
    if query.prompt is None:
        query = query.model_copy(update={"prompt": FRANCE})
    found, problem = None, mistake
    if mistake is None:
        try:
            found = await explorer.ask(
                request,
                read,
                query.prompt or "",
                query.action(),
                query.twin,
                request.app.state.runs,
                query.writing(),
                query.colour,
            )
        except (InputError, NonFiniteError) as error:
            problem = str(error)
    kept: Sets = request.app.state.sets
    sets = [(one.id, one.name) for one in await asyncio.to_thread(kept.all)]
    context = _page(request, query, known, found, problem, facts.blocks, sets)
    answer = render(
        request,
        "act/page.html",
        context,
        fragment="act/_result.html",
        status=422 if problem else 200,
    )
    if found is not None and request.query_params:
        answer.background = _recording(request, explorer, query, found)
    return answer


def _recording(
    request: Request, explorer: Explorer, query: ActQuery, found: ActReading
) -> BackgroundTask | None:
    question = asked(query, ActQuery.model_fields.keys() - PageQuestion.model_fields.keys())
    reading = f"{found.effect.action.kind}, {where(found)}"
    run = run_of(explorer.facts(), "act", question, prompt=query.prompt or "", reading=reading)
    return recording(request, explorer, run, found)


class TwinForm(FormQuestion):
    """What the form of the causal map sends."""

    prompt: PromptText
    twin: PromptText


@router.post("/act/causal")
async def map_form(
    request: Request, form: Annotated[TwinForm, Form()], explorer: ExplorerDep, jobs: JobsDep
) -> Response:
    """Begin a causal map; the job's page shows how far it is."""
    job = await start_causal(request, explorer, jobs, form.prompt, form.twin)
    return RedirectResponse(link(request, f"/jobs/{job.id}"), 303)


def _link(request: Request, query: ActQuery, **changes: Any) -> str:
    fields = ActQuery.model_fields
    state = query.model_dump(exclude_defaults=True) | changes
    kept = {k: v for k, v in state.items() if k == "prompt" or v != fields[k].default}
    for name in ("dose", "factor", "alpha", "ridge", "temperature"):
        if isinstance(kept.get(name), float):
            kept[name] = f"{kept[name]:g}"
    return link(request, "/act", **kept)


def _page(
    request: Request,
    query: ActQuery,
    known: tuple[Example, ...],
    found: ActReading | None,
    problem: str | None,
    blocks: int,
    sets: list[tuple[str, str]],
) -> ActPage:
    shown = (*_ALWAYS, *_FIELDS[query.do], "do")
    defaults = ActQuery.model_fields
    state = query.model_dump()
    # The twin's field and the colours stand in the result.
    shown = shown if found is None else (*shown, "twin", "colour")
    kept = [(n, v) for n, v in state.items() if n not in shown and v != defaults[n].default]
    asked = query.model_dump(exclude_defaults=True)
    examples = tuple(
        Choice(
            one.title,
            one.title,
            ActQuery.model_validate(one.state).model_dump(exclude_defaults=True) == asked,
            one.look,
            link(request, "/act", **one.state),
        )
        for one in known
    )
    does = tuple(
        Choice(name, title, name == query.do, what, _link(request, query, do=name))
        for name, title, what in DOES
    )
    return ActPage(
        query=query,
        examples=examples,
        look=next((one.help for one in examples if one.chosen), None),
        does=does,
        frames=choices(FRAMES, query.frame),
        parts=choices(_PARTS, query.part),
        kept=tuple(kept),
        default_layer=default_layer(blocks),
        layers=blocks + 1,
        found=found,
        where="" if found is None else where(found),
        token=token,
        rows=() if found is None else rows(found),
        figures={} if found is None else figures(found),
        colours=choices(_COLOURS, query.colour),
        window="" if found is None else window(found),
        takes=None if found is None or found.seconds is None else seconds(found.seconds),
        map_action=link(request, "/act/causal"),
        many_action=link(request, "/act/many"),
        sets=choices([("", "none"), *sets], ""),
        many_fields=tuple(
            (name, as_text(value))
            for name, value in asked.items()
            if name in ManyQuestion.model_fields and name != "target"
        ),
        exports={} if found is None else _exports(request, query, found),
        problem=problem,
        terms=TERMS,
    )


def token(one: Any) -> Token:
    """A result's id and text as a token that can be shown."""
    return Token(one.id, one.text, visible(one.text))


def where(found: ActReading) -> str:
    """Layers and positions in words."""
    effect = found.effect
    return f"layer {spans(effect.layers)}, position {spans(effect.positions)}"


def rows(found: ActReading) -> tuple[tuple[str, float, int, Answer], ...]:
    """What the table of the controls shows."""
    effect = found.effect
    target = effect.target
    return (
        ("as it is", target.probability_before, target.rank_before, effect.before),
        ("this action", target.probability_after, target.rank_after, effect.after),
        *((one.what, one.probability_after, one.rank_after, one.answer) for one in effect.controls),
    )


def figures(found: ActReading) -> dict[str, dict[str, Any]]:
    """The figures of an action, by their names."""
    if found.cells is None:
        after = reading(found.after, cells=found.effect.moved, what="moved by")
    elif found.colour == "kl":
        after = reading(found.after, cells=found.cells.divergence, what="KL")
    else:
        after = ranks(found.after, found.cells.rank_before, found.cells.rank_after)
    out = {
        "controls": payload(controls(found.effect)),
        "before": payload(reading(found.before)),
        "after": payload(after),
    }
    if found.causal is not None:
        out["causal"] = payload(causal(found.causal))
    return out


def window(found: ActReading) -> str:
    """Which positions are drawn, where not all are."""
    count = len(found.before.tokens)
    return f"The last {COLUMNS} of {count} positions." if count > COLUMNS else ""


def _exports(request: Request, query: ActQuery, found: ActReading) -> dict[str, str]:
    """The same numbers elsewhere."""
    action = found.effect.action
    names: dict[str, dict[str, Any]] = {
        "steer": {"steer": _id(action.token), "from": _id(action.foil), "random": action.random,
                  "texts": action.texts, "texts_from": action.texts_from},
        "swap": {"swap": (_id(action.token), _id(action.foil))},
        "ablate": {"ablate": _id(action.token)},
        "zero": {"zero": action.part},
        "scale": {"scale": action.part, "factor": action.factor},
        "patch": {"patch_from": action.source},
    }  # fmt: skip
    own = (set(ActingQuestion.model_fields) | set(GoingOn.model_fields)) - {"factor"}
    where = query.model_dump(include=own, exclude_defaults=True)
    plain = Action(kind="zero")
    fields = {
        name: value
        for name in Action.__dataclass_fields__
        if (value := getattr(action, name)) != getattr(plain, name) and name != "kind"
    }
    knobs = "".join(f",\n    {name}={value!r}" for name, value in fields.items())
    return {
        "json": link(request, "/api/v1/act", prompt=query.prompt, **names[action.kind], **where),
        "permalink": _link(request, query, prompt=query.prompt),
        "python": "from engine import load\n\n"
        f"space = load()\nwith space.act(\n    {action.kind!r}{knobs},\n):\n"
        f"    trace = space.trace({query.prompt!r})",
    }


def _id(token: int | str | None) -> str | None:
    return None if token is None else f"#{token}"
