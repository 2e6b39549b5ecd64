"""What stands below a run's table, from its records: what the metric sees, data, stages, deviations, spreads."""

from __future__ import annotations

from collections.abc import Sequence

from lavita.metrics.confidence import seed_spread
from lavita.metrics.table import metric_words
from lavita.report.noise import NOISE_HEADING, AgainstNoise, noise_notes
from lavita.report.significance import SIGNIFICANCE_TEXT, significance_lines
from lavita.results.records import Record, StageRecord
from lavita.results.rows import shown
from lavita.results.run_folder import AbsentSystem, RunFolder

SPLITS = ("train", "heldout")
NOT_YET = "Systems that are not in this table"


def notes_of(run: RunFolder, noise: Sequence[AgainstNoise]) -> dict[str, str]:
    """What stands below the table: what the metric can see, deviations, stages, held-out losses."""
    records = run.records
    made = [one.artifacts for one in run.used_protocols]
    parts = [f"Protocol {one.protocol_name}:\n\n{one.sanity_text}" for one in made]
    notes = {"Metric sensitivity": "\n\n".join(parts)}
    if noise:
        notes[NOISE_HEADING] = noise_notes(noise)
    notes["Data"] = data_notes(run)
    notes["Stages"] = "\n".join(stages_line(record) for record in records)
    notes["First stages"] = first_stages(records)
    started = [line for record in records for line in start_lines(record)]
    if started:
        notes["Initial weights"] = "\n".join(started)
    notes["Deviations from the authors' settings"] = "\n".join(
        f"* {record.cell}: " + "; ".join(record.deviations) for record in records
    )
    lines = significance_lines(records)
    if lines:
        notes["Which rows differ"] = SIGNIFICANCE_TEXT + "\n" + "\n".join(lines)
    seeds = seeds_note(records)
    if seeds:
        notes["Spread over training seeds"] = seeds
    absent = run.plan.not_yet
    if absent:
        notes[NOT_YET] = "\n".join(
            f"* {one.name}: {one.left_out or 'not yet'}. {title_and_source(one)}" for one in absent
        )
    sessions = [line for record in records for line in session_lines(record)]
    if sessions:
        notes["Sessions"] = SESSIONS_TEXT + "\n" + "\n".join(sessions)
    if run.others:
        notes["Other attempts"] = "\n".join(f"* {one.name}: {one.left_out}" for one in run.others)
    return notes


SESSIONS_TEXT = """\
Runs that more than one process worked on, one after the other: how each ended, and where it then was. Each resumes
from the last checkpoint, to the same numbers; wall_seconds counts all of them.
"""


def session_lines(record: Record) -> list[str]:
    """The processes that worked on a run, where they were more than one."""
    if len(record.sessions) < 2:
        return []
    parts = [
        f"{one.ended or 'running'} at {one.stage} {one.done:g} after {one.seconds:.0f} s on {one.host}"
        + (f" (job {one.job})" if one.job else "")
        for one in record.sessions
    ]
    return [f"* {record.cell}: " + "; ".join(parts)]


def title_and_source(system: AbsentSystem) -> str:
    """Title and paper of a system."""
    return " ".join(part for part in (system.title, system.source) if part)


def seeds_note(records: Sequence[Record]) -> str:
    """Mean, deviation and interval of every score of a row that has several training seeds."""
    found: dict[tuple[str, str], list[float]] = {}
    for record in records:
        for score in record.scores_of("train") if record.status == "ok" else []:
            found.setdefault((record.label, score.metric), []).append(score.value)
    lines = []
    for (label, metric), values in found.items():
        if len(values) > 1:
            s = seed_spread(values)
            lines.append(
                f"* {label}, {metric_words(metric)}: {shown(s.mean)}, standard deviation {shown(s.deviation, 2)}, "
                f"{shown(s.low)} to {shown(s.high)} ({s.kind})"
            )
    return "\n".join(lines)


def data_notes(run: RunFolder) -> str:
    """What the rows were made from: name, splits and fingerprint of the data, and each video that was left out."""
    lines = []
    records = [shared.record for shared in run.used_shared.values()]
    for one in {one.fingerprint + one.dataset: one for one in records}.values():
        counts = ", ".join(f"{one.splits[split]} {split}" for split in SPLITS)
        lines.append(f"* {one.dataset}: {counts}; fingerprint {one.fingerprint}")
        lines += [f"  * left out: {note}" for note in one.left_out]
    return "\n".join(lines)


FIRST_STAGES_TEXT = """\
What the first stage alone loses: real clips against the same after encoding and decoding, by the metrics in the name;
PSNR (dB, higher is better), SSIM (higher), LPIPS (lower) on held-out clips, FVD (lower) on the protocol's real clips.
PSNR of 4x4 averages: of each frame averaged to 4x4 blocks, to compare with. `codec` is the suite's, shared by all
that work on its latents (shared/<key>/codec.gif); where the suite trained it, it started from the principal components
of training frames. `autoencoder` is a method's own, paid from its budget and started as its authors do
(cells/<cell>/autoencoder.gif). Pictures: original, reconstruction, 4x4 average.
"""


def first_stages(records: Sequence[Record]) -> str:
    """The reconstruction scores: of the suite's autoencoder with the rows that share it, and of each method's own."""
    shared: dict[str, list[str]] = {}
    own = []
    for record in records:
        for stage in ("codec", "autoencoder"):
            scores = record.scores_of(stage)
            text = "; ".join(f"{metric_words(score.metric)} {shown(score.value)}" for score in scores)
            if text and stage == "codec":
                shared.setdefault(text, []).append(record.label)
            elif text:
                own.append(f"* {record.cell}, autoencoder: {text}")
    if not shared and not own:
        return "No method has one here: all work in pixels."
    codecs = [f"* autoencoder of {', '.join(dict.fromkeys(labels))}: {text}" for text, labels in shared.items()]
    return FIRST_STAGES_TEXT + "\n" + "\n".join(codecs + own)


def stages_line(record: Record) -> str:
    """Clips by stage and the held-out loss of a run."""
    stages = ", ".join(stage_text(stage) for stage in record.stages)
    loss = record.heldout_losses
    ends = f"; held-out loss {shown(loss[0][1])} -> {shown(loss[-1][1])}" if loss else ""
    return f"* {record.cell}: clips by stage: {stages or 'none'}{ends}"


def stage_text(stage: StageRecord) -> str:
    """A stage with its clips; a latent cache trains on none, so its other cost is named."""
    if stage.bytes is None:
        return f"{stage.name} {stage.clips}"
    return f"{stage.name} 0 ({stage.seconds:.0f} s, {stage.flops:.3g} FLOPs, {stage.bytes / 2**20:.0f} MiB)"


def start_lines(record: Record) -> list[str]:
    """Where a run's weights began, if not at random: how much was taken, what was not."""
    start = record.starting_weights
    if start is None:
        return []
    left = ", ".join(f"{name} ({why})" for name, why in start.left.items()) or "nothing"
    unused = ", ".join(start.unused) or "none"
    return [
        f"* {record.cell}: {len(start.taken)} tensors from {start.source}; left at their own start: {left}; "
        f"unused tensors of the source: {unused}"
    ]
