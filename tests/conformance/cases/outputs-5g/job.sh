#!/bin/sh
head -c 5368709120 /dev/zero | tr '\0' x >data
