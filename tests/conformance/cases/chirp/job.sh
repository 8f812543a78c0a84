#!/usr/bin/python3
"""Speaks chirp, as condor_chirp does: attributes, files, a line in the user's log."""
import os
import socket

host, port, cookie = open(os.environ["_CONDOR_CHIRP_CONFIG"]).read().split()
with socket.create_connection((host, int(port))) as link, link.makefile("rwb") as both:

    def ask(request):
        both.write(request.encode() + b"\n")
        both.flush()
        return int(both.readline())

    print("cookie", ask(f"cookie {cookie}"))
    print("delayed", ask("set_job_attr_delayed ChirpStep 7"))
    print("at once", ask('set_job_attr CaseWord "said"'))
    length = ask("get_job_attr CaseWord")
    print("got", both.read(length))
    length = ask("getfile there")
    print("read", both.read(length))
    print("may write", ask("putfile made 420 5") >= 0)
    print("written", ask("made"))
    print("log", ask("ulog said\\ by\\ the\\ job"))
    print("nonsense", ask("nonsense"))
