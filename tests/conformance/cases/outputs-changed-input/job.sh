#!/bin/sh
echo more >>data
