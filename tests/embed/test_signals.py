"""Reads that a signal ends; what it meets while it waits or computes is in test_pcm.py."""

import subprocess
import sys

import pytest

READING = """
import os, signal, sys, threading, time
from edgesea.embed.signals import ended_by_signals

for attempt in range(30):
    with open(sys.argv[1], "rb") as file, ended_by_signals(file) as source:
        threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGTERM)).start()
        count = 0
        try:
            while data := source.read(65536):
                count += len(data)
        except KeyboardInterrupt:
            pass
        else:
            sys.exit("the file was read to its end")
        if count != file.tell():
            sys.exit(f"{file.tell() - count} bytes are lost")
print("kept", signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot wait for a file without reading it")
def test_a_signal_loses_nothing_that_has_been_read(tmp_path):
    """At full speed, where it nearly always comes while a read returns."""
    with (tmp_path / "zeros").open("wb") as file:
        file.truncate(2**36)  # takes no space
    done = subprocess.run([sys.executable, "-c", READING, tmp_path / "zeros"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "kept True\n", "")
