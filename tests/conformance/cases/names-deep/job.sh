#!/bin/sh
mkdir result
cp -R in/. result
find in -type f -exec cat {} +
