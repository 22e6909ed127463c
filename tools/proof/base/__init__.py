"""What every tool stands on: a run and its summary, children, instances, the kernel, single steps."""
