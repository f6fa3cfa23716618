#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Checks the hand-over with SPIN, and that broken rules are found: run.py BUILD-DIRECTORY [NAME...]

The tables are printed by BUILD-DIRECTORY/tests/spin/handover-promela; handover.pml says what is modelled. Prints
TAP. NAME: a part of the names of the cases that run. Every search is exhaustive: one that was cut short fails.
"""
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
MODEL = "handover.pml"
FAULTS = 8         # liveness of the tables
FAULTS_BROKEN = 4  # enough to find any of the broken rules
DEPTH_MAX = 1000000
MEMORY_MAX_MIB = 4096
SECONDS_MAX = 300
JOBS = 2
SAFETY = ["-DENDLESS_FAULTS", "-DREFUSED_EVENTS_CHANGE_NOTHING"]
EVENTS = ["-DENDLESS_FAULTS"]


class Search:
    """One model, checked in one way: what pan found."""

    def __init__(self, tables, defines, cycles=False):
        self.tables, self.defines, self.cycles = tables, defines, cycles
        self.wrong = self.states = self.depth = self.seconds = None
        self.trail = []
        with tempfile.TemporaryDirectory(prefix="hf-spin-") as folder:
            self.folder = folder
            self.check()

    def run(self, *command):
        done = subprocess.run(command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=SECONDS_MAX, check=False, text=True)
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {done.stdout}")
        return done.stdout

    def check(self):
        shutil.copy(os.path.join(HERE, MODEL), self.folder)
        with open(os.path.join(self.folder, "handover_tables.pml"), "w", encoding="utf-8") as file:
            file.write(self.tables)
        said = self.run("spin", *self.defines, "-a", MODEL)
        if "rror" in said:
            raise RuntimeError(said)
        self.run("gcc", "-O1", "-w", "-o", "pan", "pan.c", "-DNOFAIR", f"-DMEMLIM={MEMORY_MAX_MIB}",
                 "-DNP" if self.cycles else "-DSAFETY")
        # Endless faults can leave both agents dead: that is an end, not a deadlock.
        options = ["-l"] if self.cycles else ["-E"] if "-DENDLESS_FAULTS" in self.defines else []
        said = self.run("./pan", *options, f"-m{DEPTH_MAX}", "-w22")
        self.judge(said)
        if self.wrong and os.path.exists(os.path.join(self.folder, MODEL + ".trail")):
            trail = self.run("spin", *self.defines, "-t", "-p", "-g", MODEL)
            self.trail = re.findall(r"\.pml:\d+ \(state \d+\)\t\[(.*[<>=!?].*)\]$", trail, re.MULTILINE)

    def judge(self, said):
        found = re.search(r"^pan:\d+: (.*)$", said, re.MULTILINE)
        errors = re.search(r"errors: (\d+)", said)
        cut = re.search(r"max search depth too small|out of memory|Search not completed|memory limit", said)
        if found:
            self.wrong = found.group(1)
        elif not errors or errors.group(1) != "0":
            self.wrong = "pan did not end well: " + said[-300:]
        elif cut:
            self.wrong = "the search was cut short: " + cut.group(0)
        numbers = re.search(r"depth reached (\d+).*?(\d+) states, stored", said, re.DOTALL)
        if numbers:
            self.depth, self.states = int(numbers.group(1)), int(numbers.group(2))
        elapsed = re.search(r"elapsed time ([\d.]+)", said)
        self.seconds = float(elapsed.group(1)) if elapsed else 0

    def figures(self):
        return f"{self.states} states, depth {self.depth}, {self.seconds} s"


# ---- the tables as they are ----


def good(search):
    lines = [search.figures()]
    if search.wrong:
        lines += [search.wrong] + search.trail[-80:]
    return not search.wrong, lines


def never_two_run_with_any_number_of_faults(tables):
    return good(Search(tables, SAFETY))


def no_table_refuses_what_can_happen(tables):
    return good(Search(tables, EVENTS))


def each_run_ends_with_one_side_running_the_vm(tables):
    return good(Search(tables, [f"-DFAULTS={FAULTS}"]))


def no_run_goes_on_forever(tables):
    return good(Search(tables, [f"-DFAULTS={FAULTS}"], cycles=True))


CHECKS = [never_two_run_with_any_number_of_faults, no_table_refuses_what_can_happen,
          each_run_ends_with_one_side_running_the_vm, no_run_goes_on_forever]

# ---- broken rules ----

# Name, inline, the state (or record) of its line, what stands there instead (None: no such line), and what that breaks:
# each is found by the search for it.
BROKEN = [
    ("run_is_said_before_the_record_is_written", "source_fenced", "S_FENCING",
     "s_state = S_RECORDING; s_todo = ACT_RECORD + ACT_SAY_RUN; s_record = R_GIVEN_UP", "safety"),
    ("the_fence_is_left_out", "source_heard_loaded", "S_OWNS",
     "s_state = S_RECORDING; s_todo = ACT_RECORD; s_record = R_GIVEN_UP", "safety"),
    ("a_failure_after_giving_up_resumes", "source_broken", "S_GIVEN_UP",
     "s_state = S_ABORTED; s_todo = ACT_RESUME + ACT_SAY_FAIL; s_record = R_NONE", "safety"),
    ("a_failure_while_given_up_is_written_resumes", "source_broken", "S_RECORDING",
     "s_state = S_ABORTED; s_todo = ACT_RESUME + ACT_SAY_FAIL; s_record = R_NONE", "safety"),
    ("a_failed_record_of_giving_up_resumes", "source_record_failed", "S_RECORDING",
     "s_state = S_ABORTED; s_todo = ACT_RESUME + ACT_SAY_FAIL; s_record = R_NONE", "safety"),
    ("a_refusal_resumes_without_taken_back", "source_heard_refused", "S_GIVEN_UP",
     "s_state = S_ABORTED; s_todo = ACT_RESUME + ACT_SAY_FAIL; s_record = R_NONE", "safety"),
    ("a_new_source_that_had_given_up_resumes", "source_restart", "R_GIVEN_UP",
     "s_state = S_ABORTED; s_todo = ACT_RESUME; s_record = R_NONE", "safety"),
    ("a_new_source_gives_up_without_a_record", "source_restart", "R_NONE",
     "s_state = S_GIVEN_UP; s_todo = 0; s_record = R_NONE", "safety"),
    ("the_destination_runs_before_running_is_recorded", "destination_heard_run", "D_LOADED",
     "d_state = D_STARTING; d_todo = ACT_RUN; d_record = R_NONE", "safety"),
    ("the_destination_runs_without_being_told", "destination_broken", "D_LOADED",
     "d_state = D_RECORDING_RUNNING; d_todo = ACT_RECORD; d_record = R_RUNNING", "safety"),
    ("a_vm_that_may_have_run_is_handed_back", "destination_vm_unknown", "D_STARTING",
     "d_state = D_KILLING; d_todo = ACT_KILL; d_record = R_NONE", "safety"),
    ("a_vm_that_ran_under_the_process_before_is_handed_back", "destination_vm_refused", "D_STARTING_AGAIN",
     "d_state = D_KILLING; d_todo = ACT_KILL; d_record = R_NONE", "safety"),
    ("a_refusal_without_end_of_the_vmm", "destination_kill_failed", "D_KILLING",
     "d_state = D_REFUSED; d_todo = ACT_SAY_REFUSED; d_record = R_NONE", "safety"),
    ("a_vm_whose_vmm_ended_is_handed_back", "destination_vm_ended", "D_RUNNING",
     "d_state = D_RECORDING_REFUSED; d_todo = ACT_RECORD; d_record = R_REFUSED", "safety"),
    ("a_new_destination_hands_back_what_was_told_to_run", "destination_restart", "R_RUNNING && !VMM_LIVES",
     "d_state = D_RECORDING_REFUSED; d_todo = ACT_RECORD; d_record = R_REFUSED", "safety"),
    ("lost_has_no_entry_for_fail", "destination_heard_fail", "D_LOST", None, "events"),
    ("fail_is_no_event_in_loaded", "destination_heard_fail", "D_LOADED",
     "d_state = D_LOADED; d_todo = 0; d_record = R_NONE", "liveness"),
    ("run_is_not_said_on_a_new_link", "source_link", "S_GIVEN_UP",
     "s_state = S_GIVEN_UP; s_todo = 0; s_record = R_NONE", "liveness"),
    ("fail_is_not_said_on_a_new_link", "source_link", "S_ABORTED",
     "s_state = S_ABORTED; s_todo = 0; s_record = R_NONE", "liveness"),
    ("run_is_not_answered_by_a_running_vm", "destination_heard_run", "D_RUNNING",
     "d_state = D_RUNNING; d_todo = 0; d_record = R_NONE", "liveness"),
    ("run_is_not_answered_by_one_that_refused", "destination_heard_run", "D_REFUSED",
     "d_state = D_REFUSED; d_todo = 0; d_record = R_NONE", "liveness"),
    ("a_vm_is_not_resumed_once_the_fence_is_done", "source_fenced", "S_FENCING_BROKEN",
     "s_state = S_ABORTED; s_todo = 0; s_record = R_NONE", "liveness"),
    ("the_end_of_a_vmm_is_forgotten_while_it_is_asked_to_run", "destination_vm_ended", "D_STARTING",
     "d_state = D_STARTING; d_todo = 0; d_record = R_NONE", "liveness"),
    ("a_failed_taking_back_is_not_tried_again", "source_link", "S_STUCK",
     "s_state = S_STUCK; s_todo = 0; s_record = R_NONE", "liveness"),
    ("a_record_is_written_over_and_over", "destination_recorded", "D_RECORDING_REFUSED",
     "d_state = D_RECORDING_REFUSED; d_todo = ACT_RECORD; d_record = R_REFUSED", "liveness"),
]


def break_rule(tables, inline, state, instead):
    """The tables with one line changed; what is not there exactly once is a fault of BROKEN."""
    block = re.search(rf"^inline {inline}\(\)\n.*?^}}$", tables, re.MULTILINE | re.DOTALL)
    lines = block.group(0).split("\n")
    found = [i for i, line in enumerate(lines) if re.match(rf"\t:: \w+ == {re.escape(state)} -> ", line)]
    if len(found) != 1:
        raise RuntimeError(f"{inline} has {len(found)} lines of {state}")
    if instead is None:
        del lines[found[0]]
    else:
        line = lines[found[0]]
        lines[found[0]] = line[:line.index(" -> ")] + " -> " + instead
        if lines[found[0]] == line:
            raise RuntimeError(f"{inline}, {state}: that is no change")
    return tables[:block.start()] + "\n".join(lines) + tables[block.end():]


def is_found(tables, inline, state, instead, kind):
    broken = break_rule(tables, inline, state, instead)
    faults = [f"-DFAULTS={FAULTS_BROKEN}"]
    searches = {"safety": [(SAFETY, False)], "events": [(EVENTS, False)],
                "liveness": [(faults, False), (faults, True)]}
    for defines, cycles in searches[kind]:
        search = Search(broken, defines, cycles)
        if search.wrong:
            return True, [search.wrong]
    return False, ["nobody noticed: " + search.figures()]


def attempt(function, *arguments):
    try:
        return function(*arguments)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        return False, str(error).splitlines()


def main():
    build, names = sys.argv[1], sys.argv[2:]
    tables = subprocess.run([os.path.join(build, "tests/spin/handover-promela")], stdout=subprocess.PIPE, check=True,
                            text=True).stdout
    cases = [(check.__name__, check, (tables,)) for check in CHECKS]
    cases += [("found: " + name, is_found, (tables, *rest)) for name, *rest in BROKEN]
    cases = [case for case in cases if not names or any(name in case[0] for name in names)]
    failed = 0
    print(f"1..{len(cases)}", flush=True)
    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        futures = [pool.submit(attempt, function, *arguments) for _, function, arguments in cases]
        for number, ((name, _, _), future) in enumerate(zip(cases, futures), 1):
            passed, lines = future.result()
            failed += not passed
            for line in lines:
                print(f"# {line}")
            print(f"{'ok' if passed else 'not ok'} {number} - {name}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
