"""Settings of training, validation, checkpoints, samples and tracking; torch-free."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from idiolect.config import Settings


class TrainSettings(Settings):
    """How weights are fitted."""

    steps: int = Field(default=1000, ge=1)
    """Optimiser steps."""
    batch_tokens: int = Field(default=8192, ge=1)
    """Positions an optimiser step: rows x context, padding included."""
    micro_batches: int = Field(default=1, ge=1)
    """Parts a batch is cut into, one forward and backward each; the result is the same, the memory less."""
    optimizer: Literal["adamw", "muon", "sgd"] = "adamw"
    """adamw; muon (2-D hidden weights by Muon, the rest by AdamW); sgd."""
    optimizer_from: Literal["auto", "fresh"] = "auto"
    """What the optimiser remembers before the first step of a run that starts from a model: auto takes over what the
    model's own run kept, where there is a checkpoint of the same weights and optimiser; fresh begins with nothing."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Highest learning rate."""
    muon_learning_rate: float = Field(default=0.02, gt=0)
    """Highest learning rate of the matrices that Muon updates."""
    min_learning_rate: float = Field(default=0.1, ge=0, le=1)
    """Last learning rate, as a share of the highest."""
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """After the warm-up: cosine decay, warm-up-stable-decay (linear decay over the last part), or constant."""
    warmup_steps: int | None = Field(default=None, ge=0)
    """Steps of linear warm-up; unset: a tenth of the steps, at most 100."""
    decay_share: float = Field(default=0.2, gt=0, le=1)
    """Share of the steps that wsd decays over."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled weight decay of matrices (norms, biases and vectors have none); sgd adds it to the gradient."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """First-moment decay of AdamW."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Second-moment decay of AdamW."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Momentum of sgd."""
    clip: float = Field(default=1.0, ge=0)
    """Largest norm of the gradient; 0 does not clip."""
    on_nan: Literal["stop", "skip"] = "stop"
    """A step whose loss or gradient is not finite: stop the run, or skip it, the weights untouched, up to 20 on end."""
    seed: int = Field(default=0, ge=0)
    """Seed of everything drawn in the run."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the model; auto measures what this hardware is really fast at."""
    compile: Literal["auto", "yes", "no"] = "auto"
    """torch.compile; auto uses it when a compiler is there and the run is long enough to pay for it."""
    activation_checkpointing: bool = False
    """Recompute each block in the backward pass: less memory, about a third more time."""
    deterministic: bool = True
    """Use deterministic algorithms only, so that a resumed run is the uninterrupted one bit for bit."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train; auto takes a GPU when there is one."""
    threads: int = Field(default=0, ge=0)
    """CPU threads; 0 uses OMP_NUM_THREADS where it is set, else every core this process may use."""

    @model_validator(mode="after")
    def _check(self) -> TrainSettings:
        if self.warmup_steps is not None and self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be fewer than steps ({self.steps})")
        return self

    @property
    def warmup(self) -> int:
        """Steps of linear warm-up, resolved."""
        return min(100, self.steps // 10) if self.warmup_steps is None else self.warmup_steps


class Resolved(Settings):
    """What was chosen for a run at its start, once; recorded with it and used again by every resume."""

    device: Literal["cpu", "cuda", "mps"] = "cpu"
    """Where the run trains."""
    hardware: str = ""
    """The processor or accelerator by name."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of forward and backward; the weights are fp32."""
    compile: bool = False
    """Whether the model's body is compiled."""
    kernels: Literal["torch", "fused"] = "torch"
    """Whose operations the CPU trains with in bf16: torch's alone, or our fused ones, which need a C++ compiler."""
    threads: int = Field(default=1, ge=1)
    """CPU threads."""
    torch: str = ""
    """The version of torch."""
    reasons: tuple[str, ...] = ()
    """Why each automatic choice was made, with what was measured."""


class ValidationSettings(Settings):
    """When held-out text is scored while training, and when to stop for it."""

    every: int = Field(default=250, ge=0)
    """Steps between validations; 0 only validates at the end."""
    tokens: int = Field(default=100_000, ge=1)
    """Tokens scored by a validation while training; the last one scores all of the held-out text."""
    patience: int = Field(default=0, ge=0)
    """Stop after this many validations without improvement; 0 never stops early."""
    gap_alarm: float = Field(default=0.5, gt=0)
    """Warn of overfitting when validation loss exceeds training loss by this many nats a token."""


class CheckpointSettings(Settings):
    """When the run is saved."""

    every: int = Field(default=500, ge=1)
    """Steps between checkpoints; the end and a signal save too."""
    keep: int = Field(default=2, ge=1)
    """Newest checkpoints kept; the best by validation loss is kept besides."""


class SampleSettings(Settings):
    """Text written while the model trains."""

    every: int = Field(default=500, ge=0)
    """Steps between samples; 0 writes none."""
    prompt: str = ""
    """What a sample continues; empty: the model starts a document."""
    tokens: int = Field(default=100, ge=1)
    """Tokens a sample."""
    temperature: float = Field(default=0.8, ge=0)
    """Softmax temperature of the sample; 0 is greedy."""


class TrackSettings(Settings):
    """Where metrics go besides metrics.jsonl."""

    log_every: int = Field(default=10, ge=1)
    """Steps between lines of metrics.jsonl."""
    tensorboard: bool = False
    """Write TensorBoard event files to RUN/tensorboard."""
    wandb: bool = False
    """Log to Weights & Biases (its own environment variables apply)."""
    mlflow: bool = False
    """Log to MLflow (its own environment variables apply)."""
