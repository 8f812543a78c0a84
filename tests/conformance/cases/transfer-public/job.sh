#!/bin/sh
cat data
