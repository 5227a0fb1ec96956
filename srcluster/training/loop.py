"""The training loop of one worker. It knows no cluster: what goes in and out is passed to it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from srcluster import models, objectives
from srcluster.data.benchmarks import Benchmark, BenchmarkImage
from srcluster.data.degradation import augment, lr_and_hr
from srcluster.data.order import part
from srcluster.errors import UserError
from srcluster.models.network import Network
from srcluster.models.start import begin_with
from srcluster.recipe import Recipe
from srcluster.training.adversary import Adversary
from srcluster.training.checkpoint import State
from srcluster.training.evaluation import evaluate
from srcluster.training.measures import Functions, load_measures
from srcluster.training.meter import Meter
from srcluster.training.optimizer import learning_rate_factor, make_optimizer, set_learning_rates
from srcluster.training.precision import Precision, choose_together
from srcluster.training.ranks import Ranks


class NonFiniteLossError(UserError):
    """The loss or its gradient became infinite or not a number."""


class Reporter(Protocol):
    """Takes what a training reports: to Ray Tune, Ray Train, a terminal or a test."""

    def report(self, step: int, metrics: dict[str, float]) -> None:
        """Take metrics of a step; called on rank 0 alone."""

    def picture(self, step: int, benchmark: str, image: BenchmarkImage, sr: np.ndarray) -> None:
        """Take what the network makes of a benchmark's image at a step; called on rank 0 alone."""

    def checkpoint(self, step: int, files: dict[str, bytes]) -> None:
        """Keep the files of a checkpoint; called on rank 0 alone."""

    def preempted(self) -> bool:
        """Whether this machine is about to be taken away; asked on all ranks equally often, with one answer."""


@dataclass(frozen=True)
class Fit:
    """What a training leaves: the best network and its metrics, `best/psnr_y/Set5` and so on."""

    network: Network
    metrics: dict[str, float]


def fit(
    recipe: Recipe,
    open_batches: Callable[[int], Iterator[tuple[Tensor, ...]]],
    benchmarks: Sequence[Benchmark],
    reporter: Reporter,
    ranks: Ranks,
    resume: dict[str, bytes] | None = None,
    data_metrics: Callable[[], dict[str, float]] = dict,
    stop_at_step: int | None = None,
) -> Fit:
    """Train a network by its recipe, alone or as one of several ranks.

    Args:
        open_batches: Gives this rank's part of the batches from a step on, as `data.stream.Batch`.
        benchmarks: The first is measured during the run and decides which weights are best, by the recipe's
            criterion; all are measured at the end. Each rank measures its share of the images.
        resume: The files of a checkpoint to continue from; emptied, since they take memory.
        data_metrics: Gives the metrics of the source of the batches, whenever the loss is reported.
        stop_at_step: A step before the last to stop at, with a checkpoint: the metrics are then those of the first
            benchmark at this step, and the network is as it is there.

    Raises:
        NonFiniteLossError: Training diverged, on all ranks; the last checkpoint is from before.
        CheckpointError: `resume` can't be continued from.
    """
    torch.manual_seed(recipe.seed)
    precision = choose_together(recipe.precision, State.precision_of(resume or {}), ranks)
    network = models.build(recipe.model, recipe.scale)
    if recipe.start.weights and not resume:
        begin_with(network, recipe.start)
    network = precision.prepare(network, recipe.compile)
    measures = load_measures(recipe.evaluation.measures)
    state = State(network, make_optimizer(network, recipe.optimizer), average={}, precision=precision.name)
    state.adversary = Adversary.of(recipe.objective, precision)
    if resume:
        state.load(resume, recipe)
        resume.clear()
        if len(ranks.gather(torch.tensor([state.step], device=precision.device)).unique()) > 1:
            raise RuntimeError("the ranks have read checkpoints of different steps")
    else:
        if recipe.ema:
            state.average = {name: weight.detach().clone() for name, weight in network.named_parameters()}
        # Hours later is too late to learn that an evaluation fails.
        for benchmark in benchmarks:
            first = replace(benchmark, images=benchmark.images[:2])
            evaluate(_with_weights(recipe, state.weights()), first, recipe.scale, measures, ranks)

    saved = state.step
    last = stop_at_step or recipe.steps
    meter = Meter(recipe, network, precision, ranks.world, state.step, last)
    train = Step(recipe, state, precision, ranks)
    batches = open_batches(state.step)
    metrics: dict[str, float] = {}
    while state.step < last:
        with meter.waiting():
            batch = next(batches)
        train(batch)
        log, follow, save = (
            state.step == last or state.step % every == 0
            for every in (recipe.log_every_steps, recipe.evaluation.every_steps, recipe.checkpoint.every_steps)
        )
        if log or follow or save:
            train.check(saved)
        if log and ranks.rank == 0:
            reporter.report(state.step, train.metrics() | meter.metrics(state.step) | data_metrics())
        if follow:
            metrics = _follow(recipe, state, benchmarks[0], measures, ranks, reporter)
            if ranks.rank == 0:
                reporter.report(state.step, metrics)
        if save or (log and reporter.preempted()):
            saved = state.step
            if ranks.rank == 0:
                reporter.checkpoint(saved, state.save(recipe))
        if follow or save:
            meter.restart(state.step)
    if stop_at_step:
        # Continued from this very step, it was not evaluated in this life.
        return Fit(network, metrics or _follow(recipe, state, benchmarks[0], measures, ranks, reporter))
    return _finish(recipe, state, benchmarks, measures, ranks)


def _follow(
    recipe: Recipe, state: State, benchmark: Benchmark, measures: Functions, ranks: Ranks, reporter: Reporter
) -> dict[str, float]:
    """Evaluate the weights, and keep them if they are the best so far, or if the recipe keeps the last."""

    def on_picture(image: BenchmarkImage, sr: np.ndarray) -> None:
        reporter.picture(state.step, benchmark.name, image, sr)

    network, pictures = _with_weights(recipe, state.weights()), recipe.evaluation.pictures
    metrics = evaluate(network, benchmark, recipe.scale, measures, ranks, pictures, on_picture)
    criterion = recipe.evaluation.criterion(benchmark.name)
    if recipe.evaluation.select == "last" or criterion.rank(metrics) > criterion.rank(state.best):
        state.best = metrics | {"step": state.step}
        state.best_weights = {name: weight.detach().clone() for name, weight in state.weights().items()}
    return metrics


def _finish(recipe: Recipe, state: State, benchmarks: Sequence[Benchmark], measures: Functions, ranks: Ranks) -> Fit:
    network = _with_weights(recipe, state.best_weights or state.weights())
    metrics = {
        "best/step": float(state.best.get("step", state.step)),
        "train/precision_bits": 16.0 if state.precision == "bf16" else 32.0,
    }
    for benchmark in benchmarks:
        values = evaluate(network, benchmark, recipe.scale, measures, ranks)
        metrics |= {f"best/{key}": value for key, value in values.items()}
    return Fit(network, metrics)


def _with_weights(recipe: Recipe, weights: dict[str, Tensor]) -> Network:
    """A network to evaluate, beside the one in training."""
    network = models.build(recipe.model, recipe.scale)
    network.load_state_dict(weights)
    # Torch's types leave the layout out.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.to(next(iter(weights.values())).device).eval()


class Step:
    """One optimiser step, and the guard against a loss or a gradient that is no number."""

    def __init__(self, recipe: Recipe, state: State, precision: Precision, ranks: Ranks):
        self.recipe, self.state, self.precision, self.ranks = recipe, state, precision, ranks
        self.places = part(range(recipe.data.batch), ranks.rank, ranks.world)
        self.terms = objectives.terms(recipe.objective, precision.device, precision.dtype)
        self.adversary = state.adversary
        if self.adversary:
            self.adversary.join(ranks)
        self.parallel = ranks.wrap(state.network)
        self.network = torch.compile(self.parallel) if recipe.compile else self.parallel
        self.weights: list[Tensor] = list(state.network.parameters())
        self.averages = [state.average[name] for name, _ in state.network.named_parameters() if state.average]
        self.factor = 0.0
        self.names = [f"loss/{name}" for name in self.terms]
        if self.adversary:
            judged = (f"discriminator/{value}" for value in ("loss", "real", "fake"))
            self.names += [f"loss/{self.adversary.name}", *judged]
        self.values = [0.0] * len(self.names)
        # Kept on the device: to look at each step's loss would make every step wait for the last.
        self.last_values = torch.zeros(len(self.names), device=precision.device)
        self.diverged_at = torch.full((len(self.names) + 1,), torch.inf, device=precision.device)

    def __call__(self, batch: tuple[Tensor, ...]) -> None:
        recipe, state = self.recipe, self.state
        patches = tuple(each.to(self.precision.device, non_blocking=True) for each in batch)
        if recipe.data.augment:
            bits = self._symmetries()
            patches = tuple(augment(each, bits) for each in patches)
        lr, hr = lr_and_hr(
            recipe.degradation, patches, recipe.scale, seed=recipe.seed, step=state.step, places=self.places
        )
        self.last_values = self._backward(lr, hr)
        norm = get_total_norm([weight.grad for weight in self.weights if weight.grad is not None])
        if recipe.clip_norm:
            clip_grads_with_norm_(self.weights, recipe.clip_norm, norm)
        self.factor = learning_rate_factor(recipe.schedule, state.step, recipe.steps)
        set_learning_rates(state.optimizer, recipe.optimizer, self.factor)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        if self.adversary:
            self.adversary.step(self.factor)
        state.step += 1
        if self.averages:
            # The first weights are forgotten sooner.
            decay = min(recipe.ema, (1 + state.step) / (10 + state.step)) if recipe.ema_warmup else recipe.ema
            torch._foreach_lerp_(self.averages, self.weights, 1 - decay)
        finite = torch.cat([self.last_values, norm[None]]).isfinite()
        self.diverged_at = torch.where(finite, self.diverged_at, self.diverged_at.clamp_max(state.step))

    def _backward(self, lr: Tensor, hr: Tensor) -> Tensor:
        """Add up the gradients of the micro-batches; this rank's part of each value of the batch, by `names`."""
        data, total, adversary = self.recipe.data, torch.zeros_like(self.last_values), self.adversary
        for number in range(data.accumulate):
            # The same places of the batch whatever the ranks, as batch norm sees a micro-batch as a whole.
            mine = slice((number - self.places.start) % data.accumulate, None, data.accumulate)
            with self.ranks.local_gradients(self.parallel) if number < data.accumulate - 1 else nullcontext():
                with self.precision.autocast():
                    sr = self.network(lr[mine])
                sr, share = sr.float(), len(self.places[mine]) / data.batch
                losses = [weight * objective(sr, hr[mine]) for weight, objective in self.terms.values()]
                if adversary:
                    losses.append(adversary.generator_loss(sr, hr[mine], self.state.step))
                values = torch.stack(losses) * share
                # Torch averages gradients over the ranks.
                (values.sum() * self.ranks.world).backward()
            if adversary:
                with self.ranks.local_gradients(adversary.trained) if number < data.accumulate - 1 else nullcontext():
                    values = torch.cat([values, adversary.learn(sr.detach(), hr[mine], share)])
            total += values.detach()
        return total

    def _symmetries(self) -> Tensor:
        """Three random bits for each of this rank's patches: its part of those of the whole batch."""
        seed = np.random.SeedSequence([self.recipe.seed, self.state.step]).generate_state(1).item()
        shape = 3, self.recipe.data.batch
        bits = torch.randint(2, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.bool)
        return bits[:, self.places.start : self.places.stop]

    def check(self, saved: int) -> None:
        """Wait for the device, and make sure, on all ranks at once, that training has not diverged.

        Args:
            saved: The step of the last checkpoint.

        Raises:
            NonFiniteLossError: The loss or the gradient of a step was not finite on one of the ranks.
        """
        gathered = self.ranks.gather(torch.cat([self.last_values, self.diverged_at]))
        values, diverged = gathered[:, : len(self.names)].sum(0), gathered[:, len(self.names) :].amin(0).tolist()
        self.values = values.tolist()
        if (step := min(diverged)) < torch.inf:
            first = [name for name, at in zip(self.names, diverged, strict=False) if at == step]
            what = f" ({', '.join(first)})" if first and len(self.names) > 1 else ""
            raise NonFiniteLossError(
                f"the loss or its gradient was not finite at step {step:.0f}{what} "
                f"(optimizer.lr={self.recipe.optimizer.lr:g}): lower the learning rate, add warm-up, or set clip_norm; "
                + (f"the last good checkpoint is of step {saved}" if saved else "there is no checkpoint yet")
            )

    def metrics(self) -> dict[str, float]:
        """The loss, its terms where there are several, what the discriminator says, and the learning rates."""
        rates = {f"train/lr/{layer}": rate * self.factor for layer, rate in self.recipe.optimizer.layer_lr.items()}
        said = dict(zip(self.names, self.values, strict=True))
        loss = sum(value for name, value in said.items() if name.startswith("loss/"))
        each = {f"train/{name}": value for name, value in said.items()} if len(said) > 1 else {}
        return {"train/loss": loss, **each, "train/lr": self.recipe.optimizer.lr * self.factor, **rates}
