#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The tables and plots say what suites have printed. Suites are played by a program that prints made-up figures."""
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

from checking import run_cases  # noqa: E402

BOTH = {"p50_us": 220.0, "raw_p50_us": 200.0}
MOVED = {"mib_per_s": 900.0, "raw_mib_per_s": 1000.0, "cpu_s_per_gib": 0.5, "raw_cpu_s_per_gib": 0.4}
TOUCH = BOTH | {"busy_p50_us": 300.0, "busy_p99_us": 500.0, "busy_p99_by_idle_p50": 2.5, "reported_by_felt": 0.97,
                "busy_felt_longer_us_per_fault": 40.0}
MADE_UP = {
    "place": {"continue/2M": BOTH},
    "migrate": {f"migrate/{pattern}/1G": MOVED for pattern in ("random", "hot")},
    "inside": {"inside/random/1G": {"lock_waits_by_page_time": 0.02},
               "inside/random/4G": {"lock_waits_by_page_time": 0.03, "memory_beyond_constant_by_guest": -0.003}},
    "engine": {"time/1024GiB/16vcpus": {"memory_by_guest": 5e-6}},
    "fault": {"touch/tcp/continue/vcpus:1": TOUCH, "touch/tcp/continue/vcpus:4": TOUCH,
              "background/tcp/continue": MOVED},
    "transport": {f"page_fetch/{scheme}/{name}": BOTH | {"page_bytes": size}
                  for scheme in ("tcp", "unix") for name, size in (("4K", 4 << 10), ("2M", 2 << 20))} |
                 {f"stream/{scheme}/channels:{n}/depth:0": MOVED for scheme in ("tcp", "unix") for n in (1, 2)},
}
PLAYER = """#!/usr/bin/python3
import json
print(json.dumps({"benchmarks": [dict(name=name + "/manual_time", real_time=1.0, **figures)
                                 for name, figures in %r.items()]}))
"""


def suite(folder, name, text):
    path = f"{folder}/perf/bench-{name}"
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, 0o755)


def made(folder, rounds, *options):
    """The exit code, what was said, and the document."""
    document = f"{folder}/document"
    with open(document, "w", encoding="utf-8") as file:
        file.write("before\n<!-- made by perf/report.py -->\nold\n<!-- end of the tables -->\nbehind\n")
    done = subprocess.run([f"{HERE}/report.py", folder, "--rounds", str(rounds), "--into", document, "--plots",
                           f"{folder}/plots", *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    with open(document, encoding="utf-8") as file:
        return done.returncode, done.stdout, file.read()


def tables_and_plots_are_made_of_what_suites_say():
    with tempfile.TemporaryDirectory(prefix="hf-report-") as folder:
        os.mkdir(f"{folder}/perf")
        for name, figures in MADE_UP.items():
            suite(folder, name, PLAYER % figures)
        code, said, text = made(folder, 2)
        assert code == 0, said
        assert text.startswith("before\n<!--") and text.endswith("-->\nbehind\n") and "old" not in text, text
        for row in ("| page fetch over TCP, latency | <= 1.1 | 1.1 | 1.1 .. 1.1 | yes | `transport` `page_fetch/tcp/2M` |",
                    "| page fetch over TCP, bandwidth | >= 0.95 | 0.9 | 0.9 .. 0.9 | **no** |",
                    "| fault beside the background, p99 by idle p50 | <= 2 | 2.5 | 2.5 .. 2.5 | **no** |",
                    "| waits for locks, by page time | <= 0.01 | 0.02 | 0.02 .. 0.02 | **no** | `inside` `inside/random/1G` |",
                    "| memory of both programs beyond 32 MiB, by the guest's | <= 0.001 | -0.003 | -0.003 .. -0.003 | yes |",
                    "| memory of both engines, by the guest's 1 TiB | <= 0.001 | 5e-06 | 5e-06 .. 5e-06 | yes |",
                    "| CPU of both programs, whole migrations, by loop and allocation | <= 1.15 | 1.25 |",
                    "| blocktime reported by felt, idle | >= 0.95 | 0.97 | 0.97 .. 0.97 | yes |",
                    "| benchmark | `mib_per_s` | `raw_mib_per_s` |", "| `migrate/hot/1G` | 900 | 1000 |",
                    "| `continue/2M` | `p50_us` | 220 | 200 | 1.100 | 1.100 .. 1.100 |"):
            assert row in text, (row, text)
        plots = sorted(os.listdir(f"{folder}/plots"))
        assert plots == ["fault.svg", "page-fetch.svg", "stream.svg"], plots
        for name in plots:
            assert f"(perf/plots/{name})" in text, text
            drawing = xml.etree.ElementTree.parse(f"{folder}/plots/{name}").getroot()
            assert drawing.tag.endswith("svg"), drawing.tag


def one_suite_alone_has_its_goals_and_plots_alone():
    with tempfile.TemporaryDirectory(prefix="hf-report-") as folder:
        os.mkdir(f"{folder}/perf")
        suite(folder, "transport", PLAYER % MADE_UP["transport"])
        code, said, text = made(folder, 1, "--suites", "transport")
        assert code == 0, said
        assert "page fetch over TCP, latency" in text and "fault" not in text, text
        assert sorted(os.listdir(f"{folder}/plots")) == ["page-fetch.svg", "stream.svg"]


def a_suite_that_fails_leaves_the_document_as_it_was():
    with tempfile.TemporaryDirectory(prefix="hf-report-") as folder:
        os.mkdir(f"{folder}/perf")
        suite(folder, "place", "#!/bin/sh\necho no huge pages >&2\nexit 1\n")
        code, said, text = made(folder, 1)
        assert code == 1 and "no huge pages" in said, (code, said)
        assert "old" in text, text


if __name__ == "__main__":
    sys.exit(run_cases([tables_and_plots_are_made_of_what_suites_say,
                        one_suite_alone_has_its_goals_and_plots_alone,
                        a_suite_that_fails_leaves_the_document_as_it_was]))
