#!/bin/sh
ulimit -s
