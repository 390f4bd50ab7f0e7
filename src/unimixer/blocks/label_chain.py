"""Labels that happen only after another one: logits of every step of a chain become logits of all rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from unimixer.errors import UnimixerError, unknown

Links = tuple[tuple[int, int], ...]
"""Columns of a label and of the one before it, in an order in which a label comes after the one before it."""


def chain_links(chain: Mapping[str, str], tasks: Sequence[str], soft: Sequence[str] = ()) -> Links:
    """Read a chain, ``LABEL: LABEL BEFORE``, as columns of the tasks.

    Args:
        chain: by label, the one without which it does not happen.
        tasks: names of the tasks.
        soft: tasks whose labels are probabilities.

    Raises:
        UnimixerError: a label is no task, or is soft, or the chain is a circle.

    Example:
        >>> chain_links({"buy": "like", "like": "click"}, ["click", "buy", "like"])
        ((2, 0), (1, 2))
    """
    for label in (*chain, *chain.values()):
        if label not in tasks:
            raise unknown("task of chain", label, tasks)
        if label in soft:
            raise UnimixerError(
                f"chain: {label!r} is a soft label, and only labels of 0 and 1 form a chain; leave it out"
            )
    links: list[tuple[int, int]] = []
    left = dict(chain)
    while left:
        ready = [label for label, before in left.items() if before not in left]
        if not ready:
            circle = " -> ".join([*left, next(iter(left))])
            raise UnimixerError(f"chain: {circle} is a circle; let one of them depend on no other")
        links += [(tasks.index(label), tasks.index(left.pop(label))) for label in ready]
    return tuple(links)


def joint_logits(logits: Tensor, links: Links) -> Tensor:
    r"""Turn logits of labels given the one before into logits of all rows, as ESMM does (Ma et al., SIGIR 2018).

    .. math:: p(y_k) = p(y_j)\, p(y_k \mid y_j) \;\Longleftrightarrow\;
              z_k = -\log\bigl(e^{-z_j} + e^{-z_{k|j}} + e^{-z_j - z_{k|j}}\bigr)

    The sum of exponentials is exact at any size of the logits, where a product of probabilities is rounded to 0 or 1.

    Shape:
        - logits: ``(B, tasks)``; output: the same, with columns of no link as they are

    Example:
        >>> joint_logits(torch.zeros(1, 2), ((1, 0),)).sigmoid()  # one half, and one half of it
        tensor([[0.5000, 0.2500]])
    """
    columns = list(logits.unbind(1))
    for label, before in links:
        first, second = -columns[before], -columns[label]
        columns[label] = -torch.logsumexp(torch.stack([first, second, first + second]), dim=0)
    return torch.stack(columns, dim=1)
