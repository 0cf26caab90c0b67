"""Methods that ask the model: by hand from the model's own logits, prompt by prompt."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from method_tasks import quick_settings, small_context, small_task
from tiny_models import Spaces

from engine.calibration.evidence.methods import METHODS
from engine.calibration.evidence.prompting import (
    BETWEEN,
    CONTENT_FREE,
    choose_demonstrations,
    demonstrate,
    empty_prompt,
    label_logits,
    prompt_ids,
)
from engine.calibration.evidence.protocol import MethodContext
from engine.calibration.evidence.shared_prefix import common_prefix, prefixed_states
from engine.calibration.training.features import task_states
from engine.errors import PromptError
from engine.progress import drain

MODELS = ("gpt2", "llama", "gemma2", "cohere", "opt", "phi")


def own_logits(space, ids, columns) -> np.ndarray:
    """The model's own forward pass, untouched by us: its logits of some tokens after a prompt."""
    return space.model.logits(ids)[-1, columns].double().numpy()


@pytest.mark.parametrize("name", MODELS)
def test_label_logits_are_the_models(spaces: Spaces, name: str) -> None:
    """What a head makes of the state (bias, scale, soft cap included) is the model's logit."""
    space = spaces[name]
    context = small_context(space)
    columns = [t.id_used for t in context.task.label_tokens]
    found = label_logits(space.model, context.states.normed["test"], context.task.label_tokens)
    for row, ids in enumerate(context.task.ids["test"][:6]):
        np.testing.assert_allclose(found[row], own_logits(space, ids, columns), atol=2e-4)


def test_label_mean_of_tokens(spaces: Spaces) -> None:
    """A label of several tokens by the rule `mean` gets the mean of their logits."""
    space = spaces["llama"]
    task = small_task(space, word_rule="mean", label_words={"left": "xyz", "right": "w"})
    context = small_context(space, task)
    many = task.label_tokens[0]
    assert len(many.ids) > 1
    found = label_logits(space.model, context.states.normed["test"], task.label_tokens)
    hand = own_logits(space, task.ids["test"][0], list(many.ids)).mean()
    np.testing.assert_allclose(found[0, 0], hand, atol=2e-4)


def test_zero_shot_is_argmax_of_softmax(spaces: Spaces) -> None:
    """Probabilities are the softmax over the label tokens alone."""
    context = small_context(spaces["llama"])
    outcome = drain(METHODS["zero-shot"].run(context))
    columns = [t.id_used for t in context.task.label_tokens]
    logits = np.stack([own_logits(context.space, i, columns) for i in context.task.ids["test"]])
    hand = torch.softmax(torch.from_numpy(logits), 1).numpy()
    assert outcome.probabilities is not None
    np.testing.assert_allclose(outcome.probabilities, hand, atol=1e-4)
    assert (outcome.predicted == hand.argmax(1)).all()
    assert outcome.stored_bytes == 0
    assert outcome.seconds_infer > 0
    assert outcome.seconds_train == 0


def test_zero_shot_cosine_by_the_pseudo_inverse(spaces: Spaces) -> None:
    """The label bases are columns of pinv(W); the score is the cosine."""
    context = small_context(spaces["llama"])
    outcome = drain(METHODS["zero-shot-cosine"].run(context))
    bases = torch.linalg.pinv(context.space.model.anatomy.weight.detach().double()).T
    rows = bases[[t.id_used for t in context.task.label_tokens]]
    states = context.states.normed["test"].double()
    hand = torch.nn.functional.cosine_similarity(states[:, None], rows[None], dim=2)
    np.testing.assert_allclose(outcome.scores, hand.numpy(), atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_a_shared_beginning_changes_nothing(spaces: Spaces, name: str) -> None:
    """States behind a cached beginning are those of the whole prompt by itself."""
    model = spaces[name].model
    begin = model.tokenize("The king and the queen went to the old house. ").ids
    ids = [begin + model.tokenize(t, bos="no").ids for t in ("The cat", "a", "It was a sunny day")]
    assert common_prefix(ids) >= len(begin) - 1
    found = drain(prefixed_states(model, ids, batch_tokens=64))
    for row, one in zip(found, ids, strict=True):
        alone = model.read_out(model.states(one).raw[-1, -1])
        assert float((row - alone).norm() / alone.norm()) < 1e-4


def test_a_shared_beginning_is_read_once(spaces: Spaces, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what differs goes through the model; else the method's time would be wrong."""
    model = spaces["llama"].model
    begin = model.tokenize("The king and the queen went to the old house. ").ids
    ids = [(*begin, 10 + i) for i in range(20)]
    tokens = 0
    plain = model.module.forward

    def counting(*args, **kwargs):
        nonlocal tokens
        tokens += kwargs["input_ids"].numel()
        return plain(*args, **kwargs)

    monkeypatch.setattr(model.module, "forward", counting)
    drain(prefixed_states(model, ids))
    assert tokens <= 3 * len(begin) + 2 * len(ids)
    assert tokens < sum(map(len, ids)) / 2


def test_models_without_a_cache_are_read_the_plain_way(spaces: Spaces) -> None:
    """A masked model attends to both sides: no beginning of it can be cached."""
    model = spaces["bert"].model
    begin = tuple(range(20, 40))
    ids = [(*begin, 50 + i, 60) for i in range(3)]
    found = drain(prefixed_states(model, ids))
    for row, one in zip(found, ids, strict=True):
        alone = model.read_out(model.states(one).raw[-1, -1])
        assert float((row - alone).norm() / alone.norm()) < 1e-4


def test_common_prefix_by_hand() -> None:
    """The longest shared beginning, one token left to each."""
    assert common_prefix([(1, 2, 3), (1, 2, 4, 5)]) == 2
    assert common_prefix([(1, 2), (1, 2, 3)]) == 1
    assert common_prefix([(1, 2)]) == 1
    assert common_prefix([(3,), (4,)]) == 0
    with pytest.raises(PromptError, match="empty"):
        common_prefix([(1,), ()])


def test_demonstrations_are_balanced_seeded_and_fit(spaces: Spaces) -> None:
    """As many per class, another seed another choice, and the prompts stay in the context."""
    space = spaces["llama"]
    task = small_task(space)
    shown = choose_demonstrations(space.model, task, seed=1, context_tokens=90)
    labels = task.labels["train"][list(shown.rows)]
    assert shown.shots >= 1
    assert np.bincount(labels, minlength=2).tolist() == [shown.shots] * 2
    assert shown.rows != choose_demonstrations(space.model, task, seed=2, context_tokens=90).rows
    assert shown == choose_demonstrations(space.model, task, seed=1, context_tokens=90)
    ids = prompt_ids(space.model, task, shown, task.prompts["test"], context_tokens=90)
    assert max(len(i) for _, i in ids) <= 90
    cut = sum(skip > 0 for skip, _ in ids)
    assert cut / len(ids) <= 0.05


def test_too_long_prompts_lose_demonstrations_from_the_front(spaces: Spaces) -> None:
    """What is dropped is the front; the prompt itself stays whole where it fits."""
    space = spaces["llama"]
    task = small_task(space)
    shown = choose_demonstrations(space.model, task, seed=1, shots=2, context_tokens=128)
    [(skip, ids)] = prompt_ids(
        space.model, task, shown, task.prompts["test"][:1], context_tokens=60
    )
    whole = "".join(shown.texts[skip:]) + task.prompts["test"][0]
    assert 0 < skip < len(shown.texts)
    assert ids == space.model.tokenize(whole).ids
    [(skip, ids)] = prompt_ids(space.model, task, shown, task.prompts["test"][:1], context_tokens=8)
    assert ids == space.model.tokenize(task.prompts["test"][0]).ids[-8:]


def test_nothing_fits_means_zero_shot(spaces: Spaces) -> None:
    """Where not one demonstration fits, the answer is that of the bare prompt, and says so."""
    context = small_context(spaces["llama"], shots=None, context_tokens=26)
    outcome = drain(METHODS["in-context"].run(context))
    zero = drain(METHODS["zero-shot"].run(context))
    assert outcome.settings["shots"] == 0
    assert "zero-shot" in outcome.notes[0]
    np.testing.assert_allclose(outcome.scores, zero.scores, atol=1e-4)


def test_in_context_by_hand(spaces: Spaces) -> None:
    """The model's own logits after demonstrations, blank line, prompt."""
    context = small_context(spaces["llama"])
    outcome = drain(METHODS["in-context"].run(context))
    shown = choose_demonstrations(context.space.model, context.task, seed=1, shots=1)
    assert shown.texts[0] == demonstrate(context.task, shown.rows[0])
    assert shown.texts[0].endswith(BETWEEN)
    columns = [t.id_used for t in context.task.label_tokens]
    for row, prompt in enumerate(context.task.prompts["test"][:5]):
        ids = context.space.tokenize("".join(shown.texts) + prompt).ids
        np.testing.assert_allclose(
            outcome.scores[row], own_logits(context.space, ids, columns), atol=5e-4
        )


def test_contextual_calibration_by_hand(spaces: Spaces) -> None:
    """q ∝ p / p_cf, each from the model's own forward pass."""
    context = small_context(spaces["llama"])
    outcome = drain(METHODS["contextual-calibration"].run(context))
    shown = choose_demonstrations(context.space.model, context.task, seed=1, shots=1)
    columns = [t.id_used for t in context.task.label_tokens]

    def probabilities(prompt: str) -> np.ndarray:
        ids = context.space.tokenize("".join(shown.texts) + prompt).ids
        raised = np.exp(own_logits(context.space, ids, columns))
        return raised / raised.sum()

    free = np.mean([probabilities(empty_prompt(context.task, t)) for t in CONTENT_FREE], axis=0)
    assert outcome.probabilities is not None
    for row, prompt in enumerate(context.task.prompts["test"][:5]):
        hand = probabilities(prompt) / free
        np.testing.assert_allclose(outcome.probabilities[row], hand / hand.sum(), atol=1e-3)


def test_content_free_input_becomes_uniform(spaces: Spaces) -> None:
    """A law of the method: the mean content-free input itself comes out uniform."""
    context = small_context(spaces["llama"])
    free = np.array([0.9, 0.1])
    calibrated = free / free
    assert np.allclose(calibrated / calibrated.sum(), 0.5)
    texts = [empty_prompt(context.task, t) for t in CONTENT_FREE]
    assert texts[0] == "N/A ="
    assert texts[1].strip() == "="


def test_whole_prompts_give_the_same_answers(spaces: Spaces) -> None:
    """Sharing the beginning is a matter of time alone."""
    space = spaces["llama"]
    shared = drain(METHODS["knn-prompting"].run(small_context(space)))
    whole = drain(METHODS["knn-prompting"].run(small_context(space, share_prefix=False)))
    assert shared.settings == whole.settings
    np.testing.assert_allclose(shared.scores, whole.scores, atol=1e-5)


def test_more_demonstrations_than_the_model_takes(spaces: Spaces) -> None:
    """Asked for by number, they are cut down to what fits instead of failing."""
    space = spaces["llama"]
    context = small_context(space, shots=6)
    shown = choose_demonstrations(space.model, context.task, seed=1, shots=6)
    assert sum(len(space.tokenize(t).ids) for t in shown.texts) > space.model.max_tokens
    outcome = drain(METHODS["in-context"].run(context))
    assert outcome.settings["shots"] == 6
    assert "lost some" in outcome.notes[0]


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_the_models_own_answer_is_of_the_last_layer(spaces: Spaces, layer: int) -> None:
    """Whatever layer is calibrated: zero-shot is the model's logits, by a pass of its own."""
    space = spaces["llama"]
    task = small_task(space)
    states = drain(task_states(space, task, layers=(layer,)))
    context = MethodContext(space=space, task=task, states=states, settings=quick_settings())
    got = drain(METHODS["zero-shot"].run(context)).scores
    columns = [token.id_used for token in task.label_tokens]
    for row, ids in enumerate(task.ids["test"]):
        own = own_logits(space, ids, columns)
        np.testing.assert_allclose(got[row], own, atol=1e-4)
