"""The kernels themselves, in Triton: imported at their first use, because Triton is optional."""
