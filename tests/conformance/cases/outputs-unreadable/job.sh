#!/bin/sh
echo secret >secret
chmod 000 secret
echo new >new
