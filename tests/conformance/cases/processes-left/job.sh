#!/bin/sh
# One process: HTCondor kills a child before the shell that waits for it, which may go on.
mkfifo /tmp/pipe
(trap '' HUP TERM; read line </tmp/pipe; echo late >late) &
echo over
