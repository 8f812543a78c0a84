#!/bin/sh
echo printed
echo made >out
