#!/bin/sh
cat data
echo more
