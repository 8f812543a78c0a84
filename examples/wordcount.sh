#!/bin/sh
# wordcount.sh --top N FILE: the N most frequent words of FILE, into counts.txt.
set -eu
top=$2
file=$3
tr -cs '[:alpha:]' '\n' <"$file" | tr '[:upper:]' '[:lower:]' | grep . |
    sort | uniq -c | sort -k1,1nr -k2 | head -n "$top" >counts.txt
echo "I am $(id -un) on $(uname -n), Linux $(uname -r)"
echo "_CONDOR_SLOT=${_CONDOR_SLOT-} BATCH_SYSTEM=${BATCH_SYSTEM-}"
ls -d /condor-*
echo "$(wc -w <"$file") words in '$file'"
