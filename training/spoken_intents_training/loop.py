"""The training loop: Hugging Face's Trainer on one processor, one GPU or several, resumable, with a progress bar."""

import gc
import logging
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, cast

import torch
import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors import SafetensorError  # type: ignore[attr-defined]
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback

from spoken_intents.errors import DivergedError, TrainingError
from spoken_intents_training.batches import Examples, LengthBuckets, collate
from spoken_intents_training.recipe import Recipe

logger = logging.getLogger(__name__)
COMPLETE = "complete"  # a file in a checkpoint that was written to its end
CHECKPOINTS_A_TRAINING = 10


def is_first_process() -> bool:
    """Whether this is the process that prints and writes; the only one but under ``accelerate launch``."""
    return int(os.environ.get("RANK", "0")) == 0


console = Console(soft_wrap=True, quiet=not is_first_process())


def run(
    model: Any,
    data: Examples,
    recipe: Recipe,
    folder: Path,
    keep_checkpoints: bool = False,
    tensorboard: Optional[Path] = None,
) -> List[Dict[str, Any]]:
    """Trains `model` on `data` and returns the log: step, epoch, loss, learning rate.

    Args:
        folder: For checkpoints; the last complete one that lies there is gone on from.
        keep_checkpoints: Whether to write any.
        tensorboard: Directory for TensorBoard's event file.

    Raises:
        DivergedError: The loss is no number any more.
        TrainingError: The recipe's batch cannot be shared out among the processes.
    """
    log = _train(model, data, recipe, _arguments(recipe, len(data), folder, keep_checkpoints), tensorboard)
    if torch.distributed.is_initialized():  # the first process goes on alone
        gc.collect()  # DistributedDataParallel goes before its process group; the other way round they wait for each other
        torch.distributed.destroy_process_group()
    cast(torch.nn.Module, model).to("cpu").eval()
    return log


def clips_a_process(recipe: Recipe) -> int:
    """Clips a step for each process under ``accelerate launch``; the recipe's batch, where there is one process.

    Raises:
        TrainingError: The batch cannot be shared out.
    """
    if recipe.batch_size % _processes():
        raise TrainingError(
            f"batch_size: {recipe.batch_size} cannot be shared out among {_processes()} processes. Take a multiple, or fewer processes."
        )
    return recipe.batch_size // _processes()


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _arguments(recipe: Recipe, examples: int, folder: Path, keep_checkpoints: bool) -> TrainingArguments:
    processes = _processes()
    steps = math.ceil(examples / recipe.batch_size) * recipe.epochs_for(examples)
    use_cpu = not torch.cuda.is_available()
    arguments = _Arguments(
        output_dir=str(folder),
        num_train_epochs=recipe.epochs_for(examples),
        per_device_train_batch_size=clips_a_process(recipe),
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(steps * recipe.warmup_share),
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        seed=recipe.seed,
        use_cpu=use_cpu,
        ddp_backend="gloo" if use_cpu and processes > 1 else None,
        ddp_find_unused_parameters=False if processes > 1 else None,
        bf16=recipe.precision == "auto" and has_bf16("cpu" if use_cpu else "cuda"),
        save_strategy="steps" if keep_checkpoints else "no",
        save_steps=max(1, steps // CHECKPOINTS_A_TRAINING),
        save_total_limit=2,  # the newest may be half written when the process is killed
        logging_steps=max(1, steps // 100),
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # torch's DataParallel would take a whole batch for each GPU
    return arguments


def _train(
    model: Any, data: Examples, recipe: Recipe, arguments: TrainingArguments, tensorboard: Optional[Path]
) -> List[Dict[str, Any]]:
    trainer = _Trainer(recipe, model, arguments, data_collator=collate, train_dataset=data)
    trainer.remove_callback(transformers.PrinterCallback)
    bar = _Bar(trainer)
    if trainer.is_world_process_zero():
        trainer.add_callback(bar)
        if tensorboard is not None:
            from torch.utils.tensorboard.writer import SummaryWriter

            trainer.add_callback(TensorBoardCallback(SummaryWriter(str(tensorboard))))
    checkpoint = last_checkpoint(Path(str(arguments.output_dir)))
    if checkpoint and trainer.is_world_process_zero():
        console.print(f"Going on from step {_step(checkpoint)}.")
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        bar.stop()
    trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)  # or it would go on in bf16, and not export
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def has_bf16(device: str) -> bool:
    """Whether ``cuda`` or ``cpu`` computes in bf16 itself here; processors with AVX-512 BF16 or AMX do."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def last_checkpoint(folder: Path) -> Optional[Path]:
    """The newest checkpoint that was written to its end; None when there is none."""
    complete = [path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return max(complete, key=_step, default=None)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


class _Arguments(TrainingArguments):
    @property
    def device(self) -> torch.device:
        """Without the index that it has on several processors: torch.load knows no cpu:0."""
        device = super().device
        return torch.device("cpu") if device.type == "cpu" else device


class _Trainer(Trainer):
    """With our rates, our batches, checkpoints that are known to be complete, and a stop when the loss is no number."""

    def __init__(self, recipe: Recipe, *arguments: Any, **named: Any) -> None:
        self._recipe = recipe
        self.losses: List[float] = []
        super().__init__(*arguments, **named)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        body: List[torch.nn.Parameter] = []
        head: List[torch.nn.Parameter] = []
        for name, parameter in cast(torch.nn.Module, self.model).named_parameters():
            if parameter.requires_grad:
                (body if name.startswith("encoder.") else head).append(parameter)
        rates = (self._recipe.learning_rate, self._recipe.head_learning_rate or self._recipe.learning_rate)
        groups = [{"params": group, "lr": rate} for group, rate in zip((body, head), rates)]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=self._recipe.weight_decay)
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Optional[Dataset] = None) -> Any:
        data = cast(Examples, self.train_dataset)
        sampler = LengthBuckets(data.lengths, self.args.train_batch_size, self._recipe.seed)
        self.add_callback(_Epochs(sampler))
        return sampler

    def compute_loss(self, model: Any, inputs: Dict[str, Any], *arguments: Any, **named: Any) -> Any:
        labels = inputs.pop("labels")
        logits = model(**inputs).logits.float()
        return torch.nn.functional.cross_entropy(logits, labels)

    def training_step(self, model: Any, inputs: Dict[str, Any], *arguments: Any, **named: Any) -> torch.Tensor:
        rows = inputs.pop("rows").tolist()
        if cast(Examples, self.train_dataset).padded:
            inputs.pop("frames")  # Hugging Face's class knows no other length than 30 s
        loss = super().training_step(model, inputs, *arguments, **named)
        self.losses.append(float(loss))
        if not math.isfinite(self.losses[-1]):
            names = ", ".join(cast(Examples, self.train_dataset).names[row] for row in rows)
            raise DivergedError(
                f"The loss became {self.losses[-1]} at step {self.state.global_step + 1}, on {names}. Nothing was written. "
                "A lower learning_rate, warmup_share above 0 or max_grad_norm: 1 usually mends it."
            )
        return loss

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """A checkpoint that cannot be written is a warning: training goes on, and the one before stays."""
        output = Path(str(self.args.output_dir))
        folder = output / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                (folder / COMPLETE).touch()
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            before = last_checkpoint(output)
            where = f"step {_step(before)}" if before else "the beginning"
            logger.warning(
                "The checkpoint at step %d could not be written (%s). Training goes on; interrupted now, it would resume from %s.",
                self.state.global_step, str(error).splitlines()[0], where,
            )  # fmt: skip


class _Epochs(TrainerCallback):
    """Tells the sampler which epoch it is; Accelerate does not on several processes, in the epoch that is gone on with."""

    def __init__(self, sampler: LengthBuckets) -> None:
        self._sampler = sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._sampler.set_epoch(state.global_step // (state.max_steps // state.num_train_epochs))


class _Bar(TrainerCallback):
    """One line on a terminal, a line each epoch elsewhere: epoch, loss, rate, time left."""

    def __init__(self, trainer: _Trainer) -> None:
        self._trainer = trainer
        self._bar = Progress(
            TextColumn("Fine-tuning"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console, disable=not console.is_terminal,
        )  # fmt: skip

    def stop(self) -> None:
        """Gives the terminal back."""
        self._bar.stop()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began, self._first = time.monotonic(), state.global_step
        self._task = self._bar.add_task("", total=state.max_steps, completed=state.global_step, figures="")
        self._bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar.update(self._task, completed=state.global_step, figures=self._figures(state))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar.disable and round(state.epoch) % max(1, state.num_train_epochs // 10) == 0:
            left = (state.max_steps - state.global_step) / max(self._rate(state), 1e-9)
            console.print(f"Fine-tuning: {self._figures(state)}, {left:.0f} s left", highlight=False)

    def _rate(self, state: Any) -> float:
        return (state.global_step - self._first) / (time.monotonic() - self._began)

    def _figures(self, state: Any) -> str:
        recent = self._trainer.losses[-50:]
        epochs = f"epoch {math.ceil(state.epoch)} of {state.num_train_epochs}"
        return f"{epochs}, loss {sum(recent) / max(1, len(recent)):.3f}, {self._rate(state):.1f} steps/s"
