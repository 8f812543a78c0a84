#!/bin/sh
echo after >after
