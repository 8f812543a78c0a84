#!/bin/sh
mkdir -p one two/deep
echo x >one/x
echo y >two/deep/y
