"""Tasks on this machine, several at a time, each on an accelerator of its own where there are some."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from lavita.runner.devices import environment_of
from lavita.runner.display import Display
from lavita.runner.launch import Ended, Launcher
from lavita.runner.task import Task, supervise

Done = Callable[[Task, Ended], None]


class LocalExecutor:
    """workers: tasks at a time."""

    def __init__(self, workers: int, launcher: Launcher, display: Display) -> None:
        self.workers, self.launcher, self.display = workers, launcher, display

    def run(self, tasks: Sequence[Task], done: Done = lambda *_: None) -> list[Ended]:
        """How each task ended, in their order; done is told as each does.

        Raises Interrupted or KeyboardInterrupt once every process has ended; OSError of a folder that can't be written.
        """
        free: SimpleQueue[int] = SimpleQueue()
        for worker in range(self.workers):
            free.put(worker)

        def call(task: Task) -> Ended:
            worker = free.get()
            try:
                ended = self.see_through(task, worker)
            finally:
                free.put(worker)
            done(task, ended)
            return ended

        with ThreadPoolExecutor(self.workers) as pool:
            futures = [pool.submit(call, task) for task in tasks]
            try:
                return [future.result() for future in futures]
            except BaseException:
                for future in futures:
                    future.cancel()
                self.stop()
                raise

    def see_through(self, task: Task, worker: int) -> Ended:
        """One task with its lines on the display."""
        channel = self.display.channel(task.title)
        channel.prefix = task.prefix if self.workers > 1 else ""
        try:
            return supervise(self.launcher, task, channel.show, environment_of(worker, task.threads, task.devices))
        finally:
            channel.close()

    def stop(self) -> None:
        """Ask all processes to end, and wait; a Ctrl-C meanwhile kills them."""
        if self.launcher.running:
            self.display.line("stopping: each process keeps where it is (Ctrl-C again kills them)")
        try:
            self.launcher.stop()
        except KeyboardInterrupt:
            self.launcher.stop(grace=0.0)
