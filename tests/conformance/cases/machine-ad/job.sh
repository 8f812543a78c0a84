#!/bin/sh
grep -E '^(Cpus|TotalSlotCpus|Arch|OpSys|SlotType|Activity|State) = ' "$_CONDOR_MACHINE_AD" | LC_ALL=C sort
memory=$(sed -n 's/^Memory = //p' "$_CONDOR_MACHINE_AD")
[ "$memory" -ge 64 ] && [ "$memory" -le 128 ] && echo "memory as requested" || echo "Memory = $memory"
name=$(sed -n 's/^Name = "\([^@]*\)@.*"/\1/p' "$_CONDOR_MACHINE_AD")
[ "$name" = "$_CONDOR_SLOT" ] && echo "named as the slot" || echo "$name is not $_CONDOR_SLOT"
