#!/bin/sh
cat x
