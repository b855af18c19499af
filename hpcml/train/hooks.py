"""What happens around the loop: six empty hooks, and nothing that a step depends on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpcml.train.trainer import Trainer


class Hook:
    """Called by the trainer on every rank; subclasses write the methods that they need."""

    def before_run(self, trainer: Trainer, epochs: int) -> None:
        """Run once, before the first step; the trainer has been restored if the run is resumed."""

    def after_gradient(self, trainer: Trainer, worker: int) -> None:
        """Run when a hosted worker has computed a gradient, before anybody hears of it."""

    def after_step(self, trainer: Trainer) -> None:
        """Run after each step."""

    def after_epoch(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Run after each epoch with its metrics, equal on all ranks: train_loss, train_accuracy, test_loss, test_accuracy."""

    def after_run(self, trainer: Trainer) -> None:
        """Run once, after the last epoch; the arena holds the final parameters."""

    def after_failure(self, trainer: Trainer) -> None:
        """Run once instead of `after_run` if an error ends the run on this rank; the error is raised again afterwards."""
