#!/bin/sh
grep '^Case' "$_CONDOR_JOB_AD" | LC_ALL=C sort
