"""One run on several processes: TorchRec's sharded tables, DDP or FSDP2 for the dense part, torchrun to start."""
