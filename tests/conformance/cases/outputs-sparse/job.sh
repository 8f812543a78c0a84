#!/bin/sh
truncate -s 40M data
echo end >>data
