#!/bin/sh
echo before >before
