"""speed.py model: the training step of LAVITA beside the same function written plainly, and the official network."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import Any

# Two float32 networks of one function: the limit that forward figures of official code are held to.
AGREEMENT = 1e-5
# LAVITA's step in other arithmetic, by the contestant's name: precision, and whether its blocks are compiled.
ARITHMETIC = {"bf16": ("bf16-mixed", False), "compiled": ("32-true", True), "bf16, compiled": ("bf16-mixed", True)}
COLUMNS = (
    "contestant,seconds_median,seconds_low,seconds_high,seconds_fastest,ratio,ratio_low,ratio_high,max_relative_difference,flops_step,"
    "flops_per_second,matmul_flops_per_second,floor_seconds,draws_seconds,draws_ahead_seconds,variant,size,depth,patch_size,batch,frames,side,steps,"
    "device,threads,precision,checkpoint_activations,hardware,torch,commit,changed"
).split(",")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the subcommand."""
    parser.add_argument("--variant", type=int, default=1, help="1 to 4 (default: 1)")
    parser.add_argument("--size", default="S", help="XS, S, B, L or XL (default: S)")
    parser.add_argument("--patch-size", type=int, default=2, help="side of a patch in latent pixels (default: 2)")
    parser.add_argument("--batch", type=int, default=1, help="clips per step (default: 1)")
    parser.add_argument("--frames", type=int, default=8, help="frames per clip (default: 8)")
    parser.add_argument("--side", type=int, default=16, help="side of the 4-channel latents (default: 16)")
    parser.add_argument("--steps", type=int, default=7, help="timed steps of each contestant (default: 7)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--precision", default="32-true", help="32-true (default) or bf16-mixed")
    parser.add_argument("--arithmetic", action="store_true", help="also time LAVITA in bfloat16, compiled, and both")
    parser.add_argument("--checkpoint-activations", action="store_true", help="run blocks again in the backward pass")
    parser.add_argument("--official", type=Path, metavar="DIR", help="a checkout of Vchitect/Latte, to time as well")
    parser.add_argument("--csv", metavar="FILE", help="also write CSV; - for CSV alone on standard output")


def run(options: argparse.Namespace) -> None:
    """Measure and print. Raises ValueError for settings that don't fit and for contestants that don't agree."""
    from lavita.speed.timing import write_csv

    check_options(options)
    rows = measure(options)
    if options.csv != "-":
        print(table(rows))
    if options.csv is not None:
        write_csv(options.csv, rows, COLUMNS)


def check_options(options: argparse.Namespace) -> None:
    """Raise ValueError, naming the option, for a value that no measurement can be made with."""
    import torch

    from lavita.config.schema import one_of
    from lavita.methods.lavita.model import SIZES

    one_of("--size", options.size, tuple(SIZES))
    one_of("--variant", options.variant, (1, 2, 3, 4))
    one_of("--precision", options.precision, ("32-true", "bf16-mixed"))
    for name in ("patch_size", "batch", "frames", "side", "steps", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')}: got {value}, wanted at least 1")
    kind, _, index = options.device.partition(":")
    one_of("--device", kind, ("cpu", "cuda"))
    if kind == "cuda" and not (index or "0").isdigit():
        raise ValueError(f"--device: got {options.device!r}, wanted cuda:N with N a number")
    if kind == "cuda" and torch.cuda.device_count() <= int(index or 0):
        raise ValueError(f"--device: {options.device} is not there ({torch.cuda.device_count()} GPUs); take cpu")


def shape_of(options: argparse.Namespace) -> Any:
    """The LavitaConfig of the options: unconditional, four channels."""
    from lavita.methods.lavita.model import SIZES, LavitaConfig, depth_of_variant

    depth, width, num_heads = SIZES[options.size]
    depth = depth_of_variant(options.variant, depth)
    return LavitaConfig(
        options.variant, depth, width, num_heads, options.patch_size, options.frames, channels=4, side=options.side
    )


def networks(options: argparse.Namespace) -> dict[str, Any]:
    """The contestants by name, with equal weights: lavita, plain and, where a checkout is given, official; with
    --arithmetic those of ARITHMETIC."""
    from lavita.methods.lavita.model import Lavita
    from lavita.parity.cases import fill_by_formula
    from lavita.speed.networks import PlainLavita, official_network

    shape = shape_of(options)
    found = {"lavita": Lavita(shape), "plain": PlainLavita(shape)}
    if options.official is not None:
        found["official"] = official_network(options.official, shape)
    if options.arithmetic:
        found |= {name: Lavita(shape) for name in ARITHMETIC}
    # A start whose blocks are the identity would agree whatever the blocks do.
    fill_by_formula(found["lavita"])
    for network in found.values():
        network.load_state_dict(found["lavita"].state_dict())
    return {name: network.to(options.device) for name, network in found.items()}


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a contestant, with the columns of COLUMNS."""
    import torch

    from lavita.results import provenance
    from lavita.speed import timing
    from lavita.speed.networks import (
        Batch,
        TrainingStep,
        counted_flops,
        difference,
        draw_seconds,
        matmul_rate,
        waiter,
    )
    from lavita.training.compilation import compiled_blocks
    from lavita.training.distributed import blocks_of, recomputed_blocks

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device, shape = torch.device(options.device), shape_of(options)
    batch = Batch.drawn(shape, options.batch, device)
    found = networks(options)
    chosen = {name: ARITHMETIC.get(name, (options.precision, False)) for name in found}
    steps = {name: TrainingStep(network, batch, chosen[name][0]) for name, network in found.items()}
    ours = steps["lavita"].output()
    differences = {name: difference(ours, step.output()) for name, step in steps.items()}
    for name, value in differences.items():
        if not value <= AGREEMENT:
            raise ValueError(f"{name} is another function: outputs differ by {value:.1e}, allowed {AGREEMENT:.0e}")
    with ExitStack() as stack:
        for step in steps.values():
            stack.enter_context(recomputed_blocks(blocks_of(step.network), options.checkpoint_activations))
        flops = {name: counted_flops(step.loss) for name, step in steps.items()}
        for step in steps.values():
            step.optimiser.zero_grad(set_to_none=True)
    with ExitStack() as stack:
        for name, step in steps.items():
            stack.enter_context(compiled_blocks(step.network, chosen[name][1]))
            stack.enter_context(recomputed_blocks(blocks_of(step.network), options.checkpoint_activations))
        seconds = timing.take_turns(steps, options.steps, waiter(device))
    rate = matmul_rate(device, torch.bfloat16 if options.precision == "bf16-mixed" else torch.float32)
    commit, changed = provenance.commit()
    in_step, ahead = draw_seconds(shape, options.batch)
    setting = {
        "draws_seconds": in_step,
        "draws_ahead_seconds": ahead,
        "depth": shape.depth,
        "threads": torch.get_num_threads(),
        "hardware": provenance.hardware(),
        "torch": torch.__version__,
        "commit": commit,
        "changed": changed,
    }
    taken = {key: value for key, value in vars(options).items() if key in COLUMNS} | setting
    return [
        times(name, seconds, flops[name], rate)
        | {"max_relative_difference": differences[name]}
        | taken
        | {"precision": chosen[name][0]}
        for name in steps
    ]


def times(name: str, seconds: dict[str, list[float]], flops: int, rate: float) -> dict[str, Any]:
    """Seconds, ratio to lavita and FLOP/s of one contestant."""
    from lavita.speed import timing

    found = timing.columns(name, seconds, "lavita")
    return found | {
        "flops_step": flops,
        "flops_per_second": flops / found["seconds_median"],
        "matmul_flops_per_second": rate,
        "floor_seconds": flops / rate,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """What is printed: a line a contestant, then where it was measured."""
    first = rows[0]
    heads = ("", "seconds", "quartiles", "fastest", "to lavita", "quartiles", "GFLOP", "GFLOP/s", "floor (s)")
    lines = [
        f"training step, variant {first['variant']} {first['size']}/{first['patch_size']}, {first['depth']} blocks, "
        f"{first['batch']} x {first['frames']} x 4 x {first['side']} x {first['side']}, {first['precision']}"
        + (", activations recomputed" if first["checkpoint_activations"] else ""),
        line(*heads),
    ]
    for row in rows:
        cells = (
            f"{row['seconds_median']:.4f}",
            f"{row['seconds_low']:.4f} {row['seconds_high']:.4f}",
            f"{row['seconds_fastest']:.4f}",
            f"{row['ratio']:.3f}",
            f"{row['ratio_low']:.3f} {row['ratio_high']:.3f}",
            f"{row['flops_step'] / 1e9:.2f}",
            f"{row['flops_per_second'] / 1e9:.1f}",
            f"{row['floor_seconds']:.4f}",
        )
        lines.append(line(row["contestant"], *cells))
    lines += [
        f"median of {first['steps']} steps each, in turn; floor: the counted FLOPs at the rate of a matrix product, "
        f"{first['matmul_flops_per_second'] / 1e9:.1f} GFLOP/s",
        f"random numbers of {first['batch']} clips: {1000 * first['draws_seconds']:.1f} ms drawn in the step, "
        f"{1000 * first['draws_ahead_seconds']:.1f} ms drawn before by the loader",
        f"{first['hardware']}; {first['device']}, {first['threads']} threads; torch {first['torch']}; "
        f"commit {first['commit'][:12]}{' with changes' if first['changed'] == 'true' else ''}",
    ]
    return "\n".join(lines)


def line(name: str, *cells: str) -> str:
    """One line of the printed table: the name to the left, the cells to the right of their columns."""
    widths = (9, 16, 9, 10, 14, 10, 10, 10)
    return f"{name:14}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
