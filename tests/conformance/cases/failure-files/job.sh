#!/bin/sh
echo why >why
echo made >made
exit 3
