#!/bin/sh
echo "killed by $1"
kill -$1 $$
echo survived
