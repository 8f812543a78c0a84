#!/bin/sh
echo err >&2
