"""SLURM: one script for `sbatch` whose array of jobs are workers of a study on a shared folder."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from greenedge.errors import GreenedgeError
from greenedge.files.atomic_write import atomic_write
from greenedge.sweep.engine import begin_study, worker_command
from greenedge.sweep.outputs import write_outputs
from greenedge.sweep.sweep import Sweep

SCRIPT = "slurm.sh"
_LOGS = "slurm"


def write_script(sweep: Sweep, folder: Path, jobs: int, track: Sequence[str] = (), dry_run: bool = False) -> str:
    """Begins the study and writes its script; a text that says how to submit it, with `dry_run` the script itself and
    nothing is written. Raises GreenedgeError for a folder whose name SLURM cannot take."""
    script = make_script(sweep, folder, jobs, track)
    if dry_run:
        return script.rstrip("\n")
    study = begin_study(sweep, folder)
    write_outputs(sweep, study)
    (folder / _LOGS).mkdir(exist_ok=True)
    path = folder.resolve() / SCRIPT
    with atomic_write(path) as aside:
        aside.write_text(script, encoding="utf-8")
        aside.chmod(0o755)
    return (
        f"{study.total()} points wait in {folder}; {jobs} workers start with: sbatch {shlex.quote(str(path))}\n"
        f"resources are yours to say, such as: sbatch --time=4:00:00 --cpus-per-task=2 {shlex.quote(str(path))}"
    )


def make_script(sweep: Sweep, folder: Path, jobs: int, track: Sequence[str] = ()) -> str:
    """The script: `jobs` workers, each put back into the queue where its host fails."""
    whole = folder.resolve()
    if any(sign in str(whole) for sign in "\n\"'%\\"):  # SLURM's own patterns and quotes
        raise GreenedgeError(
            f"SLURM takes no quotes, backslashes, per cent signs or ends of lines in {whole}; choose another --study."
        )
    return "\n".join(
        [
            "#!/bin/bash",
            f"#SBATCH --job-name=greenedge-{sweep.name}",
            f"#SBATCH --array=0-{jobs - 1}",
            f'#SBATCH --output="{whole / _LOGS}/%A_%a.log"',
            "#SBATCH --requeue",
            "#SBATCH --signal=TERM@30",
            "# Each is a worker of one study: it takes points until none is left. More of them may join at any time.",
            f"exec {shlex.join(worker_command(sweep, whole, track))}",
            "",
        ]
    )
