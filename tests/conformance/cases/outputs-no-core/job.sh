#!/bin/sh
echo made >made
kill -SEGV $$
