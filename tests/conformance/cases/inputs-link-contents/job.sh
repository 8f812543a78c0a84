#!/bin/sh
find . -mindepth 1 ! -name '.*.ad' ! -name '_condor*' ! -name '.chirp.config' ! -name '.update.ad*' ! -name job.sh ! -name tmp ! -name var | LC_ALL=C sort
