"""Collapse metrics in the log of the Hugging Face Trainer: Trainer(callbacks=[CollapseCallback([(inputs, labels)])]).

python examples/hf_trainer_callback.py trains a tiny BERT on random tokens and prints what was logged.
"""

import nrc.models._torchvision  # noqa: I001  first: torchvision alone may not load beside a CPU torch

import tempfile
from collections.abc import Sequence
from typing import Any

import torch

try:
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )
except ImportError as error:
    raise SystemExit(f"skipped: {error}; pip install transformers accelerate") from None

import nrc


class CollapseCallback(TrainerCallback):
    """After every epoch: each metric of each layer as `layer/metric` in `state.log_history`.

    batches: fixed pairs (inputs, labels); inputs is the dict that the model takes.
    """

    def __init__(self, batches: Sequence[Any], layers: Sequence[str] | None = None) -> None:
        self.batches, self.layers = batches, layers

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        monitor = nrc.CollapseMonitor(model, self.layers)
        found = {
            f"{layer}/{name}": value
            for layer, metrics in monitor.measure(self.batches).items()
            for name, value in metrics.items()
        }
        state.log_history.append({"epoch": state.epoch, "step": state.global_step, **found})


def main() -> list[dict[str, float]]:
    torch.manual_seed(0)
    tokens = torch.randint(100, (128, 12))
    labels = torch.stack((tokens.float().mean(1) / 50 - 1, (tokens < 50).float().mean(1)), dim=1)
    config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        num_labels=2, problem_type="regression",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=BertForSequenceClassification(config),
            args=TrainingArguments(
                folder, num_train_epochs=2, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True
            ),
            train_dataset=[{"input_ids": t, "labels": y} for t, y in zip(tokens, labels, strict=True)],
            callbacks=[CollapseCallback([({"input_ids": tokens}, labels)])],
        )
        trainer.train()
    return [entry for entry in trainer.state.log_history if "classifier/nrc1" in entry]


if __name__ == "__main__":
    for entry in main():
        print({name: round(value, 4) for name, value in entry.items() if "nrc" in name or name == "epoch"})
