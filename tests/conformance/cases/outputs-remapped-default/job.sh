#!/bin/sh
echo a >a
echo b >b
