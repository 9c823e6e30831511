"""Guidance: functions from denoisers to a denoiser, which therefore compose, and run under every sampler.

Guidance moves x̂0 along a difference: between what two networks say, or along the gradient of a classifier. In terms
of x̂0 every rule here is one line, because x̂0, ε̂, v and the score are affine in one another at fixed x_t and t.
A learned variance is left as the conditional denoiser has it, which is what GLIDE's code does.
Chapter 8 derives the rules, and shows what they do not do: a guided score is, in general, of no noised distribution.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from diffusion_book._checks import not_a_tensor, share
from diffusion_book.conditions import Conditions, checked
from diffusion_book.denoise import Answer, Denoiser, Estimate, from_network, on_x0, v_of, x0_of
from diffusion_book.predictions import Prediction, clip
from diffusion_book.schedules import Schedule, expand

Weight = float | Tensor
"""How much guidance: one number, or [B], one for each example. 1 is none."""


def classifier_free(conditional: Denoiser, unconditional: Denoiser, w: Weight, phi: float = 0.0) -> Denoiser:
    """x̂0 = u + w (c − u): from the unconditional estimate u to the conditional one c, and beyond (chapter 8).

    A negative condition is one to move away from: pass its denoiser in the place of the unconditional one.

    At each noise level the guided score, (1 − w) ∇ log p(x_t) + w ∇ log p(x_t|c), is that of p(x_t)p(c|x_t)^w. That
    is not p(x)p(c|x)^w with noise added, unless w is 0 or 1: to sharpen and to noise do not commute.

    Args:
        conditional, unconditional: from (x_t [B, …], t [B]) to x̂0 [B, …].
        w: 1 is the conditional denoiser itself and 0 the unconditional one, v and all, each without asking the other.
            Papers that write (1 + s) c − s u, with s = 0 for none, mean w = 1 + s. With [B] numbers each example has
            its own.
        phi: how far to bring back the spread of c, from 0 to 1; as `rescale`, but c is asked once.

    Raises:
        ValueError: w is not finite, or phi is outside [0, 1]; when it runs, the two disagree in shape.

    Source: Ho and Salimans 2022, equation 6; with phi, Lin et al. 2024, section 3.4.
    """
    _check_phi(phi)
    return _extrapolate(conditional, unconditional, w, phi)


def classifier_free_batched(
    network: Callable[..., Tensor],
    schedule: Schedule,
    prediction: Prediction,
    conditional: Conditions,
    unconditional: Conditions,
    w: Weight,
    phi: float = 0.0,
    x0_max: float | None = None,
    learned_variance: bool = False,
) -> Denoiser:
    """`classifier_free` on one network, asked once with a batch of 2B rather than twice with B (chapter 8).

    On an accelerator one call of twice the size is faster; it takes twice the memory of activations.

    Args:
        network, schedule, prediction, x0_max: as in `denoise.from_network`.
        conditional: the network's conditions by name, such as {"y": y} with y [B].
        unconditional: the same names and shapes, such as {"y": torch.full_like(y, classes)} for the null class.
        w, phi: as in `classifier_free`.
        learned_variance: say the conditional v beside x̂0, as in `denoise.from_network`.

    Raises:
        ValueError: as `classifier_free`; or the conditions do not share names and shapes; when it runs, they are for
            another number of examples than x_t has.

    Source: Ho and Salimans 2022, equation 6.
    """
    _check_weight(w)
    _check_phi(phi)
    _check_pair(conditional, unconditional)
    both = {name: torch.cat([conditional[name], unconditional[name]]) for name in conditional}
    pair = from_network(network, schedule, prediction, both, x0_max, learned_variance)
    count = len(next(iter(conditional.values())))

    def denoiser(xt: Tensor, t: Tensor) -> Answer:
        if len(xt) != count:
            raise ValueError(f"the conditions are for {count} examples, got x_t with {len(xt)}")
        c, u = _halves(pair(torch.cat([xt, xt]), torch.cat([t, t])))
        return on_x0(lambda c, u: _beyond(c, u, _weight(w, xt), phi), c, u)

    return denoiser


def autoguidance(good: Denoiser, bad: Denoiser, w: Weight) -> Denoiser:
    """x̂0 = bad + w (good − bad): away from a worse version of the same model (chapter 8).

    The bad one is smaller or less trained and makes the good one's mistakes, larger. Both have the same condition,
    or none, so this sharpens without pulling towards a class.

    Args:
        good, bad: from (x_t [B, …], t [B]) to x̂0 [B, …].
        w: 1 is the good denoiser itself and 0 the bad one, each without asking the other; above 1 goes beyond.

    Raises:
        ValueError: w is not finite; when it runs, the two disagree in shape.

    Source: Karras et al. 2024, “Guiding a diffusion model with a bad version of itself”, section 4.
    """
    return _extrapolate(good, bad, w, 0.0)


def classifier(
    denoiser: Denoiser, schedule: Schedule, log_prob: Callable[[Tensor, Tensor], Tensor], w: Weight = 1.0
) -> Denoiser:
    """x̂0 + w (b²/a) ∇ log p(y|x_t), by Bayes and Tweedie (Dhariwal and Nichol 2021, section 4). Chapter 8.

    With the exact classifier of noisy x_t and w = 1 it is the exact conditional denoiser.

    Args:
        denoiser: the unconditional one.
        log_prob: from (x_t [B, …], t [B]) to log p(y|x_t) [B], in nats, differentiable in x_t; trained on noisy x_t.
        w: 1 is Bayes' rule, 0 is no guidance. (In `classifier_free` 0 and 1 mean the same.)

    Raises:
        ValueError: w is not finite; and, when it runs, log_prob gives no [B] numbers that depend on x_t, or
            a(t) = 0. There x_t says nothing, so the gradient is 0 and b²/a infinite; their product has a limit,
            E[x0|y] − E[x0], but it cannot be had from them. `interval` leaves such times to the plain denoiser.
    """
    _check_weight(w)

    def guided(xt: Tensor, t: Tensor) -> Answer:
        _, a, b = schedule.at(t)
        if bool((a == 0).any()):
            raise ValueError(
                "a classifier cannot guide where a(t) = 0: the gradient is 0 there and b²/a infinite; leave that time "
                "to the plain denoiser with interval(guided, plain, schedule, 0, sigma_high), or start below T"
            )
        shift = _weight(w, xt) * expand(b**2 / a, xt) * _gradient(log_prob, xt, t)
        return on_x0(lambda x0_hat: x0_hat + shift, denoiser(xt, t))

    return guided


def interval(
    guided: Denoiser,
    plain: Denoiser,
    schedule: Schedule,
    sigma_low: float,
    sigma_high: float = math.inf,
) -> Denoiser:
    """Guidance only where σ_low < σ_t ≤ σ_high, with σ = b/a (Kynkäänniemi et al. 2024, section 3). Chapter 8.

    At high noise guidance throws samples together, at low noise it changes little: both cost quality or time.

    Args:
        guided: asked for times inside the interval only.
        plain: asked for times outside only. A batch that has times of both kinds needs both.
        sigma_low, sigma_high: 0 ≤ σ_low < σ_high; infinity, which is where a = 0, belongs to an infinite σ_high.

    Raises:
        ValueError: the interval is empty or its ends are no numbers; when it runs, one of the two has a learned
            variance and the other none.
    """
    if not 0 <= sigma_low < sigma_high:
        raise ValueError(f"expected 0 ≤ sigma_low < sigma_high, got {sigma_low} and {sigma_high}")
    kinds = set()

    def checked(answer: Answer) -> Answer:
        kinds.add(v_of(answer) is not None)
        if len(kinds) > 1:
            raise ValueError(
                "one of the two denoisers returns a learned variance and the other none; set learned_variance alike"
            )
        return answer

    def denoiser(xt: Tensor, t: Tensor) -> Answer:
        sigma = schedule.at(t).sigma
        inside = (sigma > sigma_low) & (sigma <= sigma_high)
        if bool(inside.all()):
            return checked(guided(xt, t))
        if not bool(inside.any()):
            return checked(plain(xt, t))
        keep, x, y = expand(inside, xt).bool(), checked(guided(xt, t)), checked(plain(xt, t))
        x0_hat, v, w = torch.where(keep, x0_of(x), x0_of(y)), v_of(x), v_of(y)
        return x0_hat if v is None or w is None else Estimate(x0_hat, torch.where(keep, v, w))

    return denoiser


def rescale(guided: Denoiser, conditional: Denoiser, phi: float = 0.7) -> Denoiser:
    """Give x̂0 the spread that the conditional one has (Lin et al. 2024, section 3.4). Chapter 8.

    Guidance makes x̂0 too large, and pictures too bright: here it is multiplied by φ std(c)/std(guided) + 1 − φ, the
    standard deviations taken over all numbers of one example. Around classifier-free guidance prefer the argument
    `phi` of `classifier_free`, which is the same and asks the conditional network once.

    Args:
        guided: what is to be rescaled.
        conditional: whose spread is taken.
        phi: 0 changes nothing, 1 makes the spread equal; 0.7 is their choice.

    Raises:
        ValueError: phi is outside [0, 1].
    """
    _check_phi(phi)
    return lambda xt, t: on_x0(lambda x, c: _rescaled(x, c, phi), guided(xt, t), conditional(xt, t))


def threshold(denoiser: Denoiser, x0_max: float = 1.0, quantile: float = 1.0) -> Denoiser:
    """Bring a guided x̂0 back into ±x0_max (Saharia et al. 2022, section 2.3 and appendix A.2). Chapter 8.

    Guidance leaves the range of the data even where both of its networks are clipped to it, so this goes outermost.

    Args:
        denoiser: of pictures whose numbers lie in ±x0_max.
        quantile: 1 clips ("static"). Below 1 an example whose |x̂0| has a quantile s beyond x0_max is first clipped
            to ±s and then divided by s/x0_max ("dynamic"; 0.995 is usual), which keeps detail where clipping is flat.

    Raises:
        ValueError: x0_max is not positive and finite, or the quantile is outside (0, 1].
    """
    if not (0 < x0_max < math.inf and 0 < quantile <= 1):
        raise ValueError(f"expected a finite x0_max > 0 and a quantile in (0, 1], got {x0_max} and {quantile}")

    def inside(x0_hat: Tensor) -> Tensor:
        if quantile == 1:
            return clip(x0_hat, x0_max)
        size = x0_hat.abs().flatten(1)
        size = size.to(torch.promote_types(size.dtype, torch.float32))  # torch has no quantile of less
        s = expand(size.quantile(quantile, dim=1).clamp(min=x0_max), x0_hat)
        clipped = torch.maximum(torch.minimum(x0_hat, s), -s) * (x0_max / s)
        return clipped.add_(x0_hat, alpha=0)  # as in `clip`

    return lambda xt, t: on_x0(inside, denoiser(xt, t))


def _extrapolate(to: Denoiser, start: Denoiser, w: Weight, phi: float) -> Denoiser:
    """start + w (to − start), with the spread of `to`; what w leaves out is not asked."""
    _check_weight(w)

    def denoiser(xt: Tensor, t: Tensor) -> Answer:
        if isinstance(w, int | float) and w == 1:
            return to(xt, t)
        if isinstance(w, int | float) and w == 0 and phi == 0:
            return start(xt, t)
        return on_x0(lambda x, y: _beyond(x, y, _weight(w, xt), phi), to(xt, t), start(xt, t))

    return denoiser


def _beyond(x: Tensor, y: Tensor, w: Weight, phi: float) -> Tensor:
    if x.shape != y.shape:
        raise ValueError(f"two denoisers must return x̂0 of one shape, got {tuple(x.shape)} and {tuple(y.shape)}")
    return _rescaled(y + w * (x - y), x, phi)


def _halves(answer: Answer) -> tuple[Answer, Answer]:
    """A batch of 2B as two of B."""
    (first, second), v = x0_of(answer).chunk(2), v_of(answer)
    if v is None:
        return first, second
    v_first, v_second = v.chunk(2)
    return Estimate(first, v_first), Estimate(second, v_second)


def _rescaled(guided: Tensor, conditional: Tensor, phi: float) -> Tensor:
    if phi == 0:
        return guided
    wanted, found = (expand(x.flatten(1).std(1, correction=0), x) for x in (conditional, guided))
    ratio = torch.where(found > 0, wanted / found, 1.0)  # what is constant has no spread to change
    return guided * (phi * ratio + 1 - phi)


def _gradient(log_prob: Callable[[Tensor, Tensor], Tensor], xt: Tensor, t: Tensor) -> Tensor:
    """∇ log p(y|x_t), [B, …]. It carries a graph only where x_t does, as for the likelihood of a guided model."""
    graph = torch.is_grad_enabled() and xt.requires_grad
    with torch.inference_mode(False), torch.enable_grad():
        x = xt if graph else _outside(xt).detach().requires_grad_()
        value = log_prob(x, _outside(t))
        if not isinstance(value, Tensor):
            raise not_a_tensor("log_prob", value)
        if value.shape != xt.shape[:1] or not value.requires_grad:
            kind = "" if value.requires_grad else " without a gradient; is it under torch.no_grad or inference_mode?"
            got = f"{tuple(value.shape)}{kind}"
            raise ValueError(f"log_prob must return [{len(xt)}] numbers, differentiable in x_t, got shape {got}")
        (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=graph)
    return gradient


def _outside(x: Tensor) -> Tensor:
    """What `torch.inference_mode` made has no gradient, even where that mode is off; a copy has."""
    return x.clone() if x.is_inference() else x


def _weight(w: Weight, xt: Tensor) -> Weight:
    return expand(w, xt) if isinstance(w, Tensor) else w


def _check_pair(conditional: Conditions, unconditional: Conditions) -> None:
    both = [{name: tuple(x.shape) for name, x in checked(given).items()} for given in (conditional, unconditional)]
    if both[0] != both[1] or not both[0]:
        raise ValueError(f"both conditions need the same names and shapes to share a batch, got {both[0]}, {both[1]}")


def _check_weight(w: Weight) -> None:
    value = w if isinstance(w, Tensor) else torch.tensor(w, device="cpu")
    if value.ndim > 1 or not bool(torch.isfinite(value).all()):
        raise ValueError(f"w must be a finite number, or [B] of them, got {w}; 1 is no guidance")


def _check_phi(phi: float) -> None:
    share("phi", phi, "0 leaves the spread as it is")
