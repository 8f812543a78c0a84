#!/bin/sh
date +%Z%z
now=$(date +%s)
then=$(cat when)
[ $((now - then)) -ge 0 ] && [ $((now - then)) -lt 7200 ] && echo "the clock is right" || echo "$now after $then"
