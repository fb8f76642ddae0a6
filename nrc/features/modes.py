"""A network in evaluation mode for a while, left as it was."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from nrc.errors import UserError


def _uncompiled() -> AbstractContextManager[Any]:
    # compiled code does not look at hooks that came later; importing the compiler takes seconds
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, and every module called as a module, so that hooks fire.

    The modes come back by `train(mode)`, because a module may do work there (merge and unmerge weights).
    """
    modes = {module: module.training for module in model.modules()}
    # nn.TransformerEncoder otherwise packs padded batches, and its layers may call no submodule
    fused = torch.backends.mha.get_fastpath_enabled()
    training = any(modes.values())
    if training:
        try:
            model.eval()
        except NotImplementedError as error:
            for module, mode in modes.items():
                module.training = mode
            raise UserError(
                f"{type(model).__name__} cannot be put into evaluation mode ({error}); give the nn.Module itself, as it was "
                "before its export"
            ) from None
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), _uncompiled():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        if training:
            model.train(modes[model])
            for module, mode in modes.items():  # outer modules first: they set those inside, too
                if module.training != mode:
                    module.train(mode)
