#!/bin/sh
cat in/one in/two
echo more >>in/one
cat in/two
