#!/bin/sh
cat in
echo more >>in
echo made >made
