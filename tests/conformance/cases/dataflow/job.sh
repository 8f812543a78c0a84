#!/bin/sh
echo again >made
