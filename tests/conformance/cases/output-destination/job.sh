#!/bin/sh
echo a >a
