"""One run on several processes: TorchRec's sharded tables, DDP or FSDP2 for the rest, torchrun to start."""

from unimixer.training.distributed.checks import agree
from unimixer.training.distributed.triple import check_triple
from unimixer.training.process_group import World, launched, world_of

__all__ = ["World", "agree", "check_triple", "launched", "world_of"]
