#!/bin/sh
echo made >made
