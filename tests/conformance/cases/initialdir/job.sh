#!/bin/sh
cat data
echo made >made
