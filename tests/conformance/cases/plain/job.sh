#!/bin/sh
echo hello
echo "on the other hand" >&2
echo made >made
