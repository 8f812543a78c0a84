#!/bin/sh
env -0 | tr '\n\0' '|\n' | grep '^CASE' | LC_ALL=C sort
