#!/bin/sh
cat a debian_version
