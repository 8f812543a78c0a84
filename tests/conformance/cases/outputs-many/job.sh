#!/bin/sh
mkdir made
cd made
seq 1 10000 | split -a 4 -l 1 - f
