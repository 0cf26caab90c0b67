"""The commands ``lexiscope act``, ``causal`` and ``nudge``: changes inside the model."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from app.act.many import ManyTable
from app.act.question import ActingQuestion, ActQuestion, GoingOn, NudgeQuestion
from app.calibrate.text_sets import example_text_set
from app.cli.options import Mistake, add, space_of
from app.cli.terminal import document, follow, visible, write
from app.model.open_model import facts_of
from app.web import export
from app.web.errors import validation_sentence
from engine.calibration.labelled.known import example_sets
from engine.interventions.action import KINDS, PARTS, Action
from engine.interventions.causal import CausalMap
from engine.interventions.effect import Effect, effect
from engine.interventions.many import Many, facts, labelled_cases, parse_cases
from engine.interventions.nudge import nudge
from engine.interventions.sentences import (
    causal_sentence,
    effect_sentence,
    many_sentence,
    nudge_sentence,
    share,
    word,
)


def register(commands: Any, model: argparse.ArgumentParser) -> None:
    """Hang the commands into the command line, with the options about the model besides."""
    act = commands.add_parser(
        "act", parents=[model], help="change the model's states, beside the controls"
    )
    act.add_argument("prompt", help="Any text.")
    what = act.add_mutually_exclusive_group(required=True)
    what.add_argument("--steer", metavar="TOKEN", help="Push states towards this token.")
    what.add_argument("--steer-texts", nargs="+", default=(), metavar="TEXT", help="Push towards "
                      "the mean state after these texts.")  # fmt: skip
    what.add_argument("--random", type=int, metavar="SEED", help="Push in a random direction.")
    what.add_argument("--swap", nargs=2, metavar=("A", "B"), help="Exchange two tokens' "
                      "directions.")  # fmt: skip
    what.add_argument("--ablate", metavar="TOKEN", help="Take this token's direction out.")
    what.add_argument("--zero", choices=PARTS, help="Switch this part of the block off.")
    what.add_argument("--scale", choices=PARTS, help="Multiply what this part gives.")
    what.add_argument("--patch-from", metavar="PROMPT", help="Put in the states of this prompt.")
    act.add_argument("--from", dest="foil", metavar="FOIL", help="Steer away from this token.")
    act.add_argument("--from-texts", nargs="+", default=(), metavar="TEXT", help="And away from "
                     "the mean state after these.")  # fmt: skip
    add(act, ActQuestion, *ActingQuestion.model_fields, *GoingOn.model_fields)
    act.add_argument("--json", action="store_true", help="The JSON of /api/v1/act.")
    act.set_defaults(run=_act)

    causal = commands.add_parser(
        "causal", parents=[model], help="where an answer comes from: a twin's states, patched in"
    )
    causal.add_argument("prompt", help="Any text.")
    causal.add_argument("twin", help="The same text with other words of as many tokens.")
    causal.add_argument("--json", action="store_true", help="The JSON of /api/v1/causal.")
    causal.set_defaults(run=_causal)

    over = commands.add_parser(
        "many", parents=[model], help="an action over many prompts, and how often it succeeds"
    )
    over.add_argument("action", choices=KINDS, help="What is done.")
    over.add_argument("--cases", type=Path, metavar="FILE", help="Lines 'prompt | target | own "
                      "answer | other prompt'. Without it: the facts that ship.")  # fmt: skip
    over.add_argument("--set", choices=sorted(example_sets()), help="Instead a label set that "
                      "ships: each text, with the next label as the wanted answer.")  # fmt: skip
    over.add_argument("--part", choices=PARTS, default="block", help="Of zero and scale.")
    names = (n for n in ActingQuestion.model_fields if n != "target")
    add(over, ActingQuestion, *names)
    form = over.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="Every case as JSON.")
    form.add_argument("--csv", action="store_true", help="A row for each case.")
    over.set_defaults(run=_many)

    smallest = commands.add_parser(
        "nudge", parents=[model], help="the smallest change of the last state that turns an answer"
    )
    smallest.add_argument("prompt", help="Any text.")
    smallest.add_argument("token", help="The answer that is wanted.")
    add(smallest, NudgeQuestion, "bos", "chat")
    smallest.add_argument("--json", action="store_true", help="The JSON of /api/v1/nudge.")
    smallest.set_defaults(run=_nudge)


def _question(given: argparse.Namespace) -> ActQuestion:
    names = ("prompt", "steer", "random", "swap", "ablate", "zero", "scale", "patch_from",
             *ActingQuestion.model_fields, *GoingOn.model_fields)  # fmt: skip
    asked = {name: value for name in names if (value := getattr(given, name)) is not None}
    if given.foil is not None:
        asked["from"] = given.foil
    asked |= {"texts": given.steer_texts, "texts_from": given.from_texts}
    try:
        return ActQuestion.model_validate(asked)
    except ValidationError as error:
        raise Mistake(validation_sentence(error.errors(include_url=False))) from None


def _act(given: argparse.Namespace) -> int:
    question = _question(given)
    action = question.action()
    space = space_of(given)
    found = effect(space, question.prompt, action, question.writing())
    if given.json:
        return document(space, found, question.prompt)
    return write(visible(_act_text(found, effect_sentence(found, space.vocabulary))))


def _act_text(found: Effect, sentence: str) -> str:
    rows = [
        ("before", found.target.probability_before, found.target.rank_before, found.before.text),
        ("after", found.target.probability_after, found.target.rank_after, found.after.text),
        *((c.what, c.probability_after, c.rank_after, c.answer.text) for c in found.controls),
    ]
    lines = [f"{what:32} {share(p):>12} {rank:>8,}  {word(text)}" for what, p, rank, text in rows]
    head = f"{'':32} {'P(target)':>12} {'rank':>8}  answer"
    said = found.written
    if said is not None:
        sides = (("before", said.before), ("once", said.once), ("held", said.after),
                 (said.what, said.control))  # fmt: skip
        lines += ["", *(f"{what}: {text!r}" for what, text in sides if text is not None)]
    return "\n".join([sentence, "", head, *lines, "", f"KL {found.kl:.4f} nats", ""])


def _causal(given: argparse.Namespace) -> int:
    space = space_of(given)
    found = follow(space.causal_map(given.prompt, given.twin))
    if given.json:
        return document(space, found, given.prompt)
    return write(visible(_causal_text(found)))


def _causal_text(found: CausalMap) -> str:
    head = "layer" + "".join(f"{token.label[:9]:>10}" for token in found.tokens)
    rows = [
        f"{layer:5}" + "".join(f"{one:10.2f}" for one in found.recovered[layer])
        for layer in reversed(found.layers)
    ]
    own, other = word(found.answers[0].text), word(found.followed.text)
    note = f"Contrast of {other} to {own} recovered: 0 as in the prompt, 1 as in its twin."
    return "\n".join([causal_sentence(found), "", note, *rows, head, ""])


def _nudge(given: argparse.Namespace) -> int:
    space = space_of(given)
    found = nudge(space, given.prompt, given.token, bos=given.bos, chat=given.chat)
    if given.json:
        return document(space, found, given.prompt)
    head = f"{'':8} {'contrast':>9} {'step':>7} {'others':>12}"
    rows = [
        f"{way.frame:8} {'none' if way.delta is None else f'{way.delta:.3f}':>9}"
        f" {way.size:7.1%} {way.others:12,.0f}"
        for way in found.ways
    ]
    return write(visible("\n".join([nudge_sentence(found), "", head, *rows, ""])))


def _many(given: argparse.Namespace) -> int:
    where = {name: getattr(given, name) for name in ActingQuestion.model_fields if name != "target"}
    swapped: dict[str, Any] = {"token": "a", "foil": "b", "source": "a"}  # each case brings its own
    action = Action(kind=given.action, part=given.part, **swapped, **where)
    if given.set is not None:
        one = example_text_set(given.set)
        cases = labelled_cases(one.read, one.labels, 100)
    else:
        cases = facts() if given.cases is None else parse_cases(_read(given.cases))
    space = space_of(given)
    found = follow(space.many(cases, action))
    if given.json:
        return document(space, found)
    if given.csv:
        return write(ManyTable(export.Source.of(facts_of(space)))(found))
    return write(visible(_many_text(found)))


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Mistake(f"{path} cannot be read as UTF-8 text ({error}).") from None


def _many_text(found: Many) -> str:
    reasons = Counter(row.why for row in found.skips)
    lines = [f"{count:5}  {why}" for why, count in reasons.most_common(12)]
    head = [f"{found.skipped} of {found.cases} prompts were skipped:"] if lines else []
    return "\n".join([many_sentence(found), "", *head, *lines, ""])
