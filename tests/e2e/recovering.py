# SPDX-License-Identifier: Apache-2.0
"""A move that is looked at all the time, whose programs end and are started again with the same arguments."""
import contextlib
import os
import random
import signal
import struct
import subprocess
import threading
import time

from host import M, Vmm, assert_runs, assert_whole, err_of, finish, free_port, listening_uri, wait_until
from relay import Relay

SLOW = 12 * M  # bytes a second: a small VM is on its way for ten seconds


class Looks(threading.Thread):
    """Once the destination has run, it always does, and the source stands still."""

    def __init__(self, source, destination):
        super().__init__(daemon=True)
        self.source, self.destination = source, destination
        self.wrong, self.over, self.count, self.visits = [], threading.Event(), 0, None
        self.start()

    def look(self):
        rested = self.source.resting()
        status = self.destination.status()
        if status != "running":
            if self.visits is not None:
                self.wrong.append(f"the destination, which ran, is {status}")
            return
        if not (rested or self.source.resting() or self.source_ends()):
            self.wrong.append(f"the destination runs, and the source is {self.source.status()}")
        else:
            self.look_at_guest()
        self.count += 1

    def look_at_guest(self):
        """Of a VMM that has ended the memory is given back."""
        try:
            visits = self.source.visits()
        except (ValueError, struct.error):
            visits = None
        if self.visits is None:
            self.visits = visits
        elif visits != self.visits and not self.source_ends():
            self.wrong.append("the guest of the source has moved on")

    def source_ends(self):
        """One that is being killed is not frozen any more; one that was thawed does not end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.source.process.wait(5)
        return self.source.process.poll() is not None

    def run(self):
        while not self.over.wait(0.02) and not self.wrong:
            try:
                self.look()
            except Exception as error:  # told by end()
                self.wrong.append(repr(error))

    def end(self):
        self.over.set()
        self.join(120)
        assert not self.wrong, self.wrong
        return self.count


class Move:
    def __init__(self, host, mem=128 * M, scheme="tcp", placement="auto", rate=SLOW, control=False,
                 recover_timeout=60, listen=None, receive_options=(), send_options=()):
        self.host = host
        self.source, self.destination = self.make_vms(host, mem)
        self.folders = [host.name("send-state"), host.name("receive-state"), host.name("receive-runtime")]
        self.paths = [host.name("send-qmp"), host.name("receive-qmp")]
        self.listen = listen or (f"tcp:127.0.0.1:{free_port()}" if scheme == "tcp" else f"unix:{host.name('link')}")
        self.relay = None if listen else self.put_between(scheme, rate)
        qmp = [["--qmp", f"unix:{path}"] if control else [] for path in self.paths]
        common = ["--recover-timeout", recover_timeout]
        self.arguments = {
            "send": ["send", "--vm", f"qmp:{self.source.qmp_path}", "--to", listen or self.relay.uri, *common, *qmp[0],
                     "--state-dir", self.folders[0], *send_options],
            "receive": ["receive", "--vm", f"qmp:{self.destination.qmp_path}", "--attach", self.destination.attach,
                        "--listen", self.listen, *common, *qmp[1], "--placement", placement,
                        "--state-dir", self.folders[1], "--runtime-dir", self.folders[2], *receive_options],
        }
        self.programs = {}
        self.looks = None

    def make_vms(self, host, mem):
        host.need(2 * M, 2 * mem // (2 * M) + 64)
        return Vmm(host, mem=mem), Vmm(host, incoming=True, mem=mem)

    def check_guest(self):
        assert_runs(self.destination)
        assert self.destination.errors() == 0
        assert_whole(self.host, self.destination)

    def put_between(self, scheme, rate):
        relay = Relay("tcp:127.0.0.1:0" if scheme == "tcp" else f"unix:{self.host.name('relay')}", self.listen, rate)
        self.host.closing.append(relay.close)
        return relay

    def start(self, which, before_exec=None):
        self.programs[which] = self.host.start(self.host.hugeferry, *self.arguments[which], before_exec=before_exec)
        return self.programs[which]

    @property
    def giver(self):
        return self.programs["send"]

    @property
    def taker(self):
        return self.programs["receive"]

    def begin(self, enter=(None, None)):
        """Both programs run; the VM may still be at the source."""
        listening_uri(self.start("receive", enter[1]))
        self.looks = Looks(self.source, self.destination)
        self.host.closing.append(self.looks.over.set)
        self.start("send", enter[0])
        return self

    def begin_held(self):
        """Handed over; the guest stands, and the background too: no page is asked for until let_run()."""
        self.begin_with(lambda: None)
        wait_until(lambda: self.destination.status() == "running" or self.ended(), "the VM runs at the destination")
        self.destination.execute("stop")

    def let_run(self):
        self.taker.send_signal(signal.SIGUSR1)
        self.destination.execute("cont")

    def begin_with(self, before_send):
        """As begin(), and nobody looks: a VM that stays at the source may stand on both sides."""
        listening_uri(self.start("receive"))
        before_send()
        self.start("send")
        return self

    def hand_over(self, enter=(None, None)):
        self.begin(enter)
        wait_until(lambda: self.destination.status() == "running" or self.ended(), "the VM runs at the destination")
        assert not self.ended(), [err_of(process) for process in self.programs.values()]
        return self

    def ended(self):
        return any(process.poll() is not None for process in self.programs.values())

    def kill(self, which, how=signal.SIGKILL):
        process = self.programs[which]
        assert process.poll() is None, f"{which} has ended: {err_of(process)}"
        process.send_signal(how)
        process.wait(30)

    def goes_on(self, which):
        """Says so behind the last loss that it told of."""
        return err_of(self.programs[which]).rstrip().endswith("the migration goes on")

    def complete(self, vmm_ended=False):
        """At full speed from here on; then nothing but a whole VM is left."""
        if self.relay:
            self.relay.bytes_per_s = None
        for which in ("send", "receive"):
            code, said = finish(self.programs[which], 60)
            assert code == 0, (which, code, said)
        assert not self.looks or self.looks.end() > 0
        if not vmm_ended:
            assert self.source.process.wait(10) == -signal.SIGKILL
        self.check_guest()
        self.assert_nothing_left()

    def assert_nothing_left(self):
        for folder in self.folders:
            left = os.listdir(folder) if os.path.exists(folder) else []
            assert not left, f"{folder} has {left}"
        paths = [*self.paths, self.listen.removeprefix("unix:")]
        assert not [path for path in paths if os.path.exists(path)]
        wait_until(lambda: not self.processes(), f"no process of it is left, not {self.processes()}", 10)

    def processes(self):
        """Programs and guardians, whoever their parent is: their arguments name the VMs."""
        names = {f"qmp:{vmm.qmp_path}".encode() for vmm in (self.source, self.destination)}
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
                if names & set(file.read().split(b"\0")):
                    found.append(pid)
        return found


def rest(seconds):
    """A random moment is what the test is about; nothing is waited for."""
    time.sleep(seconds)


def kill_at_random(move, kills):
    """One program after the other, each started again; then all is completed."""
    seed = int(os.environ.get("HF_E2E_SEED", random.randrange(1 << 32)))
    print(f"# seed {seed}", flush=True)
    chance = random.Random(seed)
    for _ in range(kills):
        rest(chance.uniform(0, 0.4))
        which = chance.choice(("send", "receive"))
        move.kill(which)
        rest(chance.uniform(0, 0.15))
        move.start(which)
    move.complete()
