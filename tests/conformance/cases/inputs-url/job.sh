#!/bin/sh
cat debian_version
