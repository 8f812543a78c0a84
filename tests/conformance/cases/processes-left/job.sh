#!/bin/sh
(trap '' HUP TERM; sleep 300; echo late >late) &
echo over
