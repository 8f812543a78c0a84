#!/bin/sh
echo 1 >one.dat
echo 2 >two.dat
