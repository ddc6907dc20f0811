"""Check of the shared memory in which the processes that read images hand their batches over."""

from collections.abc import Iterator

from senna.data.shared_memory import MORE_SHARED_MEMORY, SHARED_MEMORY
from senna.data.shared_memory import shared_memory as free_shared_memory
from senna.doctor.context import RunContext
from senna.doctor.findings import FAIL, OK, WARN, Finding, size
from senna.train.memory.fit import micro_batch
from senna.train.memory.model_shape import ModelShape, published_config

PREFETCH = 2  # torch's default: batches of each worker that are read ahead
_BYTES_PER_TOKEN = 4 * 8  # four int64 tensors: ids, labels, positions and sources or masks


def batch_bytes(context: RunContext) -> int:
    """Return the bytes of the largest batch of a process: uint8 pixels and tokens."""
    shape = ModelShape.from_config(context.config or published_config())
    largest, records = micro_batch(context.args, shape), context.records
    images = largest.images
    if records is not None and len(records):
        images = context.args.per_device_train_batch_size * int(records.images.max())
    side = shape.tower.image_size if shape.tower else 0
    return 3 * side**2 * images + _BYTES_PER_TOKEN * largest.rows * largest.tokens


def shared_memory(context: RunContext) -> Iterator[Finding]:
    """Check that the batches of all processes on this machine fit in /dev/shm, which has 64 MB in a container."""
    args, found = context.args, free_shared_memory()
    workers = args.dataloader_num_workers * context.local_processes
    if not workers or found is None or context.is_remote_gpu:
        return
    each, (_, free) = batch_bytes(context), found
    ahead = workers * (args.dataloader_prefetch_factor or PREFETCH)
    if not args.dataloader_pin_memory:  # without pinned copies, the batches of the step stay in shared memory too
        ahead += (args.batch.accumulation_on(context.num_processes) + 1) * context.local_processes
    message = f"{size(free)} free in {SHARED_MEMORY}, {size(ahead * each)} needed for {ahead} batches of {size(each)}"
    fitting = int(free / each / context.local_processes)
    fewer = f"--dataloader_num_workers {min(fitting // PREFETCH, args.dataloader_num_workers - 1)}"
    remedy = f"{MORE_SHARED_MEMORY}, or {fewer}"
    if free < workers * each:
        yield Finding(FAIL, "shared memory", f"{message}: not even one batch of each worker fits", remedy)
    elif free < ahead * each:
        yield Finding(WARN, "shared memory", f"{message}: the run may stop for want of it", remedy)
    else:
        yield Finding(OK, "shared memory", message)
