"""The loss without logits: TRL's own values and gradients, for frozen and trained heads, and what is left to TRL."""

import pytest
import torch
from trl.trainer import sft_trainer

from ft_magic.backends import cross_entropy

TRLS = cross_entropy._trl


def rows(seed=0, width=24, vocabulary=97, *, trained=False, bias=False):
    torch.manual_seed(seed)
    hidden = torch.randn(3, 190, width, requires_grad=True)
    weight = torch.randn(vocabulary, width, requires_grad=trained)
    labels = torch.randint(0, vocabulary, (3, 190))
    labels[:, :30] = -100
    labels[1, 150:] = -100
    extra = torch.randn(vocabulary, requires_grad=trained) if bias else None
    return hidden, weight, labels, extra


def told(function, hidden, weight, labels, extra, **more):
    for tensor in (hidden, weight, extra):
        if tensor is not None:
            tensor.grad = None
    found = function(hidden, weight, 256, labels=labels, lm_head_bias=extra, **more)
    if found[0].requires_grad:
        (3 * found[0]).backward()
    return found, [None if t is None else t.grad for t in (hidden, weight, extra)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("items", [None, 40, torch.tensor(40)])
def test_loss_gradients_and_figures_equal_trls(trained, bias, items):
    given = rows(trained=trained, bias=bias)
    mine, my_gradients = told(cross_entropy.loss_of_labels, *given, num_items_in_batch=items)
    theirs, their_gradients = told(TRLS, *given, num_items_in_batch=items)
    for a, b in zip(mine, theirs, strict=True):
        assert torch.allclose(a.double(), b.double(), rtol=1e-5)
    for a, b in zip(my_gradients, their_gradients, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, atol=1e-5)


def test_more_labels_than_one_piece_and_none_at_all():
    hidden, weight, labels, _ = rows()
    assert (labels != -100).sum() > 2 * cross_entropy.ROWS
    labels[:] = -100
    (loss, right, _, count), gradients = told(cross_entropy.loss_of_labels, hidden, weight, labels, None)
    assert (float(loss), float(right), int(count)) == (0, 0, 0)
    assert not gradients[0].any()


def test_large_logits_neither_overflow_nor_lose_the_loss():
    hidden, weight, labels, _ = rows()
    exact = torch.nn.functional.cross_entropy(
        (1e3 * hidden.detach().double()[:, :-1] @ weight.double().t()).flatten(0, 1), labels[:, 1:].flatten()
    )
    loss = cross_entropy.loss_of_labels(1e3 * hidden, weight, 256, labels=labels)[0]
    assert torch.allclose(loss.double(), exact, rtol=1e-5)


def test_nothing_is_differentiated_in_evaluation():
    hidden, weight, labels, _ = rows()
    with torch.no_grad():
        mine = cross_entropy.loss_of_labels(hidden, weight, 256, labels=labels)
    assert not mine[0].requires_grad
    assert torch.allclose(mine[0], TRLS(hidden, weight, 256, labels=labels)[0].detach(), rtol=1e-5)


@pytest.mark.parametrize("more", [{"logit_scale": 0.5}, {"final_logit_softcapping": 3.0}])
def test_scaled_and_capped_logits_are_trls(more):
    hidden, weight, labels, _ = rows()
    mine, mine_gradients = told(cross_entropy.loss_of_labels, hidden, weight, labels, None, **more)
    theirs, their_gradients = told(TRLS, hidden, weight, labels, None, **more)
    assert torch.equal(mine[0], theirs[0])
    assert torch.equal(mine_gradients[0], their_gradients[0])


def test_a_trl_with_another_signature_is_left_alone(monkeypatch):
    def changed(hidden_states, lm_head_weight):
        raise AssertionError

    monkeypatch.setattr(cross_entropy, "_trl", changed)
    monkeypatch.setattr(sft_trainer, "_chunked_cross_entropy_loss", changed)
    assert not cross_entropy.use_own()
    assert sft_trainer._chunked_cross_entropy_loss is changed
