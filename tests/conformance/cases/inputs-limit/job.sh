#!/bin/sh
wc -c data
