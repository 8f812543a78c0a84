#!/bin/sh
exit $((4 + $(sed -n 's/^NumJobStarts = //p' "$_CONDOR_JOB_AD")))
