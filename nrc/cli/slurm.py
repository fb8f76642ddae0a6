"""What a sweep needs beyond Hydra's submitit launcher: a wait that ends, and tasks that save before they are requeued.

A task that is told to leave (SIGTERM of a preemption, SIGUSR2 before the time limit) finishes its step and saves.
If SLURM has not ended the job by itself, submitit then requeues it, and it goes on where it was.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError, UncompletedJobError
from submitit.slurm.slurm import SlurmInfoWatcher, SlurmJob

from nrc.errors import UserError
from nrc.places import PACKAGE
from nrc.training.stopping import Interrupted, asked_to_stop, stop_signals

SOURCE = PACKAGE.parent
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT", "FORGOTTEN",
}  # fmt: skip


class Queue(SlurmInfoWatcher):
    """Asks `squeue` how jobs are: every SLURM has it, while `sacct` needs an accounting database.

    Without one submitit waits for ever for a job that died and left no result.
    """

    def update(self) -> None:
        for job in {name.split("_")[0] for name in self._registered - self._finished}:
            answer = squeue(f"--jobs={job}", "--array", "--states=all", "--format=%i|%T")
            if answer.returncode and "Invalid job id" not in answer.stderr:
                continue  # the controller does not answer now
            found = dict(line.split("|") for line in answer.stdout.splitlines())
            for name in self._registered:
                if name.split("_")[0] == job:  # some minutes after its end SLURM forgets a job
                    self._info_dict[name] = {"State": found.get(name, "FORGOTTEN")}
        self._last_status_check = time.time()
        self._finished: set[str] = {
            name for name in self._registered if self.get_state(name, "cache") in ENDED
        }

    def is_done(self, job_id: str, mode: str = "standard") -> bool:
        if asked_to_stop():
            job = job_id.split("_")[0]
            raise Interrupted(f"SLURM job {job} goes on (scancel {job} ends it); the same command continues")
        return self.get_state(job_id, mode) in ENDED


def squeue(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["squeue", "--noheader", *arguments], capture_output=True, text=True)


@contextmanager
def launching() -> Iterator[None]:
    """Within the block a sweep may be sent to SLURM; its failures become one line."""
    SlurmJob.watcher = Queue(delay_s=30)
    # the jobs import the package as this process does
    paths = [str(SOURCE), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    try:
        with stop_signals():  # asked to stop, `Queue` says which job goes on
            yield
    except FailedJobError as error:  # of sbatch, or of a task before our code began
        lines = [line for line in str(error).splitlines() if line.strip(" -")]
        raise UserError(f"SLURM: {lines[-4] if len(lines) > 4 else lines[-1]}") from None
    except (UncompletedJobError, FailedSubmissionError) as error:
        raise UserError(left_no_result(str(error))) from None
    except RuntimeError as error:
        if "srun" not in str(error):
            raise
        raise UserError("this machine has no srun; give the command on a login node of the cluster") from None


def left_no_result(words: str) -> str:
    """One line from submitit's report, which holds the whole log of the task."""
    found = re.search(r"Job (\S+) .* path (\S+)/\S+\n.*\(state: (\w+)\)", words)
    if found is None:
        return " ".join(words.split())
    job, folder, state = found.groups()
    return (
        f"SLURM job {job} left no result ({state}): cancelled, or out of memory or time? Its log is in {folder}; "
        "the other jobs go on, and the same command continues the sweep"
    )


@contextmanager
def requeued() -> Iterator[None]:
    """In a task: when the run within the block was stopped by a signal, have it continued or leave without a result.

    Raises:
        UserError: it has been requeued `max_num_timeout` times.
    """
    with stop_signals():
        try:
            yield
            return
        except Interrupted as error:
            stopped = error
    # a job that SLURM cancels or requeues is no longer running; one with a notice to leave is
    if squeue(f"--jobs={os.environ['SLURM_JOB_ID']}", "--format=%T").stdout.strip() == "RUNNING":
        try:  # submitit's handler requeues the job, counts how often, and exits
            signal.raise_signal(signal.Signals["SIG" + submitit.JobEnvironment.USR_SIG])
        except UncompletedJobError as error:
            raise UserError(f"{stopped} ({error})") from None
    sys.exit(1)
