"""A Hugging Face model with a regression head (num_labels=1) that reads the last token: python examples/hf_regression_head.py.

The head runs at every token, and only the last one's output counts: it is measured there.
"""

import sys

import torch

import nrc


def main() -> nrc.CollapseMonitor:
    import nrc.models._torchvision  # noqa: I001  first: torchvision alone may not load beside a CPU torch
    from transformers import GPT2Config, GPT2ForSequenceClassification

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=50, n_positions=16, n_embd=32, n_layer=2, n_head=2, num_labels=1,
        pad_token_id=0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPT2ForSequenceClassification(config)
    tokens = torch.randint(1, 50, (256, 12))
    labels = tokens.float().mean(1, keepdim=True) / 25 - 1
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    for _ in range(30):
        loss = (model(input_ids=tokens).logits - labels).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    monitor = nrc.CollapseMonitor(model, layers=["score"], head="score", output="logits")
    monitor.measure([({"input_ids": tokens}, labels)])
    return monitor


if __name__ == "__main__":
    try:
        print(main())
    except ImportError as error:
        sys.exit(f"skipped: {error}; pip install transformers")
