#!/bin/sh
cat data >made
